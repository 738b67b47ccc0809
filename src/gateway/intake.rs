//! The events of one request: the verdict of each, and those to publish packed into one batch.
//!
//! Pure: no clock and no IO. A verdict is `Pending` until the bus has answered.

use std::fmt::Write as _;

use crate::bus::{Batch, BusError, BusErrorKind, Published};
use crate::event::request::Accepted;
use crate::event::{EventRef, FieldError, subject};
use crate::metrics::GatewayVerdicts;

/// What becomes of one event.
#[derive(Clone, Copy, Debug)]
pub(super) enum Verdict<'a> {
    /// Valid, on its way to the bus.
    Pending {
        id: &'a str,
    },
    Stored {
        id: &'a str,
        duplicate: bool,
    },
    Invalid(&'a [FieldError]),
    /// Valid, and the bus did not store it.
    NotStored {
        id: &'a str,
        kind: BusErrorKind,
    },
}

/// The verdicts of one request, in its order, and its events for the bus.
pub(super) fn judge(accepted: &Accepted) -> (Vec<Verdict<'_>>, Batch) {
    let mut packer = Packer::new(accepted);
    let verdicts = accepted
        .iter()
        .map(|event| match event {
            Ok(event) => {
                packer.pack(&event);
                Verdict::Pending { id: event.id }
            }
            Err(errors) => Verdict::Invalid(errors),
        })
        .collect();
    (verdicts, packer.batch)
}

/// The verdicts where valid events go nowhere.
pub(super) fn judge_only(accepted: &Accepted) -> Vec<Verdict<'_>> {
    accepted
        .iter()
        .map(|event| match event {
            Ok(event) => Verdict::Stored { id: event.id, duplicate: false },
            Err(errors) => Verdict::Invalid(errors),
        })
        .collect()
}

/// Gives each pending event its answer of the bus.
pub(super) fn settle(verdicts: &mut [Verdict<'_>], answers: &[Result<Published, BusError>]) {
    let mut answers = answers.iter();
    for verdict in verdicts {
        let Verdict::Pending { id } = *verdict else { continue };
        *verdict = match answers.next() {
            Some(Ok(published)) => Verdict::Stored { id, duplicate: published.duplicate },
            Some(Err(error)) => Verdict::NotStored { id, kind: error.kind },
            None => Verdict::NotStored { id, kind: BusErrorKind::Unavailable },
        };
    }
}

pub(super) fn count(verdicts: &[Verdict<'_>]) -> GatewayVerdicts {
    let mut count = GatewayVerdicts::default();
    for verdict in verdicts {
        *match verdict {
            Verdict::Stored { duplicate: false, .. } => &mut count.accepted,
            Verdict::Stored { duplicate: true, .. } => &mut count.duplicate,
            Verdict::Invalid(_) | Verdict::NotStored { kind: BusErrorKind::Invalid, .. } => &mut count.rejected,
            Verdict::Pending { .. } | Verdict::NotStored { .. } => &mut count.unavailable,
        } += 1;
    }
    count
}

/// About what a subject and a message id take beside the event.
const ENVELOPE_BYTES: usize = 64;

/// Packs events; its strings are used again from event to event.
struct Packer {
    batch: Batch,
    subject: String,
    message_id: String,
}

impl Packer {
    fn new(accepted: &Accepted) -> Self {
        let bytes = accepted.bytes_len() + accepted.len() * ENVELOPE_BYTES;
        Self { batch: Batch::with_capacity(accepted.len(), bytes), subject: String::new(), message_id: String::new() }
    }

    fn pack(&mut self, event: &EventRef<'_>) {
        self.subject.clear();
        subject::write_event_subject(&mut self.subject, event.app_id, event.category(), &event.event_type());
        self.message_id.clear();
        if !event.idempotency_key.is_empty() {
            // App ids hold no slash: keys of two apps never meet.
            let _ = write!(self.message_id, "{}/{}", event.app_id, event.idempotency_key);
        }
        let message_id = (!self.message_id.is_empty()).then_some(self.message_id.as_str());
        self.batch.push(&self.subject, message_id, |out| out.extend_from_slice(event.bytes));
    }
}
