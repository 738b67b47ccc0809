//! Erasing on the server: a temporary consumer reads the messages, and matching ones are deleted in the mode in which
//! the server overwrites them.
//!
//! Invariants: everything that the leader holds up to the end of a scan has been scanned. Nothing is acknowledged, so
//! durable consumers keep their positions. A message that may be in flight stays until it is acknowledged, and the scan
//! with it.

use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use async_nats::HeaderMap;
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, Info as ConsumerInfo, PullConsumer, pull::Config};
use async_nats::jetstream::stream::Stream;
use bytes::Bytes;
use futures_util::StreamExt;
use serde::Deserialize;
use serde_json::json;

use super::dead_letter::{self, read};
use super::failed::failed;
use super::progress;
use super::shared::{Shared, unix_ms_of};
use crate::bus::BusError;
use crate::bus::erase::{DeadLetterPredicate, ErasePredicate, EraseSpan, Erased, ErasedDeadLetters};
use crate::bus::subject::Filter;

/// The server deletes a consumer that has been inactive for this long.
const INACTIVE_MAX: Duration = Duration::from_secs(60);
/// Messages read at once, and their bytes.
const READ_MESSAGES: usize = 1_000;
const READ_BYTES: usize = 4 << 20;
/// Concurrent deletions.
const AT_ONCE_MAX: usize = 32;
/// Messages that a consumer may receive between checking it and the deletion.
const DELIVERED_SOON_MAX: u64 = 100_000;

/// A scanned message.
struct ScannedMessage {
    sequence: u64,
    subject: String,
    headers: HeaderMap,
    stored_at_ms: i64,
    payload: Bytes,
}

/// A message to erase.
struct Match {
    sequence: u64,
    subject: String,
}

#[derive(Deserialize)]
struct DeleteResponse {
    #[serde(default)]
    success: bool,
}

pub(super) async fn erase(shared: &Shared, span: EraseSpan, matches: &ErasePredicate) -> Result<Erased, BusError> {
    shared.check_open("erase messages")?;
    let found = |seen: &ScannedMessage| matches(seen.subject.as_bytes(), &seen.payload);
    scan(shared, &shared.stream, span, found, false).await
}

pub(super) async fn erase_dead_letters(
    shared: &Shared,
    matches: &DeadLetterPredicate<'_>,
    time_max: Duration,
) -> Result<ErasedDeadLetters, BusError> {
    shared.check_open("erase dead letters")?;
    let state = shared.dead_letters.get_info().await.map_err(|error| failed("read dead letters", error))?.state;
    let after = state.first_sequence.max(1) - 1;
    let span = EraseSpan { after, through: state.last_sequence, messages_max: u64::MAX, time_max };
    let found = |seen: &ScannedMessage| {
        let ScannedMessage { sequence, headers, stored_at_ms, payload, .. } = seen;
        matches(&read(*sequence, headers, *stored_at_ms, payload.clone()))
    };
    // A call that has not erased anything continues: the next call would not get any further.
    let erased = scan(shared, &shared.dead_letters, span, found, true).await?;
    Ok(ErasedDeadLetters { letters: erased.messages, is_complete: erased.scanned_through >= span.through })
}

/// The state of a scan.
struct Scan<'a, F> {
    shared: &'a Shared,
    stream: &'a Stream,
    consumer: PullConsumer,
    span: EraseSpan,
    /// The time limit applies only once something is erased.
    until_erased: bool,
    began: Instant,
    /// Scanned up to here.
    reached: u64,
    scanned: u64,
    erased: u64,
    /// The first message that matches but may be in flight.
    deferred: Option<u64>,
    found: F,
}

