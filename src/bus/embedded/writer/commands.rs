//! Executes commands within the open transaction.

use super::outcome::{CommandOutcome, CommitOutcome};
use super::thread::Writer;
use crate::bus::BusError;
use crate::bus::batch::{self, FLAG_REPLAY};
use crate::bus::embedded::dedup::key;
use crate::bus::embedded::group::Draft;
use crate::bus::embedded::queue::Command;
use crate::bus::embedded::{dead_letter, file, input};
use crate::bus::subject::SubjectPrefix;

impl Writer {
    pub(super) fn write_commands(
        &mut self,
        commands: &[Command],
        draft: &mut Draft,
        outcome: &mut CommitOutcome,
    ) -> Result<(), BusError> {
        for command in commands {
            let done = match command {
                Command::Resolve(resolve) => {
                    resolve.consumer.lock().resolving(&resolve.sequences);
                    CommandOutcome::DeadLettered(self.write_dead_letters(resolve)?)
                }
                Command::Register { name, filter, .. } => {
                    CommandOutcome::Sequence(self.write("add consumer", |writer| {
                        let floor =
                            file::bounds(&writer.file.connection)?.map_or(writer.next_sequence, |(first, _)| first) - 1;
                        file::insert_consumer(&writer.file.connection, name, filter, floor)
                    })?)
                }
                Command::Refilter { consumer, filter, .. } => {
                    self.write("change consumer", |writer| {
                        file::update_filter(&writer.file.connection, &consumer.name, &filter.0)
                    })?;
                    CommandOutcome::Nothing
                }
                Command::Replay { id, .. } => CommandOutcome::Flag(self.write("replay dead letter", |writer| {
                    let Some(letter) = dead_letter::find(&writer.file.connection, *id)? else { return Ok(false) };
                    let (subject, consumer) = (letter.subject.as_bytes(), letter.consumer.as_bytes());
                    let mut record = Vec::new();
                    batch::write_record(&mut record, FLAG_REPLAY, subject, consumer, |out| {
                        out.extend_from_slice(&letter.payload);
                    });
                    draft.extend(&record, 0, &[record.len() as u32], SubjectPrefix::UNKNOWN);
                    writer.wiper.freed();
                    dead_letter::delete(&writer.file.connection, *id)
                })?),
                Command::DeleteDeadLetter { id, .. } => {
                    self.input_bytes.changed();
                    // A dead letter may be deleted because of its content.
                    let deleted = self.leaving_nothing(|connection| dead_letter::delete(connection, *id));
                    CommandOutcome::Flag(self.write("delete dead letter", |_| deleted)?)
                }
                Command::KeepInput { inputs, bytes_max, .. } => {
                    CommandOutcome::Kept(self.keep_input(inputs, *bytes_max)?)
                }
                Command::AmendInput { id, input, .. } => {
                    self.input_bytes.changed();
                    self.wiper.freed();
                    CommandOutcome::Flag(
                        self.write("amend input", |writer| input::amend(&writer.file.connection, *id, input))?,
                    )
                }
                Command::Resubmit { id, publish, .. } => {
                    self.input_bytes.changed();
                    self.wiper.freed();
                    CommandOutcome::Resubmitted(self.write("resubmit input", |writer| {
                        let found = dead_letter::delete(&writer.file.connection, *id)?;
                        let now_s = key::seconds(draft.published_at_ms);
                        found.then(|| writer.append(publish, draft, now_s)).transpose()
                    })?)
                }
                Command::PurgeDeadLetters { before_ms, .. } => {
                    self.input_bytes.changed();
                    self.wiper.freed();
                    CommandOutcome::Sequence(self.write("purge dead letters", |writer| {
                        dead_letter::delete_some_before(&writer.file.connection, *before_ms)
                    })? as u64)
                }
                Command::Erase { sequences, .. } => {
                    let (groups, messages) = self.erase(sequences)?;
                    CommandOutcome::Erased(groups, messages)
                }
                Command::Record { .. } | Command::Purge { .. } | Command::Wipe { .. } => CommandOutcome::Nothing,
            };
            outcome.done.push(done);
        }
        Ok(())
    }
}
