//! Raw replies for clients that hyper cannot answer, because their input was not accepted or is not HTTP.

use bytes::Bytes;

use super::problem::Problem;

/// Empty SETTINGS, then GOAWAY with ENHANCE_YOUR_CALM: there is no memory for an HTTP/2 connection (RFC 9113, 6.5 and
/// 6.8).
pub(crate) const HTTP2_GO_AWAY: &[u8] =
    &[0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 11];

/// GOAWAY with ENHANCE_YOUR_CALM on an established connection. Streams up to `last_stream` may have been processed.
pub(crate) fn http2_enhance_your_calm(last_stream: u32) -> Bytes {
    let head: &[u8] = &[0, 0, 8, 7, 0, 0, 0, 0, 0];
    [head, &last_stream.to_be_bytes(), &[0, 0, 0, 11]].concat().into()
}

/// The final reply of a connection.
pub(crate) fn http1(problem: Problem) -> Bytes {
    let (head, body) = problem.closing().into_reply().into_parts();
    let body = body.into_inner().unwrap_or_default();
    let reason = head.status.canonical_reason().unwrap_or("Error");
    let mut reply = format!("HTTP/1.1 {} {reason}\r\n", head.status.as_u16()).into_bytes();
    for (name, value) in &head.headers {
        reply.extend_from_slice(name.as_str().as_bytes());
        reply.extend_from_slice(b": ");
        reply.extend_from_slice(value.as_bytes());
        reply.extend_from_slice(b"\r\n");
    }
    reply.extend_from_slice(format!("content-length: {}\r\n\r\n", body.len()).as_bytes());
    reply.extend_from_slice(&body);
    reply.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn raw_replies_are_complete() {
        let reply = String::from_utf8(http1(Problem::short_of_memory()).to_vec()).unwrap();
        assert!(reply.starts_with("HTTP/1.1 503 Service Unavailable\r\n"), "{reply}");
        assert!(reply.contains("\r\nconnection: close\r\n") && reply.contains("\r\nretry-after: "), "{reply}");
        let (head, body) = reply.split_once("\r\n\r\n").unwrap();
        assert!(head.ends_with(&format!("content-length: {}", body.len())), "{reply}");
    }
}
