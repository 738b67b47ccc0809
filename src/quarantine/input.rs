//! The stored form of refused input: a protobuf message whose fields never change their meaning.
//!
//! ```text
//!  id | format | content_type | key_app | app | received_at_ms | request_id | correlation_id | reason | errors | data | attributes
//! ```

use bytes::Bytes;
use prost::Message as _;

use crate::bus::RefusedInput;
use crate::event::{EVENT_BYTES_MAX, FieldError, Reason, cut, subject};

/// The largest input that is kept, metadata included, in bytes.
pub const INPUT_BYTES_MAX: usize = EVENT_BYTES_MAX;
/// The reason in one line, in bytes.
const REASON_BYTES_MAX: usize = 400;

/// The format of the data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InputFormat {
    /// The body of `/v1/events/ingest` in JSON.
    Json,
    /// The body of `/v1/events/batch` in JSON.
    JsonBatch,
    /// One event of a batch or of JSON lines.
    JsonEvent,
    JsonLines,
    Protobuf,
    ProtobufBatch,
    ProtobufEvent,
    /// One event in the JSON format of CloudEvents.
    CloudEvent,
    CloudEventBatch,
    /// The data only; its attributes are stored separately.
    CloudEventBinary,
    SegmentMessage,
    SegmentBatch,
    /// An OTLP export of log records in protobuf; of a single record if only that was refused.
    Otlp,
    OtlpJson,
}

impl InputFormat {
    const ALL: [Self; 14] = [
        Self::Json,
        Self::JsonBatch,
        Self::JsonEvent,
        Self::JsonLines,
        Self::Protobuf,
        Self::ProtobufBatch,
        Self::ProtobufEvent,
        Self::CloudEvent,
        Self::CloudEventBatch,
        Self::CloudEventBinary,
        Self::SegmentMessage,
        Self::SegmentBatch,
        Self::Otlp,
        Self::OtlpJson,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Json => "json",
            Self::JsonBatch => "json_batch",
            Self::JsonEvent => "json_event",
            Self::JsonLines => "json_lines",
            Self::Protobuf => "protobuf",
            Self::ProtobufBatch => "protobuf_batch",
            Self::ProtobufEvent => "protobuf_event",
            Self::CloudEvent => "cloudevent",
            Self::CloudEventBatch => "cloudevent_batch",
            Self::CloudEventBinary => "cloudevent_binary",
            Self::SegmentMessage => "segment_message",
            Self::SegmentBatch => "segment_batch",
            Self::Otlp => "otlp",
            Self::OtlpJson => "otlp_json",
        }
    }

    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|format| format.name() == name)
    }
}

/// One refused input.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Input {
    /// The id of its event, if the event has none of its own.
    #[prost(string, tag = "1")]
    pub id: String,
    /// See [`InputFormat`].
    #[prost(string, tag = "2")]
    pub format: String,
    #[prost(string, tag = "3")]
    pub content_type: String,
    /// The app of the API key that was used.
    #[prost(string, optional, tag = "4")]
    pub key_app: Option<String>,
    /// The app that the input names or that its sender belongs to; empty if unknown.
    #[prost(string, tag = "5")]
    pub app: String,
    #[prost(int64, tag = "6")]
    pub received_at_ms: i64,
    #[prost(string, tag = "7")]
    pub request_id: String,
    #[prost(string, tag = "8")]
    pub correlation_id: String,
    /// See [`Reason`].
    #[prost(string, tag = "9")]
    pub reason: String,
    #[prost(message, repeated, tag = "10")]
    pub errors: Vec<InputError>,
    /// As received, after decoding the content coding.
    #[prost(bytes = "bytes", tag = "11")]
    pub data: Bytes,
    /// Attributes outside the data that are needed to parse it again.
    #[prost(message, repeated, tag = "12")]
    pub attributes: Vec<Attribute>,
}

/// A [`FieldError`].
#[derive(Clone, PartialEq, prost::Message)]
pub struct InputError {
    #[prost(string, tag = "1")]
    pub pointer: String,
    #[prost(string, tag = "2")]
    pub detail: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Attribute {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(string, tag = "2")]
    pub value: String,
}

