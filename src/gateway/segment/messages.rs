//! Handlers of Segment's HTTP API (<https://segment.com/docs/connections/sources/catalog/libraries/server/http-api/>).
//!
//! Invariants: a message gets 200 only after its event is stored; a message that is sent again with the same
//! `messageId` is stored once. The content type is ignored and bodies are always read as JSON, because browsers and
//! some SDKs send arbitrary content types.

use std::time::Instant;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body_util::Full;

use super::route::SegmentRoute;
use super::settings;
use crate::bus::BusErrorKind;
use crate::event::request::{Accepted, Refused};
use crate::event::segment::{BatchFields, Body, Call, MESSAGE_BYTES_MAX};
use crate::event::{FieldError, cut, is_app_id};
use crate::gateway::auth::caller::Caller;
use crate::gateway::auth::credentials;
use crate::gateway::exchange::Exchange;
use crate::gateway::intake::not_stored::not_stored;
use crate::gateway::intake::outcome::{ItemOutcome, ItemOutcomes};
use crate::gateway::quarantine::pending::Origin;
use crate::gateway::state::Gateway;
use crate::http::{Coding, Inbound, Problem};
use crate::quarantine::InputFormat;
use crate::store::key_hash;

/// Segment's limit on a batch.
pub(crate) const BATCH_BYTES_MAX: usize = 500 * 1024;
/// Errors listed in one reply.
const ERRORS_MAX: usize = 16;
/// Limit on the pointer and on the detail of an error.
const ERROR_TEXT_BYTES_MAX: usize = 120;
/// Maximum size of one error: escaping takes up to six bytes per character, and truncation appends three.
const ERROR_BYTES: usize = 2 * 6 * (ERROR_TEXT_BYTES_MAX + 3) + 48;
/// Size of the text around the errors in a problem, which is larger than a success.
const HEAD_BYTES: usize = 160;
const TOO_LARGE: &str = "is too large to be stored";

impl Gateway {
    pub(crate) async fn segment(
        &self,
        segment_route: SegmentRoute,
        request: Request<&mut Inbound>,
        exchange: &mut Exchange,
        started: Instant,
    ) -> Result<Response<Full<Bytes>>, Problem> {
        let (head, body) = request.into_parts();
        let call = match segment_route {
            SegmentRoute::Message(call) => Some(call),
            SegmentRoute::Batch => None,
            SegmentRoute::Settings | SegmentRoute::OwnMetrics => {
                self.count_request(Caller::Anyone, body.peer(), &head.headers, exchange)?;
                let is_settings = segment_route == SegmentRoute::Settings;
                let target = || self.trusted_proxies.forwarded_target(body.peer(), &head.headers);
                return Ok(if is_settings { settings::reply(&head, self.tls, target()) } else { success(&[]) });
            }
        };
        let by_headers = self.access.admit_if_named(&head.headers, started).transpose();
        let is_named = by_headers.is_some();
        if let Some(admitted) = by_headers {
            self.admit_caller(admitted, body.peer(), &head.headers, exchange)?;
        }
        let coding = Coding::of(&head.headers)?;
        let bytes_max = if call.is_some() { MESSAGE_BYTES_MAX } else { BATCH_BYTES_MAX };
        let peer = body.peer();
        let text = self.read_whole(body, coding, bytes_max).await.map_err(|problem| too_large(problem, bytes_max))?;
        let mut messages = match read(call, &text) {
            Ok(messages) => messages,
            Err(refused) => {
                // The owner of an unreadable body is unknown unless the headers name it.
                if self.quarantines() && is_named {
                    self.collect_refused(&origin(&head.headers, call), &text, Err(&refused), exchange);
                }
                return Err(self.refuse(refused, 0, exchange));
            }
        };
        if !is_named {
            let admitted = match messages.write_key() {
                Some(key) => self.access.admit_key(&key_hash(key.as_bytes()), started),
                None => self.access.admit(&head.headers, started),
            };
            self.admit_caller(admitted, peer, &head.headers, exchange)?;
        }
        self.count_events(messages.len(), exchange)?;
        // Without API keys, the write key names the app.
        let app = match exchange.caller.app() {
            Some(_) => String::new(),
            None => named_app(&head.headers, &messages),
        };
        // Reserve memory for the reply first: once an event is stored, the request can no longer be refused.
        body.reserve_for_reply(reply_bytes(messages.len()))?;
        let mut tally = Tally::of(call.is_some());
        // In chunks of the usual batch size, because each event repeats the members that the batch has in common.
        let last = loop {
            let accepted = messages.next(self.batch_events_max, &text, call, &app, &self.arrival(&exchange.caller));
            if self.quarantines() && accepted.refused().next().is_some() {
                let origin = origin_in(messages.batch_fields(), origin(&head.headers, call));
                let app = if is_app_id(&app) { app.as_str() } else { "" };
                self.collect_refused(&origin.of_app(app), &text, Ok(&accepted), exchange);
            }
            if messages.is_empty() {
                break accepted;
            }
            self.store(accepted, &mut tally, exchange).await?;
        };
        drop(text);
        self.store(last, &mut tally, exchange).await?;
        tally.answer()
    }

