//! Writes dead letters in the transaction that resolves their messages.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::thread::Writer;
use crate::base::clock::unix_ms;
use crate::bus::embedded::dead_letter::{self, DeadLetterDetails};
use crate::bus::embedded::file;
use crate::bus::embedded::group::Group;
use crate::bus::embedded::queue::Resolve;
use crate::bus::input::RefusedInput;
use crate::bus::{BusError, KeptInput};

impl Writer {
    /// Stores dead letters for messages, except for those erased in the meantime. Returns how many.
    pub(super) fn write_dead_letters(&mut self, resolve: &Resolve) -> Result<u64, BusError> {
        let Some((_, reason)) = &resolve.reason else { return Ok(0) };
        let mut dead_lettered = 0;
        for sequence in &resolve.sequences {
            let group = self.group_of(*sequence)?;
            if group.is_erased(*sequence) {
                continue;
            }
            dead_lettered += 1;
            let delivery_count = resolve.consumer.lock().delivery_count(*sequence);
            let details =
                DeadLetterDetails { consumer: &resolve.consumer.name, reason, delivery_count, dead_at_ms: unix_ms() };
            let inserted = self.write("bury message", |writer| {
                dead_letter::insert(&writer.file.connection, &group, *sequence, &details)
            })?;
            if !inserted {
                let missing = format!("the message at sequence {sequence} is missing");
                return Err(file::corrupt(self.shared.path(), "bury message", missing));
            }
        }
        Ok(dead_lettered)
    }

    /// Stores refused input while there is room, in its own quota and in the file.
    pub(super) fn keep_input(&mut self, inputs: &[RefusedInput], bytes_max: u64) -> Result<KeptInput, BusError> {
        let used = self.shared.used_bytes.load(Ordering::Relaxed);
        let incoming: u64 = inputs.iter().map(RefusedInput::stored_bytes).sum();
        if used.saturating_add(incoming) > self.shared.settings.bytes_max {
            return Ok(KeptInput { kept: 0, full: true });
        }
        let dead_at_ms = unix_ms();
        self.write("keep refused input", |writer| {
            writer.input_bytes.keep(&writer.file.connection, inputs, bytes_max, dead_at_ms)
        })
    }

    fn group_of(&self, sequence: u64) -> Result<Arc<Group>, BusError> {
        if let Some(group) = self.shared.tail.lock().find(sequence) {
            return Ok(group.clone());
        }
        let group = file::read_groups(&self.file.connection, self.shared.path(), sequence, 1)?.pop_front();
        group.ok_or_else(|| {
            let missing = format!("no group holds sequence {sequence}");
            file::corrupt(self.shared.path(), "bury message", missing)
        })
    }
}
