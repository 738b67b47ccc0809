//! The rate limit headers of replies: `RateLimit` and `RateLimit-Policy` as structured fields
//! (draft-ietf-httpapi-ratelimit-headers-11), and `X-RateLimit-Reset` in seconds for older SDKs.

use std::fmt::Write as _;

use bytes::Bytes;
use http::header::HeaderName;
use http::{HeaderMap, HeaderValue};

use super::rate::Quota;

const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
const RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
const X_RATE_LIMIT_RESET: HeaderName = HeaderName::from_static("x-ratelimit-reset");
/// Buckets refill more often than once a second, but these headers have a resolution of seconds.
const WINDOW_SECONDS: u32 = 1;

/// A limit by name, and its `RateLimit-Policy` value.
#[derive(Clone, Debug)]
pub(crate) struct Policy {
    name: &'static str,
    text: HeaderValue,
}

impl Policy {
    /// The burst, and the seconds in which that many tokens are refilled.
    pub(crate) fn of(name: &'static str, quota: Quota) -> Self {
        Self { name, text: value(format!("\"{name}\";q={};w={}", quota.burst, quota.window_seconds())) }
    }
}

/// The headers of one reply.
#[derive(Debug, Default)]
pub(crate) struct Fields {
    limits: [Option<(Policy, usize)>; 2],
    refused: Option<(Policy, usize, u32)>,
}

impl Fields {
    pub(crate) fn admit(&mut self, policy: Policy, left: usize) {
        if let Some(free) = self.limits.iter_mut().find(|limit| limit.is_none()) {
            *free = Some((policy, left));
        }
    }

    pub(crate) fn refuse(&mut self, policy: Policy, left: usize, wait_seconds: u32) {
        self.refused = Some((policy, left, wait_seconds));
    }

    /// A refusal reports only the limit that was exceeded.
    pub(crate) fn write(self, headers: &mut HeaderMap) {
        if let Some((policy, left, wait)) = self.refused {
            headers.insert(RATE_LIMIT, value(format!("\"{}\";r={left};t={wait}", policy.name)));
            headers.insert(RATE_LIMIT_POLICY, policy.text);
            headers.insert(X_RATE_LIMIT_RESET, HeaderValue::from(wait));
            return;
        }
        match self.limits {
            [Some((policy, left)), None] => {
                headers.insert(RATE_LIMIT, value(limit(policy.name, left)));
                headers.insert(RATE_LIMIT_POLICY, policy.text);
            }
            [Some((one, one_left)), Some((other, other_left))] => {
                let both = format!("{}, {}", limit(one.name, one_left), limit(other.name, other_left));
                headers.insert(RATE_LIMIT, value(both));
                headers.insert(RATE_LIMIT_POLICY, one.text);
                headers.append(RATE_LIMIT_POLICY, other.text);
            }
            _ => {}
        }
    }
}

fn limit(name: &str, left: usize) -> String {
    let mut text = String::with_capacity(32);
    // Writing to a string cannot fail.
    let _ = write!(text, "\"{name}\";r={left};t={WINDOW_SECONDS}");
    text
}

fn value(text: String) -> HeaderValue {
    // Names and numbers are valid header values.
    HeaderValue::from_maybe_shared(Bytes::from(text)).unwrap_or_else(|_| HeaderValue::from_static(""))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(fields: Fields) -> Vec<String> {
        let mut headers = HeaderMap::new();
        fields.write(&mut headers);
        headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect()
    }

    #[test]
    fn fields_are_structured() {
        let requests = Policy::of("requests", Quota { per_second: 1_000, burst: 2_000 });
        let events = Policy::of("events", Quota { per_second: 300, burst: 1_000 });
        let mut fields = Fields::default();
        fields.admit(requests.clone(), 1_999);
        let one = ["ratelimit: \"requests\";r=1999;t=1", "ratelimit-policy: \"requests\";q=2000;w=2"];
        assert_eq!(written(fields), one);
        let mut fields = Fields::default();
        fields.admit(requests, 7);
        fields.admit(events.clone(), 900);
        let both = [
            "ratelimit: \"requests\";r=7;t=1, \"events\";r=900;t=1",
            "ratelimit-policy: \"requests\";q=2000;w=2",
            "ratelimit-policy: \"events\";q=1000;w=4",
        ];
        assert_eq!(written(fields), both);
        let mut fields = Fields::default();
        fields.refuse(events, 0, 3);
        let refused =
            ["ratelimit: \"events\";r=0;t=3", "ratelimit-policy: \"events\";q=1000;w=4", "x-ratelimit-reset: 3"];
        assert_eq!(written(fields), refused);
        assert!(written(Fields::default()).is_empty());
    }
}
