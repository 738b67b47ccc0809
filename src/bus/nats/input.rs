//! Refused input in the stream of dead letters.
//!
//! Its messages look like dead letters, except that their sequence is 0.

use std::time::Instant;

use async_nats::HeaderMap;
use futures_util::{StreamExt, TryStreamExt};

use super::dead_letter::{
    CONSUMER, DELIVERY_COUNT, PUBLISHED_AT_MS, REASON, SEQUENCE, SUBJECT, delete, find, reason, send,
};
use super::failed::failed;
use super::input_room::Room;
use super::shared::Shared;
use crate::bus::input::{KeptInput, REFUSED_BY, RefusedInput};
use crate::bus::{Batch, BusError, BusErrorKind, Published};

/// Concurrent publishes.
const AT_ONCE_MAX: usize = 32;
/// Counts all refused input; the caller chooses the subjects, which begin with this prefix.
const ALL: &str = "dlq.quarantine.>";
const PREFIX: &str = "dlq.";

pub(super) async fn keep(
    shared: &Shared,
    mut inputs: Vec<RefusedInput>,
    bytes_max: u64,
) -> Result<KeptInput, BusError> {
    shared.check_open("keep refused input")?;
    shared.link.check(&shared.client, "keep refused input")?;
    let count = inputs.len();
    let is_old = shared.input_room.lock().is_old(bytes_max);
    if is_old {
        refresh_room(shared).await?;
    }
    let fits = shared.input_room.lock().take(&inputs, bytes_max);
    inputs.truncate(fits);
    let mut answers = futures_util::stream::iter(inputs).map(|input| put(shared, input)).buffer_unordered(AT_ONCE_MAX);
    let (mut kept, mut failure) = (0, None);
    while let Some(answer) = answers.next().await {
        match answer {
            Ok(()) => kept += 1,
            Err(error) => failure = failure.or(Some(error)),
        }
    }
    match failure {
        Some(error) if kept == 0 && error.kind != BusErrorKind::Full => Err(error),
        failure => {
            Ok(KeptInput { kept, full: fits < count || failure.is_some_and(|it| it.kind == BusErrorKind::Full) })
        }
    }
}

pub(super) async fn resubmit(
    shared: &Shared,
    id: u64,
    batch: Batch,
) -> Result<Option<Vec<Result<Published, BusError>>>, BusError> {
    shared.check_open("resubmit input")?;
    if find(shared, id).await?.is_none_or(|letter| !letter.is_input()) {
        return Ok(None);
    }
    let answers = shared.publish(batch).await;
    if let Some(error) = answers.iter().find_map(|answer| answer.as_ref().err()) {
        return Err(error.clone());
    }
    delete(shared, id).await?;
    Ok(Some(answers))
}

pub(super) async fn amend(shared: &Shared, id: u64, input: RefusedInput) -> Result<bool, BusError> {
    shared.check_open("amend input")?;
    if find(shared, id).await?.is_none_or(|letter| !letter.is_input()) {
        return Ok(false);
    }
    // A duplicate is better than a loss.
    put(shared, input).await?;
    delete(shared, id).await
}

pub(super) async fn counts(shared: &Shared, subjects_max: usize) -> Result<Vec<(String, u64)>, BusError> {
    shared.check_open("count refused input")?;
    let failed = |error| failed("count refused input", error);
    let subjects = shared.dead_letters.info_with_subjects(ALL).await.map_err(failed)?;
    let subject =
        |(subject, count): (String, usize)| (subject.strip_prefix(PREFIX).unwrap_or(&subject).to_owned(), count as u64);
    let mut counts: Vec<(String, u64)> = subjects.map_ok(subject).try_collect().await.map_err(failed)?;
    counts.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    counts.truncate(subjects_max);
    Ok(counts)
}

async fn refresh_room(shared: &Shared) -> Result<(), BusError> {
    let response = tokio::time::timeout(shared.settings.timeout, shared.dead_letters.get_info()).await;
    let info = response.map_err(|_| failed("read dead letters", "NATS did not answer"))?;
    let info = info.map_err(|error| failed("read dead letters", error))?;
    *shared.input_room.lock() = Room { checked_at: Some(Instant::now()), bytes: info.state.bytes, since: 0 };
    Ok(())
}

async fn put(shared: &Shared, input: RefusedInput) -> Result<(), BusError> {
    if input.payload.len() > shared.payload_max() {
        return Err(BusError::new(BusErrorKind::Invalid, "keep refused input"));
    }
    let mut headers = HeaderMap::new();
    headers.insert(REASON, reason(&input.reason).as_str());
    headers.insert(SUBJECT, input.subject.as_str());
    headers.insert(SEQUENCE, "0");
    headers.insert(CONSUMER, REFUSED_BY);
    headers.insert(DELIVERY_COUNT, "0");
    headers.insert(PUBLISHED_AT_MS, input.received_at_ms.to_string());
    let subject = format!("{PREFIX}{}", input.subject);
    send(shared, subject, headers, input.payload, &shared.settings.dead_letter_stream).await
}