async fn scan(
    shared: &Shared,
    stream: &Stream,
    span: EraseSpan,
    found: impl Fn(&ScannedMessage) -> bool,
    until_erased: bool,
) -> Result<Erased, BusError> {
    if span.after >= span.through {
        return Ok(Erased { scanned_through: span.after, reached: span.after, messages: 0 });
    }
    let config = Config {
        description: Some("erases messages".to_owned()),
        deliver_policy: DeliverPolicy::ByStartSequence { start_sequence: span.after + 1 },
        ack_policy: AckPolicy::None,
        inactive_threshold: INACTIVE_MAX,
        memory_storage: true,
        num_replicas: 1,
        ..Config::default()
    };
    let consumer = stream.create_consumer(config).await.map_err(|error| failed("create consumer", error))?;
    let mut scan = Scan {
        shared,
        stream,
        consumer,
        span,
        until_erased,
        began: Instant::now(),
        reached: span.after,
        scanned: 0,
        erased: 0,
        deferred: None,
        found,
    };
    let mut done = Ok(());
    while done.is_ok() && scan.reached < span.through && scan.scanned < span.messages_max && !scan.is_over() {
        done = scan.step().await;
    }
    // If this fails, the server deletes it by itself.
    let _ = stream.delete_consumer(&scan.consumer.cached_info().name).await;
    let scanned_through = scan.deferred.map_or(scan.reached, |deferred| scan.reached.min(deferred - 1));
    done.map(|()| Erased { scanned_through, reached: scan.reached, messages: scan.erased })
}

impl<F: Fn(&ScannedMessage) -> bool> Scan<'_, F> {
    /// Scans some messages and erases the matching ones.
    async fn step(&mut self) -> Result<(), BusError> {
        let (shared, stream, before) = (self.shared, self.stream, self.reached);
        shared.link.check(&shared.client, "read messages")?;
        let mut found = self.read().await?;
        if self.reached == before {
            // In a cluster, the consumer may be on a server that is behind: only the leader knows what does not exist.
            match dead_letter::raw_from(stream, self.reached + 1).await? {
                Some(message) if message.sequence <= self.span.through => {
                    let seen = ScannedMessage {
                        sequence: message.sequence,
                        subject: message.subject.to_string(),
                        stored_at_ms: unix_ms_of(message.time),
                        headers: message.headers,
                        payload: message.payload,
                    };
                    self.look(&seen, &mut found);
                }
                _ => self.reached = self.span.through,
            }
        }
        if found.is_empty() {
            return Ok(());
        }
        let windows = in_flight_windows(stream).await?;
        let in_flight = |found: &Match| windows.iter().any(|window| window.may_contain(found));
        let (deferred, found): (Vec<Match>, Vec<Match>) = found.into_iter().partition(in_flight);
        self.deferred = self.deferred.or(deferred.first().map(|found| found.sequence));
        let found: Vec<u64> = found.iter().map(|found| found.sequence).collect();
        for (index, some) in found.chunks(AT_ONCE_MAX).enumerate() {
            // A server may take long to overwrite: leave the rest to the next call.
            if index > 0 && self.is_over() {
                self.reached = some[0] - 1;
                return Ok(());
            }
            self.erased += delete(shared, stream, some).await?;
        }
        Ok(())
    }

    fn is_over(&self) -> bool {
        self.began.elapsed() >= self.span.time_max && (self.erased > 0 || !self.until_erased)
    }

    async fn read(&mut self) -> Result<Vec<Match>, BusError> {
        let error = |error: String| failed("read messages", error);
        let fetch = self.consumer.fetch().max_messages(READ_MESSAGES).max_bytes(READ_BYTES);
        let messages = fetch.expires(self.shared.settings.timeout).messages().await;
        let mut messages = messages.map_err(|cause| error(cause.to_string()))?;
        let mut found = Vec::new();
        while let Some(message) = messages.next().await {
            let message = message.map_err(|cause| error(cause.to_string()))?;
            let info = message.info().map_err(|cause| error(cause.to_string()))?;
            let (sequence, stored_at_ms) = (info.stream_sequence, unix_ms_of(info.published));
            let async_nats::Message { subject, headers, payload, .. } = message.message;
            let (subject, headers) = (subject.to_string(), headers.unwrap_or_default());
            self.look(&ScannedMessage { sequence, subject, headers, stored_at_ms, payload }, &mut found);
        }
        Ok(found)
    }

    fn look(&mut self, seen: &ScannedMessage, found: &mut Vec<Match>) {
        self.scanned += 1;
        // Already read from the leader, or beyond the end.
        if seen.sequence <= self.reached || seen.sequence > self.span.through {
            self.reached = self.reached.max(seen.sequence.min(self.span.through));
            return;
        }
        self.reached = seen.sequence;
        if (self.found)(seen) {
            found.push(Match { sequence: seen.sequence, subject: seen.subject.clone() });
        }
    }
}