    async fn store(&self, accepted: Accepted, tally: &mut Tally, exchange: &Exchange) -> Result<(), Problem> {
        let (mut outcomes, batch) = self.prepare(accepted);
        self.publish(&mut outcomes, batch, exchange).await;
        tally.add(&outcomes)
    }
}

pub(crate) fn read(call: Option<Call>, text: &[u8]) -> Result<Body<'_>, Refused> {
    match call {
        Some(_) => Body::of_message(text),
        None => Body::of_batch(text),
    }
}

/// Marks a write key that is not a valid app name, as opposed to no write key.
const NO_APP: &str = "?";

/// The app that the write key names, wherever in the request it is; empty without a write key.
pub(crate) fn named_app(headers: &HeaderMap, messages: &Body<'_>) -> String {
    let named = credentials::named(headers).or(messages.write_key().map(str::to_owned));
    named.map(|app| if app.is_empty() || is_app_id(&app) { app } else { NO_APP.to_owned() }).unwrap_or_default()
}

/// Describes the body and the path, for the quarantine.
fn origin(headers: &HeaderMap, call: Option<Call>) -> Origin {
    match call {
        Some(call) => Origin::of(headers, InputFormat::SegmentMessage, Some(InputFormat::SegmentMessage))
            .with("call", call.name()),
        None => Origin::of(headers, InputFormat::SegmentBatch, Some(InputFormat::SegmentMessage)),
    }
}

/// Adds the members that a batch has in common.
fn origin_in(batch_fields: &BatchFields<'_>, origin: Origin) -> Origin {
    match batch_fields.text() {
        Some(text) => origin.with("around", text),
        None => origin,
    }
}

/// Segment answers 400 instead of 413, and its SDKs handle that.
fn too_large(problem: Problem, bytes_max: usize) -> Problem {
    if problem.status() != StatusCode::PAYLOAD_TOO_LARGE {
        return problem;
    }
    let detail =
        format!("A message has at most {MESSAGE_BYTES_MAX} bytes, a batch {BATCH_BYTES_MAX}; here {bytes_max}.");
    Problem::new(StatusCode::BAD_REQUEST, detail).closing()
}

/// The outcomes of the messages so far.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// A single message, which has no position in a batch.
    is_single: bool,
    messages: usize,
    refused: usize,
    errors: Vec<FieldError>,
}

impl Tally {
    pub(crate) fn of(is_single: bool) -> Self {
        Self { is_single, ..Self::default() }
    }

    /// Adds outcomes. Fails when the bus did not store a message: the client then sends the whole request again, and
    /// stored messages are recognized by their `messageId`.
    pub(crate) fn add(&mut self, outcomes: &ItemOutcomes) -> Result<(), Problem> {
        for outcome in outcomes.iter() {
            match outcome {
                ItemOutcome::Stored { .. } => {}
                ItemOutcome::Invalid(errors) => self.refuse(errors.first().cloned()),
                ItemOutcome::NotStored { kind: BusErrorKind::Invalid, .. } => {
                    self.refuse(Some(FieldError::new("", TOO_LARGE)));
                }
                ItemOutcome::NotStored { kind, .. } => return Err(not_stored(kind)),
                ItemOutcome::Pending { .. } => return Err(not_stored(BusErrorKind::Unavailable)),
            }
            self.messages += 1;
        }
        Ok(())
    }

