//! Pull requests and the messages they deliver.

use std::time::Duration;

use async_nats::{HeaderMap, Message, Subscriber};
use bytes::Bytes;
use futures_util::{FutureExt, StreamExt};
use serde_json::json;

use crate::bus::batch::{self, HEADER_BYTES};
use crate::bus::nats::failed::failed;
use crate::bus::nats::publish::messages::REPLAY_FOR;
use crate::bus::nats::shared::Shared;
use crate::bus::subject::Filter;
use crate::bus::{BusError, Delivery, Receipt};

/// A pull request expires after this long, even if it has not delivered everything.
const PULL_EXPIRES: Duration = Duration::from_secs(30);
/// The maximum interval between signs of life for an idle pull request.
const HEARTBEAT: Duration = Duration::from_secs(2);
/// Silence after which a pull request is considered lost.
pub(crate) const SILENCE_MAX: Duration = Duration::from_secs(5);
/// How often a waiting fetch records that nothing has arrived: later messages were leased later.
pub(crate) const NOTE_INTERVAL: Duration = Duration::from_secs(1);
/// Pause before the next pull request after the server refused one.
pub(crate) const REFUSED_PAUSE: Duration = Duration::from_millis(250);
/// The scope of a pull request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PullScope {
    /// Messages already in the stream; the request ends at the end of the stream. The server does not read the clock
    /// for each message, as it does for requests with an expiry or heartbeats.
    Stored,
    /// Also messages yet to be stored.
    Upcoming,
}

/// Requests messages of a consumer, up to both limits, to be sent to the inbox.
pub(crate) async fn pull(
    shared: &Shared,
    (stream, consumer): (&str, &str),
    inbox: &str,
    (messages_max, bytes_max): (usize, usize),
    wanted: PullScope,
) -> Result<(), BusError> {
    let mut payload = json!({
        "batch": messages_max,
        // Every message must fit, or the server would never deliver it.
        "max_bytes": bytes_max.max(2 * shared.client.server_info().max_payload).min(i32::MAX as usize),
    });
    match wanted {
        PullScope::Stored => payload["no_wait"] = true.into(),
        PullScope::Upcoming => {
            payload["expires"] = (PULL_EXPIRES.as_nanos() as u64).into();
            payload["idle_heartbeat"] = (HEARTBEAT.as_nanos() as u64).into();
        }
    }
    let subject = format!("$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}");
    let sent = shared.client.publish_with_reply(subject, inbox.to_owned(), payload.to_string().into()).await;
    sent.map_err(|error| failed("request messages", error))
}

/// The next message that has already arrived. Not subject to tokio's cooperative budget, which could make a non-empty
/// queue look empty.
pub(crate) fn next_arrived(incoming: &mut Subscriber) -> Option<Message> {
    tokio::task::unconstrained(incoming.next()).now_or_never().flatten()
}

/// `false` for another subject, and for a replay to another consumer.
pub(crate) fn takes(consumer: &str, filter: &Filter, message: &Message) -> bool {
    let others = |headers: &HeaderMap| headers.get(REPLAY_FOR).is_some_and(|name| name.as_str() != consumer);
    filter.matches(message.subject.as_bytes()) && !message.headers.as_ref().is_some_and(others)
}

pub(crate) fn delivery(record: Bytes, receipt: Receipt, published_at_ms: i64, redelivery_horizon: u64) -> Delivery {
    let delivery_count = receipt.delivery_count;
    let possibly_redelivered = delivery_count > 1 || receipt.sequence <= redelivery_horizon;
    Delivery { receipt, record, published_at_ms, delivery_count, possibly_redelivered, isolated: false }
}

/// Copied, so that a retained message does not retain the whole read buffer.
pub(crate) fn record(message: &Message) -> Bytes {
    let mut record = Vec::with_capacity(HEADER_BYTES + message.subject.len() + message.payload.len());
    write_record(&mut record, message);
    record.into()
}

/// Appends a message in the layout of deliveries.
pub(crate) fn write_record(records: &mut Vec<u8>, message: &Message) {
    batch::write_record(records, 0, message.subject.as_bytes(), b"", |out| out.extend_from_slice(&message.payload));
}

pub(crate) async fn open_inbox(shared: &Shared) -> Result<(String, Subscriber), BusError> {
    let inbox = shared.client.new_inbox();
    let incoming = shared.client.subscribe(inbox.clone()).await;
    Ok((inbox, incoming.map_err(|error| failed("subscribe to inbox", error))?))
}
