//! The deliveries that the dispatcher has claimed from the store.
//!
//! Invariant: a claimed delivery counts, in deliveries and in bytes, from its claim to the commit of its outcome.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use uuid::Uuid;

use crate::base::clock;
use crate::store::{ClaimLimits, Delivery, Store, StoreError};

/// Payload bytes of claimed deliveries; beyond that only webhooks without a claimed delivery get one.
pub(super) const CLAIMED_BYTES_MAX: usize = 32 << 20;

/// Claimed deliveries whose outcome is not committed, with their lease and the bytes of their payloads.
pub(super) struct ClaimedDeliveries {
    deliveries: HashMap<Uuid, (ClaimLease, usize)>,
    bytes: usize,
    /// Other processes claim from the same store.
    shared: bool,
}

/// When a claim was requested, and for how long it holds.
pub(super) type ClaimLease = (Instant, Duration);

impl ClaimedDeliveries {
    pub(super) fn new(shared: bool) -> Self {
        Self { deliveries: HashMap::new(), bytes: 0, shared }
    }

    /// Returns `false` when the delivery was claimed before.
    pub(super) fn insert(&mut self, delivery: &Delivery, lease: ClaimLease) -> bool {
        let bytes = delivery.payload.get().len();
        // Its lease expired and it was claimed again: the payload is the same.
        let known = self.deliveries.get(&delivery.id).map(|(_, bytes)| *bytes);
        self.deliveries.insert(delivery.id, (lease, known.unwrap_or(bytes)));
        self.bytes += if known.is_none() { bytes } else { 0 };
        known.is_none()
    }

    pub(super) fn len(&self) -> usize {
        self.deliveries.len()
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn remove(&mut self, id: Uuid) {
        if let Some((_, bytes)) = self.deliveries.remove(&id) {
            self.bytes -= bytes;
        }
    }

    /// `now` comes from [`clock::now`]: while this machine is suspended a server goes on, and other processes claim.
    pub(super) fn is_leased(&self, id: Uuid, now: Instant) -> bool {
        self.deliveries.get(&id).is_some_and(|((at, lease), _)| {
            let age = if self.shared { clock::between(*at, now) } else { now.saturating_duration_since(*at) };
            age < *lease
        })
    }
}

/// The result of one claim.
pub(super) struct Claim {
    pub(super) lease: ClaimLease,
    /// The quotas of the webhooks that had one; `per_webhook` applies to all others.
    quotas: HashMap<Uuid, usize>,
    per_webhook: usize,
    /// More deliveries may be due than the claim had capacity for.
    pub(super) full: bool,
    pub(super) deliveries: Vec<Delivery>,
    pub(super) next_due_ms: Option<i64>,
}

impl Claim {
    /// Claims due deliveries, and looks up when the next one is due for webhooks that could take more.
    pub(super) async fn take(store: Store, limits: ClaimLimits) -> Result<Self, StoreError> {
        let lease = (clock::now(), limits.lease);
        let (quotas, per_webhook) = (limits.quotas.clone(), limits.per_webhook);
        let (count_max, bytes_max) = (limits.deliveries, limits.payload_bytes);
        let deliveries = store.claim_due_deliveries(limits).await?;
        let bytes: usize = deliveries.iter().map(|delivery| delivery.payload.get().len()).sum();
        let full = deliveries.len() >= count_max || (bytes > bytes_max && deliveries.len() > 1);
        let mut claim = Self { lease, quotas, per_webhook, full, deliveries, next_due_ms: None };
        if !full {
            let satisfied: Vec<Uuid> = claim.counts().filter(|(_, more)| *more).map(|(id, _)| id).collect();
            claim.next_due_ms = store.next_due_ms(&satisfied).await?;
        }
        Ok(claim)
    }

    /// Each webhook, and whether more of its deliveries may be due.
    pub(super) fn counts(&self) -> impl Iterator<Item = (Uuid, bool)> {
        let mut counts: HashMap<Uuid, usize> = self.quotas.keys().map(|id| (*id, 0)).collect();
        for delivery in &self.deliveries {
            *counts.entry(delivery.webhook_id).or_default() += 1;
        }
        let quota = |id: &Uuid| self.quotas.get(id).copied().unwrap_or(self.per_webhook);
        counts.into_iter().map(move |(id, count)| (id, count >= quota(&id)))
    }
}
