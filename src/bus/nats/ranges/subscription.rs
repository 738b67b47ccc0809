//! The receiving side: ranges from the queue, and their messages from the stream.
//!
//! Invariants: no range is taken from the queue over a connection on which the queue was not compared with
//! the stream; a message is handed out only while the lease of its range is known to hold.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{oneshot, watch};
use tracing::{debug, warn};

use super::acker::RangeAcker;
use super::cutter::{Cut, Cutter, SequenceRange};
use super::held::{Complete, Held, Key};
use super::reader::Reader;
use super::ready::Ready;
use crate::base::clock;
use crate::base::clock::sleep_until;
use crate::bus::nats::consume::pull::{NOTE_INTERVAL, REFUSED_PAUSE, delivery, record, takes};
use crate::bus::nats::consume::subscription::Subscription;
use crate::bus::nats::consume::suspects::{Suspects, is_suspect};
use crate::bus::nats::shared::Shared;
use crate::bus::subject::Filter;
use crate::bus::trials::TrialOutcome;
use crate::bus::{BusError, ConsumerSpec, Delivery, LeaseGrant, Receipt};

/// Ranges in hand, the one that is read included, below which more are cut and fetched. With more, what has come waits
/// until it has left the processor's caches.
const IN_HAND: usize = 2;
/// Ranges that one fetch from the queue may bring: they are small where little comes.
const FETCHED_MAX: usize = 8;
/// After all that there was, this long passes before the next range is cut, so that trickling messages make few.
const CUT_PAUSE: Duration = Duration::from_millis(50);
/// An idle subscription looks by itself this often, should what wakes it be lost.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);

/// Bytes of ranges that one fetch from the queue may bring.
const QUEUE_BYTES_MAX: usize = 64 * 1024;
/// When the rest of a range is late, what has come of it is handed out.
const READ_PAUSE_MAX: Duration = Duration::from_millis(100);

type Cutting = oneshot::Receiver<(Cutter, Result<Cut, BusError>)>;

pub(crate) struct RangeSubscription {
    acker: RangeAcker,
    shared: Arc<Shared>,
    spec: ConsumerSpec,
    filter: Filter,
    queue: Subscription,
    epochs: watch::Receiver<u64>,
    /// The epoch in which the queue was compared with the stream; none when it has yet to be.
    epoch: Option<u64>,
    /// Absent while it cuts.
    cutter: Option<Cutter>,
    cutting: Option<Cutting>,
    cut_next_at: Instant,
    /// Ranges cut since the queue brought some: others may get them.
    cut_ahead: usize,
    /// Everything up to here is cut, and nothing more was there.
    cut_all_to: Option<u64>,
    looked_at: Instant,
    reader: Reader,
    /// Leased and not read to the end; the first is being read.
    ranges: VecDeque<InHand>,
    /// Read, and not handed out yet.
    ready: Ready,
    /// When the oldest lease of what was handed out last began.
    leased_at: Instant,
    complete: Vec<Complete>,
    /// Messages of ranges that were delivered often and not answered.
    suspects: Suspects,
    /// Ended the process each time, to be given up.
    fatal: Vec<Receipt>,
}

struct InHand {
    key: Key,
    /// The next sequence to be read.
    next: u64,
    last: u64,
    delivery_count: u32,
}

impl RangeSubscription {
    pub(crate) async fn open(shared: Arc<Shared>, spec: ConsumerSpec, filter: Filter) -> Result<Self, BusError> {
        let subject = shared.settings.range_subject(&spec.name);
        let queued = ConsumerSpec { filter: subject.clone(), ..spec.clone() };
        let stream = shared.settings.range_stream();
        // Messages are isolated, not ranges.
        let queue = Subscription::open(shared.clone(), &stream, queued, (Filter::parse(&subject)?, false)).await?;
        let acker = RangeAcker { queue: queue.acker(), held: Arc::new(Held::default()) };
        let now = Instant::now();
        Ok(Self {
            acker,
            queue,
            epochs: shared.link.epochs(),
            epoch: None,
            cutter: Some(Cutter::new(shared.clone(), spec.name.clone())),
            cutting: None,
            cut_next_at: now,
            cut_ahead: 0,
            cut_all_to: None,
            looked_at: now,
            reader: Reader::new(shared.clone(), spec.name.clone()),
            ranges: VecDeque::new(),
            ready: Ready::default(),
            leased_at: now,
            complete: Vec::new(),
            suspects: Suspects::default(),
            fatal: Vec::new(),
            shared,
            spec,
            filter,
        })
    }

    pub(crate) fn acker(&self) -> RangeAcker {
        self.acker.clone()
    }

    pub(crate) fn stream_id(&self) -> &str {
        self.queue.stream_id()
    }

