//! Builds the requests of a run in a reused buffer.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

use super::connection::Target;
use super::load::Load;
use super::pool::BodyFormat;
use crate::base::clock::unix_ms;

/// Spaces before a header's value are ignored, so the length is right-aligned in them.
const LENGTH_DIGITS: usize = 10;

/// A request in a reused buffer.
pub(super) struct RequestBuffer {
    bytes: Vec<u8>,
    head_len: usize,
    length_end: usize,
    single: bool,
}

impl RequestBuffer {
    pub(super) fn new(target: &Target, load: &Load) -> Self {
        let (format, single) = (load.pool.format(), load.single());
        let path = match format {
            BodyFormat::Segment => "/v1/batch",
            BodyFormat::Json | BodyFormat::Binary if single => "/v1/events/ingest",
            BodyFormat::Json | BodyFormat::Binary => "/v1/events/batch",
        };
        let content_type = match format {
            BodyFormat::Json | BodyFormat::Segment => "application/json",
            BodyFormat::Binary => "application/x-protobuf",
        };
        let key = match (format, load.api_key.as_deref()) {
            (BodyFormat::Segment, key) => {
                let user = format!("{}:", key.unwrap_or(&load.app_id));
                format!("Authorization: Basic {}\r\n", BASE64_STANDARD.encode(user))
            }
            (BodyFormat::Json | BodyFormat::Binary, Some(key)) => format!("X-API-Key: {key}\r\n"),
            (BodyFormat::Json | BodyFormat::Binary, None) => String::new(),
        };
        let encoding =
            load.prepared.as_ref().map(|prepared| format!("Content-Encoding: {}\r\n", prepared.encoding.name()));
        let encoding = encoding.unwrap_or_default();
        let mut head = format!(
            "POST {}{path} HTTP/1.1\r\nHost: {}\r\nContent-Type: {content_type}\r\n{encoding}{key}Content-Length: {:LENGTH_DIGITS$}",
            target.base_path, target.authority, 0
        );
        let length_end = head.len();
        head.push_str("\r\n\r\n");
        Self { head_len: head.len(), length_end, bytes: head.into_bytes(), single }
    }

    pub(super) fn fill(&mut self, load: &Load, first: u64, count: usize) {
        self.bytes.truncate(self.head_len);
        match &load.prepared {
            Some(prepared) => self.bytes.extend_from_slice(prepared.body(first)),
            None => load.pool.write_body(&mut self.bytes, first, count, unix_ms().unsigned_abs(), self.single),
        }
        let mut length = self.bytes.len() - self.head_len;
        for position in (self.length_end - LENGTH_DIGITS..self.length_end).rev() {
            self.bytes[position] = if length == 0 { b' ' } else { b'0' + (length % 10) as u8 };
            length /= 10;
        }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}
