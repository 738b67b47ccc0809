//! The receiving side of the bus: subscriptions, leases and answers, over the engine of each.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::consumer::Interest;
use super::delivery::{Delivery, Receipt};
use super::error::BusError;
use super::lease::LeaseGrant;
use super::trials::TrialOutcome;
use super::{embedded, nats};

/// The receiving side of one attachment to a durable consumer.
pub struct Subscription(pub(super) Receiving);

pub(crate) enum Receiving {
    Embedded(embedded::Subscription),
    Nats(Box<nats::Subscription>),
    NatsRanges(Box<nats::RangeSubscription>),
}

impl Subscription {
    /// Spares whom it has nothing to deliver to the deliveries and their answers. A bus that has to answer
    /// each message to be done with it delivers all the same.
    pub fn set_interest(&mut self, interest: Arc<dyn Interest>) {
        match &mut self.0 {
            Receiving::Embedded(subscription) => subscription.set_interest(interest),
            Receiving::Nats(_) | Receiving::NatsRanges(_) => {}
        }
    }

    /// Waits for at least one message; then what is at hand, up to both limits (at least one message). A fetch
    /// that is cancelled loses nothing: the next one hands out what it had taken. Ends a trial as survived.
    pub async fn fetch(&mut self, messages_max: usize, bytes_max: usize) -> Result<Vec<Delivery>, BusError> {
        match &mut self.0 {
            Receiving::Embedded(subscription) => subscription.fetch(messages_max, bytes_max).await,
            Receiving::Nats(subscription) => subscription.fetch(messages_max, bytes_max).await,
            Receiving::NatsRanges(subscription) => subscription.fetch(messages_max, bytes_max).await,
        }
    }

    /// For a consumer that ends with nothing under way: what was fetched ahead for it, or belongs together with it, is
    /// delivered again at once, not when its lease ends. The embedded bus fetches nothing ahead. Withdraws a trial.
    pub async fn release(&mut self) -> Result<(), BusError> {
        match &mut self.0 {
            Receiving::Embedded(subscription) => {
                subscription.release().await;
                Ok(())
            }
            Receiving::Nats(subscription) => subscription.release().await,
            Receiving::NatsRanges(subscription) => subscription.release().await,
        }
    }

    pub fn acker(&self) -> Acker {
        match &self.0 {
            Receiving::Embedded(subscription) => Acker(Answering::Embedded(subscription.acker())),
            Receiving::Nats(subscription) => Acker(Answering::Nats(subscription.acker())),
            Receiving::NatsRanges(subscription) => Acker(Answering::NatsRanges(subscription.acker())),
        }
    }

    /// Names the life of the stream that the last fetch's messages are of; ask right after it.
    pub fn stream_id(&self) -> String {
        match &self.0 {
            Receiving::Embedded(subscription) => subscription.stream_id(),
            Receiving::Nats(subscription) => subscription.stream_id().to_owned(),
            Receiving::NatsRanges(subscription) => subscription.stream_id().to_owned(),
        }
    }

    /// The lease of what the last fetch brought; ask right after it.
    pub fn lease_grant(&self) -> LeaseGrant {
        match &self.0 {
            // The engine leases in the fetch itself, and forgets nothing before the process does.
            Receiving::Embedded(_) => LeaseGrant { at: Instant::now(), epochs: None, stream: None },
            Receiving::Nats(subscription) => subscription.lease_grant(),
            Receiving::NatsRanges(subscription) => subscription.lease_grant(),
        }
    }
}

/// Answers deliveries; usable from any task.
#[derive(Clone)]
pub struct Acker(Answering);

#[derive(Clone)]
enum Answering {
    Embedded(embedded::Acker),
    Nats(nats::Acker),
    NatsRanges(nats::RangeAcker),
}

impl Acker {
    /// Returns when the acknowledgement is durable. `LeaseLost` when any of them was already delivered again; the
    /// others are acknowledged all the same. To acknowledge twice is no error.
    pub async fn ack(&self, receipts: &[Receipt]) -> Result<(), BusError> {
        match &self.0 {
            Answering::Embedded(acker) => acker.ack(receipts).await,
            Answering::Nats(acker) => acker.ack(receipts).await,
            Answering::NatsRanges(acker) => acker.ack(receipts).await,
        }
    }

    /// These messages failed, and nothing else did: delivers them again after `delay`; once they have failed
    /// `max_deliver` times they go to the dead letters with `reason`.
    pub async fn nak(&self, receipts: &[Receipt], delay: Duration, reason: &str) -> Result<(), BusError> {
        match &self.0 {
            Answering::Embedded(acker) => acker.nak(receipts, delay, reason).await,
            Answering::Nats(acker) => acker.nak(receipts, delay, reason).await,
            Answering::NatsRanges(acker) => acker.nak(receipts, delay, reason).await,
        }
    }

    /// Moves one message to the dead letters and acknowledges it, in one step.
    pub async fn dead_letter(&self, receipt: Receipt, reason: &str) -> Result<(), BusError> {
        match &self.0 {
            Answering::Embedded(acker) => acker.dead_letter(receipt, reason).await,
            Answering::Nats(acker) => acker.dead_letter(receipt, reason).await,
            Answering::NatsRanges(acker) => acker.dead_letter(receipt, reason).await,
        }
    }

    /// Begins the trial of the isolated messages of a fetch, when everything else that was fetched is answered: records
    /// it, and waits for other trials of this process. Should the process end before [`Acker::end_trial`] or the next
    /// fetch, they are tried again in smaller parts; a message that ends it three times alone goes to the dead letters.
    /// What cannot be recorded begins all the same, and does not count.
    pub async fn begin_trial(&self, receipts: &[Receipt]) {
        match &self.0 {
            Answering::Embedded(acker) => acker.begin_trial(receipts).await,
            Answering::Nats(acker) => acker.begin_trial(receipts).await,
            Answering::NatsRanges(acker) => acker.begin_trial(receipts).await,
        }
    }

    /// Ends the trial under way, if one is.
    pub async fn end_trial(&self, end: TrialOutcome) {
        match &self.0 {
            Answering::Embedded(acker) => acker.end_trial(end).await,
            Answering::Nats(acker) => acker.end_trial(end).await,
            Answering::NatsRanges(acker) => acker.end_trial(end).await,
        }
    }

    /// Extends the leases to a full `ack_wait` from now. `LeaseLost` when any had lapsed.
    pub async fn renew(&self, receipts: &[Receipt]) -> Result<(), BusError> {
        match &self.0 {
            Answering::Embedded(acker) => acker.renew(receipts).await,
            Answering::Nats(acker) => acker.renew(receipts).await,
            Answering::NatsRanges(acker) => acker.renew(receipts).await,
        }
    }
}
