//! Rewrites groups without erased messages, and removes deleted data from the file.
//!
//! Invariant: the sequences of all other messages and the count of the group stay. Messages in flight are not taken
//! from their subscription.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use rusqlite::Connection;

use super::thread::Writer;
use crate::bus::embedded::file;
use crate::bus::embedded::group::Group;
use crate::bus::embedded::wipe::Step;
use crate::bus::{BusError, BusErrorKind};

impl Writer {
    /// Rewrites the groups of these messages, in ascending order, within the open transaction. Returns the rewritten
    /// groups and the number of erased messages.
    pub(super) fn erase(&mut self, sequences: &[u64]) -> Result<(Vec<Arc<Group>>, u64), BusError> {
        let (mut groups, mut messages) = (Vec::new(), 0);
        let mut rest = sequences;
        while let Some(first) = rest.first() {
            let group = file::read_groups(&self.file.connection, self.shared.path(), *first, 1)?.pop_front();
            // The message has been purged in the meantime.
            let Some(group) = group else { break };
            let (of_group, behind) = rest.split_at(rest.partition_point(|sequence| *sequence <= group.last_sequence()));
            rest = behind;
            let held = |sequence: &&u64| **sequence >= group.first_sequence && !group.is_erased(**sequence);
            let erased = of_group.iter().filter(held).count() as u64;
            if erased == 0 {
                continue;
            }
            let data = group.without(of_group);
            let packer = &mut self.packer;
            let replaced = file::erasing(&self.file.connection, true)
                .and_then(|()| file::replace_group(&self.file.connection, &group, &data, packer));
            let restored = file::erasing(&self.file.connection, false);
            replaced.and(restored).map_err(|error| self.shared.failure("erase messages", &error))?;
            let count = (group.last_sequence() + 1 - group.first_sequence) as usize;
            let rewritten = Group::from_stored(group.first_sequence, count, group.published_at_ms, data);
            groups.push(Arc::new(rewritten.ok_or_else(|| BusError::new(BusErrorKind::Corrupt, "erase messages"))?));
            messages += erased;
        }
        Ok((groups, messages))
    }

    /// Deletes without leaving data in the pages of the file.
    pub(super) fn leaving_nothing<T>(
        &self,
        delete: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> rusqlite::Result<T> {
        let deleted = file::erasing(&self.file.connection, true).and_then(|()| delete(&self.file.connection));
        file::erasing(&self.file.connection, false).and(deleted)
    }

    /// After the commit: consumers read the rewritten groups from now on.
    pub(super) fn apply_erasure(&self, groups: &[Arc<Group>]) {
        {
            let mut tail = self.shared.tail.lock();
            groups.iter().for_each(|group| tail.replace(group));
        }
        self.shared.erasures.fetch_add(1, Ordering::Release);
        for consumer in self.shared.each_consumer() {
            consumer.lock().forget_loaded();
        }
    }

    /// One step: overwrites some free pages, or moves the log into the file and truncates it, since the log holds
    /// earlier versions of pages. Returns `true` when nothing is left.
    pub(super) fn wipe(&mut self) -> Result<bool, BusError> {
        if !self.wiper.is_needed() {
            let emptied = self.file.checkpoints.empty(&self.file.connection);
            return emptied.map_err(|error| file::file_error("empty log", error));
        }
        let step = self.transaction("wipe free pages", |writer| {
            writer.write("wipe free pages", |writer| writer.wiper.step(&writer.file.connection))
        })?;
        self.wiper.committed(step);
        let bytes = if let Step::Filled(bytes) = step { bytes } else { 0 };
        self.committed(bytes);
        Ok(false)
    }
}
