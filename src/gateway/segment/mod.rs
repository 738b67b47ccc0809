//! Segment's HTTP API, so that its SDKs send to this gateway when nothing but their host is changed
//! (<https://segment.com/docs/connections/sources/catalog/libraries/server/http-api/>).
//!
//! Invariants: 200 is said of a message only once its event is stored; a message that is sent again with its
//! `messageId` is stored once. The content type says nothing: bodies are JSON whatever they are called, since browsers
//! and some SDKs call them what they like.

mod device;
mod mapping;
mod message;
mod settings;
mod value;

use std::time::Instant;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::Gateway;
use super::caller::Caller;
use super::exchange::Exchange;
use super::intake::{Verdict, Verdicts};
use super::reply;
use crate::bus::BusErrorKind;
use crate::event::proto::EventEnvelope;
use crate::event::request::Accepted;
use crate::event::{FieldError, is_app_id};
use crate::http::{Coding, Inbound, Problem};
use crate::store::key_hash;

use message::{Call, Surroundings, event_of};
use value::Object;

/// Of one message, and of a batch: what Segment takes.
const MESSAGE_BYTES_MAX: usize = 32 * 1024;
const BATCH_BYTES_MAX: usize = 500 * 1024;
/// Messages that are told of in a reply.
const TOLD_MAX: usize = 16;

/// What a request of Segment's API asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    Message(Call),
    Batch,
    /// How SDKs in browsers count themselves: nothing of it is kept.
    OwnMetrics,
    /// What `analytics-next` asks of its CDN before it sends.
    Settings,
}

impl Asked {
    pub(super) fn of(path: &str) -> Option<Self> {
        let name = path.strip_prefix("/v1/")?;
        Some(match name {
            "track" | "t" => Self::Message(Call::Track),
            "identify" | "i" => Self::Message(Call::Identify),
            "page" | "p" => Self::Message(Call::Page),
            "screen" | "s" => Self::Message(Call::Screen),
            "group" | "g" => Self::Message(Call::Group),
            "alias" | "a" => Self::Message(Call::Alias),
            "batch" | "b" | "import" => Self::Batch,
            "m" => Self::OwnMetrics,
            _ => {
                let key = name.strip_prefix("projects/")?.strip_suffix("/settings")?;
                return (!key.is_empty() && !key.contains('/')).then_some(Self::Settings);
            }
        })
    }

    pub(super) fn method(self) -> Method {
        if self == Self::Settings { Method::GET } else { Method::POST }
    }
}

/// A batch as it comes. Messages are read one after another: as values they take many times their text.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Batch<'a> {
    #[serde(borrow)]
    batch: Vec<&'a RawValue>,
    #[serde(default)]
    write_key: Option<Value>,
    #[serde(default)]
    sent_at: Option<Value>,
    #[serde(default)]
    context: Option<Object>,
    #[serde(default)]
    integrations: Option<Value>,
}

impl Gateway {
    pub(super) async fn segment(
        &self,
        asked: Asked,
        request: Request<&mut Inbound>,
        exchange: &mut Exchange,
        started: Instant,
    ) -> Result<Response<Full<Bytes>>, Problem> {
        let (head, body) = request.into_parts();
        let call = match asked {
            Asked::Message(call) => Some(call),
            Asked::Batch => None,
            Asked::Settings | Asked::OwnMetrics => {
                self.count(Caller::Anyone, body.peer(), &head.headers, exchange)?;
                let is_settings = asked == Asked::Settings;
                return Ok(if is_settings { settings::reply(&head, self.tls) } else { success(&[]) });
            }
        };
        let by_headers = self.access.admit_if_named(&head.headers, started)?;
        if let Some(caller) = &by_headers {
            self.count(caller.clone(), body.peer(), &head.headers, exchange)?;
        }
        let coding = Coding::of(&head.headers)?;
        let bytes_max = if call.is_some() { MESSAGE_BYTES_MAX } else { BATCH_BYTES_MAX };
        let peer = body.peer();
        let text = self.read_whole(body, coding, bytes_max).await.map_err(|problem| too_large(problem, bytes_max))?;
        let batch = read(&text, call)?;
        if by_headers.is_none() {
            let admitted = match batch.write_key.as_ref().and_then(Value::as_str) {
                Some(key) => self.access.admit_key(&key_hash(key.as_bytes()), started),
                None => self.access.admit(&head.headers, started),
            };
            // Who guesses keys is counted, too.
            let caller = admitted.as_ref().unwrap_or(&Caller::Anyone).clone();
            self.count(caller, peer, &head.headers, exchange)?;
            admitted?;
        }
        self.count_events(batch.batch.len(), exchange)?;
        let (mut accepted, arrival) = (Accepted::default(), self.arrival(&exchange.caller));
        for event in self.events_of(call, &batch, &head.headers, exchange) {
            match event {
                Ok(event) => accepted.add(&event, &arrival),
                Err(error) => accepted.add_refused(vec![error]),
            }
        }
        drop(text);
        let (mut verdicts, batch) = self.judge(accepted);
        self.publish(&mut verdicts, batch, exchange).await;
        answer(&verdicts)
    }

