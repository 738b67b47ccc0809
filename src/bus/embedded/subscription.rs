//! The receiving side: waits for what a consumer has to deliver, and carries the answers.
//!
//! Invariant: nothing polls. A fetch that finds nothing sleeps until the head moves, a message is given back,
//! or the earliest deadline passes. What was taken stays with the subscription if a fetch is cancelled.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::consumer::{self, Consumer, Found, Request};
use super::queue::{Chore, Settle};
use super::{Shared, file};
use crate::bus::{BusError, BusErrorKind, Delivery, Interest, Receipt};
use crate::wait::sleep_until;

pub(in crate::bus) struct Subscription {
    acker: Acker,
    head: watch::Receiver<u64>,
    /// The last sequence when this subscription began: messages up to it are suspect.
    suspect_to: u64,
    /// Taken, and not handed out because the fetch was cancelled.
    ready: Vec<Delivery>,
    interest: Option<Arc<dyn Interest>>,
    /// When the position behind what was passed over for want of interest is stored: a restart, after which there may
    /// be interest, must not repeat it.
    record_at: Option<Instant>,
}

/// Time in which passing over is stored once.
const RECORD_INTERVAL: Duration = Duration::from_millis(100);

#[derive(Clone)]
pub(in crate::bus) struct Acker {
    shared: Arc<Shared>,
    consumer: Arc<Consumer>,
}

impl Subscription {
    pub(super) fn new(shared: Arc<Shared>, consumer: Arc<Consumer>) -> Self {
        let head = shared.head.subscribe();
        let suspect_to = *head.borrow();
        Self { acker: Acker { shared, consumer }, head, suspect_to, ready: Vec::new(), interest: None, record_at: None }
    }

    pub(in crate::bus) fn stream_id(&self) -> String {
        self.acker.shared.stream_id.clone()
    }

    pub(in crate::bus) fn set_interest(&mut self, interest: Arc<dyn Interest>) {
        self.interest = Some(interest);
    }

    pub(in crate::bus) async fn fetch(
        &mut self,
        messages_max: usize,
        bytes_max: usize,
    ) -> Result<Vec<Delivery>, BusError> {
        let Acker { shared, consumer } = self.acker.clone();
        loop {
            if shared.closed.is_cancelled() {
                return Err(BusError::new(BusErrorKind::Closed, "fetch messages"));
            }
            if !self.ready.is_empty() {
                return Ok(std::mem::take(&mut self.ready));
            }
            let mut woken = std::pin::pin!(consumer.wake.notified());
            woken.as_mut().enable();
            let head = *self.head.borrow_and_update();
            let (tail, now, suspect_to) = (&shared.tail, shared.now(), self.suspect_to);
            let interest = self.interest.as_deref();
            let request = Request { tail, now, head, suspect_to, messages_max, bytes_max, interest };
            let (found, behind, unrecorded) = {
                let mut mind = consumer.lock();
                let found = mind.take(&consumer.name, &request, &mut self.ready);
                (found, mind.is_behind_on_disk(), mind.is_unrecorded())
            };
            let record_due = self.record_at.is_some_and(|at| at <= Instant::now());
            if behind || record_due {
                self.record_at = None;
                self.acker.record(head).await;
            } else if unrecorded && self.record_at.is_none() {
                self.record_at = Some(Instant::now() + RECORD_INTERVAL);
            }
            match found {
                Found::Some { exhausted } => {
                    if !exhausted.is_empty() {
                        self.acker.bury_exhausted(exhausted).await;
                    }
                    if self.ready.first().is_some_and(|first| first.receipt.sequence <= shared.recovered_to) {
                        self.acker.record(head).await;
                    }
                }
                Found::Load(sequence) => {
                    let groups = shared.read_groups(sequence).await?;
                    if groups.is_empty() {
                        let missing = format!("no group holds sequence {sequence} or one after it");
                        return Err(file::corrupt(&shared.path, "read group", missing));
                    }
                    consumer.lock().load(sequence, groups);
                }
                Found::Nothing(due) => {
                    let due = due.map(|tick| shared.started + consumer::moment(tick));
                    let until = [due, self.record_at].into_iter().flatten().min();
                    tokio::select! {
                        () = woken => {}
                        _ = self.head.changed() => {}
                        () = sleep_until(until) => {}
                        () = shared.closed.cancelled() => {}
                    }
                }
            }
        }
    }

    pub(in crate::bus) fn acker(&self) -> Acker {
        self.acker.clone()
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        // A wake that this one received and did not use is another one's.
        self.acker.consumer.wake.notify_one();
    }
}

impl Acker {
    pub(in crate::bus) async fn ack(&self, receipts: &[Receipt]) -> Result<(), BusError> {
        let answered = self.consumer.lock().acknowledge(receipts);
        self.settle(answered.settling, None).await?;
        self.consumer.wake.notify_one();
        lease(answered.lost, "acknowledge messages")
    }

    pub(in crate::bus) async fn nak(
        &self,
        receipts: &[Receipt],
        delay: Duration,
        reason: &str,
    ) -> Result<(), BusError> {
        let answered = self.consumer.lock().give_back(receipts, self.shared.now(), delay);
        self.consumer.wake.notify_one();
        self.settle(answered.settling, Some(reason)).await?;
        lease(answered.lost, "give messages back")
    }

    pub(in crate::bus) async fn dead_letter(&self, receipt: Receipt, reason: &str) -> Result<(), BusError> {
        let answered = self.consumer.lock().acknowledge(&[receipt]);
        self.settle(answered.settling, Some(reason)).await?;
        self.consumer.wake.notify_one();
        lease(answered.lost, "bury message")
    }

    pub(in crate::bus) async fn renew(&self, receipts: &[Receipt]) -> Result<(), BusError> {
        let lost = self.consumer.lock().renew(receipts, self.shared.now());
        lease(lost, "renew leases")
    }

    async fn settle(&self, sequences: Vec<u64>, reason: Option<&str>) -> Result<(), BusError> {
        if sequences.is_empty() {
            return Ok(());
        }
        let (consumer, reason) = (self.consumer.clone(), reason.map(str::to_owned));
        self.shared.chore(|reply| Chore::Settle(Settle { consumer, sequences, reason, reply })).await
    }

    /// Buries what was delivered too often and never answered. When that fails they are tried again later.
    async fn bury_exhausted(&self, sequences: Vec<u64>) {
        let reason = "not acknowledged in the last delivery allowed";
        if let Err(error) = self.settle(sequences, Some(reason)).await {
            tracing::warn!(consumer = self.consumer.name, %error, "cannot store dead letters");
        }
        self.consumer.wake.notify_one();
    }

    /// Makes delivery counts durable: before messages are handed out that a crashed process may have had, so
    /// that one that kills the process is counted. Not being able to is no reason not to deliver.
    async fn record(&self, high: u64) {
        let consumer = self.consumer.clone();
        consumer.lock().recorded(high);
        if let Err(error) = self.shared.chore(|reply| Chore::Record { consumer, reply }).await {
            tracing::warn!(consumer = self.consumer.name, %error, "cannot store delivery counts");
        }
    }
}

fn lease(lost: bool, context: &'static str) -> Result<(), BusError> {
    if lost { Err(BusError::new(BusErrorKind::LeaseLost, context)) } else { Ok(()) }
}