/// The messages that may be in flight to a consumer, or sent to it before the deletion. The server treats deleted
/// messages as acknowledged, so nothing would show when they are; and it may redeliver other messages in flight late.
struct InFlightWindow {
    sequences: RangeInclusive<u64>,
    /// The subjects it takes; empty for all.
    filters: Vec<Filter>,
}

impl InFlightWindow {
    /// `None` when everything is acknowledged, or no process reads with the consumer.
    fn of(consumer: &ConsumerInfo) -> Result<Option<Self>, BusError> {
        let is_done = consumer.num_pending == 0 && consumer.num_ack_pending == 0;
        if is_done || (consumer.num_waiting == 0 && consumer.num_ack_pending == 0) {
            return Ok(None);
        }
        let delivered = consumer.delivered.stream_sequence;
        let sequences = consumer.ack_floor.stream_sequence + 1..=delivered.saturating_add(DELIVERED_SOON_MAX);
        let subjects = std::iter::once(&consumer.config.filter_subject).chain(&consumer.config.filter_subjects);
        let filters = subjects.filter(|subject| !subject.is_empty()).map(|subject| Filter::parse(subject));
        Ok(Some(Self { sequences, filters: filters.collect::<Result<_, _>>()? }))
    }

    fn may_contain(&self, found: &Match) -> bool {
        let takes = |filter: &Filter| filter.matches(found.subject.as_bytes());
        self.sequences.contains(&found.sequence) && (self.filters.is_empty() || self.filters.iter().any(takes))
    }
}

/// Messages of consumers that lease chunks are acknowledged in another stream.
async fn in_flight_windows(stream: &Stream) -> Result<Vec<InFlightWindow>, BusError> {
    let consumers = progress::durable(stream).await?;
    Ok(consumers.iter().map(InFlightWindow::of).collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect())
}

/// Deletes messages concurrently. Returns how many there were.
async fn delete(shared: &Shared, stream: &Stream, sequences: &[u64]) -> Result<u64, BusError> {
    let subject = format!("$JS.API.STREAM.MSG.DELETE.{}", stream.cached_info().config.name);
    shared.link.check(&shared.client, "erase messages")?;
    let call = shared.calls.call(&shared.link, sequences.len());
    for (index, sequence) in sequences.iter().enumerate() {
        // Without `no_erase`, the server overwrites deleted messages.
        let request = json!({"seq": sequence}).to_string();
        let sent = shared.client.publish_with_reply(subject.clone(), call.reply_to(index), request.into()).await;
        sent.map_err(|error| failed("erase messages", error))?;
    }
    let (answers, why) = call.answers(&shared.client, &shared.link, shared.settings.timeout).await;
    if let Some(why) = why {
        return Err(why);
    }
    let mut deleted = 0;
    for (sequence, answer) in sequences.iter().zip(answers) {
        let payload = answer.map(|answer| answer.payload).unwrap_or_default();
        let done = serde_json::from_slice::<DeleteResponse>(&payload).is_ok_and(|deleted| deleted.success);
        if done {
            deleted += 1;
        } else if dead_letter::raw(stream, *sequence).await?.is_some() {
            return Err(failed("erase messages", String::from_utf8_lossy(&payload).into_owned()));
        }
    }
    Ok(deleted)
}
