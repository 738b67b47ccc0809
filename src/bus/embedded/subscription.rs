//! The receiving side: waits for messages to deliver, and passes acknowledgements on.
//!
//! Invariant: nothing polls. A fetch that finds nothing sleeps until the head moves, a message is released, or the
//! earliest deadline passes. Messages taken by a cancelled fetch stay with the subscription.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, watch};

use super::consumer::ticks::time_of;
use super::consumer::{Consumer, FetchOutcome, FetchRequest};
use super::file;
use super::queue::{Command, Resolve};
use super::shared::Shared;
use crate::base::clock::sleep_until;
use crate::bus::dead_letter::DeadReason;
use crate::bus::trials::{FATAL, TURN_MAX, TrialOutcome};
use crate::bus::{BusError, BusErrorKind, Delivery, Interest, Receipt};

pub(crate) struct Subscription {
    acker: Acker,
    head: watch::Receiver<u64>,
    /// The last sequence when this subscription began: messages up to it are possibly redelivered.
    redelivery_horizon: u64,
    /// Taken, but not handed out because the fetch was cancelled.
    ready: Vec<Delivery>,
    interest: Option<Arc<dyn Interest>>,
    /// When to store the position after messages were skipped for lack of interest. There may be interest after a
    /// restart, which must not deliver them.
    record_at: Option<Instant>,
}

/// How often skipping is stored.
const RECORD_INTERVAL: Duration = Duration::from_millis(100);

#[derive(Clone)]
pub(crate) struct Acker {
    shared: Arc<Shared>,
    consumer: Arc<Consumer>,
    /// The trial begun by this subscription.
    trial: Arc<Mutex<Option<Trial>>>,
}

struct Trial {
    messages: Vec<u64>,
    /// Only one trial of a process runs at a time; `None` when waiting for the turn timed out.
    _turn: Option<OwnedSemaphorePermit>,
}

impl Subscription {
    pub(super) fn new(shared: Arc<Shared>, consumer: Arc<Consumer>) -> Self {
        let head = shared.head.subscribe();
        let redelivery_horizon = *head.borrow();
        let acker = Acker { shared, consumer, trial: Arc::default() };
        Self { acker, head, redelivery_horizon, ready: Vec::new(), interest: None, record_at: None }
    }

    pub(crate) fn stream_id(&self) -> String {
        self.acker.shared.stream_id.clone()
    }

    pub(crate) fn set_interest(&mut self, interest: Arc<dyn Interest>) {
        self.interest = Some(interest);
    }

