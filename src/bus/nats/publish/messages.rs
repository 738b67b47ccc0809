//! Publishing: every message is acknowledged by the right stream, or answered with the reason why not.
//!
//! Invariant: a message is answered `Ok` only when the server has confirmed that the stream holds it, or, for a
//! transient message whose subject is not in the stream, that the server has received it. In-flight messages are
//! bounded in bytes. A cancelled call may still store messages.

use std::time::Duration;

use async_nats::{HeaderMap, Message, PublishError, PublishErrorKind, StatusCode, Subject};
use bytes::Bytes;
use serde::Deserialize;

use crate::bus::batch::{self, Batch, FLAG_REPLAY, Layout};
use crate::bus::nats::failed::failed;
use crate::bus::nats::shared::Shared;
use crate::bus::{BusError, BusErrorKind, Original, Published};

/// Bytes in flight to the server, over all calls.
pub(crate) const IN_FLIGHT_BYTES_MAX: usize = 64 << 20;
/// The minimum size counted for a message.
const MESSAGE_BYTES_MIN: usize = 64;
/// The message id for the server's deduplication.
pub(crate) const MESSAGE_ID: &str = "Nats-Msg-Id";
/// The header of a replayed dead letter: it is for this consumer alone.
pub(crate) const REPLAY_FOR: &str = "Causality-Replay-For";
/// The server rejects the publish unless this is the last sequence of the subject.
pub(crate) const EXPECTED_LAST: &str = "Nats-Expected-Last-Subject-Sequence";
/// JetStream's error code for that (`JSStreamWrongLastSequenceErrF`).
pub(crate) const WRONG_LAST: u64 = 10_071;
/// Reserved for headers within the server's size limit: a message id, or the details of a dead letter.
pub(crate) const HEADERS_BYTES_MAX: usize = 4_096;
/// JetStream's error codes for a message, and for headers, that the stream never accepts.
const TOO_LARGE: [u64; 2] = [10_054, 10_097];
/// JetStream's error code for a stream at its limit (`JSStreamStoreFailedF`).
const STORE_FAILED: u64 = 10_077;
/// The resources of the account or the server are exhausted.
const RESOURCES: [u64; 4] = [10_002, 10_023, 10_028, 10_047];

/// JetStream's answer to a publish.
#[derive(Debug, Deserialize)]
pub(crate) struct PubAck {
    #[serde(default)]
    stream: String,
    #[serde(default)]
    seq: u64,
    #[serde(default)]
    duplicate: bool,
    /// The number of messages in an atomic batch.
    #[serde(default)]
    pub(crate) count: u64,
    pub(crate) error: Option<ApiError>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct ApiError {
    #[serde(default)]
    pub(crate) err_code: u64,
    #[serde(default)]
    description: String,
}

/// The destination of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Route {
    Stream,
    /// Its subject is not in the stream, and it need not be stored.
    Subscribers,
    /// Its subject is not in the stream, but it must be stored.
    Unroutable,
    /// The server does not accept messages of this size.
    TooLarge,
}

impl Shared {
    pub(crate) async fn publish(&self, batch: Batch) -> Vec<Result<Published, BusError>> {
        let count = batch.len();
        let refused = || Err(BusError::new(BusErrorKind::Invalid, "publish message"));
        let parts = batch.into_parts();
        let records = Bytes::from_owner(parts.records);
        let starts = std::iter::once(0).chain(parts.ends.iter().map(|end| *end as usize));
        let layouts: Vec<Option<Layout>> = starts
            .zip(&parts.ends)
            .map(|(start, end)| if start < *end as usize { batch::layout(&records, start) } else { None })
            .collect();
        let payload_max = self.payload_max();
        let route = |(index, layout): (usize, &Option<Layout>)| {
            let layout = layout.as_ref()?;
            if layout.payload.len() > payload_max {
                return Some(Route::TooLarge);
            }
            Some(self.route(&records[layout.subject.clone()], parts.transient.binary_search(&(index as u32)).is_ok()))
        };
        let routes: Vec<Route> = layouts.iter().enumerate().filter_map(route).collect();
        let kept: Vec<&Layout> = layouts.iter().flatten().collect();
        if kept.is_empty() {
            return (0..count).map(|_| refused()).collect();
        }
        let mut answers = self.publish_kept(&records, &kept, &routes).await.into_iter();
        layouts
            .iter()
            .map(|layout| if layout.is_some() { answers.next().unwrap_or_else(refused) } else { refused() })
            .collect()
    }

