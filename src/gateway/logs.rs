//! `POST /v1/logs`: log records as OTLP/HTTP sends them, and answers as it words them.
//!
//! An exporter sends again what is answered 429 or 503, and all of it: so an export is 503 as soon as the bus did not
//! store one of its records. Those that it did store are duplicates by then, by the keys that [`otlp`] gives them.

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body_util::Full;
use prost::encoding::{WireType, encode_key, encode_varint};
use serde_json::json;

use super::events::content_type;
use super::exchange::Exchange;
use super::intake::not_stored::not_stored;
use super::intake::outcome::{Verdict, Verdicts};
use super::quarantine::pending::Origin;
use super::state::Gateway;
use crate::bus::BusErrorKind;
use crate::event::otlp::{self, Export, RECORDS_MAX};
use crate::event::request::Refused;
use crate::event::{FieldError, cut};
use crate::http::{Coding, Inbound, Problem};
use crate::metrics::GatewayVerdicts;
use crate::quarantine::InputFormat as Kept;

/// How an export is written; its reply is written the same way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LogsForm {
    Protobuf,
    Json,
}

impl LogsForm {
    pub(super) fn of(headers: &HeaderMap) -> Option<Self> {
        let media_type = content_type::media_type(headers);
        [("application/x-protobuf", Self::Protobuf), ("application/json", Self::Json)]
            .into_iter()
            .find_map(|(name, form)| media_type.eq_ignore_ascii_case(name.as_bytes()).then_some(form))
    }

    fn media_type(self) -> HeaderValue {
        HeaderValue::from_static(match self {
            Self::Protobuf => "application/x-protobuf",
            Self::Json => "application/json",
        })
    }
}

/// What became of the records so far.
#[derive(Debug, Default)]
struct Tally {
    rejected: usize,
    /// Why the first of them was.
    first: Option<String>,
}

impl Tally {
    /// Adds verdicts; an error when the bus did not store a record that it may store later.
    fn add(&mut self, verdicts: &Verdicts) -> Result<(), Problem> {
        let mut failed = None;
        for verdict in verdicts.iter() {
            let why = match verdict {
                Verdict::Stored { .. } => continue,
                Verdict::Invalid(errors) => errors.iter().map(FieldError::to_string).collect::<Vec<_>>().join("; "),
                Verdict::NotStored { kind: BusErrorKind::Invalid, .. } => "it is too large".to_owned(),
                Verdict::NotStored { kind, .. } => {
                    failed = Some(kind);
                    continue;
                }
                Verdict::Pending { .. } => {
                    failed = Some(BusErrorKind::Unavailable);
                    continue;
                }
            };
            self.rejected += 1;
            self.first.get_or_insert(why);
        }
        failed.map_or(Ok(()), |kind| Err(not_stored(kind)))
    }

    fn message(&self, records: usize) -> Option<String> {
        let first = self.first.as_ref()?;
        Some(cut(format!("{} of {records} log records were rejected. The first: {first}", self.rejected), MESSAGE_MAX))
    }
}

/// Bytes of a message to an exporter, which logs it.
const MESSAGE_MAX: usize = 1024;

