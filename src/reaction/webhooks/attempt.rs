//! One attempt to deliver a webhook, and its consequences.
//!
//! Invariant: only a 2xx is a delivery. Sending is a few lines; pure functions decide what a response means for the
//! delivery and for the endpoint.

use std::error::Error;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use http::header::{DATE, HeaderName, RETRY_AFTER};
use http::{HeaderMap, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use jiff::Timestamp;
use uuid::Uuid;

use super::connect::HttpClient;
use super::endpoint::Endpoint;
use crate::base::backoff::Backoff;
use crate::metrics;
use crate::store::{Delivery, DeliveryOutcome, DeliveryStatus};

/// Bytes of a response body that are read so that the connection can be reused; a longer body closes it.
const RESPONSE_BYTES_MAX: usize = 16 * 1024;
/// How long a response body is read.
const RESPONSE_BODY_TIMEOUT: Duration = Duration::from_millis(250);
/// Characters kept of an error.
const ERROR_CHARS_MAX: usize = 300;

/// The result of an attempt.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum AttemptResult {
    Status {
        code: StatusCode,
        retry_after: Option<Duration>,
    },
    /// No response: not connected, disconnected, or timed out.
    NoResponse(String),
}

/// The timing of retries.
#[derive(Clone, Copy, Debug)]
pub(super) struct RetryPlan {
    pub(super) backoff: Backoff,
    /// The longest `Retry-After` that is honoured.
    pub(super) retry_after_max: Duration,
}

/// Sends one request and waits for the response head, up to the endpoint's timeout.
pub(super) async fn send(client: &HttpClient, endpoint: &Endpoint, delivery: Uuid, body: Bytes) -> AttemptResult {
    let started = Instant::now();
    let request = endpoint.request(delivery, Timestamp::now().as_second(), body);
    let result = match tokio::time::timeout(endpoint.timeout, client.exchange(request)).await {
        Ok(Ok(response)) => {
            let (head, body) = response.into_parts();
            metrics::dispatcher_attempt(class(head.status), started.elapsed());
            let retry_after = retry_after(&head.headers, SystemTime::now());
            drain_body(body).await;
            return AttemptResult::Status { code: head.status, retry_after };
        }
        Ok(Err(error)) => AttemptResult::NoResponse(describe(&error, endpoint.is_https())),
        Err(_) => AttemptResult::NoResponse(format!("no answer within {} ms", endpoint.timeout.as_millis())),
    };
    metrics::dispatcher_attempt("none", started.elapsed());
    result
}

/// Drains a short body, which keeps the connection reusable. The result is already known from the head, so errors are
/// ignored.
async fn drain_body(body: Incoming) {
    let _ = tokio::time::timeout(RESPONSE_BODY_TIMEOUT, Limited::new(body, RESPONSE_BYTES_MAX).collect()).await;
}

/// The status class as a metric label.
fn class(code: StatusCode) -> &'static str {
    match code.as_u16() {
        200..=299 => "2xx",
        300..=399 => "3xx",
        400..=499 => "4xx",
        _ => "5xx",
    }
}

/// What became of a delivery, as a metric label.
pub(super) fn result_label(status: DeliveryStatus) -> &'static str {
    match status {
        DeliveryStatus::Delivered => "delivered",
        DeliveryStatus::Failed => "failed",
        DeliveryStatus::DeadLetter => "dead_letter",
        DeliveryStatus::Pending | DeliveryStatus::InProgress | DeliveryStatus::Cancelled => "retry",
    }
}

impl AttemptResult {
    pub(super) fn delivered(&self) -> bool {
        matches!(self, Self::Status { code, .. } if code.is_success())
    }

    /// Whether the endpoint says that it is permanently gone.
    pub(super) fn is_gone(&self) -> bool {
        matches!(self, Self::Status { code: StatusCode::GONE, .. })
    }

    /// Whether the endpoint itself failed, rather than this one request.
    pub(super) fn endpoint_failed(&self) -> bool {
        match self {
            Self::Status { code, .. } => code.is_server_error() || *code == StatusCode::TOO_MANY_REQUESTS,
            Self::NoResponse(_) => true,
        }
    }

