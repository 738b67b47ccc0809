//! Replies to ingest requests, in the content type of the request.
//!
//! JSON is written by hand: proto3 JSON omits default values, while clients expect `index`, `eventId` and `status` in
//! every result, and a batch can have a thousand results.

use std::borrow::Cow;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Response, StatusCode};
use http_body_util::Full;
use prost::Message as _;

use super::content_type::ContentType;
use crate::bus::BusErrorKind;
use crate::event::proto::{EventResult, IngestEventBatchResponse, IngestEventResponse};
use crate::event::{FieldError, cut, is_of_other_app};
use crate::gateway::intake::not_stored::{status_of, why};
use crate::gateway::intake::outcome::{ItemOutcome, ItemOutcomes};

/// Size of the JSON result of an accepted event, without its id.
const RESULT_BYTES: usize = 80;
/// Additional size of the result of an event that the bus did not store.
const NOT_STORED_BYTES: usize = 120;
/// `,"code":400`.
const CODE_BYTES: usize = 11;
/// `,"error":""`.
const ERROR_KEY_BYTES: usize = 11;
/// Size of the text around the results.
const HEAD_BYTES: usize = 100;
/// Limit on the error text of one event in a batch.
const ERROR_BYTES_MAX: usize = 512;
/// The reply to a stored single event.
pub(crate) fn single(content_type: ContentType, id: &str, duplicate: bool) -> Response<Full<Bytes>> {
    let body = match content_type {
        ContentType::Json | ContentType::JsonLines => {
            let mut out = Vec::with_capacity(RESULT_BYTES);
            out.extend_from_slice(br#"{"eventId":"#);
            write_string(&mut out, id);
            out.extend_from_slice(br#","status":"accepted","duplicate":"#);
            out.extend_from_slice(if duplicate { b"true}" } else { b"false}" });
            out
        }
        ContentType::Binary(_) => {
            IngestEventResponse { event_id: id.to_owned(), status: "accepted".into(), duplicate }.encode_to_vec()
        }
    };
    ok(content_type, body)
}

/// Upper bound on the size of the reply, whatever the bus answers. The ids of the original events of duplicates are
/// included once they are known. Allows for escaped quotes in texts and in ids, which senders may choose.
pub(crate) fn batch_bytes(outcomes: &ItemOutcomes) -> usize {
    let each = outcomes.iter().map(|outcome| match outcome {
        ItemOutcome::Invalid(errors) => {
            let texts: usize = errors.iter().map(|error| error.pointer.len() + error.detail.len() + 4).sum();
            2 * texts.min(ERROR_BYTES_MAX + "…".len()) + ERROR_KEY_BYTES + CODE_BYTES
        }
        _ => NOT_STORED_BYTES + CODE_BYTES,
    });
    HEAD_BYTES + outcomes.len() * RESULT_BYTES + 2 * outcomes.id_bytes() + each.sum::<usize>()
}

/// The reply to a batch; every event has its final outcome.
pub(crate) fn batch(content_type: ContentType, outcomes: &ItemOutcomes) -> Response<Full<Bytes>> {
    let accepted = outcomes.iter().filter(|outcome| matches!(outcome, ItemOutcome::Stored { .. })).count();
    let rejected = outcomes.len() - accepted;
    let results = outcomes.iter().map(|outcome| ItemResult::of(&outcome)).enumerate();
    let body = match content_type {
        ContentType::Json | ContentType::JsonLines => {
            let mut out = Vec::with_capacity(64 + (accepted + rejected) * RESULT_BYTES);
            out.extend_from_slice(br#"{"acceptedCount":"#);
            write_number(&mut out, accepted);
            out.extend_from_slice(br#","rejectedCount":"#);
            write_number(&mut out, rejected);
            out.extend_from_slice(br#","results":["#);
            for (index, outcome) in results {
                outcome.write_json(&mut out, index);
                out.push(b',');
            }
            if out.last() == Some(&b',') {
                out.pop();
            }
            out.extend_from_slice(b"]}");
            out
        }
        ContentType::Binary(_) => IngestEventBatchResponse {
            accepted_count: i32::try_from(accepted).unwrap_or(i32::MAX),
            rejected_count: i32::try_from(rejected).unwrap_or(i32::MAX),
            results: results.map(|(index, outcome)| outcome.into_message(index)).collect(),
        }
        .encode_to_vec(),
    };
    ok(content_type, body)
}

/// The outcome of one event, as JSON and protobuf both report it.
#[derive(Default)]
struct ItemResult<'a> {
    accepted: bool,
    event_id: &'a str,
    error: Cow<'a, str>,
    retryable: bool,
    duplicate: bool,
    /// For rejected events only.
    code: u16,
}

impl<'a> ItemResult<'a> {
    fn of(outcome: &ItemOutcome<'a>) -> Self {
        match *outcome {
            ItemOutcome::Stored { id, duplicate } => {
                Self { accepted: true, event_id: id, duplicate, ..Self::default() }
            }
            ItemOutcome::Invalid(errors) => {
                let code = if is_of_other_app(errors) { StatusCode::FORBIDDEN } else { StatusCode::BAD_REQUEST };
                Self { error: join(errors).into(), code: code.as_u16(), ..Self::default() }
            }
            ItemOutcome::NotStored { id, kind } => Self {
                // The event may still be stored under this id, unless it can never be stored.
                event_id: if kind == BusErrorKind::Invalid { "" } else { id },
                error: why(kind).into(),
                retryable: kind != BusErrorKind::Invalid,
                code: status_of(kind).as_u16(),
                ..Self::default()
            },
            ItemOutcome::Pending { id } => Self::of(&ItemOutcome::NotStored { id, kind: BusErrorKind::Unavailable }),
        }
    }

    fn status(&self) -> &'static str {
        if self.accepted { "accepted" } else { "rejected" }
    }

    fn into_message(self, index: usize) -> EventResult {
        EventResult {
            index: i32::try_from(index).unwrap_or(i32::MAX),
            event_id: self.event_id.to_owned(),
            status: self.status().to_owned(),
            error: self.error.into_owned(),
            retryable: self.retryable,
            duplicate: self.duplicate,
            code: i32::from(self.code),
        }
    }

    fn write_json(&self, out: &mut Vec<u8>, index: usize) {
        out.extend_from_slice(br#"{"index":"#);
        write_number(out, index);
        out.extend_from_slice(br#","eventId":"#);
        write_string(out, self.event_id);
        out.extend_from_slice(br#","status":"#);
        write_string(out, self.status());
        if !self.error.is_empty() {
            out.extend_from_slice(br#","error":"#);
            write_string(out, &self.error);
        }
        if self.retryable {
            out.extend_from_slice(br#","retryable":true"#);
        }
        if self.duplicate {
            out.extend_from_slice(br#","duplicate":true"#);
        }
        if self.code != 0 {
            out.extend_from_slice(br#","code":"#);
            write_number(out, usize::from(self.code));
        }
        out.push(b'}');
    }
}

fn join(errors: &[FieldError]) -> String {
    cut(errors.iter().map(FieldError::to_string).collect::<Vec<_>>().join("; "), ERROR_BYTES_MAX)
}

fn write_string(out: &mut Vec<u8>, text: &str) {
    if text.bytes().any(|byte| byte < 0x20 || matches!(byte, b'"' | b'\\')) {
        // Serializing a string into a vector cannot fail.
        let _ = serde_json::to_writer(out, text);
    } else {
        out.push(b'"');
        out.extend_from_slice(text.as_bytes());
        out.push(b'"');
    }
}

fn write_number(out: &mut Vec<u8>, number: usize) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    let mut rest = number;
    loop {
        at -= 1;
        digits[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

fn ok(content_type: ContentType, body: Vec<u8>) -> Response<Full<Bytes>> {
    let mut reply = Response::new(Full::new(Bytes::from(body)));
    reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type.media_type()));
    reply
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;

    use super::*;
    use crate::bus::{BusError, Published};
    use crate::event::request::accept_json_batch;
    use crate::event::{Arrival, EVENT_BYTES_MAX};
    use crate::gateway::intake::not_stored::not_stored;
    use crate::gateway::intake::outcome::pack;

    #[tokio::test]
    async fn replies_fit_their_reservation() {
        let event =
            |id: &str| format!(r#"{{"id":"{id}","appId":"a","deviceId":"d","idempotencyKey":"k","appStart":{{}}}}"#);
        let names: Vec<String> = (0..4).map(|n| format!(r#""\"{}{n}":1"#, r#"\""#.repeat(100))).collect();
        let long = r#"\""#.repeat(256);
        let mut events = vec![event(&long); 20];
        events.extend(vec![event(""); 80]);
        events.extend(vec![format!("{{{}}}", names.join(",")); 50]);
        events.extend(vec!["{}".to_owned(); 50]);
        let body = format!(r#"{{"events":[{}]}}"#, events.join(","));
        let arrival = Arrival { received_at_ms: 1, key_app: None, event_bytes_max: EVENT_BYTES_MAX, assigned_id: None };
        let unavailable = Err(BusError::new(BusErrorKind::Unavailable, "publish"));
        let stored = Ok(Published { sequence: 1, duplicate: false, original: Default::default() });
        let duplicate = Ok(Published { sequence: 0, duplicate: true, original: Default::default() });
        for answer in [unavailable, stored, duplicate] {
            let (mut outcomes, _) = pack(accept_json_batch(body.as_bytes(), 1_000, &arrival).unwrap());
            let held = batch_bytes(&outcomes);
            outcomes.record_answers(&vec![answer.clone(); 100]);
            let length = async |content_type, outcomes: &ItemOutcomes| {
                batch(content_type, outcomes).into_body().collect().await.unwrap().to_bytes().len()
            };
            // Before the original ids are known, and with them, however long they are.
            assert!(length(ContentType::Json, &outcomes).await <= held, "{answer:?}");
            if answer.is_ok_and(|published| published.duplicate) {
                outcomes.set_original_ids(vec![Some("\"".repeat(256)); 100].into_iter());
                let length = length(ContentType::Json, &outcomes).await;
                assert!(held < length && length <= batch_bytes(&outcomes), "{held} {length}");
                outcomes.drop_original_ids();
                assert_eq!(batch_bytes(&outcomes), held);
            }
        }
    }

    #[test]
    fn events_that_can_never_be_stored_are_too_large_and_have_no_id() {
        assert_eq!(not_stored(BusErrorKind::Invalid).status(), StatusCode::PAYLOAD_TOO_LARGE);
        assert_eq!(not_stored(BusErrorKind::Full).status(), StatusCode::SERVICE_UNAVAILABLE);
        let never = ItemResult::of(&ItemOutcome::NotStored { id: "e1", kind: BusErrorKind::Invalid });
        assert_eq!((never.event_id, never.retryable, never.status()), ("", false, "rejected"));
        let later = ItemResult::of(&ItemOutcome::NotStored { id: "e1", kind: BusErrorKind::Full });
        assert_eq!((later.event_id, later.retryable, later.status()), ("e1", true, "rejected"));
    }
}
