//! What the dispatcher keeps of each webhook: its queue, its requests on their way, its circuit.
//!
//! Invariant: an endpoint holds at most one claimed batch and `endpoint_concurrency_max`
//! requests, however slow it is; while it cannot take more, nothing is claimed for it. As
//! plain values: the caller brings the time and does the sending.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use uuid::Uuid;

use super::circuit::Circuit;
use super::webhook::Endpoint;
use crate::store::Delivery;

/// All webhooks that have been owed something.
#[derive(Default)]
pub(super) struct Endpoints(HashMap<Uuid, Lane>);

/// One webhook.
#[derive(Default)]
pub(super) struct Lane {
    pub(super) circuit: Circuit,
    pub(super) queue: VecDeque<Delivery>,
    /// Requests on their way.
    pub(super) active: usize,
    pub(super) target: Target,
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

    /// Those for which nothing is to be claimed now.
    pub(super) fn busy(&self, now: Instant, active_max: usize) -> Vec<Uuid> {
        let busy = |lane: &Lane| !lane.queue.is_empty() || lane.active >= active_max || !lane.circuit.permits(now);
        self.0.iter().filter(|(_, lane)| busy(lane)).map(|(id, _)| *id).collect()
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
    /// The next delivery to send, if the endpoint can take one now.
    pub(super) fn next(&mut self, now: Instant, active_max: usize) -> Option<Delivery> {
        if self.active >= active_max || !self.circuit.permits(now) { None } else { self.queue.pop_front() }
    }

    /// The webhook, when it is known as it stands in this version.
    pub(super) fn current(&self, version: u64) -> Option<Arc<Endpoint>> {
        match &self.target {
            Target::Known(known, endpoint) if *known == version => Some(Arc::clone(endpoint)),
            _ => None,
        }
    }
}
