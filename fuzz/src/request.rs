//! Inputs that have headers: `name: value` a line, an empty line, the body.

use ::http::{HeaderMap, HeaderName, HeaderValue};

/// As many as the listener takes, and as many bytes.
const HEADERS_MAX: usize = 100;
const HEADER_BYTES_MAX: usize = 16 * 1024;

/// The headers and the body; nothing when a line is no header.
pub fn split(input: &[u8]) -> Option<(HeaderMap, &[u8])> {
    let (mut headers, mut rest) = (HeaderMap::new(), input);
    loop {
        let (line, after) = first_line(rest)?;
        rest = after;
        if line.is_empty() {
            return Some((headers, rest));
        }
        let colon = line.iter().position(|byte| *byte == b':')?;
        let name = HeaderName::from_bytes(&line[..colon]).ok()?;
        headers.append(name, HeaderValue::from_bytes(line[colon + 1..].trim_ascii()).ok()?);
        if headers.len() > HEADERS_MAX || input.len() - rest.len() > HEADER_BYTES_MAX {
            return None;
        }
    }
}

/// A line without its end, and what follows.
pub fn first_line(input: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = input.iter().position(|byte| *byte == b'\n')?;
    let line = &input[..end];
    Some((line.strip_suffix(b"\r").unwrap_or(line), &input[end + 1..]))
}
