//! The isolated messages of a subscription, and which of them to hand out next.
//!
//! Invariant: messages that have waited for half of their lease are dropped; they are redelivered. Knows nothing of
//! chunks or pulls.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use super::trials::TrialStore;
use crate::bus::trials::ISOLATED_AFTER;
use crate::bus::{BusError, Delivery, Receipt};

/// Pause after the trial log could not be read.
const UNREAD_PAUSE: Duration = Duration::from_millis(250);

#[derive(Default)]
pub(crate) struct IsolationQueue {
    /// Each with a lower bound of the start of its lease.
    waiting: Vec<(Delivery, Instant)>,
    bytes: usize,
    /// When the rest of each resting message ends; messages that have rested stay in it.
    rests: HashMap<u64, Instant>,
    /// Nothing is chosen before this time.
    choose_at: Option<Instant>,
}

/// The messages chosen for the next trial.
#[derive(Default)]
pub(crate) struct Chosen {
    /// To hand out, flagged as isolated.
    pub(crate) next: Vec<Delivery>,
    /// A lower bound of the start of the oldest of their leases.
    pub(crate) leased_at: Option<Instant>,
    /// To dead-letter.
    pub(crate) fatal: Vec<Receipt>,
}

/// Whether a message with this delivery count must be isolated.
pub(crate) fn must_isolate(delivery_count: u32) -> bool {
    delivery_count > ISOLATED_AFTER
}

impl IsolationQueue {
    pub(crate) fn push(&mut self, delivery: Delivery, leased_at: Instant) {
        self.bytes += delivery.record.len();
        self.waiting.push((delivery, leased_at));
        self.choose_at = None;
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.waiting.len()
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Drops all waiting messages.
    pub(crate) fn clear(&mut self) {
        self.waiting.clear();
        self.bytes = 0;
    }

    pub(crate) fn receipts(&self) -> Vec<Receipt> {
        self.waiting.iter().map(|(delivery, _)| delivery.receipt).collect()
    }

    /// When to choose again; `None` when nothing is waiting, or immediately.
    pub(crate) fn choose_at(&self) -> Option<Instant> {
        self.choose_at.filter(|_| !self.waiting.is_empty())
    }

    /// Drops messages whose leases are too old; they are redelivered.
    pub(crate) fn drop_stale(&mut self, is_fresh: impl Fn(&Delivery, Instant) -> bool) -> usize {
        let before = self.waiting.len();
        self.waiting.retain(|(delivery, leased_at)| is_fresh(delivery, *leased_at));
        self.bytes = self.waiting.iter().map(|(delivery, _)| delivery.record.len()).sum();
        before - self.waiting.len()
    }

    /// Chooses according to the trial log, and removes the chosen messages from the queue.
    pub(crate) async fn choose(
        &mut self,
        trials: &TrialStore,
        (messages_max, bytes_max): (usize, usize),
    ) -> Result<Chosen, BusError> {
        let now = Instant::now();
        if self.waiting.is_empty() || self.choose_at.is_some_and(|at| now < at) {
            return Ok(Chosen::default());
        }
        self.choose_at = Some(now + UNREAD_PAUSE);
        let log = trials.read().await?;
        self.waiting.sort_by_key(|(delivery, _)| delivery.sequence());
        let resting = |message: &u64| self.rests.get(message).is_some_and(|until| now < *until);
        let due = self.waiting.iter().map(|(delivery, _)| delivery.sequence()).filter(|message| !resting(message));
        let due: Vec<u64> = due.collect();
        let rested: HashSet<u64> = self.rests.keys().copied().collect();
        let choice = log.choose(&due, &rested);
        self.rests.extend(choice.resting.iter().map(|(message, rest)| (*message, now + *rest)));
        let rests = self.waiting.iter().filter_map(|(delivery, _)| self.rests.get(&delivery.sequence()));
        self.choose_at = rests.filter(|until| now < **until).min().copied();
        let mut chosen = Chosen::default();
        let (mut room, next): (usize, HashSet<u64>) = (bytes_max, choice.next.into_iter().collect());
        for (mut delivery, leased_at) in std::mem::take(&mut self.waiting) {
            let (sequence, bytes) = (delivery.sequence(), delivery.record.len());
            let fits = chosen.next.is_empty() || (chosen.next.len() < messages_max && bytes <= room);
            if choice.fatal.contains(&sequence) {
                chosen.fatal.push(delivery.receipt);
                self.rests.remove(&sequence);
            } else if next.contains(&sequence) && fits {
                room = room.saturating_sub(bytes);
                delivery.isolated = true;
                chosen.leased_at = Some(chosen.leased_at.map_or(leased_at, |oldest| oldest.min(leased_at)));
                chosen.next.push(delivery);
            } else {
                self.waiting.push((delivery, leased_at));
            }
        }
        self.bytes = self.waiting.iter().map(|(delivery, _)| delivery.record.len()).sum();
        if !chosen.next.is_empty() || !chosen.fatal.is_empty() {
            self.choose_at = None;
        }
        Ok(chosen)
    }
}