    fn events_of<'b>(
        &self,
        call: Option<Call>,
        batch: &'b Batch<'_>,
        headers: &HeaderMap,
        exchange: &Exchange,
    ) -> impl Iterator<Item = Result<EventEnvelope, FieldError>> + use<'b> {
        // Where nobody is asked for a key, the write key says which app it is.
        let named = super::credentials::named(headers);
        let of_body = batch.write_key.as_ref().and_then(Value::as_str).map(str::to_owned);
        let app = match exchange.caller.app() {
            Some(_) => String::new(),
            None => named.or(of_body).filter(|app| is_app_id(app)).unwrap_or_default(),
        };
        let received_at_ms = self.arrival(&exchange.caller).received_at_ms;
        batch.batch.iter().map(move |raw| {
            let around = Surroundings {
                context: batch.context.as_ref(),
                integrations: batch.integrations.as_ref(),
                sent_at: batch.sent_at.as_ref(),
                received_at_ms,
                app: &app,
            };
            if raw.get().len() > MESSAGE_BYTES_MAX {
                return Err(FieldError::new("", format!("must have at most {MESSAGE_BYTES_MAX} bytes")));
            }
            match serde_json::from_str(raw.get()) {
                Ok(Value::Object(message)) => event_of(call, message, raw.get(), &around),
                Ok(_) => Err(FieldError::new("", "must be an object")),
                Err(_) => Err(FieldError::new("", "is nested too deep")),
            }
        })
    }
}

/// A single message is a batch of one.
fn read(text: &[u8], call: Option<Call>) -> Result<Batch<'_>, Problem> {
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
    if call.is_none() {
        return serde_json::from_slice(text).map_err(|error| not_json(&error, "an object with the array batch"));
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Keyed {
        #[serde(default)]
        write_key: Option<Value>,
    }
    let keyed: Keyed = serde_json::from_slice(text).map_err(|error| not_json(&error, "an object"))?;
    let message = serde_json::from_slice(text).map_err(|error| not_json(&error, "an object"))?;
    Ok(Batch { batch: vec![message], write_key: keyed.write_key, sent_at: None, context: None, integrations: None })
}

fn not_json(error: &serde_json::Error, wanted: &str) -> Problem {
    let detail = match error.is_data() {
        true => format!("The body must be {wanted}."),
        // Only where: the parser's own words may repeat the input.
        false => format!("The body is not JSON: line {}, column {}.", error.line(), error.column()),
    };
    Problem::new(StatusCode::BAD_REQUEST, detail)
}

/// Segment answers 400 where others answer 413, and its SDKs know what to do with that.
fn too_large(problem: Problem, bytes_max: usize) -> Problem {
    if problem.status() != StatusCode::PAYLOAD_TOO_LARGE {
        return problem;
    }
    let detail =
        format!("A message has at most {MESSAGE_BYTES_MAX} bytes, a batch {BATCH_BYTES_MAX}; here {bytes_max}.");
    Problem::new(StatusCode::BAD_REQUEST, detail).closing()
}

/// One word for the whole: when the bus stored less than it should have, the whole is to be sent again, and what was
/// stored is told by its `messageId`.
fn answer(verdicts: &Verdicts) -> Result<Response<Full<Bytes>>, Problem> {
    let mut refused = Vec::new();
    for (index, verdict) in verdicts.iter().enumerate() {
        match verdict {
            Verdict::Stored { .. } => {}
            Verdict::Invalid(errors) => {
                let told = errors.iter().map(|error| error.clone().under(&format!("/batch/{index}")));
                refused.extend(told.take(1));
            }
            Verdict::NotStored { kind: BusErrorKind::Invalid, .. } => {
                refused.push(FieldError::new(format!("/batch/{index}"), "is too large to be stored"));
            }
            Verdict::NotStored { kind, .. } => return Err(reply::not_stored(kind)),
            Verdict::Pending { .. } => return Err(reply::not_stored(BusErrorKind::Unavailable)),
        }
    }
    if refused.len() == verdicts.len() && !refused.is_empty() {
        refused.truncate(TOLD_MAX);
        return Err(Problem::new(StatusCode::BAD_REQUEST, "No message is valid.").with_errors(refused));
    }
    refused.truncate(TOLD_MAX);
    Ok(success(&refused))
}

/// As Segment says it; beside that the messages that were refused while others of the batch were stored.
fn success(refused: &[FieldError]) -> Response<Full<Bytes>> {
    let body = match refused {
        [] => r#"{"success":true}"#.to_owned(),
        refused => serde_json::json!({"success": true, "errors": refused}).to_string(),
    };
    let mut reply = Response::new(Full::new(body.into()));
    reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    reply
}