    /// How long the endpoint asks for a pause: 429 and 503 concern the endpoint, not the single request.
    pub(super) fn pause(&self, longest: Duration) -> Option<Duration> {
        match self {
            Self::Status { code: StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE, retry_after } => {
                retry_after.map(|requested| requested.min(longest)).filter(|requested| !requested.is_zero())
            }
            _ => None,
        }
    }

    fn error(&self) -> Option<String> {
        match self {
            Self::Status { code, .. } if code.is_success() => None,
            Self::Status { code, .. } if code.is_redirection() => Some(format!("HTTP {code}: not followed")),
            Self::Status { code, .. } => Some(format!("HTTP {code}")),
            Self::NoResponse(error) => Some(error.clone()),
        }
    }
}

/// The outcome of a delivery after this attempt.
pub(super) fn outcome(
    delivery: &Delivery,
    result: &AttemptResult,
    attempted_at_ms: i64,
    plan: &RetryPlan,
    random: f64,
) -> DeliveryOutcome {
    let attempts = delivery.attempts.saturating_add(1);
    let mut wait_ms = None;
    let status = if result.delivered() {
        DeliveryStatus::Delivered
    } else if result.is_gone() {
        DeliveryStatus::Failed
    } else if attempts >= delivery.max_attempts {
        DeliveryStatus::DeadLetter
    } else {
        let requested = match result {
            AttemptResult::Status { retry_after, .. } => retry_after.unwrap_or_default().min(plan.retry_after_max),
            AttemptResult::NoResponse(_) => Duration::ZERO,
        };
        let wait = plan.backoff.delay(attempts, random).max(requested);
        wait_ms = Some(wait.as_millis() as i64);
        DeliveryStatus::Pending
    };
    let status_code = match result {
        AttemptResult::Status { code, .. } => Some(code.as_u16()),
        AttemptResult::NoResponse(_) => None,
    };
    let error = result.error();
    DeliveryOutcome { id: delivery.id, status, attempts, attempted_at_ms, wait_ms, status_code, error }
}

/// `Retry-After` as seconds or as a date in any of the three formats of RFC 9110. A date is compared with the
/// response's own `Date`, which comes from the same clock.
fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Some(Duration::from_secs(text.parse().unwrap_or(u64::MAX)));
    }
    let date = |name: HeaderName| httpdate::parse_http_date(headers.get(name)?.to_str().ok()?.trim()).ok();
    let requested = date(RETRY_AFTER)?;
    Some(requested.duration_since(date(DATE).unwrap_or(now)).unwrap_or_default())
}

