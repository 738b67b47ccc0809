//! Skips messages that are no longer stored because they were purged or erased.
//!
//! Invariant: skipped messages are resolved only in memory; a restart skips them again.

use std::collections::VecDeque;
use std::sync::Arc;

use super::state::ConsumerState;
use super::window::State;
use crate::bus::embedded::group::Group;

impl ConsumerState {
    /// Takes the groups that were read for a missing sequence, and skips messages that are no longer stored.
    pub(crate) fn load(&mut self, sequence: u64, groups: VecDeque<Arc<Group>>) {
        if let Some(first) = groups.front().map(|group| group.first_sequence)
            && first > sequence
        {
            for gone in sequence..first.min(self.window.next()) {
                if !matches!(self.window.get(gone).state, State::Resolved) {
                    self.window.resolve(gone);
                }
            }
            self.window.skip_to(first);
            self.window.advance();
        }
        self.loaded = groups;
    }

    /// A message due for redelivery is no longer there.
    pub(super) fn skip_erased(&mut self, sequence: u64) {
        self.window.resolve(sequence);
        self.window.advance();
        if !self.trials.log.is_empty() {
            self.trials.log.forget(self.window.floor(), &[sequence]);
            self.trials.unstored = true;
        }
    }

    /// Groups in the file were rewritten: groups that were loaded before must be read again.
    pub(crate) fn forget_loaded(&mut self) {
        self.loaded.clear();
    }
}