impl Attribute {
    pub fn new(name: impl Into<String>, value: impl Into<String>) -> Self {
        Self { name: name.into(), value: value.into() }
    }
}

impl Input {
    /// Decodes the payload of a dead letter.
    pub fn read(payload: &[u8]) -> Option<Self> {
        Self::decode(payload).ok().filter(|input| InputFormat::named(&input.format).is_some())
    }

    pub fn attribute(&self, name: &str) -> Option<&str> {
        self.attributes.iter().find(|attribute| attribute.name == name).map(|attribute| attribute.value.as_str())
    }

    pub fn set_errors(&mut self, reason: Reason, errors: &[FieldError]) {
        let error = |error: &FieldError| InputError { pointer: error.pointer.clone(), detail: error.detail.clone() };
        reason.name().clone_into(&mut self.reason);
        self.errors = errors.iter().map(error).collect();
    }

    /// Encodes it for the bus; `None` when it is too large to keep.
    pub fn into_refused(self) -> Option<RefusedInput> {
        let length = self.encoded_len();
        if length > INPUT_BYTES_MAX {
            return None;
        }
        let clause = |error: &InputError| match error.pointer.is_empty() {
            true => error.detail.clone(),
            false => format!("{}: {}", error.pointer, error.detail),
        };
        let reason = self.errors.iter().map(clause).collect::<Vec<_>>().join("; ");
        Some(RefusedInput {
            subject: subject::refused_subject(&self.app, &self.reason),
            reason: cut(reason, REASON_BYTES_MAX),
            received_at_ms: self.received_at_ms,
            payload: self.encode_to_vec().into(),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Input as the first version stored it. It must stay readable.
    const FIXTURE_V1: &[u8] = b"\x0a\x02id\x12\x0ajson_event\x1a\x10application/json\x22\x04shop\x2a\x04shop\x30\x01\
        \x3a\x01r\x42\x01c\x4a\x08required\x52\x1a\x0a\x09/deviceId\x12\x0dis not there.\x5a\x02{}\x62\x06\x0a\x01n\x12\x01v";

    fn input() -> Input {
        Input {
            id: "id".into(),
            format: "json_event".into(),
            content_type: "application/json".into(),
            key_app: Some("shop".into()),
            app: "shop".into(),
            received_at_ms: 1,
            request_id: "r".into(),
            correlation_id: "c".into(),
            reason: "required".into(),
            errors: vec![InputError { pointer: "/deviceId".into(), detail: "is not there.".into() }],
            data: Bytes::from_static(b"{}"),
            attributes: vec![Attribute::new("n", "v")],
        }
    }

    #[test]
    fn the_first_version_is_still_readable_and_written() {
        assert_eq!(Input::read(FIXTURE_V1), Some(input()));
        let refused = input().into_refused().unwrap();
        assert_eq!((&*refused.payload, refused.reason.as_str()), (FIXTURE_V1, "/deviceId: is not there."));
        assert_eq!(refused.subject, "quarantine.shop.required");
        assert_eq!(subject::parse_refused_subject(&refused.subject), Some(("shop".into(), "required")));
    }

    #[test]
    fn too_large_input_is_not_kept() {
        let large = |bytes: usize| Input { data: vec![0; bytes].into(), ..input() }.into_refused();
        assert!(large(INPUT_BYTES_MAX - 200).is_some() && large(INPUT_BYTES_MAX).is_none());
        assert_eq!(subject::parse_refused_subject(&subject::refused_subject("", "value")), Some(("".into(), "value")));
    }

    #[test]
    fn formats_have_distinct_names() {
        for format in InputFormat::ALL {
            assert_eq!(InputFormat::named(format.name()), Some(format));
        }
    }

    proptest! {
        #[test]
        fn stored_input_round_trips(data in prop::collection::vec(any::<u8>(), 0..300), app in "[ -~]{0,20}", pointer in ".{0,20}") {
            let errors = vec![InputError { pointer, detail: "is wrong".into() }];
            let input = Input { data: data.into(), app, errors, ..input() };
            let refused = input.clone().into_refused().unwrap();
            prop_assert_eq!(Input::read(&refused.payload), Some(input));
        }
    }
}
