//! CloudEvents over HTTP (the CNCF's HTTP protocol binding 1.0.2), on both event paths. The headers decide the mode,
//! not the path.

use std::borrow::Cow;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName, Request, Response, StatusCode};
use http_body_util::Full;
use percent_encoding::percent_decode;

use super::content_type::{self, ContentType};
use super::idempotency_key;
use crate::event::{Arrival, cloud_event};
use crate::gateway::exchange::Exchange;
use crate::gateway::quarantine::pending::Origin;
use crate::gateway::state::Gateway;
use crate::http::{Coding, Inbound, Problem, header_value};
use crate::quarantine::InputFormat;

const SPECVERSION: HeaderName = HeaderName::from_static("ce-specversion");
const PREFIX: &str = "ce-";
const MEDIA_TYPE: &[u8] = b"application/cloudevents";
const BATCH_MEDIA_TYPE: &[u8] = b"application/cloudevents-batch";
const JSON: &[u8] = b"+json";

/// How a message carries its events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// The attributes are headers, the body is the data.
    Binary,
    /// The body is the event.
    Structured,
    Batched,
    /// An event format other than JSON.
    Unknown,
}

impl Mode {
    /// `None` when the request is not a CloudEvent.
    pub(crate) fn of(headers: &HeaderMap) -> Option<Self> {
        let content_type = content_type::media_type(headers);
        let starts_with =
            |start: &[u8]| content_type.get(..start.len()).is_some_and(|it| it.eq_ignore_ascii_case(start));
        let format = |start: &[u8]| &content_type[start.len()..];
        if starts_with(BATCH_MEDIA_TYPE) {
            return Some(if is_json(format(BATCH_MEDIA_TYPE)) { Self::Batched } else { Self::Unknown });
        }
        if starts_with(MEDIA_TYPE) {
            return Some(if is_json(format(MEDIA_TYPE)) { Self::Structured } else { Self::Unknown });
        }
        header_value(headers, SPECVERSION).is_some().then_some(Self::Binary)
    }
}

/// JSON is the default format.
fn is_json(format: &[u8]) -> bool {
    format.is_empty() || format.eq_ignore_ascii_case(JSON)
}

impl Gateway {
    pub(crate) async fn cloud_events(
        &self,
        mode: Mode,
        request: Request<&mut Inbound>,
        exchange: &mut Exchange,
    ) -> Result<Response<Full<Bytes>>, Problem> {
        let (head, body) = request.into_parts();
        idempotency_key::refuse_for_cloud_events(&head.headers)?;
        let coding = Coding::of(&head.headers)?;
        let origin = |whole, each| Origin::of(&head.headers, whole, each);
        let accepted = match mode {
            Mode::Structured => {
                let origin = || origin(InputFormat::CloudEvent, None);
                self.read(body, coding, exchange, origin, cloud_event::accept_structured).await?
            }
            Mode::Batched => {
                let events_max = self.batch_events_max;
                let accept =
                    |bytes: &[u8], arrival: &Arrival<'_>| cloud_event::accept_batched(bytes, events_max, arrival);
                let origin = || origin(InputFormat::CloudEventBatch, Some(InputFormat::CloudEvent));
                let accepted = self.read(body, coding, exchange, origin, accept).await?;
                return self.store_batch(ContentType::Json, accepted, body, exchange).await;
            }
            Mode::Binary => {
                let sent = attributes(&head.headers)?;
                let content_type = header_value(&head.headers, CONTENT_TYPE).and_then(|value| value.to_str().ok());
                let origin = || {
                    let origin = origin(InputFormat::CloudEventBinary, None);
                    let origin = sent.iter().fold(origin, |origin, (name, value)| {
                        origin.with(format!("{PREFIX}{name}"), value.clone().into_owned())
                    });
                    match content_type {
                        Some(content_type) => origin.with("content-type", content_type),
                        None => origin,
                    }
                };
                let accept = |bytes: &[u8], arrival: &Arrival<'_>| {
                    cloud_event::accept_binary(sent.iter().cloned(), content_type, bytes, arrival)
                };
                self.read(body, coding, exchange, origin, accept).await?
            }
            Mode::Unknown => return Err(unknown_format()),
        };
        self.store_single(ContentType::Json, accepted, exchange).await
    }
}

