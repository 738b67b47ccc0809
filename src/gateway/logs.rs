//! `POST /v1/logs`: log records over OTLP/HTTP.
//!
//! An exporter retries the whole export after 429 or 503. An export therefore gets 503 as soon as the bus fails to
//! store one of its records; records that were stored are recognized as duplicates on the retry by the keys that
//! [`otlp`] assigns.

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body_util::Full;
use prost::encoding::{WireType, encode_key, encode_varint};
use serde_json::json;

use super::events::content_type;
use super::exchange::Exchange;
use super::intake::not_stored::not_stored;
use super::intake::outcome::{ItemOutcome, ItemOutcomes};
use super::quarantine::pending::Origin;
use super::state::Gateway;
use crate::bus::BusErrorKind;
use crate::event::otlp::{self, Export, RECORDS_MAX};
use crate::event::request::Refused;
use crate::event::{FieldError, cut};
use crate::http::{Coding, Inbound, Problem};
use crate::metrics::GatewayOutcomes;
use crate::quarantine::InputFormat;

/// The encoding of an export and of its reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OtlpEncoding {
    Protobuf,
    Json,
}

impl OtlpEncoding {
    pub(super) fn of(headers: &HeaderMap) -> Option<Self> {
        let media_type = content_type::media_type(headers);
        [("application/x-protobuf", Self::Protobuf), ("application/json", Self::Json)]
            .into_iter()
            .find_map(|(name, encoding)| media_type.eq_ignore_ascii_case(name.as_bytes()).then_some(encoding))
    }

    fn media_type(self) -> HeaderValue {
        HeaderValue::from_static(match self {
            Self::Protobuf => "application/x-protobuf",
            Self::Json => "application/json",
        })
    }
}

/// The outcomes of the records so far.
#[derive(Debug, Default)]
struct Tally {
    rejected: usize,
    /// The reason for the first rejection.
    first: Option<String>,
}

impl Tally {
    /// Adds outcomes; fails when the bus did not store a record that may be stored on a retry.
    fn add(&mut self, outcomes: &ItemOutcomes) -> Result<(), Problem> {
        let mut failed = None;
        for outcome in outcomes.iter() {
            let why = match outcome {
                ItemOutcome::Stored { .. } => continue,
                ItemOutcome::Invalid(errors) => errors.iter().map(FieldError::to_string).collect::<Vec<_>>().join("; "),
                ItemOutcome::NotStored { kind: BusErrorKind::Invalid, .. } => "it is too large".to_owned(),
                ItemOutcome::NotStored { kind, .. } => {
                    failed = Some(kind);
                    continue;
                }
                ItemOutcome::Pending { .. } => {
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

/// Limit in bytes on the error message, which exporters log.
const MESSAGE_MAX: usize = 1024;

impl Gateway {
    pub(super) async fn logs(
        &self,
        request: Request<&mut Inbound>,
        exchange: &mut Exchange,
    ) -> Result<Response<Full<Bytes>>, Problem> {
        let encoding = OtlpEncoding::of(request.headers()).ok_or_else(|| {
            let detail = "Content-Type must be application/x-protobuf or application/json.";
            Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, detail)
        })?;
        let coding = Coding::of(request.headers())?;
        let (head, inbound) = request.into_parts();
        let body = self.read_whole(inbound, coding, self.body_bytes_max).await?;
        let origin = |whole| Origin::of(&head.headers, whole, Some(InputFormat::Otlp));
        let body = match encoding {
            OtlpEncoding::Protobuf => body,
            OtlpEncoding::Json => {
                let protobuf = otlp::from_json(&body)
                    .map_err(|refused| self.refuse_export(refused, &origin(InputFormat::OtlpJson), &body, exchange))?;
                drop(body);
                protobuf.into()
            }
        };
        let mut export = Export::open(&body)
            .map_err(|refused| self.refuse_export(refused, &origin(InputFormat::Otlp), &body, exchange))?;
        self.count_events(export.len(), exchange)?;
        inbound.reserve_for_reply(body.len() + export.seen_bytes())?;
        let mut tally = Tally::default();
        // One batch at a time, to bound the memory that the converted records take.
        while let Some(accepted) = export.next(self.batch_events_max, &self.arrival(&exchange.caller)) {
            if self.quarantines() && accepted.refused().next().is_some() {
                self.collect_refused_records(&origin(InputFormat::Otlp), &body, &accepted, exchange);
            }
            let (mut outcomes, batch) = self.prepare(accepted);
            self.publish(&mut outcomes, batch, exchange).await;
            tally.add(&outcomes)?;
        }
        self.leave_out(export.unread_records(), &mut tally);
        Ok(success(encoding, tally.rejected, tally.message(export.len()).as_deref()))
    }

    /// Counts the records beyond the limit, which were not read.
    fn leave_out(&self, records: usize, tally: &mut Tally) {
        if records == 0 {
            return;
        }
        self.events.add(GatewayOutcomes { rejected: records as u64, ..GatewayOutcomes::default() });
        tally.rejected += records;
        tally.first.get_or_insert_with(|| format!("it comes after {RECORDS_MAX} others"));
    }

    fn refuse_export(&self, refused: Refused, origin: &Origin, body: &Bytes, exchange: &mut Exchange) -> Problem {
        if self.quarantines() {
            self.collect_refused(origin, body, Err(&refused), exchange);
        }
        self.refuse(refused, 0, exchange)
    }
}

/// An `ExportLogsServiceResponse`.
fn success(encoding: OtlpEncoding, rejected: usize, message: Option<&str>) -> Response<Full<Bytes>> {
    let body = match (encoding, message) {
        (OtlpEncoding::Json, None) => b"{}".to_vec(),
        (OtlpEncoding::Json, Some(message)) => {
            // 64-bit integers are strings in proto3 JSON.
            let partial = json!({"rejectedLogRecords": rejected.to_string(), "errorMessage": message});
            json!({ "partialSuccess": partial }).to_string().into_bytes()
        }
        (OtlpEncoding::Protobuf, None) => Vec::new(),
        (OtlpEncoding::Protobuf, Some(message)) => {
            let mut body = Vec::new();
            put_text(&mut body, 1, &number_and_text(rejected as u64, message));
            body
        }
    };
    let mut reply = Response::new(Full::new(Bytes::from(body)));
    reply.headers_mut().insert(CONTENT_TYPE, encoding.media_type());
    reply
}

/// A refusal with a `google.rpc.Status` as its body. JSON if the encoding of the request is unknown.
pub(super) fn refusal(encoding: Option<OtlpEncoding>, problem: Problem) -> Response<Full<Bytes>> {
    let (code, encoding) = (code_of(problem.status()), encoding.unwrap_or(OtlpEncoding::Json));
    let errors = problem.errors().iter().map(|error| format!(" {error};"));
    let message = format!("{}{}", problem.detail(), errors.collect::<String>());
    let message = cut(message.trim_end_matches(';').to_owned(), MESSAGE_MAX);
    let body = match encoding {
        OtlpEncoding::Json => json!({"code": code, "message": message}).to_string().into_bytes(),
        OtlpEncoding::Protobuf => number_and_text(code, &message),
    };
    let mut reply = problem.into_reply();
    reply.headers_mut().insert(CONTENT_TYPE, encoding.media_type());
    *reply.body_mut() = Full::new(Bytes::from(body));
    reply
}

/// The `google.rpc` code for an HTTP status.
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

/// A message with an integer in field 1 and a string in field 2, as both replies have it.
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
