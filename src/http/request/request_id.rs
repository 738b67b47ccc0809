//! `X-Request-ID` and `X-Correlation-ID`: taken from the request if well-formed, otherwise generated.
//!
//! Both appear in every reply and in log lines about the request. They do not affect events, whose `correlation_id` is
//! a separate field.

use http::header::HeaderName;
use http::{HeaderMap, HeaderValue};

use super::head::header_values;
use crate::base::clock::unix_ms;
use crate::event::new_id;
use crate::http::reply::refusal_headers::RefusalHeaders;

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const X_CORRELATION_ID: HeaderName = HeaderName::from_static("x-correlation-id");
/// Longer ids are replaced.
const ID_BYTES_MAX: usize = 128;

/// The ids of one request.
#[derive(Clone, Debug)]
pub struct RequestIds {
    request: HeaderValue,
    /// `None` if the request is correlated by its own id.
    correlation: Option<HeaderValue>,
}

impl RequestIds {
    pub fn of(headers: &HeaderMap) -> Self {
        Self {
            request: well_formed(headers, X_REQUEST_ID).unwrap_or_else(generated),
            correlation: well_formed(headers, X_CORRELATION_ID),
        }
    }

    pub fn request(&self) -> &str {
        text(&self.request)
    }

    pub fn correlation(&self) -> &str {
        text(self.correlation.as_ref().unwrap_or(&self.request))
    }

    pub fn write(self, headers: &mut HeaderMap) {
        let correlation = self.correlation.unwrap_or_else(|| self.request.clone());
        headers.insert(X_REQUEST_ID, self.request);
        headers.insert(X_CORRELATION_ID, correlation);
    }
}

impl RefusalHeaders {
    /// For listeners whose replies carry the request ids and nothing else.
    pub fn request_ids() -> Self {
        Self::new(|head, headers| RequestIds::of(&head.headers).write(headers))
    }
}

/// The only value of a header if it can be repeated safely: bounded and visible ASCII.
fn well_formed(headers: &HeaderMap, name: HeaderName) -> Option<HeaderValue> {
    let mut values = header_values(headers, name);
    let value = values.next()?;
    let well_formed = (1..=ID_BYTES_MAX).contains(&value.len()) && value.as_bytes().iter().all(u8::is_ascii_graphic);
    (well_formed && values.next().is_none()).then(|| value.clone())
}

fn generated() -> HeaderValue {
    let mut buffer = [0; 36];
    let text = new_id(unix_ms()).encode_lower(&mut buffer);
    // Hexadecimal digits and hyphens are valid header values.
    HeaderValue::from_str(text).unwrap_or_else(|_| HeaderValue::from_static("0"))
}

fn text(id: &HeaderValue) -> &str {
    id.to_str().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(lines: &[(&'static str, &str)]) -> (String, String) {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        let ids = RequestIds::of(&headers);
        let written = (ids.request().to_owned(), ids.correlation().to_owned());
        let mut reply = HeaderMap::new();
        ids.write(&mut reply);
        assert!(reply["x-request-id"] == *written.0 && reply["x-correlation-id"] == *written.1);
        written
    }

    fn is_generated(id: &str) -> bool {
        uuid::Uuid::try_parse(id).is_ok_and(|id| id.get_version_num() == 7)
    }

    #[test]
    fn well_formed_ids_are_kept_and_others_replaced() {
        let longest = "x".repeat(ID_BYTES_MAX);
        for id in ["a", "7f9c", "Root=1-67891233-abcdef012345678912345678", "a/b+c==", &longest] {
            assert_eq!(ids(&[("x-request-id", id)]), (id.to_owned(), id.to_owned()), "correlated by its own id");
            let (request, correlation) = ids(&[("x-correlation-id", id)]);
            assert!(is_generated(&request) && correlation == id, "{request} {correlation}");
        }
        let longer = "x".repeat(ID_BYTES_MAX + 1);
        for id in ["", "a b", "a\tb", "é", &longer] {
            let (request, correlation) = ids(&[("x-request-id", id), ("x-correlation-id", id)]);
            assert!(is_generated(&request) && correlation == request, "{id:?}: {request} {correlation}");
        }
        let (request, _) = ids(&[("x-request-id", "a"), ("x-request-id", "b")]);
        assert!(is_generated(&request), "two ids are none: {request}");
        assert_ne!(ids(&[]).0, ids(&[]).0);
    }
}
