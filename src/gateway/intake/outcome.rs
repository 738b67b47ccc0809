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
pub(crate) enum Verdict<'a> {
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

/// The verdicts of one request, in its order. Holds the events' ids side by side and nothing else of them: while
/// the bus works, the memory of the events serves other requests, and the reply finds the ids together.
#[derive(Debug, Default)]
pub(crate) struct Verdicts {
    ids: String,
    each: Vec<Judged>,
    /// The ids of the first events of duplicates, in their order; empty where one is not known.
    first_ids: Vec<String>,
}

#[derive(Debug)]
enum Judged {
    Valid { id_end: u32, fate: Fate },
    Invalid(Vec<FieldError>),
}

#[derive(Clone, Copy, Debug)]
enum Fate {
    Pending,
    Stored { duplicate: bool },
    NotStored(BusErrorKind),
}

/// The verdicts of one request, and its events for the bus.
pub(crate) fn judge(accepted: Accepted) -> (Verdicts, Batch) {
    let mut packer = Packer::new(&accepted);
    let verdicts = Verdicts::of(accepted, Fate::Pending, |event| packer.pack(event));
    (verdicts, packer.batch)
}

/// The verdicts where valid events go nowhere.
pub(crate) fn judge_only(accepted: Accepted) -> Verdicts {
    Verdicts::of(accepted, Fate::Stored { duplicate: false }, |_| {})
}

impl Verdicts {
    fn of(accepted: Accepted, fate: Fate, mut each_valid: impl FnMut(&EventRef<'_>)) -> Self {
        let mut ids = String::with_capacity(accepted.len() * ID_BYTES);
        let mut each = Vec::with_capacity(accepted.len());
        for event in accepted.iter() {
            each.push(match event {
                Ok(event) => {
                    each_valid(&event);
                    ids.push_str(event.id);
                    Judged::Valid { id_end: ids.len() as u32, fate }
                }
                Err(errors) => Judged::Invalid(errors.to_vec()),
            });
        }
        Self { ids, each, first_ids: Vec::new() }
    }

    /// Gives each pending event its answer of the bus.
    pub(crate) fn settle(&mut self, answers: &[Result<Published, BusError>]) {
        let mut answers = answers.iter();
        for judged in &mut self.each {
            let Judged::Valid { fate: fate @ Fate::Pending, .. } = judged else { continue };
            *fate = match answers.next() {
                Some(Ok(published)) => Fate::Stored { duplicate: published.duplicate },
                Some(Err(error)) => Fate::NotStored(error.kind),
                None => Fate::NotStored(BusErrorKind::Unavailable),
            };
        }
    }

    /// Duplicates are answered with the ids of their first events from now on, given in the order of the duplicates.
    pub(crate) fn set_first_ids(&mut self, ids: impl Iterator<Item = Option<String>>) {
        self.first_ids = ids.map(Option::unwrap_or_default).collect();
    }

    /// The ids of first events are not told; duplicates have none then.
    pub(crate) fn forget_first_ids(&mut self) {
        self.first_ids = Vec::new();
    }

    /// All ids that a reply may tell, together.
    pub(crate) fn id_bytes(&self) -> usize {
        self.ids.len() + self.first_ids.iter().map(String::len).sum::<usize>()
    }

    pub(crate) fn len(&self) -> usize {
        self.each.len()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = Verdict<'_>> {
        let mut start = 0;
        let mut first_ids = self.first_ids.iter();
        self.each.iter().map(move |judged| match judged {
            Judged::Valid { id_end, fate } => {
                let end = *id_end as usize;
                let id = &self.ids[std::mem::replace(&mut start, end)..end];
                match *fate {
                    Fate::Pending => Verdict::Pending { id },
                    Fate::Stored { duplicate: false } => Verdict::Stored { id, duplicate: false },
                    // Its own id is stored nowhere.
                    Fate::Stored { duplicate: true } => {
                        Verdict::Stored { id: first_ids.next().map_or("", String::as_str), duplicate: true }
                    }
                    Fate::NotStored(kind) => Verdict::NotStored { id, kind },
                }
            }
            Judged::Invalid(errors) => Verdict::Invalid(errors),
        })
    }
}

pub(crate) fn count(verdicts: &Verdicts) -> GatewayVerdicts {
    let mut count = GatewayVerdicts::default();
    for verdict in verdicts.iter() {
        *match verdict {
            Verdict::Stored { duplicate: false, .. } => &mut count.accepted,
            Verdict::Stored { duplicate: true, .. } => &mut count.duplicate,
            Verdict::Invalid(_) | Verdict::NotStored { kind: BusErrorKind::Invalid, .. } => &mut count.rejected,
            Verdict::Pending { .. } | Verdict::NotStored { .. } => &mut count.unavailable,
        } += 1;
    }
    count
}

/// A UUID as text.
const ID_BYTES: usize = 36;
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
