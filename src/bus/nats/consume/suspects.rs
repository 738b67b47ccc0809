//! The suspects that a subscription has at hand, and which of them are handed out next.
//!
//! Invariant: what waited here for half of its lease is let go: it comes again. Knows nothing of ranges or pulls.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use super::trials::Record;
use crate::bus::trials::SUSPECT_AFTER;
use crate::bus::{BusError, Delivery, Receipt};

/// Pause after the record of suspects could not be read.
const UNREAD_PAUSE: Duration = Duration::from_millis(250);

#[derive(Default)]
pub(crate) struct Suspects {
    /// With the moment since which each is leased at most.
    waiting: Vec<(Delivery, Instant)>,
    bytes: usize,
    /// Until when those rest that are to; those whose rest is over stay in it.
    rests: HashMap<u64, Instant>,
    /// Nothing is to be chosen before.
    choose_at: Option<Instant>,
}

/// What is to be done with them.
#[derive(Default)]
pub(crate) struct Chosen {
    /// To be handed out, flagged as isolated.
    pub(crate) next: Vec<Delivery>,
    /// Since when the oldest of them is leased at most.
    pub(crate) leased_at: Option<Instant>,
    /// To be given up.
    pub(crate) fatal: Vec<Receipt>,
}

/// Whether a message that was delivered so often is a suspect.
pub(crate) fn is_suspect(delivery_count: u32) -> bool {
    delivery_count > SUSPECT_AFTER
}

impl Suspects {
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

    /// Forgets what is at hand.
    pub(crate) fn clear(&mut self) {
        self.waiting.clear();
        self.bytes = 0;
    }

    pub(crate) fn receipts(&self) -> Vec<Receipt> {
        self.waiting.iter().map(|(delivery, _)| delivery.receipt).collect()
    }

    /// When to choose again; none when nothing is at hand, or at once.
    pub(crate) fn choose_at(&self) -> Option<Instant> {
        self.choose_at.filter(|_| !self.waiting.is_empty())
    }

    /// Those that were leased before then come again.
    pub(crate) fn let_go(&mut self, is_fresh: impl Fn(&Delivery, Instant) -> bool) -> usize {
        let before = self.waiting.len();
        self.waiting.retain(|(delivery, leased_at)| is_fresh(delivery, *leased_at));
        self.bytes = self.waiting.iter().map(|(delivery, _)| delivery.record.len()).sum();
        before - self.waiting.len()
    }

    /// Chooses by what is on record; takes what it answers out of what is at hand.
    pub(crate) async fn choose(
        &mut self,
        record: &Record,
        (messages_max, bytes_max): (usize, usize),
    ) -> Result<Chosen, BusError> {
        let now = Instant::now();
        if self.waiting.is_empty() || self.choose_at.is_some_and(|at| now < at) {
            return Ok(Chosen::default());
        }
        self.choose_at = Some(now + UNREAD_PAUSE);
        let book = record.read().await?;
        self.waiting.sort_by_key(|(delivery, _)| delivery.sequence());
        let resting = |message: &u64| self.rests.get(message).is_some_and(|until| now < *until);
        let due = self.waiting.iter().map(|(delivery, _)| delivery.sequence()).filter(|message| !resting(message));
        let due: Vec<u64> = due.collect();
        let rested: HashSet<u64> = self.rests.keys().copied().collect();
        let choice = book.choose(&due, &rested);
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
