//! Reads the first messages of duplicates; the server reports their sequences in its acknowledgements.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde::Deserialize;
use serde_json::json;

use crate::bus::nats::failed::failed;
use crate::bus::nats::shared::Shared;
use crate::bus::{BusError, Original};

/// Concurrent requests. The server answers them one by one among all other requests, and each message may have the
/// largest size.
const AT_ONCE_MAX: usize = 32;

#[derive(Deserialize)]
struct Answer {
    message: Option<Stored>,
}

#[derive(Deserialize)]
struct Stored {
    #[serde(default)]
    data: String,
}

/// Applies `read` to each message. Returns `None` for a message that no longer exists.
pub(crate) async fn find<T>(
    shared: &Shared,
    wanted: &[Original],
    read: fn(&[u8]) -> Option<T>,
) -> Result<Vec<Option<T>>, BusError> {
    let subject = format!("$JS.API.STREAM.MSG.GET.{}", shared.settings.stream);
    let mut found = Vec::with_capacity(wanted.len());
    // The semaphore is never closed.
    let _turn = shared.reading.acquire().await;
    for wanted in wanted.chunks(AT_ONCE_MAX) {
        shared.link.check(&shared.client, "read messages")?;
        let call = shared.calls.call(&shared.link, wanted.len());
        for (index, original) in wanted.iter().enumerate() {
            let request = json!({"seq": original.sequence}).to_string();
            let sent = shared.client.publish_with_reply(subject.clone(), call.reply_to(index), request.into()).await;
            sent.map_err(|error| failed("read messages", error))?;
        }
        let (answers, why) = call.answers(&shared.client, &shared.link, shared.settings.timeout).await;
        if let Some(why) = why {
            return Err(why);
        }
        found.extend(answers.into_iter().map(|answer| {
            let answer: Answer = serde_json::from_slice(&answer?.payload).ok()?;
            read(&BASE64_STANDARD.decode(answer.message?.data).ok()?)
        }));
    }
    Ok(found)
}
