//! The receiving side: waits for what a consumer has to deliver, and carries the answers.
//!
//! Invariant: nothing polls. A fetch that finds nothing sleeps until the head moves, a message is given back,
//! or the earliest deadline passes. What was taken stays with the subscription if a fetch is cancelled.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, watch};

use super::consumer::ticks::moment;
use super::consumer::{Consumer, Found, Request};
use super::file;
use super::queue::{Chore, Settle};
use super::shared::{Shared, lock};
use crate::base::clock::sleep_until;
use crate::bus::dead_letter::DeadReason;
use crate::bus::trials::{FATAL, TURN_MAX, TrialOutcome};
use crate::bus::{BusError, BusErrorKind, Delivery, Interest, Receipt};

pub(crate) struct Subscription {
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
pub(crate) struct Acker {
    shared: Arc<Shared>,
    consumer: Arc<Consumer>,
    /// The trial that this subscription has begun.
    trial: Arc<Mutex<Option<Trial>>>,
}

struct Trial {
    messages: Vec<u64>,
    /// Of the trials of a process one is under way at a time; none when it was waited for in vain.
    _turn: Option<OwnedSemaphorePermit>,
}

impl Subscription {
    pub(super) fn new(shared: Arc<Shared>, consumer: Arc<Consumer>) -> Self {
        let head = shared.head.subscribe();
        let suspect_to = *head.borrow();
        let acker = Acker { shared, consumer, trial: Arc::default() };
        Self { acker, head, suspect_to, ready: Vec::new(), interest: None, record_at: None }
    }

    pub(crate) fn stream_id(&self) -> String {
        self.acker.shared.stream_id.clone()
    }

    pub(crate) fn set_interest(&mut self, interest: Arc<dyn Interest>) {
        self.interest = Some(interest);
    }

    pub(crate) async fn fetch(&mut self, messages_max: usize, bytes_max: usize) -> Result<Vec<Delivery>, BusError> {
        let Acker { shared, consumer, .. } = self.acker.clone();
        // Who comes back for more has lived through it.
        self.acker.end_trial(TrialOutcome::Survived).await;
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
                Found::Some { fatal } => {
                    if !fatal.is_empty() {
                        self.acker.bury_fatal(fatal).await;
                    }
                    if self.ready.first().is_some_and(|first| first.receipt.sequence <= shared.recovered_to) {
                        self.acker.record(head).await;
                    }
                }
                Found::Load(sequence) => {
                    let erasures = shared.erasures.load(Ordering::Acquire);
                    let groups = shared.read_groups(sequence).await?;
                    if groups.is_empty() {
                        let missing = format!("no group holds sequence {sequence} or one after it");
                        return Err(file::corrupt(&shared.path, "read group", missing));
                    }
                    let mut mind = consumer.lock();
                    // What was read may hold what was erased meanwhile.
                    if shared.erasures.load(Ordering::Acquire) == erasures {
                        mind.load(sequence, groups);
                    }
                }
                Found::Nothing(due) => {
                    let due = due.map(|tick| shared.started + moment(tick));
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

    pub(crate) fn acker(&self) -> Acker {
        self.acker.clone()
    }

    pub(crate) async fn release(&mut self) {
        self.acker.end_trial(TrialOutcome::Withdrawn).await;
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        // What it tried stays on record; the next trial need not wait.
        lock(&self.acker.trial).take();
        // A wake that this one received and did not use is another one's.
        self.acker.consumer.wake.notify_one();
    }
}

impl Acker {
    pub(crate) async fn ack(&self, receipts: &[Receipt]) -> Result<(), BusError> {
        let answered = self.consumer.lock().acknowledge(receipts);
        self.settle(answered.settling, None).await?;
        self.consumer.wake.notify_one();
        lease(answered.lost, "acknowledge messages")
    }

    pub(crate) async fn nak(&self, receipts: &[Receipt], delay: Duration, reason: &str) -> Result<(), BusError> {
        let answered = self.consumer.lock().give_back(receipts, self.shared.now(), delay);
        self.consumer.wake.notify_one();
        self.settle(answered.settling, Some((DeadReason::Failed, reason))).await?;
        lease(answered.lost, "give messages back")
    }

    pub(crate) async fn dead_letter(&self, receipt: Receipt, reason: &str) -> Result<(), BusError> {
        let answered = self.consumer.lock().acknowledge(&[receipt]);
        self.settle(answered.settling, Some((DeadReason::Refused, reason))).await?;
        self.consumer.wake.notify_one();
        lease(answered.lost, "bury message")
    }

    pub(crate) async fn renew(&self, receipts: &[Receipt]) -> Result<(), BusError> {
        let lost = self.consumer.lock().renew(receipts, self.shared.now());
        lease(lost, "renew leases")
    }

    /// Records that these messages are tried, which nothing else that is under way may be blamed for.
    pub(crate) async fn begin_trial(&self, receipts: &[Receipt]) {
        drop(lock(&self.trial).take());
        let turn = tokio::time::timeout(TURN_MAX, self.shared.trial_turn.clone().acquire_owned()).await;
        let messages: Vec<u64> = receipts.iter().map(|receipt| receipt.sequence).collect();
        let high = {
            let mut mind = self.consumer.lock();
            mind.begin_trial(&messages);
            mind.window().next() - 1
        };
        lock(&self.trial).replace(Trial { messages, _turn: turn.ok().and_then(Result::ok) });
        self.record(high).await;
    }

    /// Nothing when none is under way.
    pub(crate) async fn end_trial(&self, end: TrialOutcome) {
        let Some(trial) = lock(&self.trial).take() else { return };
        let ended = {
            let mut mind = self.consumer.lock();
            mind.end_trial(&trial.messages, end).then(|| mind.window().next() - 1)
        };
        if let Some(high) = ended {
            self.record(high).await;
        }
    }

    async fn settle(&self, sequences: Vec<u64>, reason: Option<(DeadReason, &str)>) -> Result<(), BusError> {
        if sequences.is_empty() {
            return Ok(());
        }
        let (consumer, reason) = (self.consumer.clone(), reason.map(|(why, text)| (why, text.to_owned())));
        self.shared.chore(|reply| Chore::Settle(Settle { consumer, sequences, reason, reply })).await
    }

    /// Buries what ended the process each time. When that fails they come up again later.
    async fn bury_fatal(&self, sequences: Vec<u64>) {
        if let Err(error) = self.settle(sequences, Some((DeadReason::Fatal, FATAL))).await {
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