    pub(crate) async fn fetch(&mut self, messages_max: usize, bytes_max: usize) -> Result<Vec<Delivery>, BusError> {
        let Acker { shared, consumer, .. } = self.acker.clone();
        // A consumer that fetches again has survived its trial.
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
            let (tail, now, redelivery_horizon) = (&shared.tail, shared.now(), self.redelivery_horizon);
            let interest = self.interest.as_deref();
            let request = FetchRequest { tail, now, head, redelivery_horizon, messages_max, bytes_max, interest };
            let (found, behind, unrecorded) = {
                let mut state = consumer.lock();
                let found = state.take(&consumer.name, &request, &mut self.ready);
                (found, state.is_behind_on_disk(), state.is_unrecorded())
            };
            let record_due = self.record_at.is_some_and(|at| at <= Instant::now());
            if behind || record_due {
                self.record_at = None;
                self.acker.record(head).await;
            } else if unrecorded && self.record_at.is_none() {
                self.record_at = Some(Instant::now() + RECORD_INTERVAL);
            }
            match found {
                FetchOutcome::Some { fatal } => {
                    if !fatal.is_empty() {
                        self.acker.dead_letter_fatal(fatal).await;
                    }
                    if self.ready.first().is_some_and(|first| first.receipt.sequence <= shared.recovered_to) {
                        self.acker.record(head).await;
                    }
                }
                FetchOutcome::Load(sequence) => {
                    let erasures = shared.erasures.load(Ordering::Acquire);
                    let groups = shared.read_groups(sequence).await?;
                    if groups.is_empty() {
                        let missing = format!("no group holds sequence {sequence} or one after it");
                        return Err(file::corrupt(shared.path(), "read group", missing));
                    }
                    let mut state = consumer.lock();
                    // The groups read may contain messages that were erased in the meantime.
                    if shared.erasures.load(Ordering::Acquire) == erasures {
                        state.load(sequence, groups);
                    }
                }
                FetchOutcome::Nothing(due) => {
                    let due = due.map(|tick| shared.started + time_of(tick));
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
        // Its trial stays on record; the next trial need not wait.
        self.acker.trial.lock().take();
        // Passes on a wakeup that this subscription may have consumed.
        self.acker.consumer.wake.notify_one();
    }
}

impl Acker {
    pub(crate) async fn ack(&self, receipts: &[Receipt]) -> Result<(), BusError> {
        let outcome = self.consumer.lock().acknowledge(receipts);
        self.resolve(outcome.resolving, None).await?;
        self.consumer.wake.notify_one();
        lease(outcome.lost, "acknowledge messages")
    }

    pub(crate) async fn nak(&self, receipts: &[Receipt], delay: Duration, reason: &str) -> Result<(), BusError> {
        let outcome = self.consumer.lock().release_failed(receipts, self.shared.now(), delay);
        self.consumer.wake.notify_one();
        self.resolve(outcome.resolving, Some((DeadReason::Failed, reason))).await?;
        lease(outcome.lost, "give messages back")
    }

    pub(crate) async fn dead_letter(&self, receipt: Receipt, reason: &str) -> Result<(), BusError> {
        let outcome = self.consumer.lock().acknowledge(&[receipt]);
        self.resolve(outcome.resolving, Some((DeadReason::Refused, reason))).await?;
        self.consumer.wake.notify_one();
        lease(outcome.lost, "bury message")
    }

    pub(crate) async fn renew(&self, receipts: &[Receipt]) -> Result<(), BusError> {
        let lost = self.consumer.lock().renew(receipts, self.shared.now());
        lease(lost, "renew leases")
    }

    /// Records the trial of these messages, so that no other work is blamed for its outcome.
    pub(crate) async fn begin_trial(&self, receipts: &[Receipt]) {
        drop(self.trial.lock().take());
        let turn = tokio::time::timeout(TURN_MAX, self.shared.trial_turn.clone().acquire_owned()).await;
        let messages: Vec<u64> = receipts.iter().map(|receipt| receipt.sequence).collect();
        let high = {
            let mut state = self.consumer.lock();
            state.begin_trial(&messages);
            state.window().next() - 1
        };
        self.trial.lock().replace(Trial { messages, _turn: turn.ok().and_then(Result::ok) });
        self.record(high).await;
    }

    /// Does nothing when no trial is running.
    pub(crate) async fn end_trial(&self, end: TrialOutcome) {
        let Some(trial) = self.trial.lock().take() else { return };
        let ended = {
            let mut state = self.consumer.lock();
            state.end_trial(&trial.messages, end).then(|| state.window().next() - 1)
        };
        if let Some(high) = ended {
            self.record(high).await;
        }
    }

    async fn resolve(&self, sequences: Vec<u64>, reason: Option<(DeadReason, &str)>) -> Result<(), BusError> {
        if sequences.is_empty() {
            return Ok(());
        }
        let (consumer, reason) = (self.consumer.clone(), reason.map(|(why, text)| (why, text.to_owned())));
        self.shared.command(|reply| Command::Resolve(Resolve { consumer, sequences, reason, reply })).await
    }

    /// Dead-letters messages that ended the process in each trial. If that fails, they become due again later.
    async fn dead_letter_fatal(&self, sequences: Vec<u64>) {
        if let Err(error) = self.resolve(sequences, Some((DeadReason::Fatal, FATAL))).await {
            tracing::warn!(consumer = self.consumer.name, %error, "cannot store dead letters");
        }
        self.consumer.wake.notify_one();
    }

    /// Makes delivery counts durable before messages are handed out that a crashed process may have had, so that a
    /// message that kills the process is counted. A failure does not prevent the delivery.
    async fn record(&self, high: u64) {
        let consumer = self.consumer.clone();
        consumer.lock().recorded(high);
        if let Err(error) = self.shared.command(|reply| Command::Record { consumer, reply }).await {
            tracing::warn!(consumer = self.consumer.name, %error, "cannot store delivery counts");
        }
    }
}

fn lease(lost: bool, context: &'static str) -> Result<(), BusError> {
    if lost { Err(BusError::new(BusErrorKind::LeaseLost, context)) } else { Ok(()) }
}