    pub(crate) fn lease_grant(&self) -> LeaseGrant {
        let stream = (self.shared.keeper.stream(), self.queue.stream_id().to_owned());
        LeaseGrant {
            at: self.leased_at,
            epochs: Some((self.shared.link.epochs(), self.queue.epoch())),
            stream: Some(stream),
        }
    }

    pub(crate) async fn fetch(&mut self, messages_max: usize, bytes_max: usize) -> Result<Vec<Delivery>, BusError> {
        let note_interval = NOTE_INTERVAL.min(self.spec.ack_wait / 8);
        // Who comes back for more has lived through it.
        self.acker.end_trial(TrialOutcome::Survived).await;
        loop {
            self.shared.check_open("fetch messages")?;
            // What was asked for over a connection that is lost is not waited for.
            let mut epochs = self.epochs.clone();
            epochs.mark_unchanged();
            let prepared = tokio::select! {
                biased;
                _ = epochs.changed() => continue,
                prepared = self.prepare(messages_max, bytes_max) => prepared,
            };
            if let Err(error) = prepared {
                // The server is away: it comes back, or the link gives up.
                debug!(%error, consumer = self.spec.name, "waiting for NATS");
                tokio::time::sleep(REFUSED_PAUSE).await;
                continue;
            }
            let isolated = self.isolate((messages_max, bytes_max)).await;
            if !isolated.is_empty() {
                return Ok(isolated);
            }
            let full = self.ready.len() >= messages_max || self.ready.bytes() >= bytes_max;
            if !self.ready.is_empty() && (full || self.ranges.is_empty()) {
                return Ok(self.hand_out());
            }
            let short = self.ranges.len() < IN_HAND;
            let again_at = self.ranges.front().and_then(|range| self.reader.again_at(range.next));
            let pausing = self.cutter.is_some() && self.cut_all_to.is_none() && short;
            tokio::select! {
                biased;
                _ = self.epochs.changed() => self.epoch = None,
                () = self.shared.closing.cancelled() => {}
                () = self.reader.wait() => {}
                cut = ended(&mut self.cutting) => self.cut(cut),
                fetched = self.queue.fetch(FETCHED_MAX, QUEUE_BYTES_MAX), if short => self.hold(fetched?).await,
                () = tokio::time::sleep_until(self.cut_next_at.into()), if pausing => {}
                () = sleep_until(again_at) => {}
                () = sleep_until(self.suspects.choose_at()) => {}
                () = tokio::time::sleep(READ_PAUSE_MAX), if !self.ready.is_empty() => return Ok(self.hand_out()),
                () = tokio::time::sleep(note_interval) => self.notice().await,
            }
        }
    }

    pub(crate) async fn release(&mut self) -> Result<(), BusError> {
        // A range stored meanwhile would be sent to whom is just about to go.
        if let Some(cutting) = self.cutting.take() {
            let _ = tokio::time::timeout(self.shared.settings.timeout, cutting).await;
        }
        self.suspects.clear();
        self.queue.release().await?;
        self.acker.answer(self.acker.held.release_all()).await
    }

    /// The suspects that are to be tried next, once all of their range is here; those that ended the process too often
    /// are given up.
    async fn isolate(&mut self, limits: (usize, usize)) -> Vec<Delivery> {
        let reading = self.ranges.front().is_some_and(|range| is_suspect(range.delivery_count));
        if self.suspects.is_empty() || (reading && !self.is_full_of_suspects(limits)) {
            return Vec::new();
        }
        let chosen = match self.suspects.choose(&self.acker.queue.record, limits).await {
            Ok(chosen) => chosen,
            Err(error) => {
                debug!(%error, consumer = self.spec.name, "suspects wait for NATS");
                return Vec::new();
            }
        };
        self.fatal.extend(chosen.fatal);
        let leases = chosen.next.iter().map(|delivery| self.acker.held.leased_at(delivery.receipt.consumer_sequence));
        self.leased_at = leases.min().flatten().or(chosen.leased_at).unwrap_or_else(Instant::now);
        chosen.next
    }

    fn is_full_of_suspects(&self, (messages_max, bytes_max): (usize, usize)) -> bool {
        self.suspects.len() >= messages_max || (!self.suspects.is_empty() && self.suspects.bytes() >= bytes_max)
    }

    /// Everything that can be done without waiting for something to come.
    async fn prepare(&mut self, messages_max: usize, bytes_max: usize) -> Result<(), BusError> {
        if self.epochs.has_changed().unwrap_or(true) || self.epoch.is_none() {
            self.reconnected().await?;
        }
        self.let_go();
        self.take_at_hand(messages_max, bytes_max);
        self.settle_aside().await;
        self.ask(bytes_max).await?;
        let room = self.ranges.len() < IN_HAND && self.cut_ahead < FETCHED_MAX;
        if room && self.cut_all_to.is_none() && Instant::now() >= self.cut_next_at {
            self.start_cutting(messages_max, bytes_max);
        }
        Ok(())
    }