impl Gateway {
    pub(super) async fn logs(
        &self,
        request: Request<&mut Inbound>,
        exchange: &mut Exchange,
    ) -> Result<Response<Full<Bytes>>, Problem> {
        let form = LogsForm::of(request.headers()).ok_or_else(|| {
            let detail = "Content-Type must be application/x-protobuf or application/json.";
            Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, detail)
        })?;
        let coding = Coding::of(request.headers())?;
        let (head, inbound) = request.into_parts();
        let body = self.read_whole(inbound, coding, self.body_bytes_max).await?;
        let origin = |whole| Origin::of(&head.headers, whole, Some(Kept::Otlp));
        let body = match form {
            LogsForm::Protobuf => body,
            LogsForm::Json => {
                let protobuf = otlp::from_json(&body)
                    .map_err(|refused| self.refuse_export(refused, &origin(Kept::OtlpJson), &body, exchange))?;
                drop(body);
                protobuf.into()
            }
        };
        let mut export =
            Export::open(&body).map_err(|refused| self.refuse_export(refused, &origin(Kept::Otlp), &body, exchange))?;
        self.count_events(export.len(), exchange)?;
        inbound.hold_for_reply(body.len() + export.seen_bytes())?;
        let mut tally = Tally::default();
        // A batch at a time, as other requests bring them: what the records grow to is not all held at once.
        while let Some(accepted) = export.next(self.batch_events_max, &self.arrival(&exchange.caller)) {
            if self.quarantines() && accepted.refused().next().is_some() {
                self.note_refused_records(&origin(Kept::Otlp), &body, &accepted, exchange);
            }
            let (mut verdicts, batch) = self.judge(accepted);
            self.publish(&mut verdicts, batch, exchange).await;
            tally.add(&verdicts)?;
        }
        self.leave_out(export.unread_records(), &mut tally);
        Ok(success(form, tally.rejected, tally.message(export.len()).as_deref()))
    }

    /// Counts the records that were not read, since there were so many.
    fn leave_out(&self, records: usize, tally: &mut Tally) {
        if records == 0 {
            return;
        }
        self.events.add(GatewayVerdicts { rejected: records as u64, ..GatewayVerdicts::default() });
        tally.rejected += records;
        tally.first.get_or_insert_with(|| format!("it comes after {RECORDS_MAX} others"));
    }

    fn refuse_export(&self, refused: Refused, origin: &Origin, body: &Bytes, exchange: &mut Exchange) -> Problem {
        if self.quarantines() {
            self.note_refused(origin, body, Err(&refused), exchange);
        }
        self.refuse(refused, 0, exchange)
    }
}

/// An `ExportLogsServiceResponse`.
fn success(form: LogsForm, rejected: usize, message: Option<&str>) -> Response<Full<Bytes>> {
    let body = match (form, message) {
        (LogsForm::Json, None) => b"{}".to_vec(),
        (LogsForm::Json, Some(message)) => {
            // 64-bit integers are strings in proto3 JSON.
            let partial = json!({"rejectedLogRecords": rejected.to_string(), "errorMessage": message});
            json!({ "partialSuccess": partial }).to_string().into_bytes()
        }
        (LogsForm::Protobuf, None) => Vec::new(),
        (LogsForm::Protobuf, Some(message)) => {
            let mut body = Vec::new();
            put_text(&mut body, 1, &number_and_text(rejected as u64, message));
            body
        }
    };
    let mut reply = Response::new(Full::new(Bytes::from(body)));
    reply.headers_mut().insert(CONTENT_TYPE, form.media_type());
    reply
}

/// A refusal, with a `google.rpc.Status` for a body. Without a form that is known it is JSON.
pub(super) fn refusal(form: Option<LogsForm>, problem: Problem) -> Response<Full<Bytes>> {
    let (code, form) = (code_of(problem.status()), form.unwrap_or(LogsForm::Json));
    let errors = problem.errors().iter().map(|error| format!(" {error};"));
    let message = format!("{}{}", problem.detail(), errors.collect::<String>());
    let message = cut(message.trim_end_matches(';').to_owned(), MESSAGE_MAX);
    let body = match form {
        LogsForm::Json => json!({"code": code, "message": message}).to_string().into_bytes(),
        LogsForm::Protobuf => number_and_text(code, &message),
    };
    let mut reply = problem.into_reply();
    reply.headers_mut().insert(CONTENT_TYPE, form.media_type());
    *reply.body_mut() = Full::new(Bytes::from(body));
    reply
}

/// The code of `google.rpc` that a status stands for.
fn code_of(status: StatusCode) -> u64 {
    match status {
        StatusCode::UNAUTHORIZED => 16,
        StatusCode::FORBIDDEN => 7,
        StatusCode::METHOD_NOT_ALLOWED => 12,
        StatusCode::REQUEST_TIMEOUT => 4,
        StatusCode::PAYLOAD_TOO_LARGE | StatusCode::TOO_MANY_REQUESTS => 8,
        StatusCode::SERVICE_UNAVAILABLE => 14,
        _ => 3,
    }
}

/// A message of an integer in field 1 and a text in field 2, as both replies have it.
fn number_and_text(number: u64, text: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len() + 16);
    encode_key(1, WireType::Varint, &mut out);
    encode_varint(number, &mut out);
    put_text(&mut out, 2, text.as_bytes());
    out
}

fn put_text(out: &mut Vec<u8>, number: u32, bytes: &[u8]) {
    encode_key(number, WireType::LengthDelimited, out);
    encode_varint(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}
