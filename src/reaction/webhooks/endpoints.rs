//! What the dispatcher keeps of each webhook: its queue, its requests on their way, its circuit.
//!
//! Invariant: an endpoint has no more in hand and on its way than its window and what is free allow, however slow it
//! is; while it cannot take more, nothing is claimed for it. As plain values: the caller brings the time and does the
//! sending.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use uuid::Uuid;

use super::circuit::Circuit;
use super::endpoint::Endpoint;
use super::share::{Window, may_take, may_use};
use crate::store::Delivery;

/// All webhooks that have been owed something.
#[derive(Default)]
pub(super) struct Endpoints(HashMap<Uuid, Lane>);

/// One webhook.
#[derive(Default)]
pub(super) struct Lane {
    pub(super) circuit: Circuit,
    pub(super) window: Window,
    pub(super) queue: VecDeque<Delivery>,
    /// Requests on their way.
    pub(super) active: usize,
    pub(super) target: Target,
    /// More may be due than was claimed.
    pub(super) more: bool,
}

/// What bounds all endpoints together.
#[derive(Clone, Copy)]
pub(super) struct Room {
    /// Requests that one endpoint may have on their way at once.
    pub(super) active_max: usize,
    /// Deliveries claimed at once.
    pub(super) batch: usize,
    /// Deliveries that may still be claimed.
    pub(super) hand_free: usize,
}

/// The webhook's document as far as it is known.
#[derive(Default)]
pub(super) enum Target {
    #[default]
    Unknown,
    Loading,
    /// As of this version of the store's changes.
    Known(u64, Arc<Endpoint>),
}

impl Endpoints {
    pub(super) fn lane(&mut self, id: Uuid) -> &mut Lane {
        self.0.entry(id).or_default()
    }

    /// How many deliveries to claim for each webhook that is known here; whom it leaves out is new.
    pub(super) fn quotas(&self, now: Instant, room: Room) -> HashMap<Uuid, usize> {
        self.0.iter().map(|(id, lane)| (*id, lane.quota(now, room))).collect()
    }

    /// Those with something to send, the longest owed first.
    pub(super) fn waiting(&self) -> Vec<Uuid> {
        let mut waiting: Vec<_> =
            self.0.iter().filter_map(|(id, lane)| Some((lane.queue.front()?.created_at, *id))).collect();
        waiting.sort_unstable();
        waiting.into_iter().map(|(_, id)| id).collect()
    }

    /// When the next circuit may be tried again.
    pub(super) fn next_reopening(&self, now: Instant) -> Option<Instant> {
        self.0.values().filter_map(|lane| lane.circuit.reopens_at()).filter(|at| *at > now).min()
    }

    pub(super) fn circuits_open(&self, now: Instant) -> usize {
        self.0.values().filter(|lane| !lane.circuit.permits(now)).count()
    }

    /// Forgets webhooks of which there is nothing to remember.
    pub(super) fn forget_idle(&mut self, version: u64) {
        self.0.retain(|_, lane| {
            lane.active > 0
                || !lane.queue.is_empty()
                || lane.circuit.reopens_at().is_some()
                || matches!(lane.target, Target::Known(known, _) if known == version)
        });
    }
}

impl Lane {
    /// How many deliveries to claim for it now.
    fn quota(&self, now: Instant, room: Room) -> usize {
        if !self.hungry(now, room) {
            return 0;
        }
        let held = self.queue.len() + self.active;
        self.window.hand(room.active_max, room.batch).min(may_take(held, room.hand_free))
    }

    /// Whether it could soon take more than it has in hand.
    pub(super) fn hungry(&self, now: Instant, room: Room) -> bool {
        let window = self.window.size(room.active_max);
        self.circuit.permits(now) && self.active < window && self.queue.len() <= window / 2
    }

    /// The next delivery to send, if the endpoint can take one now, with so many free of all requests.
    pub(super) fn next(&mut self, now: Instant, active_max: usize, free: usize) -> Option<Delivery> {
        let allowed = self.active < self.window.size(active_max) && may_use(self.active, free);
        if allowed && self.circuit.permits(now) { self.queue.pop_front() } else { None }
    }

    /// The webhook, when it is known as it stands in this version.
    pub(super) fn current(&self, version: u64) -> Option<Arc<Endpoint>> {
        match &self.target {
            Target::Known(known, endpoint) if *known == version => Some(Arc::clone(endpoint)),
            _ => None,
        }
    }
}
