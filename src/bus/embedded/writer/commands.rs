//! What the writer does for its chores, in the transaction that it has begun.

use super::outcome::{Done, Outcome};
use super::thread::Writer;
use crate::bus::BusError;
use crate::bus::batch::{self, FLAG_REPLAY};
use crate::bus::embedded::dedup::key;
use crate::bus::embedded::group::Draft;
use crate::bus::embedded::queue::Chore;
use crate::bus::embedded::{dead_letter, file, input};
use crate::bus::subject::Beginning;

impl Writer {
    pub(super) fn write_chores(
        &mut self,
        chores: &[Chore],
        draft: &mut Draft,
        outcome: &mut Outcome,
    ) -> Result<(), BusError> {
        for chore in chores {
            let done = match chore {
                Chore::Settle(settle) => {
                    settle.consumer.lock().settling(&settle.sequences);
                    Done::Buried(self.bury(settle)?)
                }
                Chore::Register { name, filter, .. } => Done::Sequence(self.write("add consumer", |writer| {
                    let floor = file::bounds(&writer.connection)?.map_or(writer.next_sequence, |(first, _)| first) - 1;
                    file::insert_consumer(&writer.connection, name, filter, floor)
                })?),
                Chore::Refilter { consumer, filter, .. } => {
                    self.write("change consumer", |writer| {
                        file::update_filter(&writer.connection, &consumer.name, &filter.0)
                    })?;
                    Done::Nothing
                }
                Chore::Replay { id, .. } => Done::Flag(self.write("replay dead letter", |writer| {
                    let Some(letter) = dead_letter::find(&writer.connection, *id)? else { return Ok(false) };
                    let (subject, consumer) = (letter.subject.as_bytes(), letter.consumer.as_bytes());
                    let mut record = Vec::new();
                    batch::write_record(&mut record, FLAG_REPLAY, subject, consumer, |out| {
                        out.extend_from_slice(&letter.payload);
                    });
                    draft.extend(&record, 0, &[record.len() as u32], Beginning::UNKNOWN);
                    writer.wiping.freed();
                    dead_letter::delete(&writer.connection, *id)
                })?),
                Chore::DeleteDeadLetter { id, .. } => {
                    self.input_bytes.changed();
                    // Who deletes one may do so for what it holds.
                    let deleted = self.leaving_nothing(|connection| dead_letter::delete(connection, *id));
                    Done::Flag(self.write("delete dead letter", |_| deleted)?)
                }
                Chore::KeepInput { inputs, bytes_max, .. } => Done::Kept(self.keep_input(inputs, *bytes_max)?),
                Chore::AmendInput { id, input, .. } => {
                    self.input_bytes.changed();
                    self.wiping.freed();
                    Done::Flag(self.write("amend input", |writer| input::amend(&writer.connection, *id, input))?)
                }
                Chore::Resubmit { id, publish, .. } => {
                    self.input_bytes.changed();
                    self.wiping.freed();
                    Done::Resubmitted(self.write("resubmit input", |writer| {
                        let found = dead_letter::delete(&writer.connection, *id)?;
                        let now_s = key::seconds(draft.published_at_ms);
                        found.then(|| writer.append(publish, draft, now_s)).transpose()
                    })?)
                }
                Chore::PurgeDeadLetters { before_ms, .. } => {
                    self.input_bytes.changed();
                    self.wiping.freed();
                    Done::Sequence(self.write("purge dead letters", |writer| {
                        dead_letter::delete_some_before(&writer.connection, *before_ms)
                    })? as u64)
                }
                Chore::Erase { sequences, .. } => {
                    let (groups, messages) = self.erase(sequences)?;
                    Done::Erased(groups, messages)
                }
                Chore::Record { .. } | Chore::Purge { .. } | Chore::Wipe { .. } => Done::Nothing,
            };
            outcome.done.push(done);
        }
        Ok(())
    }
}