    async fn publish_kept(
        &self,
        records: &Bytes,
        kept: &[&Layout],
        routes: &[Route],
    ) -> Vec<Result<Published, BusError>> {
        let all = |error: BusError| kept.iter().map(|_| Err(error.clone())).collect();
        if let Err(error) = self.link.check(&self.client, "publish messages") {
            return all(error);
        }
        let bytes = (records.len() + kept.len() * MESSAGE_BYTES_MIN).min(IN_FLIGHT_BYTES_MAX) as u32;
        // The semaphore is never closed.
        let _room = self.in_flight.acquire_many(bytes).await;
        // Calls that waited for room behind a dead connection need not find that out one by one.
        if let Err(error) = self.link.check(&self.client, "publish messages") {
            return all(error);
        }
        let going =
            |route: Route| kept.iter().zip(routes).filter(move |(_, own)| **own == route).map(|(layout, _)| *layout);
        if routes.contains(&Route::Subscribers)
            && let Err(error) = self.send_to_subscribers(records, going(Route::Subscribers)).await
        {
            return all(error);
        }
        let streamed: Vec<&Layout> = going(Route::Stream).collect();
        let streamed = match self.publish_atomically(records, &streamed).await {
            Some(answers) => answers,
            None => {
                let messages: Vec<(&Bytes, &Layout)> = streamed.iter().map(|layout| (records, *layout)).collect();
                self.publish_singly(&messages).await
            }
        };
        let mut streamed = streamed.into_iter();
        let lost = || Err(BusError::new(BusErrorKind::Unavailable, "publish messages"));
        let answer = |(route, layout): (&Route, &&Layout)| match route {
            Route::Stream => streamed.next().unwrap_or_else(lost),
            Route::Subscribers => Ok(Published::new(0)),
            Route::Unroutable => Err(self.unroutable(&records[layout.subject.clone()])),
            Route::TooLarge => Err(self.too_large(layout.payload.len())),
        };
        let answers: Vec<_> = routes.iter().zip(kept).map(answer).collect();
        self.note_full(&answers);
        answers
    }

    /// Publishes all messages concurrently, each with its own acknowledgement.
    pub(crate) async fn publish_singly(&self, messages: &[(&Bytes, &Layout)]) -> Vec<Result<Published, BusError>> {
        if messages.is_empty() {
            return Vec::new();
        }
        let all = |error: BusError| messages.iter().map(|_| Err(error.clone())).collect();
        self.chooser.began(messages.len());
        let sending = async {
            let call = self.calls.call(&self.link, messages.len());
            let mut refused = Vec::new();
            for (index, (records, layout)) in messages.iter().enumerate() {
                match self.send(records, layout, Some(call.reply_to(index))).await {
                    // An error of this message alone.
                    Err(error) if error.kind == BusErrorKind::Invalid => {
                        call.cancel(index);
                        refused.push((index, error));
                    }
                    sent => sent?,
                }
            }
            let (answers, why) = call.answers(&self.client, &self.link, self.settings.timeout).await;
            Ok((answers, why, refused))
        };
        // Sending alone can take long: a connection that accepts no data blocks everyone.
        let sent = tokio::time::timeout(2 * self.settings.timeout, sending).await;
        let arrived = match &sent {
            Ok(Ok((answers, ..))) => answers.iter().flatten().count(),
            _ => 0,
        };
        self.chooser.ended(messages.len(), arrived);
        let (answers, why, refused) = match sent {
            Ok(Ok(answered)) => answered,
            Ok(Err(error)) => return all(error),
            Err(_) => {
                self.link.unanswered(&self.client).await;
                return all(BusError::caused(BusErrorKind::Unavailable, "publish messages", "NATS takes no messages"));
            }
        };
        let lost = why.unwrap_or_else(|| BusError::new(BusErrorKind::Unavailable, "publish messages"));
        let mut refused = refused.into_iter().peekable();
        let answer = |(index, answer): (usize, Option<Message>)| match answer {
            Some(message) => self.acknowledged(&message, &self.settings.stream),
            None => Err(refused.next_if(|(own, _)| *own == index).map_or_else(|| lost.clone(), |(_, error)| error)),
        };
        answers.into_iter().enumerate().map(answer).collect()
    }

