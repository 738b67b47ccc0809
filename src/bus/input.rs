//! Input that never became a message: it was refused, and is kept with the dead letters.
//!
//! Invariant: it is no message of the stream, so its sequence is 0, and no consumer ever gets it.

use bytes::Bytes;

use super::{Bus, BusError, DeadLetter, Inner, Published};
use crate::bus::Batch;

/// In the place of a consumer's name.
pub(super) const REFUSED_BY: &str = "gateway";
/// What one of them takes beside its texts and its payload, by estimate.
pub(super) const OVERHEAD_BYTES: u64 = 256;

/// Input to be kept. What the payload means, and what the subject says, are the caller's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusedInput {
    pub subject: String,
    pub reason: String,
    pub received_at_ms: i64,
    pub payload: Bytes,
}

impl RefusedInput {
    pub(super) fn stored_bytes(&self) -> u64 {
        (self.subject.len() + self.reason.len() + self.payload.len()) as u64 + OVERHEAD_BYTES
    }
}

/// What became of inputs that were to be kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeptInput {
    pub kept: usize,
    /// There was no room for others.
    pub full: bool,
}

impl DeadLetter {
    /// Whether it is refused input, and no message that a consumer gave up.
    pub fn is_input(&self) -> bool {
        self.sequence == 0
    }
}

impl Bus {
    /// Keeps refused input with the dead letters, while all of it together is not more than `bytes_max`; answers once
    /// it is durable. A call that is cancelled may still keep it.
    pub async fn keep_input(&self, inputs: Vec<RefusedInput>, bytes_max: u64) -> Result<KeptInput, BusError> {
        match &self.0 {
            Inner::Embedded(engine) => engine.keep_input(inputs, bytes_max).await,
            Inner::Nats(engine) => engine.keep_input(inputs, bytes_max).await,
        }
    }

    /// Publishes what a dead letter has become and removes it. In one step where the bus is a file; on a server one after
    /// the other, so that the messages need ids: repeated within the window, it stores them once. None when there is no
    /// such letter. After an error it may be there or not.
    pub async fn resubmit_input(
        &self,
        id: u64,
        batch: Batch,
    ) -> Result<Option<Vec<Result<Published, BusError>>>, BusError> {
        match &self.0 {
            Inner::Embedded(engine) => engine.resubmit_input(id, batch).await,
            Inner::Nats(engine) => engine.resubmit_input(id, batch).await,
        }
    }

    /// Says anew what is wrong with an input. On a server it gets another id by that. False when there is none.
    pub async fn amend_input(&self, id: u64, input: RefusedInput) -> Result<bool, BusError> {
        match &self.0 {
            Inner::Embedded(engine) => engine.amend_input(id, input).await,
            Inner::Nats(engine) => engine.amend_input(id, input).await,
        }
    }

    /// How many inputs are kept under each subject, up to so many subjects.
    pub async fn input_counts(&self, subjects_max: usize) -> Result<Vec<(String, u64)>, BusError> {
        match &self.0 {
            Inner::Embedded(engine) => engine.input_counts(subjects_max).await,
            Inner::Nats(engine) => engine.input_counts(subjects_max).await,
        }
    }
}
