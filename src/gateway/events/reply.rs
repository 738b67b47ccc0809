//! Replies to ingest requests, in the form of the request.
//!
//! JSON is written by hand: proto3 JSON leaves defaults out, while clients look for
//! `index`, `eventId` and `status` in every result, and there can be a thousand of them.

use std::borrow::Cow;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Response, StatusCode};
use http_body_util::Full;
use prost::Message as _;

use super::content_type::Form;
use crate::bus::BusErrorKind;
use crate::event::proto::{EventResult, IngestEventBatchResponse, IngestEventResponse};
use crate::event::{FieldError, cut, is_of_other_app};
use crate::gateway::intake::not_stored::{status_of, why};
use crate::gateway::intake::outcome::{Verdict, Verdicts};

/// Bytes of one JSON result of an accepted event, but for its id.
const RESULT_BYTES: usize = 80;
/// What the result of an event that the bus did not store says beside that.
const NOT_STORED_BYTES: usize = 120;
/// `,"code":400`.
const CODE_BYTES: usize = 11;
/// `,"error":""`.
const ERROR_KEY_BYTES: usize = 11;
/// What stands around the results.
const HEAD_BYTES: usize = 100;
/// What is told of one event of a batch.
const ERROR_BYTES_MAX: usize = 512;
/// The reply to a stored single event.
pub(crate) fn single(form: Form, id: &str, duplicate: bool) -> Response<Full<Bytes>> {
    let body = match form {
        Form::Json | Form::JsonLines => {
            let mut out = Vec::with_capacity(RESULT_BYTES);
            out.extend_from_slice(br#"{"eventId":"#);
            write_string(&mut out, id);
            out.extend_from_slice(br#","status":"accepted","duplicate":"#);
            out.extend_from_slice(if duplicate { b"true}" } else { b"false}" });
            out
        }
        Form::Binary(_) => {
            IngestEventResponse { event_id: id.to_owned(), status: "accepted".into(), duplicate }.encode_to_vec()
        }
    };
    ok(form, body)
}

/// What the reply takes at most, whatever the bus answers. The ids of the first events of duplicates count once they
/// are known. Ids may be chosen by the sender, and quotes in texts are escaped.
pub(crate) fn batch_bytes(verdicts: &Verdicts) -> usize {
    let each = verdicts.iter().map(|verdict| match verdict {
        Verdict::Invalid(errors) => {
            let texts: usize = errors.iter().map(|error| error.pointer.len() + error.detail.len() + 4).sum();
            2 * texts.min(ERROR_BYTES_MAX + "…".len()) + ERROR_KEY_BYTES + CODE_BYTES
        }
        _ => NOT_STORED_BYTES + CODE_BYTES,
    });
    HEAD_BYTES + verdicts.len() * RESULT_BYTES + 2 * verdicts.id_bytes() + each.sum::<usize>()
}

/// The reply to a batch whose every event has its verdict.
pub(crate) fn batch(form: Form, verdicts: &Verdicts) -> Response<Full<Bytes>> {
    let accepted = verdicts.iter().filter(|verdict| matches!(verdict, Verdict::Stored { .. })).count();
    let rejected = verdicts.len() - accepted;
    let results = verdicts.iter().map(|verdict| Outcome::of(&verdict)).enumerate();
    let body = match form {
        Form::Json | Form::JsonLines => {
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
        Form::Binary(_) => IngestEventBatchResponse {
            accepted_count: i32::try_from(accepted).unwrap_or(i32::MAX),
            rejected_count: i32::try_from(rejected).unwrap_or(i32::MAX),
            results: results.map(|(index, outcome)| outcome.into_message(index)).collect(),
        }
        .encode_to_vec(),
    };
    ok(form, body)
}

/// A verdict as both forms tell it.
#[derive(Default)]
struct Outcome<'a> {
    accepted: bool,
    event_id: &'a str,
    error: Cow<'a, str>,
    retryable: bool,
    duplicate: bool,
    /// Of a rejected one.
    code: u16,
}

impl<'a> Outcome<'a> {
    fn of(verdict: &Verdict<'a>) -> Self {
        match *verdict {
            Verdict::Stored { id, duplicate } => Self { accepted: true, event_id: id, duplicate, ..Self::default() },
            Verdict::Invalid(errors) => {
                let code = if is_of_other_app(errors) { StatusCode::FORBIDDEN } else { StatusCode::BAD_REQUEST };
                Self { error: join(errors).into(), code: code.as_u16(), ..Self::default() }
            }
            Verdict::NotStored { id, kind } => Self {
                // It may come to be stored under this id after all; not so what can never be.
                event_id: if kind == BusErrorKind::Invalid { "" } else { id },
                error: why(kind).into(),
                retryable: kind != BusErrorKind::Invalid,
                code: status_of(kind).as_u16(),
                ..Self::default()
            },
            Verdict::Pending { id } => Self::of(&Verdict::NotStored { id, kind: BusErrorKind::Unavailable }),
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
        // A string always serializes, and a vector takes every write.
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

fn ok(form: Form, body: Vec<u8>) -> Response<Full<Bytes>> {
    let mut reply = Response::new(Full::new(Bytes::from(body)));
    reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(form.media_type()));
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
    use crate::gateway::intake::outcome::judge;

    #[tokio::test]
    async fn a_reply_takes_no_more_than_is_held_for_it() {
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
            let (mut verdicts, _) = judge(accept_json_batch(body.as_bytes(), 1_000, &arrival).unwrap());
            let held = batch_bytes(&verdicts);
            verdicts.settle(&vec![answer.clone(); 100]);
            let length = async |form, verdicts: &Verdicts| {
                batch(form, verdicts).into_body().collect().await.unwrap().to_bytes().len()
            };
            // Before the first events of duplicates are known, and with them, however long their ids are.
            assert!(length(Form::Json, &verdicts).await <= held, "{answer:?}");
            if answer.is_ok_and(|published| published.duplicate) {
                verdicts.set_first_ids(vec![Some("\"".repeat(256)); 100].into_iter());
                let length = length(Form::Json, &verdicts).await;
                assert!(held < length && length <= batch_bytes(&verdicts), "{held} {length}");
                verdicts.forget_first_ids();
                assert_eq!(batch_bytes(&verdicts), held);
            }
        }
    }

    #[test]
    fn what_can_never_be_stored_is_too_large_and_has_no_id() {
        assert_eq!(not_stored(BusErrorKind::Invalid).status(), StatusCode::PAYLOAD_TOO_LARGE);
        assert_eq!(not_stored(BusErrorKind::Full).status(), StatusCode::SERVICE_UNAVAILABLE);
        let never = Outcome::of(&Verdict::NotStored { id: "e1", kind: BusErrorKind::Invalid });
        assert_eq!((never.event_id, never.retryable, never.status()), ("", false, "rejected"));
        let later = Outcome::of(&Verdict::NotStored { id: "e1", kind: BusErrorKind::Full });
        assert_eq!((later.event_id, later.retryable, later.status()), ("e1", true, "rejected"));
    }
}