    /// The server has received them once it answers the following ping.
    async fn send_to_subscribers<'a>(
        &self,
        records: &Bytes,
        layouts: impl Iterator<Item = &'a Layout>,
    ) -> Result<(), BusError> {
        for layout in layouts {
            self.send(records, layout, None).await?;
        }
        self.round_trip().await
    }

    /// Returns once the server has received everything sent so far, and everything it sent before has arrived here: a
    /// message to ourselves passes both queues in order. The client's own `flush` only hands its buffer to the
    /// operating system.
    pub(crate) async fn round_trip(&self) -> Result<(), BusError> {
        self.round_trip_within(self.settings.timeout).await
    }

    pub(crate) async fn round_trip_within(&self, limit: Duration) -> Result<(), BusError> {
        self.link.check(&self.client, "reach NATS")?;
        let call = self.calls.call(&self.link, 1);
        // On a connection that accepts no data, handing the message over takes just as long.
        let sent = tokio::time::timeout(limit, self.client.publish(call.reply_to(0), Bytes::new())).await;
        let sent = sent.map_err(|_| failed("reach NATS", "NATS takes no messages"))?;
        sent.map_err(|error| failed("reach NATS", error))?;
        let (_, why) = call.answers(&self.client, &self.link, limit).await;
        why.map_or(Ok(()), Err)
    }

    async fn send(&self, records: &Bytes, layout: &Layout, reply: Option<String>) -> Result<(), BusError> {
        // Subjects were validated when the batch was built: they are valid UTF-8.
        let subject = Subject::from_utf8(records.slice(layout.subject.clone()))
            .map_err(|error| BusError::caused(BusErrorKind::Invalid, "publish message", error))?;
        let payload = records.slice(layout.payload.clone());
        let mut headers = None;
        if !layout.message_id.is_empty() && layout.flags & FLAG_REPLAY == 0 {
            let id = String::from_utf8_lossy(&records[layout.message_id.clone()]);
            let mut map = HeaderMap::new();
            map.insert(MESSAGE_ID, id.as_ref());
            headers = Some(map);
        }
        let sent = match (headers, reply) {
            (None, Some(reply)) => self.client.publish_with_reply(subject, reply, payload).await,
            (Some(headers), Some(reply)) => {
                self.client.publish_with_reply_and_headers(subject, reply, headers, payload).await
            }
            (None, None) => self.client.publish(subject, payload).await,
            (Some(headers), None) => self.client.publish_with_headers(subject, headers, payload).await,
        };
        sent.map_err(|error| not_sent("publish message", &error))
    }

    /// Publishes one internal message and waits for the answer.
    pub(crate) async fn publish_one(
        &self,
        subject: String,
        headers: HeaderMap,
        payload: Bytes,
        context: &'static str,
    ) -> Result<Message, BusError> {
        self.link.check(&self.client, context)?;
        let call = self.calls.call(&self.link, 1);
        let sent = self.client.publish_with_reply_and_headers(subject, call.reply_to(0), headers, payload).await;
        sent.map_err(|error| failed(context, error))?;
        let (answers, why) = call.answers(&self.client, &self.link, self.settings.timeout).await;
        let lost = || why.unwrap_or_else(|| BusError::new(BusErrorKind::Unavailable, context));
        answers.into_iter().next().flatten().ok_or_else(lost)
    }

    /// Interprets the answer to one publish.
    pub(crate) fn acknowledged(&self, message: &Message, stream: &str) -> Result<Published, BusError> {
        let unavailable = |why: String| Err(BusError::caused(BusErrorKind::Unavailable, "publish message", why));
        if message.status == Some(StatusCode::NO_RESPONDERS) {
            self.topology.request_check();
            return unavailable(format!("no stream takes the subject: is stream {stream} gone?"));
        }
        let ack: PubAck = match serde_json::from_slice(&message.payload) {
            Ok(ack) => ack,
            Err(error) => return unavailable(format!("the answer is not an acknowledgement: {error}")),
        };
        match ack.error {
            Some(error) if error.err_code == STORE_FAILED || RESOURCES.contains(&error.err_code) => {
                Err(BusError::caused(BusErrorKind::Full, "publish message", error.description))
            }
            Some(error) if TOO_LARGE.contains(&error.err_code) => {
                Err(BusError::caused(BusErrorKind::Invalid, "publish message", error.description))
            }
            Some(error) => unavailable(error.description),
            None if ack.stream != stream => {
                unavailable(format!("stream {} took the message instead of {stream}", ack.stream))
            }
            None if ack.duplicate => {
                let original = Original { sequence: ack.seq, ..Original::default() };
                Ok(Published { sequence: 0, duplicate: true, original })
            }
            None => Ok(Published::new(ack.seq)),
        }
    }

    /// The largest payload that the server accepts now; it may change with each connection.
    pub(crate) fn payload_max(&self) -> usize {
        self.client.max_payload().saturating_sub(HEADERS_BYTES_MAX)
    }

    fn too_large(&self, bytes: usize) -> BusError {
        let (most, limit) = (self.payload_max(), self.client.max_payload());
        let why =
            format!("{bytes} bytes, and NATS takes at most {most} beside the headers (its max_payload is {limit})");
        BusError::caused(BusErrorKind::Invalid, "publish message", why)
    }

    fn route(&self, subject: &[u8], transient: bool) -> Route {
        match self.covered.iter().any(|filter| filter.matches(subject)) {
            true => Route::Stream,
            false if transient => Route::Subscribers,
            false => Route::Unroutable,
        }
    }

    fn unroutable(&self, subject: &[u8]) -> BusError {
        let (stream, subject) = (&self.settings.stream, String::from_utf8_lossy(subject));
        let why = format!("stream {stream} does not take subject {subject} (nats_stream_subjects)");
        BusError::caused(BusErrorKind::Refused, "publish message", why)
    }

    /// Remembers that the stream is full until a publish succeeds.
    fn note_full(&self, answers: &[Result<Published, BusError>]) {
        let full = answers.iter().find_map(|answer| match answer {
            Err(error) if error.kind == BusErrorKind::Full => Some(error),
            _ => None,
        });
        match full {
            Some(error) => {
                let cause = std::error::Error::source(error).map_or_else(String::new, ToString::to_string);
                *self.full.lock() =
                    Some(format!("stream {} is full: {cause} (nats_stream_max_bytes)", self.settings.stream));
                self.is_full.store(true, std::sync::atomic::Ordering::Relaxed);
            }
            None if self.is_full.load(std::sync::atomic::Ordering::Relaxed) && answers.iter().any(Result::is_ok) => {
                *self.full.lock() = None;
                self.is_full.store(false, std::sync::atomic::Ordering::Relaxed);
            }
            None => {}
        }
    }
}

/// Why a message was not handed to the connection: because of the message, or temporarily.
pub(crate) fn not_sent(context: &'static str, error: &PublishError) -> BusError {
    let kind = match error.kind() {
        PublishErrorKind::MaxPayloadExceeded | PublishErrorKind::InvalidSubject => BusErrorKind::Invalid,
        PublishErrorKind::Send => BusErrorKind::Unavailable,
    };
    BusError::caused(kind, context, error.to_string())
}
