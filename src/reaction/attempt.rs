//! One attempt to deliver a webhook, and what follows from it.
//!
//! Invariant: only a 2xx is a delivery. Sending is a few lines; what an answer means for the
//! delivery and for the endpoint is decided by plain functions.

use std::error::Error;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::RETRY_AFTER;
use http::{HeaderMap, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use jiff::Timestamp;
use uuid::Uuid;

use super::connect::HttpClient;
use super::webhook::Endpoint;
use crate::backoff::Backoff;
use crate::metrics;
use crate::store::{Delivery, DeliveryOutcome, DeliveryStatus};

/// Bytes of an answer that are read; the rest is cut off with the connection.
const ANSWER_BYTES_MAX: usize = 16 * 1024;
/// Characters of an error that are kept.
const ERROR_CHARS_MAX: usize = 300;

/// How an attempt ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Status {
        code: StatusCode,
        retry_after: Option<Duration>,
    },
    /// No answer: not connected, cut off, timed out.
    Nothing(String),
}

/// How retries are spread.
#[derive(Clone, Copy, Debug)]
pub(super) struct RetryPlan {
    pub(super) backoff: Backoff,
    /// The longest `Retry-After` that is honoured.
    pub(super) retry_after_max: Duration,
}

/// Sends one request and waits for its answer, at most as long as the endpoint's timeout.
pub(super) async fn send(client: &HttpClient, endpoint: &Endpoint, delivery: Uuid, body: Bytes) -> Answer {
    let started = Instant::now();
    let now = Timestamp::now();
    let request = endpoint.request(delivery, now.as_second(), body);
    let exchange = async {
        let response = client.request(request).await?;
        let (head, body) = response.into_parts();
        // The verdict is in the head; reading on only keeps the connection usable.
        let _ = Limited::new(body, ANSWER_BYTES_MAX).collect().await;
        Ok::<_, hyper_util::client::legacy::Error>(head)
    };
    let answer = match tokio::time::timeout(endpoint.timeout, exchange).await {
        Ok(Ok(head)) => Answer::Status { code: head.status, retry_after: retry_after(&head.headers, now) },
        Ok(Err(error)) => Answer::Nothing(describe(&error)),
        Err(_) => Answer::Nothing(format!("no answer within {} ms", endpoint.timeout.as_millis())),
    };
    metrics::dispatcher_attempt(answer.label(), started.elapsed());
    answer
}

impl Answer {
    pub(super) fn delivered(&self) -> bool {
        matches!(self, Self::Status { code, .. } if code.is_success())
    }

    /// The endpoint says that it is gone for good.
    pub(super) fn gone(&self) -> bool {
        matches!(self, Self::Status { code: StatusCode::GONE, .. })
    }

    /// Whether the endpoint itself is in trouble, rather than this one request.
    pub(super) fn endpoint_failed(&self) -> bool {
        match self {
            Self::Status { code, .. } => code.is_server_error() || *code == StatusCode::TOO_MANY_REQUESTS,
            Self::Nothing(_) => true,
        }
    }

    fn label(&self) -> &'static str {
        match self {
            Self::Status { code, .. } => match code.as_u16() {
                200..=299 => "2xx",
                300..=399 => "3xx",
                400..=499 => "4xx",
                _ => "5xx",
            },
            Self::Nothing(_) => "none",
        }
    }

    fn error(&self) -> Option<String> {
        match self {
            Self::Status { code, .. } if code.is_success() => None,
            Self::Status { code, .. } if code.is_redirection() => Some(format!("HTTP {code}: not followed")),
            Self::Status { code, .. } => Some(format!("HTTP {code}")),
            Self::Nothing(error) => Some(error.clone()),
        }
    }
}

/// What becomes of a delivery after this answer.
pub(super) fn outcome(
    delivery: &Delivery,
    answer: &Answer,
    attempted_at_ms: i64,
    plan: &RetryPlan,
    random: f64,
) -> DeliveryOutcome {
    let attempts = delivery.attempts.saturating_add(1);
    let mut next_attempt_at_ms = None;
    let status = if answer.delivered() {
        DeliveryStatus::Delivered
    } else if answer.gone() {
        DeliveryStatus::Failed
    } else if attempts >= delivery.max_attempts {
        DeliveryStatus::DeadLetter
    } else {
        let asked = match answer {
            Answer::Status { retry_after, .. } => retry_after.unwrap_or_default().min(plan.retry_after_max),
            Answer::Nothing(_) => Duration::ZERO,
        };
        let wait = plan.backoff.delay(attempts, random).max(asked);
        next_attempt_at_ms = Some(attempted_at_ms.saturating_add(wait.as_millis() as i64));
        DeliveryStatus::Pending
    };
    let status_code = match answer {
        Answer::Status { code, .. } => Some(code.as_u16()),
        Answer::Nothing(_) => None,
    };
    let error = answer.error();
    DeliveryOutcome { id: delivery.id, status, attempts, attempted_at_ms, next_attempt_at_ms, status_code, error }
}

/// `Retry-After` as seconds or as an HTTP date.
fn retry_after(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse::<u32>() {
        return Some(Duration::from_secs(u64::from(seconds)));
    }
    let at = jiff::fmt::rfc2822::parse(text).ok()?.timestamp();
    Some(Duration::try_from(at.duration_since(now)).unwrap_or_default())
}

/// The causes from the outermost to the innermost; none of them holds the URL or a header.
fn describe(error: &hyper_util::client::legacy::Error) -> String {
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
    text.chars().take(ERROR_CHARS_MAX).collect()
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
        let answer = Answer::Status { code, retry_after: retry_after.map(Duration::from_secs) };
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
            assert_eq!(outcome.next_attempt_at_ms, Some(2_000), "{code}");
            assert!(outcome.error.is_some());
        }
        assert_eq!(after(0, 302, None).error.as_deref(), Some("HTTP 302 Found: not followed"));
        assert_eq!(after(0, 410, None).status, DeliveryStatus::Failed);
    }

    #[test]
    fn waits_double_up_to_the_last_attempt() {
        assert_eq!(after(1, 500, None).next_attempt_at_ms, Some(3_000));
        assert_eq!(after(3, 500, None).next_attempt_at_ms, Some(9_000));
        let last = after(4, 500, None);
        assert_eq!((last.status, last.attempts, last.next_attempt_at_ms), (DeliveryStatus::DeadLetter, 5, None));
        assert_eq!(after(4, 200, None).status, DeliveryStatus::Delivered);
    }

    #[test]
    fn retry_after_lengthens_the_wait_within_its_bound() {
        assert_eq!(after(0, 503, Some(60)).next_attempt_at_ms, Some(61_000));
        assert_eq!(after(0, 503, Some(0)).next_attempt_at_ms, Some(2_000));
        assert_eq!(after(0, 429, Some(1_000_000)).next_attempt_at_ms, Some(3_601_000));
        let now: Timestamp = "1994-11-06T08:49:37Z".parse().unwrap();
        let read = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, text.parse().unwrap());
            retry_after(&headers, now)
        };
        assert_eq!(read("120"), Some(Duration::from_secs(120)));
        assert_eq!(read("Sun, 06 Nov 1994 08:50:07 GMT"), Some(Duration::from_secs(30)));
        assert_eq!(read("Sun, 06 Nov 1994 08:00:00 GMT"), Some(Duration::ZERO));
        for text in ["-1", "soon", "", "99999999999999"] {
            assert_eq!(read(text), None, "{text}");
        }
    }
}
