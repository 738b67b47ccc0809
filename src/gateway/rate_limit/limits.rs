//! How much each caller, and all together, may send.
//!
//! A caller is an API key, or an address where keys are off. Its requests are counted before anything of them is read,
//! its events once the body is. What a caller was refused is not counted among what all send together, so that nobody
//! uses up the share of others with requests of his own that are over his limit. Requests without a valid key are
//! counted apart, by address: they use up nothing of what callers have, those at the same address included.
//!
//! Invariant: bounded memory, whoever calls; see [`table`](super::table).

use std::net::IpAddr;

use http::{HeaderMap, StatusCode};
use uuid::Uuid;

use super::fields::{Fields, Policy};
use super::rate::{Bucket, Quota};
use super::table::{CallerId, Quotas, Table};
use crate::http::Problem;
use crate::metrics::{self, RateLimited};
use crate::store::KeyLimits;

/// What callers may send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateLimitSettings {
    /// The requests of all callers together.
    pub global: Quota,
    /// The requests of each caller.
    pub each: Quota,
    /// The events of each caller, a second.
    pub events_per_second: Option<u32>,
}

/// Who is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Counted {
    /// By the id of the key, so that two keys of one app count apart.
    Key {
        id: Uuid,
        own: KeyLimits,
    },
    Address(IpAddr),
    /// Whoever has no valid key, at an address.
    Stranger(IpAddr),
}

pub(crate) struct RateLimits {
    global: Bucket,
    global_policy: Policy,
    each: Quotas,
    each_policy: Policy,
    /// Told where events have a limit.
    events_policy: Policy,
    callers: Table,
}

/// What a caller has left, as its reply tells; and why it was refused, if it was.
#[derive(Debug, Default)]
pub(crate) struct Standing(Fields);

impl Standing {
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
    pub(crate) fn admit(&self, caller: &Counted, standing: &mut Standing) -> Result<(), Problem> {
        let quotas = self.quotas(caller);
        let policy =
            if quotas == self.each { self.each_policy.clone() } else { Policy::of("requests", quotas.requests) };
        let (taken, left, wait, events_wait) = self.callers.with(id_of(caller), quotas, |bucket| {
            // Who has no event left need not send one to hear so.
            let spent = bucket.events.as_ref().filter(|events| events.is_empty());
            let events_wait = spent.map(|events| events.wait_seconds(1));
            let taken = events_wait.is_none() && bucket.requests.take(1);
            (taken, bucket.requests.left(), bucket.requests.wait_seconds(1), events_wait)
        });
        if let Some(wait) = events_wait {
            standing.0.refuse(self.events_policy.clone(), 0, wait);
            return Err(refusal(RateLimited::events(is_key(caller)), wait));
        }
        if !taken {
            standing.0.refuse(policy, left, wait);
            return Err(refusal(if is_key(caller) { RateLimited::Key } else { RateLimited::Address }, wait));
        }
        if !self.global.take(1) {
            let wait = self.global.wait_seconds(1);
            standing.0.refuse(self.global_policy.clone(), 0, wait);
            return Err(refusal(RateLimited::Global, wait));
        }
        standing.0.admit(policy, left);
        Ok(())
    }

    /// Counts a request that is refused for its key. It is told of its limit once that is used up.
    pub(crate) fn admit_stranger(&self, address: IpAddr, standing: &mut Standing) -> Result<(), Problem> {
        let (taken, left, wait) = self.callers.with(id_of(&Counted::Stranger(address)), self.each, |bucket| {
            (bucket.requests.take(1), bucket.requests.left(), bucket.requests.wait_seconds(1))
        });
        if taken {
            return Ok(());
        }
        standing.0.refuse(self.each_policy.clone(), left, wait);
        Err(refusal(RateLimited::Unauthorized, wait))
    }

    /// Counts the events of a request that was admitted.
    pub(crate) fn charge(&self, caller: &Counted, events: usize, standing: &mut Standing) -> Result<(), Problem> {
        let quotas = self.quotas(caller);
        if quotas.events.is_none() || events == 0 {
            return Ok(());
        }
        let (taken, left, wait) = self.callers.with(id_of(caller), quotas, |bucket| {
            let Some(bucket) = &bucket.events else { return (true, 0, 0) };
            // What is more than a bucket holds would never be taken.
            let events = events.min(bucket.quota().burst as usize);
            (bucket.take(events), bucket.left(), bucket.wait_seconds(events))
        });
        let policy = self.events_policy.clone();
        if taken {
            standing.0.admit(policy, left);
            return Ok(());
        }
        standing.0.refuse(policy, left, wait);
        Err(refusal(RateLimited::events(is_key(caller)), wait))
    }

    fn quotas(&self, caller: &Counted) -> Quotas {
        let Counted::Key { own, .. } = caller else { return self.each };
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
        // The buckets hold at least one.
        let requests = Quota { per_second: requests.per_second.max(1), burst: requests.burst.max(1) };
        Quotas { requests, ..self.each }
    }
}