    fn refuse(&mut self, error: Option<FieldError>) {
        self.refused += 1;
        if let Some(error) = error.filter(|_| self.errors.len() < ERRORS_MAX) {
            let place = if self.is_single { String::new() } else { format!("/batch/{}", self.messages) };
            let FieldError { pointer, detail } = error.under(&place);
            self.errors.push(FieldError::new(cut(pointer, ERROR_TEXT_BYTES_MAX), cut(detail, ERROR_TEXT_BYTES_MAX)));
        }
    }

    pub(crate) fn answer(self) -> Result<Response<Full<Bytes>>, Problem> {
        if self.refused < self.messages || self.refused == 0 {
            return Ok(success(&self.errors));
        }
        let detail = if self.is_single { "The message is not valid." } else { "No message is valid." };
        Err(Problem::new(StatusCode::BAD_REQUEST, detail).with_errors(self.errors))
    }
}

/// Upper bound on the size of the reply to `messages` messages.
pub(crate) fn reply_bytes(messages: usize) -> usize {
    HEAD_BYTES + messages.min(ERRORS_MAX) * ERROR_BYTES
}

/// Segment's success reply. In addition it lists the messages that were refused while others of the batch were stored.
fn success(refused: &[FieldError]) -> Response<Full<Bytes>> {
    let body = match refused {
        [] => r#"{"success":true}"#.to_owned(),
        refused => serde_json::json!({"success": true, "errors": refused}).to_string(),
    };
    let mut reply = Response::new(Full::new(body.into()));
    reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    reply
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;

    use super::*;
    use crate::bus::{BusError, Published};
    use crate::event::proto::EventEnvelope;
    use crate::event::request::Accepted;
    use crate::event::{Arrival, EVENT_BYTES_MAX};
    use crate::gateway::intake::outcome::pack;

    #[tokio::test]
    async fn replies_fit_their_reservation() {
        let arrival = Arrival { received_at_ms: 1, key_app: None, event_bytes_max: EVENT_BYTES_MAX, assigned_id: None };
        let good = EventEnvelope {
            app_id: "shop".into(),
            device_id: "d".into(),
            payload: Some(crate::event::proto::event_envelope::Payload::AppStart(Default::default())),
            ..EventEnvelope::default()
        };
        let too_large = Err(BusError::new(BusErrorKind::Invalid, "publish message"));
        let stored = Ok(Published { sequence: 1, duplicate: false, original: Default::default() });
        for (errors, goods) in [(0, 0), (0, 1), (1, 0), (10, 10), (0, 20), (300, 0), (300, 300)] {
            for (answer, is_single) in [(&too_large, false), (&stored, false), (&stored, true)] {
                let mut tally = Tally::of(is_single);
                for _ in 0..2 {
                    let mut accepted = Accepted::default();
                    (0..errors).for_each(|_| {
                        accepted.add_refused(vec![FieldError::new("\"".repeat(300), "\u{1}".repeat(2_000))])
                    });
                    (0..goods).for_each(|_| accepted.add(&good, &arrival));
                    let (mut outcomes, _) = pack(accepted);
                    outcomes.record_answers(&vec![answer.clone(); goods]);
                    tally.add(&outcomes).unwrap();
                }
                let reply = tally.answer().unwrap_or_else(Problem::into_reply);
                let refused = errors > 0 && (goods == 0 || answer.is_err()) || goods > 0 && answer.is_err();
                assert_eq!(reply.status(), if refused { 400 } else { 200 }, "{errors} {goods} {answer:?}");
                let length = reply.into_body().collect().await.unwrap().to_bytes().len();
                assert!(length <= reply_bytes(2 * (errors + goods)), "{errors} {goods} {answer:?}: {length}");
            }
        }
    }
}