/// The attributes of a message in binary mode.
pub(crate) fn attributes(headers: &HeaderMap) -> Result<Vec<(&str, Cow<'_, str>)>, Problem> {
    let mut attributes = Vec::new();
    for (name, value) in headers {
        let Some(name) = name.as_str().strip_prefix(PREFIX) else { continue };
        let Some(value) = decode(value.as_bytes()) else {
            let detail = format!("The header ce-{} is not UTF-8 once its percent signs are decoded.", known(name));
            return Err(Problem::new(StatusCode::BAD_REQUEST, detail));
        };
        attributes.push((name, value));
    }
    Ok(attributes)
}

/// Attribute names that a problem may mention; naming others would repeat the client's input.
fn known(name: &str) -> &str {
    ["id", "source", "type", "subject", "time", "dataschema"]
        .into_iter()
        .find(|known| *known == name)
        .unwrap_or("* of an extension")
}

/// Decodes the value of an attribute (§3.1.3.2): strips the quotes, then percent-decodes once. A percent sign that does
/// not start an escape is kept as is, because some senders do not encode.
fn decode(value: &[u8]) -> Option<Cow<'_, str>> {
    let value = value.trim_ascii();
    if std::str::from_utf8(value).is_err() {
        // Node.js, and therefore the JavaScript SDK, writes header values as ISO 8859-1 (RFC 9110 §5.5).
        let text: String = value.iter().map(|byte| char::from(*byte)).collect();
        return decode(text.as_bytes()).map(|decoded| Cow::Owned(decoded.into_owned()));
    }
    let quoted = value.strip_prefix(b"\"").and_then(|rest| rest.strip_suffix(b"\""));
    if quoted.is_none() && !value.contains(&b'%') {
        return std::str::from_utf8(value).ok().map(Cow::Borrowed);
    }
    let unquoted: Cow<'_, [u8]> = match quoted {
        Some(quoted) => unescape(quoted).into(),
        None => value.into(),
    };
    String::from_utf8(percent_decode(&unquoted).collect()).ok().map(Cow::Owned)
}

/// RFC 9110 §5.6.4: removes the backslash of each quoted pair.
fn unescape(quoted: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(quoted.len());
    let mut bytes = quoted.iter();
    while let Some(byte) = bytes.next() {
        out.push(if *byte == b'\\' { *bytes.next().unwrap_or(byte) } else { *byte });
    }
    out
}

fn unknown_format() -> Problem {
    let detail = "CloudEvents are taken as application/cloudevents+json, application/cloudevents-batch+json, or in the \
                  binary mode.";
    Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, detail)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn the_headers_determine_the_mode() {
        for (content_type, binary, mode) in [
            ("application/json", false, None),
            ("application/json", true, Some(Mode::Binary)),
            ("", true, Some(Mode::Binary)),
            ("application/cloudevents+json; charset=utf-8", false, Some(Mode::Structured)),
            ("Application/CloudEvents+JSON", true, Some(Mode::Structured)),
            ("application/cloudevents", false, Some(Mode::Structured)),
            ("application/cloudevents-batch+json", false, Some(Mode::Batched)),
            ("application/cloudevents-batch+json;charset=UTF-8", false, Some(Mode::Batched)),
            ("application/cloudevents+avro", false, Some(Mode::Unknown)),
            ("application/cloudevents-batch+protobuf", true, Some(Mode::Unknown)),
            ("application/cloudeventsx", false, Some(Mode::Unknown)),
        ] {
            let mut headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(content_type))]);
            if binary {
                headers.insert(SPECVERSION, HeaderValue::from_static("1.0"));
            }
            assert_eq!(Mode::of(&headers), mode, "{content_type} {binary}");
        }
        assert_eq!(Mode::of(&HeaderMap::new()), None);
    }

    #[test]
    fn header_values_are_decoded_once() {
        for (value, text) in [
            ("plain", Some("plain")),
            ("Euro%20%E2%82%AC%20%F0%9F%98%80", Some("Euro \u{20ac} \u{1f600}")),
            ("%2525", Some("%25")),
            ("100%", Some("100%")),
            ("%zz%4", Some("%zz%4")),
            (r#""a \"b\" \\ %41""#, Some(r#"a "b" \ A"#)),
            ("\"", Some("\"")),
            ("%FF", None),
            ("h\u{e9}", Some("h\u{e9}")),
        ] {
            assert_eq!(decode(value.as_bytes()).as_deref(), text, "{value}");
        }
        assert_eq!(decode(b"caf\xe9 %C3%A9").as_deref(), Some("caf\u{e9} \u{e9}"));
    }
}
