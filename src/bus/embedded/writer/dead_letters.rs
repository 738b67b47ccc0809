//! The writer's part in giving messages up: their dead letters, in the transaction that settles them.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::thread::Writer;
use crate::base::clock::unix_ms;
use crate::bus::embedded::dead_letter::{self, Verdict};
use crate::bus::embedded::file;
use crate::bus::embedded::group::Group;
use crate::bus::embedded::queue::Settle;
use crate::bus::embedded::shared::lock;
use crate::bus::input::RefusedInput;
use crate::bus::{BusError, KeptInput};

impl Writer {
    /// Stores dead letters for messages that are given up, but for those that were erased meanwhile; answers how many.
    pub(super) fn bury(&mut self, settle: &Settle) -> Result<u64, BusError> {
        let Some((_, reason)) = &settle.reason else { return Ok(0) };
        let mut buried = 0;
        for sequence in &settle.sequences {
            let group = self.group_of(*sequence)?;
            if group.is_erased(*sequence) {
                continue;
            }
            buried += 1;
            let delivery_count = settle.consumer.lock().delivery_count(*sequence);
            let verdict = Verdict { consumer: &settle.consumer.name, reason, delivery_count, dead_at_ms: unix_ms() };
            let inserted = self
                .write("bury message", |writer| dead_letter::insert(&writer.connection, &group, *sequence, &verdict))?;
            if !inserted {
                let missing = format!("the message at sequence {sequence} is missing");
                return Err(file::corrupt(&self.shared.path, "bury message", missing));
            }
        }
        Ok(buried)
    }

    /// Keeps refused input while it has room, in its own share and in the file.
    pub(super) fn keep_input(&mut self, inputs: &[RefusedInput], bytes_max: u64) -> Result<KeptInput, BusError> {
        let used = self.shared.used_bytes.load(Ordering::Relaxed);
        let incoming: u64 = inputs.iter().map(RefusedInput::stored_bytes).sum();
        if used.saturating_add(incoming) > self.shared.settings.bytes_max {
            return Ok(KeptInput { kept: 0, full: true });
        }
        let dead_at_ms = unix_ms();
        self.write("keep refused input", |writer| {
            writer.input_bytes.keep(&writer.connection, inputs, bytes_max, dead_at_ms)
        })
    }

    fn group_of(&self, sequence: u64) -> Result<Arc<Group>, BusError> {
        if let Some(group) = lock(&self.shared.tail).find(sequence) {
            return Ok(group.clone());
        }
        let group = file::read_groups(&self.connection, &self.shared.path, sequence, 1)?.pop_front();
        group.ok_or_else(|| {
            let missing = format!("no group holds sequence {sequence}");
            file::corrupt(&self.shared.path, "bury message", missing)
        })
    }
}
