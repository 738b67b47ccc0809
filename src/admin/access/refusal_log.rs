//! Refused requests in the audit log: counted, and written as one record at most once a minute and whenever the log is
//! read.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde_json::json;

use crate::store::{AuditEntry, AuditKind, AuditOutcome, Store};

/// The shortest time between two records of refusals.
const INTERVAL: Duration = Duration::from_secs(60);
/// Addresses and token names that one record lists.
const LISTED_MAX: usize = 16;
/// The actor of unauthenticated requests in the audit log.
const NOBODY: &str = "-";

/// Refusals that are not in the log yet.
#[derive(Default)]
pub(in crate::admin) struct RefusalLog(Mutex<Counts>);

#[derive(Default)]
struct Counts {
    written_at: Option<Instant>,
    reasons: BTreeMap<&'static str, u64>,
    tokens: BTreeMap<String, u64>,
    addresses: BTreeSet<IpAddr>,
}

impl RefusalLog {
    /// `token` is the name of a token whose role was too low.
    pub(in crate::admin) fn add(&self, reason: &'static str, token: Option<&str>, address: IpAddr) {
        let mut counts = self.0.lock();
        *counts.reasons.entry(reason).or_default() += 1;
        if let Some(token) = token
            && (counts.tokens.len() < LISTED_MAX || counts.tokens.contains_key(token))
        {
            *counts.tokens.entry(token.to_owned()).or_default() += 1;
        }
        if counts.addresses.len() < LISTED_MAX {
            counts.addresses.insert(address);
        }
    }

    /// Writes at most once per interval.
    pub(in crate::admin) async fn write_when_due(&self, store: &Store) {
        self.write_since(store, Some(INTERVAL)).await;
    }

    pub(in crate::admin) async fn write(&self, store: &Store) {
        self.write_since(store, None).await;
    }

    async fn write_since(&self, store: &Store, interval: Option<Duration>) {
        let Some(entry) = self.take(Instant::now(), interval) else { return };
        if let Err(error) = store.add_audit(entry).await {
            tracing::warn!(%error, "refused admin requests are not in the audit log");
        }
    }

    fn take(&self, now: Instant, interval: Option<Duration>) -> Option<AuditEntry> {
        let mut counts = self.0.lock();
        let is_early = |interval| counts.written_at.is_some_and(|at| now.duration_since(at) < interval);
        if counts.reasons.is_empty() || interval.is_some_and(is_early) {
            return None;
        }
        let taken = std::mem::replace(&mut *counts, Counts { written_at: Some(now), ..Counts::default() });
        let after = json!({"reasons": taken.reasons, "tokens": taken.tokens, "addresses": taken.addresses});
        Some(AuditEntry {
            actor: NOBODY.to_owned(),
            actor_id: None,
            address: None,
            method: NOBODY.to_owned(),
            request_id: None,
            action: "refuse".to_owned(),
            kind: AuditKind::Access,
            object_id: None,
            name: None,
            outcome: AuditOutcome::Refused,
            before: None,
            after: Some(after),
            note: None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_counted_into_one_record() {
        let (refused, now) = (RefusalLog::default(), Instant::now());
        let address = |index: u8| IpAddr::from([192, 0, 2, index]);
        assert_eq!(refused.take(now, None), None);
        refused.add("missing", None, address(1));
        let first = refused.take(now, Some(INTERVAL)).unwrap();
        assert_eq!(first.after.unwrap()["reasons"], json!({"missing": 1}));
        for index in 0..200 {
            refused.add("role", Some(&format!("token {index}")), address(index));
        }
        assert_eq!(refused.take(now + INTERVAL / 2, Some(INTERVAL)), None);
        let second = refused.take(now + INTERVAL, Some(INTERVAL)).unwrap().after.unwrap();
        assert_eq!(second["reasons"], json!({"role": 200}));
        assert_eq!(second["tokens"].as_object().unwrap().len(), LISTED_MAX);
        assert_eq!(second["addresses"].as_array().unwrap().len(), LISTED_MAX);
    }
}
