//! Rate limits for each caller and for all callers together.
//!
//! A caller is an API key, or an address if keys are off. Its requests are counted before they are read, its events
//! after the body is read. Requests that exceed a caller's own limit do not count against the global limit, so that no
//! caller can use up the share of others with them. Requests without a valid key are counted separately by address, and
//! do not affect callers with keys at the same address.
//!
//! Invariant: memory is bounded whatever callers send; see [`table`](super::table).

use std::net::IpAddr;

use http::{HeaderMap, StatusCode};
use uuid::Uuid;

use super::fields::{Fields, Policy};
use super::rate::{Bucket, Quota};
use super::table::{CallerId, Quotas, Table};
use crate::http::Problem;
use crate::metrics::{self, RateLimited};
use crate::store::KeyLimits;

/// The rate limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateLimitSettings {
    /// Requests of all callers together.
    pub global: Quota,
    /// Requests of each caller.
    pub each: Quota,
    /// Events per second of each caller.
    pub events_per_second: Option<u32>,
}

/// Identifies a caller for rate limiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RateLimitKey {
    /// By key id, so that two keys of one app have separate limits.
    Key {
        id: Uuid,
        own: KeyLimits,
    },
    Address(IpAddr),
    /// Requests from an address without a valid key.
    Unauthenticated(IpAddr),
}

pub(crate) struct RateLimits {
    global: Bucket,
    global_policy: Policy,
    each: Quotas,
    each_policy: Policy,
    /// Reported if events are limited.
    events_policy: Policy,
    callers: Table,
}

/// The remaining quota of a caller, and the reason for a refusal, as the reply reports them.
#[derive(Debug, Default)]
pub(crate) struct RateLimitStatus(Fields);

impl RateLimitStatus {
    pub(crate) fn write(self, headers: &mut HeaderMap) {
        self.0.write(headers);
    }
}

impl RateLimits {
    pub(crate) fn new(settings: &RateLimitSettings, batch_events_max: usize) -> Self {
        let events = settings.events_per_second.map(|rate| events_quota(rate, batch_events_max));
        Self {
            global: Bucket::full(settings.global),
            global_policy: Policy::of("global", settings.global),
            each: Quotas { requests: settings.each, events },
            each_policy: Policy::of("requests", settings.each),
            events_policy: Policy::of("events", events.unwrap_or(settings.each)),
            callers: Table::default(),
        }
    }

    /// Counts a request.
    pub(crate) fn admit(&self, caller: &RateLimitKey, status: &mut RateLimitStatus) -> Result<(), Problem> {
        let quotas = self.quotas(caller);
        let policy =
            if quotas == self.each { self.each_policy.clone() } else { Policy::of("requests", quotas.requests) };
        let (taken, left, wait, events_wait) = self.callers.with(id_of(caller), quotas, |bucket| {
            // Refuse the request early if no events are left for the caller.
            let spent = bucket.events.as_ref().filter(|events| events.is_empty());
            let events_wait = spent.map(|events| events.wait_seconds(1));
            let taken = events_wait.is_none() && bucket.requests.take(1);
            (taken, bucket.requests.left(), bucket.requests.wait_seconds(1), events_wait)
        });
        if let Some(wait) = events_wait {
            status.0.refuse(self.events_policy.clone(), 0, wait);
            return Err(refusal(RateLimited::events(is_key(caller)), wait));
        }
        if !taken {
            status.0.refuse(policy, left, wait);
            return Err(refusal(if is_key(caller) { RateLimited::Key } else { RateLimited::Address }, wait));
        }
        if !self.global.take(1) {
            let wait = self.global.wait_seconds(1);
            status.0.refuse(self.global_policy.clone(), 0, wait);
            return Err(refusal(RateLimited::Global, wait));
        }
        status.0.admit(policy, left);
        Ok(())
    }

    /// Counts a request that is refused for its key. Fails once the limit of the address is reached.
    pub(crate) fn admit_unauthenticated(&self, address: IpAddr, status: &mut RateLimitStatus) -> Result<(), Problem> {
        let (taken, left, wait) =
            self.callers.with(id_of(&RateLimitKey::Unauthenticated(address)), self.each, |bucket| {
                (bucket.requests.take(1), bucket.requests.left(), bucket.requests.wait_seconds(1))
            });
        if taken {
            return Ok(());
        }
        status.0.refuse(self.each_policy.clone(), left, wait);
        Err(refusal(RateLimited::Unauthorized, wait))
    }

