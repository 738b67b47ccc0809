//! What the writer rejects, and how it reports that.
//!
//! Invariant: a published message is answered as stored only if the files were at their paths after its commit.
//! Acknowledgements continue: they let consumers drain what only the open files hold.

use super::outcome::CommitOutcome;
use super::thread::Writer;
use crate::bus::embedded::queue::{Command, Publish};
use crate::bus::{BusError, BusErrorKind};
use crate::metrics;

impl Writer {
    fn check_files(&mut self) -> Result<(), BusError> {
        let checked = self.shared.check_files();
        self.misplaced = checked.is_err();
        checked
    }

    /// While a restart would not find the files: rejects everything except work that helps to drain them. Returns that
    /// work.
    pub(super) fn reject_while_misplaced(
        &mut self,
        publishes: &mut Vec<Publish>,
        commands: Vec<Command>,
    ) -> Vec<Command> {
        let Err(error) = self.check_files() else { return commands };
        if !publishes.is_empty() {
            self.refuse(std::mem::take(publishes), &error);
        }
        let (kept, refused): (Vec<Command>, Vec<Command>) =
            commands.into_iter().partition(Command::only_records_progress);
        refused.into_iter().for_each(|command| self.fail(command, &error));
        kept
    }

    /// Answers committed work, unless the files have disappeared in the meantime.
    pub(super) fn resolve(&mut self, publishes: Vec<Publish>, commands: Vec<Command>, mut outcome: CommitOutcome) {
        // Acknowledgements alone are not worth the system calls.
        let unchecked = publishes.is_empty() && commands.iter().all(Command::only_records_progress);
        let checked = if unchecked { Ok(()) } else { self.check_files() };
        let Err(error) = checked else { return self.answer(publishes, commands, outcome) };
        if !publishes.is_empty() {
            self.refuse(publishes, &error);
        }
        let done = std::mem::take(&mut outcome.done);
        let (kept, refused): (Vec<_>, Vec<_>) = commands.into_iter().zip(done).partition(|(command, _)| {
            // Neither an acknowledgement nor an erasure can be undone once it is committed.
            command.only_records_progress() || matches!(command, Command::Resolve(_) | Command::Erase { .. })
        });
        refused.into_iter().for_each(|(command, _)| self.fail(command, &error));
        let (commands, done) = kept.into_iter().unzip();
        self.answer(Vec::new(), commands, CommitOutcome { stored: Vec::new(), done, ..outcome });
    }

    pub(super) fn refuse(&self, publishes: Vec<Publish>, error: &BusError) {
        if error.kind == BusErrorKind::Full {
            let messages = publishes.iter().map(|publish| publish.ends.len() as u64).sum();
            metrics::bus_refused_full(messages);
        }
        let mut refused = self.shared.refused.lock();
        if refused.as_ref().is_none_or(|known| known.kind != error.kind) {
            let source = std::error::Error::source(error).map(ToString::to_string).unwrap_or_default();
            tracing::warn!(%error, source, "the bus refuses messages");
        }
        *refused = Some(error.clone());
        drop(refused);
        for publish in publishes {
            let _ = publish.reply.send(Err(error.clone()));
        }
    }

    pub(super) fn fail(&self, command: Command, error: &BusError) {
        let error = error.clone();
        match command {
            Command::Resolve(resolve) => {
                resolve.consumer.lock().release(&resolve.sequences, self.shared.now());
                let _ = resolve.reply.send(Err(error));
            }
            Command::Record { reply, .. } | Command::Refilter { reply, .. } => drop(reply.send(Err(error))),
            Command::Register { reply, .. } | Command::PurgeDeadLetters { reply, .. } => drop(reply.send(Err(error))),
            Command::Replay { reply, .. } | Command::DeleteDeadLetter { reply, .. } => drop(reply.send(Err(error))),
            Command::Purge { reply } => drop(reply.send(Err(error))),
            Command::Erase { reply, .. } => drop(reply.send(Err(error))),
            Command::Wipe { reply } => drop(reply.send(Err(error))),
            Command::KeepInput { reply, .. } => drop(reply.send(Err(error))),
            Command::AmendInput { reply, .. } => drop(reply.send(Err(error))),
            Command::Resubmit { reply, .. } => drop(reply.send(Err(error))),
        }
    }
}
