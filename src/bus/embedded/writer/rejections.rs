//! What the writer does not store, and how it says so.
//!
//! Invariant: nothing that was published is answered as stored unless the files were at their paths after its commit.
//! Acknowledgements go on: they let consumers take out what only the open files hold.

use super::outcome::Outcome;
use super::thread::Writer;
use crate::bus::embedded::queue::{Chore, Publish};
use crate::bus::embedded::shared::lock;
use crate::bus::{BusError, BusErrorKind};
use crate::metrics;

impl Writer {
    fn check_files(&mut self) -> Result<(), BusError> {
        let checked = self.shared.check_files();
        self.misplaced = checked.is_err();
        checked
    }

    /// While a restart would not find the files: refuses all but what helps to get messages out of them; answers that.
    pub(super) fn keep_out(&mut self, publishes: &mut Vec<Publish>, chores: Vec<Chore>) -> Vec<Chore> {
        let Err(error) = self.check_files() else { return chores };
        if !publishes.is_empty() {
            self.refuse(std::mem::take(publishes), &error);
        }
        let (kept, refused): (Vec<Chore>, Vec<Chore>) = chores.into_iter().partition(Chore::lets_go);
        refused.into_iter().for_each(|chore| self.fail(chore, &error));
        kept
    }

    /// Answers what is committed, unless the files have gone meanwhile.
    pub(super) fn settle(&mut self, publishes: Vec<Publish>, chores: Vec<Chore>, mut outcome: Outcome) {
        // Acknowledgements alone are not worth the system calls.
        let unchecked = publishes.is_empty() && chores.iter().all(Chore::lets_go);
        let checked = if unchecked { Ok(()) } else { self.check_files() };
        let Err(error) = checked else { return self.answer(publishes, chores, outcome) };
        if !publishes.is_empty() {
            self.refuse(publishes, &error);
        }
        let done = std::mem::take(&mut outcome.done);
        let (kept, refused): (Vec<_>, Vec<_>) = chores.into_iter().zip(done).partition(|(chore, _)| {
            // Neither an acknowledgement nor an erasure can be taken back once it is committed.
            chore.lets_go() || matches!(chore, Chore::Settle(_) | Chore::Erase { .. })
        });
        refused.into_iter().for_each(|(chore, _)| self.fail(chore, &error));
        let (chores, done) = kept.into_iter().unzip();
        self.answer(Vec::new(), chores, Outcome { stored: Vec::new(), done, ..outcome });
    }

    pub(super) fn refuse(&self, publishes: Vec<Publish>, error: &BusError) {
        if error.kind == BusErrorKind::Full {
            let messages = publishes.iter().map(|publish| publish.ends.len() as u64).sum();
            metrics::bus_refused_full(messages);
        }
        let mut refused = lock(&self.shared.refused);
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

    pub(super) fn fail(&self, chore: Chore, error: &BusError) {
        let error = error.clone();
        match chore {
            Chore::Settle(settle) => {
                settle.consumer.lock().release(&settle.sequences, self.shared.now());
                let _ = settle.reply.send(Err(error));
            }
            Chore::Record { reply, .. } | Chore::Refilter { reply, .. } => drop(reply.send(Err(error))),
            Chore::Register { reply, .. } | Chore::PurgeDeadLetters { reply, .. } => drop(reply.send(Err(error))),
            Chore::Replay { reply, .. } | Chore::DeleteDeadLetter { reply, .. } => drop(reply.send(Err(error))),
            Chore::Purge { reply } => drop(reply.send(Err(error))),
            Chore::Erase { reply, .. } => drop(reply.send(Err(error))),
            Chore::Wipe { reply } => drop(reply.send(Err(error))),
            Chore::KeepInput { reply, .. } => drop(reply.send(Err(error))),
            Chore::AmendInput { reply, .. } => drop(reply.send(Err(error))),
            Chore::Resubmit { reply, .. } => drop(reply.send(Err(error))),
        }
    }
}