/// Events come in batches: twice the rate at once, and any batch that is allowed.
fn events_quota(per_second: u32, batch_events_max: usize) -> Quota {
    let batch = u32::try_from(batch_events_max).unwrap_or(u32::MAX);
    let per_second = per_second.max(1);
    Quota { per_second, burst: per_second.saturating_mul(2).max(batch) }
}

/// Sets the bucket of whoever has no valid key apart from that of the callers at its address.
const STRANGER: u8 = 0x80;

fn is_key(caller: &Counted) -> bool {
    matches!(caller, Counted::Key { .. })
}

/// A key's id; an IPv4 address; or the network of an IPv6 address, of which one client has at least a `/64`.
fn id_of(caller: &Counted) -> CallerId {
    let mut id = [0; 17];
    match caller {
        Counted::Key { id: key, .. } => {
            id[0] = 1;
            id[1..].copy_from_slice(key.as_bytes());
        }
        Counted::Address(address) | Counted::Stranger(address) => match address.to_canonical() {
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
    if let Counted::Stranger(_) = caller {
        id[0] |= STRANGER;
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

    fn key(number: u8, own: KeyLimits) -> Counted {
        Counted::Key { id: Uuid::from_bytes([number; 16]), own }
    }

    fn address(text: &str) -> Counted {
        Counted::Address(text.parse().unwrap())
    }

    /// How many of so many requests are admitted.
    fn admitted(limits: &RateLimits, caller: &Counted, requests: usize) -> usize {
        (0..requests).filter(|_| limits.admit(caller, &mut Standing::default()).is_ok()).count()
    }

    #[tokio::test(start_paused = true)]
    async fn each_caller_is_counted_for_itself() {
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
    async fn a_key_may_have_limits_of_its_own() {
        let limits = RateLimits::new(&SETTINGS, 1_000);
        let own = |requests_per_second, burst| KeyLimits { requests_per_second, burst };
        assert_eq!(admitted(&limits, &key(1, own(Some(50), None)), 200), 100, "twice the rate at once");
        assert_eq!(admitted(&limits, &key(2, own(Some(50), Some(60))), 200), 60);
        assert_eq!(admitted(&limits, &key(3, own(None, Some(5))), 200), 5);
        assert_eq!(admitted(&limits, &key(3, own(None, Some(7))), 200), 7, "changed while it runs");
        assert_eq!(admitted(&limits, &key(4, own(Some(0), Some(0))), 5), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn strangers_use_up_nothing_but_their_own() {
        let global = Quota { per_second: 10, burst: 50 };
        let limits = RateLimits::new(&RateLimitSettings { global, ..SETTINGS }, 1_000);
        let strange = |text: &str, requests: usize| {
            let address = text.parse().unwrap();
            (0..requests).filter(|_| limits.admit_stranger(address, &mut Standing::default()).is_ok()).count()
        };
        assert_eq!(strange("203.0.113.7", 1_000), 20);
        assert_eq!(strange("203.0.113.8", 1_000), 20);
        assert_eq!((strange("2001:db8::1", 15), strange("2001:db8::2", 15)), (15, 5), "one network");
        assert_eq!(admitted(&limits, &address("203.0.113.7"), 30), 20);
        assert_eq!(admitted(&limits, &address("2001:db8::1"), 30), 20);
        assert_eq!(admitted(&limits, &key(1, KeyLimits::default()), 30), 10, "what is left of all");
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_caller_is_refused_is_not_counted_for_all() {
        let global = Quota { per_second: 10, burst: 50 };
        let limits = RateLimits::new(&RateLimitSettings { global, ..SETTINGS }, 1_000);
        assert_eq!(admitted(&limits, &address("203.0.113.7"), 1_000), 20);
        assert_eq!(admitted(&limits, &address("203.0.113.8"), 1_000), 20);
        assert_eq!(admitted(&limits, &address("203.0.113.9"), 1_000), 10, "all together");
    }

    #[tokio::test(start_paused = true)]
    async fn events_are_counted_where_they_have_a_limit() {
        let limits = RateLimits::new(&RateLimitSettings { events_per_second: Some(100), ..SETTINGS }, 500);
        let caller = address("203.0.113.7");
        let charge = |events| limits.charge(&caller, events, &mut Standing::default()).is_ok();
        assert!(charge(500), "the largest batch is always possible");
        assert!(!charge(1));
        assert_eq!(admitted(&limits, &caller, 1), 0, "nothing need be read of who has no event left");
        tokio::time::advance(Duration::from_secs(2)).await;
        assert!(!charge(201));
        assert_eq!(admitted(&limits, &caller, 1), 1);
        assert!(charge(200));
        let unlimited = RateLimits::new(&SETTINGS, 500);
        assert!(unlimited.charge(&caller, usize::MAX, &mut Standing::default()).is_ok());
    }
}
