//! Messages that are not stored any more: purged, or erased. They are passed over.
//!
//! Invariant: what is passed over is settled in memory alone; a restart does it again.

use std::collections::VecDeque;
use std::sync::Arc;

use super::state::Mind;
use super::window::State;
use crate::bus::embedded::group::Group;

impl Mind {
    /// Takes the groups that were read for a missing sequence. What is not stored any more is passed over.
    pub(crate) fn load(&mut self, sequence: u64, groups: VecDeque<Arc<Group>>) {
        if let Some(first) = groups.front().map(|group| group.first_sequence)
            && first > sequence
        {
            for gone in sequence..first.min(self.window.next()) {
                if !matches!(self.window.get(gone).state, State::Settled) {
                    self.window.settle(gone);
                }
            }
            self.window.skip_to(first);
            self.window.advance();
        }
        self.loaded = groups;
    }

    /// A message that was to be delivered again is not there any more.
    pub(super) fn pass_erased(&mut self, sequence: u64) {
        self.window.settle(sequence);
        self.window.advance();
        if !self.trials.book.is_empty() {
            self.trials.book.forget(self.window.floor(), &[sequence]);
            self.trials.unstored = true;
        }
    }

    /// Groups have others in their places: what was read before is read anew.
    pub(crate) fn forget_loaded(&mut self) {
        self.loaded.clear();
    }
}