    /// Begins anew on the connection at hand. The server at its other end may have crashed: what the last one
    /// brought may be with somebody else, and the queue may hold ranges that the stream has lost.
    async fn reconnected(&mut self) -> Result<(), BusError> {
        self.epoch = None;
        self.ranges.clear();
        self.ready.clear();
        self.complete.clear();
        self.suspects.clear();
        self.fatal.clear();
        self.reader.forget();
        self.cutting = None;
        let epoch = *self.epochs.borrow_and_update();
        self.queue.reconnected().await?;
        let mut cutter = Cutter::new(self.shared.clone(), self.spec.name.clone());
        cutter.learn().await?;
        self.cutter = Some(cutter);
        (self.cut_all_to, self.cut_ahead, self.cut_next_at) = (None, 0, Instant::now());
        self.epoch = Some(epoch);
        Ok(())
    }

    fn hand_out(&mut self) -> Vec<Delivery> {
        self.leased_at = self.ready.leased_at().unwrap_or_else(Instant::now);
        self.ready.take()
    }

    /// Ranges that waited here for half of their lease come again.
    fn let_go(&mut self) {
        let (now, half) = (clock::now(), self.spec.ack_wait / 2);
        let fresh = |leased_at: Option<Instant>| leased_at.is_some_and(|at| clock::between(at, now) < half);
        let before = self.ranges.len();
        self.ranges.retain(|range| fresh(self.acker.held.leased_at(range.key)));
        let mut let_go = before - self.ranges.len();
        if !self.ready.is_empty() && !fresh(self.ready.leased_at()) {
            self.ready.clear();
            let_go += 1;
        }
        let held = &self.acker.held;
        let_go += self.suspects.let_go(|suspect, _| fresh(held.leased_at(suspect.receipt.consumer_sequence)));
        if let_go > 0 {
            warn!(ranges = let_go, consumer = self.spec.name, "messages waited too long here, they come again");
        }
    }

    /// Takes what has arrived of the ranges in hand, up to both limits.
    fn take_at_hand(&mut self, messages_max: usize, bytes_max: usize) {
        self.take_of_ranges(messages_max, bytes_max);
        self.reader.note_heard();
    }

    fn take_of_ranges(&mut self, messages_max: usize, bytes_max: usize) {
        while self.ready.len() < messages_max && (self.ready.is_empty() || self.ready.bytes() < bytes_max) {
            if self.is_full_of_suspects((messages_max, bytes_max)) {
                return;
            }
            let head = self.reader.head().map(|head| head.sequence);
            let Some(range) = self.ranges.front_mut() else { return };
            if self.reader.vouches_from().is_none_or(|from| from > range.next) {
                return;
            }
            let Some(sequence) = head else {
                if self.reader.nothing_to() < range.last {
                    return;
                }
                self.end_range();
                continue;
            };
            if sequence > range.last {
                self.end_range();
                continue;
            }
            let Some(read) = self.reader.pop() else { return };
            if sequence < range.next {
                continue;
            }
            let (key, gap, last) = (range.key, range.next..sequence, range.last);
            range.next = sequence + 1;
            let receipt = Receipt { sequence, consumer_sequence: key, delivery_count: range.delivery_count };
            if !gap.is_empty() {
                self.complete.extend(self.acker.held.pass(key, gap.start..=sequence - 1));
            }
            if !takes(&self.spec.name, &self.filter, &read.message) {
                self.complete.extend(self.acker.held.pass(key, sequence..=sequence));
            } else if is_suspect(receipt.delivery_count) {
                let record = record(&read.message);
                let suspect = delivery(record, receipt, read.published_at_ms, self.queue.suspect_to());
                // A range whose lease is not known to hold is let go.
                self.suspects.push(suspect, self.acker.held.leased_at(key).unwrap_or_else(Instant::now));
            } else {
                let leased_at = || self.acker.held.leased_at(key);
                self.ready.push(&read.message, receipt, read.published_at_ms, self.queue.suspect_to(), leased_at);
            }
            if sequence == last {
                self.end_range();
            }
        }
    }

    /// Nothing more is in the range that is being read.
    fn end_range(&mut self) {
        if let Some(range) = self.ranges.pop_front()
            && range.next <= range.last
        {
            self.complete.extend(self.acker.held.pass(range.key, range.next..=range.last));
        }
    }

