//! The writer's part in erasing: groups without some of their messages, and a file without what it no longer holds.
//!
//! Invariant: the sequences of all other messages stay, and so does the count of the group. What a subscription has in
//! hand is not taken from it.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use rusqlite::Connection;

use super::thread::Writer;
use crate::bus::embedded::file;
use crate::bus::embedded::group::Group;
use crate::bus::embedded::shared::lock;
use crate::bus::embedded::wipe::Step;
use crate::bus::{BusError, BusErrorKind};

impl Writer {
    /// Rewrites the groups of these messages, in ascending order, in the transaction that has begun; answers the groups as
    /// they are then, and how many messages they lack now.
    pub(super) fn erase(&mut self, sequences: &[u64]) -> Result<(Vec<Arc<Group>>, u64), BusError> {
        let (mut groups, mut messages) = (Vec::new(), 0);
        let mut rest = sequences;
        while let Some(first) = rest.first() {
            let group = file::read_groups(&self.connection, &self.shared.path, *first, 1)?.pop_front();
            // What was purged meanwhile is not there.
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
            let replaced = file::erasing(&self.connection, true)
                .and_then(|()| file::replace_group(&self.connection, &group, &data, packer));
            let restored = file::erasing(&self.connection, false);
            replaced.and(restored).map_err(|error| file::failure(&self.shared.path, "erase messages", error))?;
            let count = (group.last_sequence() + 1 - group.first_sequence) as usize;
            let rewritten = Group::from_stored(group.first_sequence, count, group.published_at_ms, data);
            groups.push(Arc::new(rewritten.ok_or_else(|| BusError::new(BusErrorKind::Corrupt, "erase messages"))?));
            messages += erased;
        }
        Ok((groups, messages))
    }

    /// Deletes so that nothing of it is left in the pages of the file.
    pub(super) fn leaving_nothing<T>(
        &self,
        delete: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> rusqlite::Result<T> {
        let deleted = file::erasing(&self.connection, true).and_then(|()| delete(&self.connection));
        file::erasing(&self.connection, false).and(deleted)
    }

    /// After the commit: what consumers get from now on.
    pub(super) fn make_known(&self, groups: &[Arc<Group>]) {
        {
            let mut tail = lock(&self.shared.tail);
            groups.iter().for_each(|group| tail.replace(group));
        }
        self.shared.erasures.fetch_add(1, Ordering::Release);
        for consumer in self.shared.each_consumer() {
            consumer.lock().forget_loaded();
        }
    }

    /// One step: overwrites some free pages, or copies the log into the file and cuts it off, since it holds pages as they
    /// were before. True when nothing is left.
    pub(super) fn wipe(&mut self) -> Result<bool, BusError> {
        if !self.wiping.is_needed() {
            return self.checkpoints.empty(&self.connection);
        }
        let step = self.transaction("wipe free pages", |writer| {
            writer.write("wipe free pages", |writer| writer.wiping.step(&writer.connection))
        })?;
        self.wiping.committed(step);
        let bytes = if let Step::Filled(bytes) = step { bytes } else { 0 };
        self.committed(bytes);
        Ok(false)
    }
}
