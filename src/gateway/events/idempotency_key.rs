//! The `Idempotency-Key` header (draft-ietf-httpapi-idempotency-key-header): the key of a single event, for senders
//! that keep it outside the body.

use std::borrow::Cow;

use http::{HeaderMap, HeaderName, StatusCode};

use crate::http::{Problem, header_value, header_values};

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// The same bound as for an event's `idempotency_key`.
const BYTES_MAX: usize = 256;

const FORM: &str = "Idempotency-Key must be 1 to 256 visible ASCII characters and spaces, in quotes or without any.";
const TWICE: &str = "There is more than one Idempotency-Key header; send one.";
const CLOUD_EVENT: &str = "Idempotency-Key is not for CloudEvents: their source and id say which event it is.";
const BATCH: &str = "Idempotency-Key is for single events; give each event of a batch its own idempotencyKey.";

/// The key in the header, if there is one.
pub(crate) fn of(headers: &HeaderMap) -> Result<Option<Cow<'_, str>>, Problem> {
    let mut values = header_values(headers, IDEMPOTENCY_KEY);
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(refused(TWICE));
    }
    let key = value.to_str().ok().and_then(|text| read(text.trim())).ok_or_else(|| refused(FORM))?;
    if (1..=BYTES_MAX).contains(&key.len()) && key.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
        return Ok(Some(key));
    }
    Err(refused(FORM))
}

/// One header cannot apply to all events of a batch.
pub(crate) fn refuse_for_batch(headers: &HeaderMap) -> Result<(), Problem> {
    if header_value(headers, IDEMPOTENCY_KEY).is_some() { Err(refused(BATCH)) } else { Ok(()) }
}

/// CloudEvents are identified by their source and id.
pub(crate) fn refuse_for_cloud_events(headers: &HeaderMap) -> Result<(), Problem> {
    if headers.contains_key(IDEMPOTENCY_KEY) { Err(refused(CLOUD_EVENT)) } else { Ok(()) }
}

/// A string of a structured field (RFC 9651 §4.2.5), or a bare value as many clients send it.
fn read(text: &str) -> Option<Cow<'_, str>> {
    let Some(quoted) = text.strip_prefix('"') else {
        return (!text.contains('"')).then_some(Cow::Borrowed(text));
    };
    let inner = quoted.strip_suffix('"')?;
    if !inner.contains(['"', '\\']) {
        return Some(Cow::Borrowed(inner));
    }
    let mut key = String::with_capacity(inner.len());
    let mut letters = inner.chars();
    while let Some(letter) = letters.next() {
        key.push(match letter {
            '\\' => letters.next().filter(|escaped| matches!(escaped, '"' | '\\'))?,
            // A quote ends the string. Parameters would follow, but this header has none.
            '"' => return None,
            letter => letter,
        });
    }
    Some(Cow::Owned(key))
}

fn refused(detail: &'static str) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, detail)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn keys_are_quoted_or_bare() {
        let longest = "k".repeat(256);
        for (value, key) in [
            (r#""8e03978e-40d5-43e8-bc93-6894a57f9324""#, Some("8e03978e-40d5-43e8-bc93-6894a57f9324")),
            ("8e03978e-40d5-43e8-bc93-6894a57f9324", Some("8e03978e-40d5-43e8-bc93-6894a57f9324")),
            (r#""a \"b\" \\ c""#, Some(r#"a "b" \ c"#)),
            ("  order 7 ", Some("order 7")),
            (r"a\b", Some(r"a\b")),
            (&longest, Some(&*longest)),
            (&format!("{longest}k"), None),
            ("", None),
            (r#""""#, None),
            (r#"""#, None),
            (r#""a"#, None),
            (r#"a""#, None),
            (r#""a\""#, None),
            (r#""a\n""#, None),
            (r#""a"b""#, None),
            (r#""a";p=1"#, None),
            ("a\tb", None),
            ("k\u{e9}", None),
        ] {
            let headers = HeaderMap::from_iter([(IDEMPOTENCY_KEY, HeaderValue::from_bytes(value.as_bytes()).unwrap())]);
            match key {
                Some(key) => assert_eq!(of(&headers).unwrap().as_deref(), Some(key), "{value}"),
                None => assert_eq!(of(&headers).unwrap_err().detail(), FORM, "{value}"),
            }
            assert_eq!(refuse_for_batch(&headers).unwrap_err().detail(), BATCH);
        }
        assert_eq!(of(&HeaderMap::new()).unwrap(), None);
        let twice = [HeaderValue::from_static("a"), HeaderValue::from_static("a")];
        let mut headers = HeaderMap::new();
        twice.into_iter().for_each(|value| _ = headers.append(IDEMPOTENCY_KEY, value));
        assert_eq!(of(&headers).unwrap_err().detail(), TWICE);
    }
}