    /// Tells the server of ranges that held nothing for us.
    async fn settle_aside(&mut self) {
        if !self.complete.is_empty()
            && let Err(error) = self.acker.answer(std::mem::take(&mut self.complete)).await
        {
            warn!(%error, consumer = self.spec.name, "messages of other subjects could not be passed over");
        }
        for receipt in std::mem::take(&mut self.fatal) {
            if let Err(error) = self.acker.bury_fatal(receipt).await {
                warn!(%error, consumer = self.spec.name, "cannot store dead letter");
            }
        }
    }

    /// Asks for the messages of the ranges in hand; without one, for whatever comes next, which then is cut.
    async fn ask(&mut self, bytes_max: usize) -> Result<(), BusError> {
        if let Some(range) = self.ranges.front() {
            // What was asked for is in the stream: a server that brings no more has none of it.
            match self.reader.again_at(range.next) {
                Some(again_at) if Instant::now() < again_at => return Ok(()),
                Some(_) => self.reader.forget(),
                None => {}
            }
            let (first, mut last) = (range.next, range.last);
            for behind in self.ranges.iter().skip(1) {
                if behind.next != last + 1 {
                    break;
                }
                last = behind.last;
            }
            if !self.reader.read(first, last, bytes_max).await? {
                warn!(consumer = self.spec.name, "the stream lost messages of a range");
                self.epoch = None;
            }
            return Ok(());
        }
        let Some(cut_to) = self.cut_all_to else { return Ok(()) };
        while let Some(sequence) = self.reader.head().map(|head| head.sequence) {
            if sequence > cut_to {
                self.cut_all_to = None;
                return Ok(());
            }
            self.reader.pop();
        }
        self.reader.watch(cut_to + 1, bytes_max).await
    }

    /// Beside everything else, so that ranges are there when they are wanted.
    fn start_cutting(&mut self, messages_max: usize, bytes_max: usize) {
        if let Some(mut cutter) = self.cutter.take() {
            let (done, cutting) = oneshot::channel();
            self.cutting = Some(cutting);
            let shared = self.shared.clone();
            self.shared.tasks.spawn(async move {
                if let Some(cut) = shared.closing.run_until_cancelled(cutter.cut(messages_max, bytes_max)).await {
                    // Nobody waits for it when the connection was lost meanwhile.
                    let _ = done.send((cutter, cut));
                }
            });
        }
    }

    fn cut(&mut self, cut: Option<(Cutter, Result<Cut, BusError>)>) {
        self.cutting = None;
        let Some((cutter, cut)) = cut else {
            // The bus closes, or all begins anew.
            self.epoch = None;
            return;
        };
        self.cutter = Some(cutter);
        match cut {
            Ok(Cut::Full) => self.cut_ahead += 1,
            Ok(Cut::Tail) => {
                self.cut_ahead += 1;
                self.cut_next_at = Instant::now() + CUT_PAUSE;
            }
            Ok(Cut::Nothing(cut_to)) => self.cut_all_to = Some(cut_to),
            Err(error) => {
                debug!(%error, consumer = self.spec.name, "messages are not cut into ranges");
                self.cut_next_at = Instant::now() + REFUSED_PAUSE;
            }
        }
    }

    async fn hold(&mut self, fetched: Vec<Delivery>) {
        if self.epoch != Some(self.queue.epoch()) {
            // Of a connection on which the queue was not compared with the stream yet.
            let receipts: Vec<Receipt> = fetched.iter().map(|delivery| delivery.receipt).collect();
            let _ = self.acker.queue.give_back(&receipts, Duration::ZERO).await;
            self.epoch = None;
            return;
        }
        self.cut_ahead = 0;
        let leased_at = self.queue.lease_grant().at;
        for delivery in fetched {
            let Some(range) = SequenceRange::read(delivery.payload()) else {
                warn!(sequence = delivery.sequence(), consumer = self.spec.name, "not a range, passed over");
                let _ = self.acker.queue.ack(&[delivery.receipt]).await;
                continue;
            };
            let sequences = range.first..=range.last;
            let key = self.acker.held.hold(delivery.receipt, &sequences, leased_at, self.spec.ack_wait);
            let delivery_count = delivery.delivery_count;
            self.ranges.push_back(InHand { key, next: range.first, last: range.last, delivery_count });
        }
    }

    async fn notice(&mut self) {
        self.reader.notice_silence().await;
        self.cut_ahead = 0;
        if self.looked_at.elapsed() >= LOOK_INTERVAL {
            self.looked_at = Instant::now();
            self.cut_all_to = None;
        }
    }
}

/// Pending while there is none.
async fn ended<T>(receiver: &mut Option<oneshot::Receiver<T>>) -> Option<T> {
    match receiver {
        Some(receiver) => receiver.await.ok(),
        None => std::future::pending().await,
    }
}
