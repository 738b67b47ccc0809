//! The dispatcher's state of each webhook: its queue, its outstanding requests, its circuit.
//!
//! Invariant: the claimed deliveries and outstanding requests of an endpoint stay within its window and the free
//! capacity, however slow it is; while it cannot take more, nothing is claimed for it. Plain values: the caller passes
//! the time and sends the requests.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use uuid::Uuid;

use super::circuit::Circuit;
use super::concurrency::{ConcurrencyWindow, max_share, may_send};
use super::endpoint::Endpoint;
use crate::store::Delivery;

/// All webhooks with recent deliveries.
#[derive(Default)]
pub(super) struct EndpointStates(HashMap<Uuid, EndpointState>);

/// The state of one webhook.
#[derive(Default)]
pub(super) struct EndpointState {
    pub(super) circuit: Circuit,
    pub(super) window: ConcurrencyWindow,
    pub(super) queue: VecDeque<Delivery>,
    /// Outstanding requests.
    pub(super) active: usize,
    pub(super) load: LoadState,
    /// The webhook's name in metrics.
    pub(super) label: String,
    /// More deliveries may be due than were claimed.
    pub(super) more: bool,
}

/// The capacity shared by all endpoints.
#[derive(Clone, Copy)]
pub(super) struct Capacity {
    /// Concurrent requests allowed for one endpoint.
    pub(super) active_max: usize,
    /// Deliveries in one claim.
    pub(super) batch: usize,
    /// Deliveries that may still be claimed.
    pub(super) claimable: usize,
}

/// The webhook's document, as far as it is loaded.
#[derive(Default)]
pub(super) enum LoadState {
    #[default]
    NotLoaded,
    Loading,
    /// As of this change version of the store.
    Loaded(u64, Arc<Endpoint>),
}

impl EndpointStates {
    pub(super) fn state(&mut self, id: Uuid) -> &mut EndpointState {
        self.0.entry(id).or_default()
    }

    /// How many deliveries to claim for each known webhook.
    pub(super) fn quotas(&self, now: Instant, capacity: Capacity) -> HashMap<Uuid, usize> {
        self.0.iter().map(|(id, state)| (*id, state.quota(now, capacity))).collect()
    }

    /// The webhooks with queued deliveries, oldest delivery first.
    pub(super) fn waiting(&self) -> Vec<Uuid> {
        let mut waiting: Vec<_> =
            self.0.iter().filter_map(|(id, state)| Some((state.queue.front()?.created_at, *id))).collect();
        waiting.sort_unstable();
        waiting.into_iter().map(|(_, id)| id).collect()
    }

    /// When the next circuit may be probed.
    pub(super) fn next_reopening(&self, now: Instant) -> Option<Instant> {
        self.0.values().filter_map(|state| state.circuit.reopens_at()).filter(|at| *at > now).min()
    }

    pub(super) fn circuits_open(&self, now: Instant) -> usize {
        self.0.values().filter(|state| !state.circuit.permits(now)).count()
    }

    /// Drops webhooks without state worth keeping.
    pub(super) fn forget_idle(&mut self, version: u64) {
        self.0.retain(|_, state| {
            state.active > 0
                || !state.queue.is_empty()
                || state.circuit.reopens_at().is_some()
                || matches!(state.load, LoadState::Loaded(known, _) if known == version)
        });
    }
}

impl EndpointState {
    /// How many deliveries to claim now.
    fn quota(&self, now: Instant, capacity: Capacity) -> usize {
        if !self.wants_more(now, capacity) {
            return 0;
        }
        let claimed = self.queue.len() + self.active;
        self.window.claim_target(capacity.active_max, capacity.batch).min(max_share(claimed, capacity.claimable))
    }

    /// Whether it could soon take more than its claimed deliveries.
    pub(super) fn wants_more(&self, now: Instant, capacity: Capacity) -> bool {
        let window = self.window.size(capacity.active_max);
        self.circuit.permits(now) && self.active < window && self.queue.len() <= window / 2
    }

    /// Takes the next delivery to send, if the endpoint can take one now, with `free` of all requests left.
    pub(super) fn next(&mut self, now: Instant, active_max: usize, free: usize) -> Option<Delivery> {
        let allowed = self.active < self.window.size(active_max) && may_send(self.active, free);
        if allowed && self.circuit.permits(now) { self.queue.pop_front() } else { None }
    }

    /// The webhook, if it was loaded at this version.
    pub(super) fn current(&self, version: u64) -> Option<Arc<Endpoint>> {
        match &self.load {
            LoadState::Loaded(known, endpoint) if *known == version => Some(Arc::clone(endpoint)),
            _ => None,
        }
    }
}