/// The error chain from the outermost to the innermost cause; none contains the URL or a header.
fn describe(error: &hyper_util::client::legacy::Error, is_https: bool) -> String {
    let mut text = if error.is_connect() { "connect".to_owned() } else { "send".to_owned() };
    let mut cause = error.source();
    while let Some(error) = cause {
        let part = error.to_string();
        if !text.ends_with(&part) {
            text.push_str(": ");
            text.push_str(&part);
        }
        cause = error.source();
    }
    let mut text: String = text.chars().take(ERROR_CHARS_MAX).collect();
    if text.contains("UnknownIssuer") {
        text.push_str("; webhook_ca_file must hold the authority that signed it");
    } else if text.contains("CertificateRequired") {
        text.push_str("; the endpoint asks for a certificate: see webhook_client_cert_file");
    } else if is_https && !error.is_connect() {
        // In TLS 1.3 a server refuses a client after the handshake. The alert is lost when the server closes the
        // connection before reading the request: the request then fails as if the connection had broken, in any of
        // several ways.
        text.push_str("; an https endpoint that asks for a certificate may do that: see webhook_client_cert_file");
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::value::to_raw_value;

    use super::*;

    const PLAN: RetryPlan = RetryPlan {
        backoff: Backoff { initial: Duration::from_secs(1), multiplier: 2.0, max: Duration::from_secs(300) },
        retry_after_max: Duration::from_secs(3_600),
    };

    fn delivery(attempts: u32) -> Delivery {
        Delivery {
            id: Uuid::now_v7(),
            webhook_id: Uuid::now_v7(),
            rule_id: None,
            anomaly_config_id: None,
            event_id: "e".into(),
            payload: to_raw_value(&1).unwrap(),
            status: DeliveryStatus::InProgress,
            attempts,
            max_attempts: 5,
            next_attempt_at: None,
            last_attempt_at: None,
            last_error: None,
            last_status_code: None,
            created_at: Timestamp::UNIX_EPOCH,
            delivered_at: None,
        }
    }

    fn after(attempts: u32, code: u16, retry_after: Option<u64>) -> DeliveryOutcome {
        let code = StatusCode::from_u16(code).unwrap();
        let answer = AttemptResult::Status { code, retry_after: retry_after.map(Duration::from_secs) };
        outcome(&delivery(attempts), &answer, 1_000, &PLAN, 1.0)
    }

    #[test]
    fn only_a_2xx_is_a_delivery() {
        for code in [200, 201, 204, 299] {
            let outcome = after(0, code, None);
            assert_eq!((outcome.status, outcome.attempts), (DeliveryStatus::Delivered, 1));
            assert_eq!((outcome.status_code, outcome.error), (Some(code), None));
        }
        for code in [301, 307, 400, 404, 429, 500, 503] {
            let outcome = after(0, code, None);
            assert_eq!(outcome.status, DeliveryStatus::Pending, "{code}");
            assert_eq!(outcome.wait_ms, Some(1_000), "{code}");
            assert!(outcome.error.is_some());
        }
        assert_eq!(after(0, 302, None).error.as_deref(), Some("HTTP 302 Found: not followed"));
        assert_eq!(after(0, 410, None).status, DeliveryStatus::Failed);
    }

    #[test]
    fn waits_double_up_to_the_last_attempt() {
        assert_eq!(after(1, 500, None).wait_ms, Some(2_000));
        assert_eq!(after(3, 500, None).wait_ms, Some(8_000));
        let last = after(4, 500, None);
        assert_eq!((last.status, last.attempts, last.wait_ms), (DeliveryStatus::DeadLetter, 5, None));
        assert_eq!(after(4, 200, None).status, DeliveryStatus::Delivered);
    }

    #[test]
    fn retry_after_lengthens_the_wait_within_its_bound() {
        assert_eq!(after(0, 503, Some(60)).wait_ms, Some(60_000));
        assert_eq!(after(0, 503, Some(0)).wait_ms, Some(1_000));
        assert_eq!(after(0, 429, Some(1_000_000)).wait_ms, Some(3_600_000));
        let now = httpdate::parse_http_date("Sun, 06 Nov 1994 08:49:37 GMT").unwrap();
        let read = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, text.parse().unwrap());
            retry_after(&headers, now)
        };
        assert_eq!(read("120"), Some(Duration::from_secs(120)));
        for half_a_minute in
            ["Sun, 06 Nov 1994 08:50:07 GMT", "Sunday, 06-Nov-94 08:50:07 GMT", "Sun Nov  6 08:50:07 1994"]
        {
            assert_eq!(read(half_a_minute), Some(Duration::from_secs(30)), "{half_a_minute}");
        }
        assert_eq!(read("Sun, 06 Nov 1994 08:00:00 GMT"), Some(Duration::ZERO));
        assert_eq!(read("4294967296"), Some(Duration::from_secs(4_294_967_296)));
        assert_eq!(read(&"9".repeat(40)), Some(Duration::from_secs(u64::MAX)));
        let huge = AttemptResult::Status { code: StatusCode::SERVICE_UNAVAILABLE, retry_after: read(&"9".repeat(40)) };
        assert_eq!(outcome(&delivery(0), &huge, 1_000, &PLAN, 1.0).wait_ms, Some(3_600_000));
        assert_eq!(huge.pause(PLAN.retry_after_max), Some(PLAN.retry_after_max));
        for text in ["-1", "soon", "", "1.5", "+5"] {
            assert_eq!(read(text), None, "{text}");
        }
    }

    #[test]
    fn retry_after_dates_are_compared_with_the_servers_clock() {
        let mut headers = HeaderMap::new();
        headers.insert(DATE, "Sun, 06 Nov 1994 06:00:00 GMT".parse().unwrap());
        headers.insert(RETRY_AFTER, "Sun, 06 Nov 1994 06:01:00 GMT".parse().unwrap());
        let ahead = httpdate::parse_http_date("Sun, 06 Nov 1994 09:00:00 GMT").unwrap();
        assert_eq!(retry_after(&headers, ahead), Some(Duration::from_secs(60)));
    }
}