    /// Counts the events of an admitted request.
    pub(crate) fn charge(
        &self,
        caller: &RateLimitKey,
        events: usize,
        status: &mut RateLimitStatus,
    ) -> Result<(), Problem> {
        let quotas = self.quotas(caller);
        if quotas.events.is_none() || events == 0 {
            return Ok(());
        }
        let (taken, left, wait) = self.callers.with(id_of(caller), quotas, |bucket| {
            let Some(bucket) = &bucket.events else { return (true, 0, 0) };
            // A larger number than the bucket's capacity could never be taken.
            let events = events.min(bucket.quota().burst as usize);
            (bucket.take(events), bucket.left(), bucket.wait_seconds(events))
        });
        let policy = self.events_policy.clone();
        if taken {
            status.0.admit(policy, left);
            return Ok(());
        }
        status.0.refuse(policy, left, wait);
        Err(refusal(RateLimited::events(is_key(caller)), wait))
    }

    fn quotas(&self, caller: &RateLimitKey) -> Quotas {
        let RateLimitKey::Key { own, .. } = caller else { return self.each };
        if *own == KeyLimits::default() {
            return self.each;
        }
        let requests = match (own.requests_per_second, own.burst) {
            (None, None) => self.each.requests,
            (None, Some(burst)) => Quota { burst, ..self.each.requests },
            (Some(per_second), burst) => {
                Quota { per_second, burst: burst.unwrap_or_else(|| per_second.saturating_mul(2)) }
            }
        };
        // Buckets have a capacity of at least one.
        let requests = Quota { per_second: requests.per_second.max(1), burst: requests.burst.max(1) };
        Quotas { requests, ..self.each }
    }
}

/// Events come in batches: the burst is twice the rate, or one full batch if that is more.
fn events_quota(per_second: u32, batch_events_max: usize) -> Quota {
    let batch = u32::try_from(batch_events_max).unwrap_or(u32::MAX);
    let per_second = per_second.max(1);
    Quota { per_second, burst: per_second.saturating_mul(2).max(batch) }
}

/// Separates the bucket of requests without a valid key from that of callers at the same address.
const UNAUTHENTICATED: u8 = 0x80;

fn is_key(caller: &RateLimitKey) -> bool {
    matches!(caller, RateLimitKey::Key { .. })
}

/// A key id, an IPv4 address, or the `/64` network of an IPv6 address, since one client has at least that.
fn id_of(caller: &RateLimitKey) -> CallerId {
    let mut id = [0; 17];
    match caller {
        RateLimitKey::Key { id: key, .. } => {
            id[0] = 1;
            id[1..].copy_from_slice(key.as_bytes());
        }
        RateLimitKey::Address(address) | RateLimitKey::Unauthenticated(address) => match address.to_canonical() {
            IpAddr::V4(address) => {
                id[0] = 4;
                id[1..5].copy_from_slice(&address.octets());
            }
            IpAddr::V6(address) => {
                id[0] = 6;
                id[1..9].copy_from_slice(&address.octets()[..8]);
            }
        },
    }
    if let RateLimitKey::Unauthenticated(_) = caller {
        id[0] |= UNAUTHENTICATED;
    }
    id
}

