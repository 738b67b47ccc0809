//! The outcome of each event of a request, and the batch of events to publish.
//!
//! Pure: no clock and no IO. An outcome is `Pending` until the bus has answered.

use std::fmt::Write as _;

use crate::bus::{Batch, BusError, BusErrorKind, Published};
use crate::event::request::Accepted;
use crate::event::{EventRef, FieldError, subject};
use crate::metrics::GatewayOutcomes;

/// The outcome of one event.
#[derive(Clone, Copy, Debug)]
pub(crate) enum ItemOutcome<'a> {
    /// Valid, not answered by the bus yet.
    Pending {
        id: &'a str,
    },
    Stored {
        id: &'a str,
        duplicate: bool,
    },
    Invalid(&'a [FieldError]),
    /// Valid, but the bus did not store it.
    NotStored {
        id: &'a str,
        kind: BusErrorKind,
    },
}

/// The outcomes of one request, in order. Keeps only the ids of the events, in one string: the events' memory is free
/// while the bus works, and the reply finds the ids together.
#[derive(Debug, Default)]
pub(crate) struct ItemOutcomes {
    ids: String,
    items: Vec<Item>,
    /// The ids of the original events of duplicates, in the order of the duplicates; empty if not known.
    original_ids: Vec<String>,
}

#[derive(Debug)]
enum Item {
    Valid { id_end: u32, state: PublishState },
    Invalid(Vec<FieldError>),
}

#[derive(Clone, Copy, Debug)]
enum PublishState {
    Pending,
    Stored { duplicate: bool },
    NotStored(BusErrorKind),
}

/// Packs the valid events of a request into a batch for the bus.
pub(crate) fn pack(accepted: Accepted) -> (ItemOutcomes, Batch) {
    let mut packer = Packer::new(&accepted);
    let outcomes = ItemOutcomes::of(accepted, PublishState::Pending, |event| packer.pack(event));
    (outcomes, packer.batch)
}

/// The outcomes when nothing is published: valid events count as stored.
pub(crate) fn without_publishing(accepted: Accepted) -> ItemOutcomes {
    ItemOutcomes::of(accepted, PublishState::Stored { duplicate: false }, |_| {})
}

impl ItemOutcomes {
    fn of(accepted: Accepted, state: PublishState, mut each_valid: impl FnMut(&EventRef<'_>)) -> Self {
        let mut ids = String::with_capacity(accepted.len() * ID_BYTES);
        let mut items = Vec::with_capacity(accepted.len());
        for event in accepted.iter() {
            items.push(match event {
                Ok(event) => {
                    each_valid(&event);
                    ids.push_str(event.id);
                    Item::Valid { id_end: ids.len() as u32, state }
                }
                Err(errors) => Item::Invalid(errors.to_vec()),
            });
        }
        Self { ids, items, original_ids: Vec::new() }
    }

    /// Assigns the answers of the bus to the pending events.
    pub(crate) fn record_answers(&mut self, answers: &[Result<Published, BusError>]) {
        let mut answers = answers.iter();
        for item in &mut self.items {
            let Item::Valid { state: state @ PublishState::Pending, .. } = item else { continue };
            *state = match answers.next() {
                Some(Ok(published)) => PublishState::Stored { duplicate: published.duplicate },
                Some(Err(error)) => PublishState::NotStored(error.kind),
                None => PublishState::NotStored(BusErrorKind::Unavailable),
            };
        }
    }

    /// From now on duplicates report the ids of their original events, given in the order of the duplicates.
    pub(crate) fn set_original_ids(&mut self, ids: impl Iterator<Item = Option<String>>) {
        self.original_ids = ids.map(Option::unwrap_or_default).collect();
    }

    /// Drops the ids of the original events: duplicates then report no id.
    pub(crate) fn drop_original_ids(&mut self) {
        self.original_ids = Vec::new();
    }

    /// Total size of all ids that a reply may contain.
    pub(crate) fn id_bytes(&self) -> usize {
        self.ids.len() + self.original_ids.iter().map(String::len).sum::<usize>()
    }

    pub(crate) fn len(&self) -> usize {
        self.items.len()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = ItemOutcome<'_>> {
        let mut start = 0;
        let mut original_ids = self.original_ids.iter();
        self.items.iter().map(move |item| match item {
            Item::Valid { id_end, state } => {
                let end = *id_end as usize;
                let id = &self.ids[std::mem::replace(&mut start, end)..end];
                match *state {
                    PublishState::Pending => ItemOutcome::Pending { id },
                    PublishState::Stored { duplicate: false } => ItemOutcome::Stored { id, duplicate: false },
                    // The event's own id is not stored anywhere.
                    PublishState::Stored { duplicate: true } => {
                        ItemOutcome::Stored { id: original_ids.next().map_or("", String::as_str), duplicate: true }
                    }
                    PublishState::NotStored(kind) => ItemOutcome::NotStored { id, kind },
                }
            }
            Item::Invalid(errors) => ItemOutcome::Invalid(errors),
        })
    }
}

pub(crate) fn count(outcomes: &ItemOutcomes) -> GatewayOutcomes {
    let mut count = GatewayOutcomes::default();
    for outcome in outcomes.iter() {
        *match outcome {
            ItemOutcome::Stored { duplicate: false, .. } => &mut count.accepted,
            ItemOutcome::Stored { duplicate: true, .. } => &mut count.duplicate,
            ItemOutcome::Invalid(_) | ItemOutcome::NotStored { kind: BusErrorKind::Invalid, .. } => &mut count.rejected,
            ItemOutcome::Pending { .. } | ItemOutcome::NotStored { .. } => &mut count.unavailable,
        } += 1;
    }
    count
}

/// A UUID as text.
const ID_BYTES: usize = 36;
/// Approximate size of a subject and a message id, per event.
const ENVELOPE_BYTES: usize = 64;

/// Packs events; reuses its strings from one event to the next.
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
            // App ids contain no slash, so keys of different apps cannot collide.
            let _ = write!(self.message_id, "{}/{}", event.app_id, event.idempotency_key);
        }
        let message_id = (!self.message_id.is_empty()).then_some(self.message_id.as_str());
        self.batch.push(&self.subject, message_id, |out| out.extend_from_slice(event.bytes));
    }
}
