//! The receiving side of the bus: subscriptions and acknowledgements, on either engine.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::consumer::Interest;
use super::delivery::{Delivery, Receipt};
use super::error::BusError;
use super::lease::LeaseGrant;
use super::trials::TrialOutcome;
use super::{embedded, nats};

/// One subscription to a durable consumer.
pub struct Subscription(pub(super) EngineSubscription);

pub(crate) enum EngineSubscription {
    Embedded(embedded::Subscription),
    Nats(Box<nats::Subscription>),
    NatsChunks(Box<nats::ChunkSubscription>),
}

impl Subscription {
    /// Skips messages while there is no interest, which saves their deliveries and acknowledgements. An engine that
    /// must acknowledge each message to skip it still delivers them.
    pub fn set_interest(&mut self, interest: Arc<dyn Interest>) {
        match &mut self.0 {
            EngineSubscription::Embedded(subscription) => subscription.set_interest(interest),
            EngineSubscription::Nats(_) | EngineSubscription::NatsChunks(_) => {}
        }
    }

    /// Waits for at least one message, then returns what is available, up to both limits (at least one message). A
    /// cancelled fetch loses nothing: the next one returns the messages it had taken. Ends a running trial as survived.
    pub async fn fetch(&mut self, messages_max: usize, bytes_max: usize) -> Result<Vec<Delivery>, BusError> {
        match &mut self.0 {
            EngineSubscription::Embedded(subscription) => subscription.fetch(messages_max, bytes_max).await,
            EngineSubscription::Nats(subscription) => subscription.fetch(messages_max, bytes_max).await,
            EngineSubscription::NatsChunks(subscription) => subscription.fetch(messages_max, bytes_max).await,
        }
    }

    /// For a consumer that stops with no work in progress: prefetched messages, and those leased together with them,
    /// are redelivered immediately instead of after their leases expire. The embedded bus does not prefetch. Withdraws
    /// a running trial.
    pub async fn release(&mut self) -> Result<(), BusError> {
        match &mut self.0 {
            EngineSubscription::Embedded(subscription) => {
                subscription.release().await;
                Ok(())
            }
            EngineSubscription::Nats(subscription) => subscription.release().await,
            EngineSubscription::NatsChunks(subscription) => subscription.release().await,
        }
    }

    pub fn acker(&self) -> Acker {
        match &self.0 {
            EngineSubscription::Embedded(subscription) => Acker(EngineAcker::Embedded(subscription.acker())),
            EngineSubscription::Nats(subscription) => Acker(EngineAcker::Nats(subscription.acker())),
            EngineSubscription::NatsChunks(subscription) => Acker(EngineAcker::NatsChunks(subscription.acker())),
        }
    }

    /// Identifies the incarnation of the stream that the last fetched messages belong to. Valid right after a fetch.
    pub fn stream_id(&self) -> String {
        match &self.0 {
            EngineSubscription::Embedded(subscription) => subscription.stream_id(),
            EngineSubscription::Nats(subscription) => subscription.stream_id().to_owned(),
            EngineSubscription::NatsChunks(subscription) => subscription.stream_id().to_owned(),
        }
    }

    /// The lease of the last fetched messages. Valid right after a fetch.
    pub fn lease_grant(&self) -> LeaseGrant {
        match &self.0 {
            // The engine leases within the fetch, and forgets no lease before the process ends.
            EngineSubscription::Embedded(_) => LeaseGrant { at: Instant::now(), epochs: None, stream: None },
            EngineSubscription::Nats(subscription) => subscription.lease_grant(),
            EngineSubscription::NatsChunks(subscription) => subscription.lease_grant(),
        }
    }
}

/// Answers deliveries. Usable from any task.
#[derive(Clone)]
pub struct Acker(EngineAcker);

#[derive(Clone)]
enum EngineAcker {
    Embedded(embedded::Acker),
    Nats(nats::Acker),
    NatsChunks(nats::ChunkAcker),
}

impl Acker {
    /// Returns once the acknowledgement is durable. Fails with `LeaseLost` when any of the messages was already
    /// redelivered; the others are acknowledged nevertheless. Acknowledging twice is not an error.
    pub async fn ack(&self, receipts: &[Receipt]) -> Result<(), BusError> {
        match &self.0 {
            EngineAcker::Embedded(acker) => acker.ack(receipts).await,
            EngineAcker::Nats(acker) => acker.ack(receipts).await,
            EngineAcker::NatsChunks(acker) => acker.ack(receipts).await,
        }
    }

    /// Reports that exactly these messages failed. They are redelivered after `delay`; after `max_deliver` failures
    /// they are dead-lettered with `reason`.
    pub async fn nak(&self, receipts: &[Receipt], delay: Duration, reason: &str) -> Result<(), BusError> {
        match &self.0 {
            EngineAcker::Embedded(acker) => acker.nak(receipts, delay, reason).await,
            EngineAcker::Nats(acker) => acker.nak(receipts, delay, reason).await,
            EngineAcker::NatsChunks(acker) => acker.nak(receipts, delay, reason).await,
        }
    }

    /// Dead-letters one message and acknowledges it, in one step.
    pub async fn dead_letter(&self, receipt: Receipt, reason: &str) -> Result<(), BusError> {
        match &self.0 {
            EngineAcker::Embedded(acker) => acker.dead_letter(receipt, reason).await,
            EngineAcker::Nats(acker) => acker.dead_letter(receipt, reason).await,
            EngineAcker::NatsChunks(acker) => acker.dead_letter(receipt, reason).await,
        }
    }

    /// Begins the trial of the isolated messages of a fetch, once everything else that was fetched is answered. Records
    /// the trial and waits for other trials of this process. If the process ends before [`Acker::end_trial`] or the
    /// next fetch, the messages are tried again in smaller parts; a message that ends the process three times on its
    /// own is dead-lettered. A trial that cannot be recorded begins anyway and does not count.
    pub async fn begin_trial(&self, receipts: &[Receipt]) {
        match &self.0 {
            EngineAcker::Embedded(acker) => acker.begin_trial(receipts).await,
            EngineAcker::Nats(acker) => acker.begin_trial(receipts).await,
            EngineAcker::NatsChunks(acker) => acker.begin_trial(receipts).await,
        }
    }

    /// Ends the running trial, if any.
    pub async fn end_trial(&self, end: TrialOutcome) {
        match &self.0 {
            EngineAcker::Embedded(acker) => acker.end_trial(end).await,
            EngineAcker::Nats(acker) => acker.end_trial(end).await,
            EngineAcker::NatsChunks(acker) => acker.end_trial(end).await,
        }
    }

    /// Extends the leases to a full `ack_wait` from now. Fails with `LeaseLost` when any had expired.
    pub async fn renew(&self, receipts: &[Receipt]) -> Result<(), BusError> {
        match &self.0 {
            EngineAcker::Embedded(acker) => acker.renew(receipts).await,
            EngineAcker::Nats(acker) => acker.renew(receipts).await,
            EngineAcker::NatsChunks(acker) => acker.renew(receipts).await,
        }
    }
}