fn refusal(why: RateLimited, wait: u32) -> Problem {
    metrics::gateway_rate_limited(why);
    let detail = match why {
        RateLimited::Key => "This API key sends more requests than it may; send again later.",
        RateLimited::Address => "This address sends more requests than it may; send again later.",
        RateLimited::KeyEvents => "This API key sends more events than it may; send again later.",
        RateLimited::AddressEvents => "This address sends more events than it may; send again later.",
        RateLimited::Unauthorized => "This address sends too many requests without a valid API key; send again later.",
        RateLimited::Global => "All clients together send more requests than the server takes; send again later.",
    };
    Problem::new(StatusCode::TOO_MANY_REQUESTS, detail).with_retry_after(wait)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const SETTINGS: RateLimitSettings = RateLimitSettings {
        global: Quota { per_second: 10_000, burst: 20_000 },
        each: Quota { per_second: 10, burst: 20 },
        events_per_second: None,
    };

    fn key(number: u8, own: KeyLimits) -> RateLimitKey {
        RateLimitKey::Key { id: Uuid::from_bytes([number; 16]), own }
    }

    fn address(text: &str) -> RateLimitKey {
        RateLimitKey::Address(text.parse().unwrap())
    }

    /// How many of `requests` requests are admitted.
    fn admitted(limits: &RateLimits, caller: &RateLimitKey, requests: usize) -> usize {
        (0..requests).filter(|_| limits.admit(caller, &mut RateLimitStatus::default()).is_ok()).count()
    }

    #[tokio::test(start_paused = true)]
    async fn callers_have_separate_limits() {
        let limits = RateLimits::new(&SETTINGS, 1_000);
        assert_eq!(admitted(&limits, &address("203.0.113.7"), 30), 20);
        assert_eq!(admitted(&limits, &address("::ffff:203.0.113.7"), 1), 0, "the same address");
        assert_eq!(admitted(&limits, &address("203.0.113.8"), 30), 20);
        assert_eq!(admitted(&limits, &address("2001:db8::1"), 15), 15);
        assert_eq!(admitted(&limits, &address("2001:db8::ffff:1"), 15), 5, "one network");
        assert_eq!(admitted(&limits, &address("2001:db8:0:1::1"), 15), 15);
        assert_eq!(admitted(&limits, &key(1, KeyLimits::default()), 30), 20);
        assert_eq!(admitted(&limits, &key(2, KeyLimits::default()), 30), 20);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(admitted(&limits, &address("203.0.113.7"), 30), 10);
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_can_override_the_limits() {
        let limits = RateLimits::new(&SETTINGS, 1_000);
        let own = |requests_per_second, burst| KeyLimits { requests_per_second, burst };
        assert_eq!(admitted(&limits, &key(1, own(Some(50), None)), 200), 100, "twice the rate at once");
        assert_eq!(admitted(&limits, &key(2, own(Some(50), Some(60))), 200), 60);
        assert_eq!(admitted(&limits, &key(3, own(None, Some(5))), 200), 5);
        assert_eq!(admitted(&limits, &key(3, own(None, Some(7))), 200), 7, "changed while it runs");
        assert_eq!(admitted(&limits, &key(4, own(Some(0), Some(0))), 5), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn unauthenticated_requests_use_up_only_their_own_limit() {
        let global = Quota { per_second: 10, burst: 50 };
        let limits = RateLimits::new(&RateLimitSettings { global, ..SETTINGS }, 1_000);
        let strange = |text: &str, requests: usize| {
            let address = text.parse().unwrap();
            (0..requests)
                .filter(|_| limits.admit_unauthenticated(address, &mut RateLimitStatus::default()).is_ok())
                .count()
        };
        assert_eq!(strange("203.0.113.7", 1_000), 20);
        assert_eq!(strange("203.0.113.8", 1_000), 20);
        assert_eq!((strange("2001:db8::1", 15), strange("2001:db8::2", 15)), (15, 5), "one network");
        assert_eq!(admitted(&limits, &address("203.0.113.7"), 30), 20);
        assert_eq!(admitted(&limits, &address("2001:db8::1"), 30), 20);
        assert_eq!(admitted(&limits, &key(1, KeyLimits::default()), 30), 10, "what is left of all");
    }

    #[tokio::test(start_paused = true)]
    async fn refused_requests_do_not_count_globally() {
        let global = Quota { per_second: 10, burst: 50 };
        let limits = RateLimits::new(&RateLimitSettings { global, ..SETTINGS }, 1_000);
        assert_eq!(admitted(&limits, &address("203.0.113.7"), 1_000), 20);
        assert_eq!(admitted(&limits, &address("203.0.113.8"), 1_000), 20);
        assert_eq!(admitted(&limits, &address("203.0.113.9"), 1_000), 10, "all together");
    }

    #[tokio::test(start_paused = true)]
    async fn events_are_charged_if_they_are_limited() {
        let limits = RateLimits::new(&RateLimitSettings { events_per_second: Some(100), ..SETTINGS }, 500);
        let caller = address("203.0.113.7");
        let charge = |events| limits.charge(&caller, events, &mut RateLimitStatus::default()).is_ok();
        assert!(charge(500), "the largest batch is always possible");
        assert!(!charge(1));
        assert_eq!(admitted(&limits, &caller, 1), 0, "nothing need be read of who has no event left");
        tokio::time::advance(Duration::from_secs(2)).await;
        assert!(!charge(201));
        assert_eq!(admitted(&limits, &caller, 1), 1);
        assert!(charge(200));
        let unlimited = RateLimits::new(&SETTINGS, 500);
        assert!(unlimited.charge(&caller, usize::MAX, &mut RateLimitStatus::default()).is_ok());
    }
}
