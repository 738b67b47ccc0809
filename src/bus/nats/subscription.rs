//! The receiving side: a standing pull request, the messages that it brings, and the answers.
//!
//! Invariants: `leased_at` is never later than the moment at which the server leased the oldest
//! message of the last fetch; messages that waited here for most of their lease are let go
//! instead of handed out; after every loss of the connection, everything that the stream held
//! then is suspect.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use async_nats::jetstream::AckKind;
use async_nats::{Message, StatusCode, Subscriber};
use bytes::Bytes;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use serde_json::json;
use tokio::sync::watch;
use tracing::{debug, warn};

use super::publish::REPLAY_FOR;
use super::{Shared, dead_letter};
use crate::bus::batch::{self, HEADER_BYTES};
use crate::bus::subject::Filter;
use crate::bus::{BusError, BusErrorKind, ConsumerSpec, Delivery, Leased, Receipt};

/// A pull request ends after this long without having brought all that it asks for.
const PULL_EXPIRES: Duration = Duration::from_secs(30);
/// The server says at least so often that an idle pull request is still known.
const HEARTBEAT: Duration = Duration::from_secs(2);
/// Silence after which a pull request is taken for lost.
const SILENCE_MAX: Duration = Duration::from_secs(5);
/// How often a waiting fetch notes that nothing is here: what comes later was leased later.
const NOTE_INTERVAL: Duration = Duration::from_secs(1);
/// Wait before the next pull request when the server refused one.
const REFUSED_PAUSE: Duration = Duration::from_millis(250);
/// Acknowledgements that one confirmation covers.
const RUN_MAX: usize = 1_000;
/// Runs of acknowledgements on their way: while one is confirmed, the server works on the next.
const RUNS_IN_FLIGHT: usize = 4;
/// Times that a run of answers is sent again because the connection was lost meanwhile.
const RUN_ATTEMPTS_MAX: usize = 3;

pub(in crate::bus) struct Subscription {
    acker: Acker,
    /// Where the pull requests of this connection are answered.
    inbox: String,
    incoming: Subscriber,
    epochs: watch::Receiver<u64>,
    /// The epoch of the connection that `suspect_to` and `pull` are of.
    epoch: u64,
    /// Up to here messages are suspect; none until it is known for the connection at hand.
    suspect_to: Option<u64>,
    pull: Option<Pull>,
    /// What the last fetch brought was leased after this.
    leased_at: Instant,
    /// When nothing was here last: what is here now was leased after this.
    empty_at: Instant,
    /// Taken, and not handed out because the fetch was cancelled.
    ready: Vec<Delivery>,
    ready_bytes: usize,
    /// Not for us (another subject, or a replay for another consumer), to be acknowledged.
    passed: Vec<Receipt>,
    /// Delivered too often, to be given up.
    exhausted: Vec<Receipt>,
}

/// A pull request that the server is working on.
struct Pull {
    missing: usize,
    heard_at: Instant,
}

#[derive(Clone)]
pub(in crate::bus) struct Acker {
    shared: Arc<Shared>,
    consumer: Arc<Consumer>,
}

struct Consumer {
    name: String,
    filter: Filter,
    max_deliver: u32,
    ack_wait: Duration,
    /// What the subjects of acknowledgements begin with; the server tells it with the first message.
    ack_prefix: OnceLock<String>,
}

impl Subscription {
    pub(super) async fn open(shared: Arc<Shared>, spec: ConsumerSpec, filter: Filter) -> Result<Self, BusError> {
        let epochs = shared.link.epochs();
        let (inbox, incoming) = open_inbox(&shared).await?;
        let consumer = Arc::new(Consumer {
            name: spec.name,
            filter,
            max_deliver: spec.max_deliver,
            ack_wait: spec.ack_wait,
            ack_prefix: OnceLock::new(),
        });
        let mut subscription = Self {
            acker: Acker { shared, consumer },
            inbox,
            incoming,
            epochs,
            epoch: 0,
            suspect_to: None,
            pull: None,
            leased_at: Instant::now(),
            empty_at: Instant::now(),
            ready: Vec::new(),
            ready_bytes: 0,
            passed: Vec::new(),
            exhausted: Vec::new(),
        };
        subscription.reconnected().await?;
        Ok(subscription)
    }

    pub(in crate::bus) fn acker(&self) -> Acker {
        self.acker.clone()
    }

    pub(in crate::bus) fn leased(&self) -> Leased {
        let epochs = self.acker.shared.link.epochs();
        Leased { at: self.leased_at, epochs: Some((epochs, self.epoch)) }
    }

    pub(in crate::bus) async fn fetch(
        &mut self,
        messages_max: usize,
        bytes_max: usize,
    ) -> Result<Vec<Delivery>, BusError> {
        let shared = self.acker.shared.clone();
        let note_interval = NOTE_INTERVAL.min(self.acker.consumer.ack_wait / 8);
        let mut pause_until: Option<tokio::time::Instant> = None;
        loop {
            shared.check_open("fetch messages")?;
            let moved = self.epochs.has_changed().unwrap_or(true) || self.suspect_to.is_none();
            if moved && let Err(error) = self.reconnected().await {
                // The server is away: it comes back, or the link gives up.
                debug!(%error, consumer = self.acker.consumer.name, "waiting for NATS");
                tokio::time::sleep(REFUSED_PAUSE).await;
                continue;
            }
            if let Err(error) = self.look(messages_max, bytes_max).await {
                debug!(%error, consumer = self.acker.consumer.name, "waiting for NATS");
                tokio::time::sleep(REFUSED_PAUSE).await;
                continue;
            }
            self.settle_aside().await;
            if !self.ready.is_empty() {
                self.ready_bytes = 0;
                return Ok(std::mem::take(&mut self.ready));
            }
            if self.pull.as_ref().is_none_or(|pull| pull.missing == 0) {
                if let Some(pause_until) = pause_until {
                    // The last request of this fetch ended without a message.
                    tokio::time::sleep_until(pause_until).await;
                }
                if let Err(error) = self.request(messages_max, bytes_max).await {
                    debug!(%error, consumer = self.acker.consumer.name, "messages are not requested");
                }
                pause_until = Some(tokio::time::Instant::now() + REFUSED_PAUSE);
            }
            tokio::select! {
                message = self.incoming.next() => match message {
                    Some(message) => self.take(message),
                    None => return Err(BusError::new(BusErrorKind::Closed, "fetch messages")),
                },
                _ = self.epochs.changed() => self.suspect_to = None,
                () = shared.closing.cancelled() => {}
                () = tokio::time::sleep(note_interval) => self.notice_silence().await,
            }
        }
    }

    /// Begins anew on the connection at hand: learns up to where messages are suspect, and forgets what the last one
    /// brought, read or not. The server may have crashed and leased it to somebody else since; an inbox of its own
    /// for each connection keeps it apart from what comes now.
    async fn reconnected(&mut self) -> Result<(), BusError> {
        self.suspect_to = None;
        self.pull = None;
        self.ready.clear();
        self.ready_bytes = 0;
        self.passed.clear();
        self.exhausted.clear();
        self.epoch = *self.epochs.borrow_and_update();
        let shared = &self.acker.shared;
        let info = shared.stream_info().await?;
        (self.inbox, self.incoming) = open_inbox(shared).await?;
        self.empty_at = Instant::now();
        self.suspect_to = Some(info.state.last_sequence);
        Ok(())
    }

    async fn request(&mut self, messages_max: usize, bytes_max: usize) -> Result<(), BusError> {
        let shared = &self.acker.shared;
        let payload = json!({
            "batch": messages_max,
            // Any one message must fit, or the server would refuse to deliver it for ever.
            "max_bytes": bytes_max.max(2 * shared.client.server_info().max_payload).min(i32::MAX as usize),
            "expires": PULL_EXPIRES.as_nanos() as u64,
            "idle_heartbeat": HEARTBEAT.as_nanos() as u64,
        });
        let subject = format!("$JS.API.CONSUMER.MSG.NEXT.{}.{}", shared.settings.stream, self.acker.consumer.name);
        let sent = shared.client.publish_with_reply(subject, self.inbox.clone(), payload.to_string().into()).await;
        sent.map_err(|error| super::streams::failed("request messages", error))?;
        self.pull = Some(Pull { missing: messages_max, heard_at: Instant::now() });
        Ok(())
    }

    /// Takes what is here, knowing since when at most it has been leased.
    ///
    /// What this process has not read yet may wait in the connection for as long as the process did not run, so after
    /// a gap an empty queue alone says nothing: only a round trip, whose answer comes behind everything
    /// that was sent before it, does.
    async fn look(&mut self, messages_max: usize, bytes_max: usize) -> Result<(), BusError> {
        let seen = Instant::now();
        let oldest = if self.ready.is_empty() { self.empty_at } else { self.leased_at };
        let (gap, ack_wait) = (seen.saturating_duration_since(oldest), self.acker.consumer.ack_wait);
        if gap > ack_wait / 8 {
            self.acker.shared.round_trip().await?;
        }
        if gap >= ack_wait / 2 {
            self.let_go();
            self.leased_at = seen;
        } else {
            if self.ready.is_empty() {
                self.leased_at = self.empty_at;
            }
            if !self.take_at_hand(messages_max, bytes_max) {
                return Ok(());
            }
        }
        self.empty_at = seen;
        Ok(())
    }

    /// Takes what has arrived, up to both limits; true when nothing is left.
    fn take_at_hand(&mut self, messages_max: usize, bytes_max: usize) -> bool {
        while self.ready.len() < messages_max && (self.ready.is_empty() || self.ready_bytes < bytes_max) {
            match self.at_hand() {
                Some(message) => self.take(message),
                _ => return true,
            }
        }
        false
    }

    /// Without the runtime's budget, which would make a queue look empty that is not.
    fn at_hand(&mut self) -> Option<Message> {
        tokio::task::unconstrained(self.incoming.next()).now_or_never().flatten()
    }

    fn take(&mut self, message: Message) {
        self.acker.shared.link.heard();
        if let Some(pull) = &mut self.pull {
            pull.heard_at = Instant::now();
        }
        match message.status {
            None | Some(StatusCode::OK) => {}
            Some(StatusCode::IDLE_HEARTBEAT) => return,
            Some(status) => {
                // Expired, complete, refused, or the consumer has moved: all of them end the request.
                debug!(%status, description = message.description, consumer = self.acker.consumer.name, "pull ended");
                self.pull = None;
                return;
            }
        }
        if let Some(pull) = &mut self.pull {
            pull.missing = pull.missing.saturating_sub(1);
        }
        let Some(reply) = message.reply.as_deref().and_then(AckSubject::parse) else { return };
        self.acker.consumer.ack_prefix.get_or_init(|| reply.prefix.to_owned());
        let receipt = reply.receipt;
        let others = |headers: &async_nats::HeaderMap| {
            headers.get(REPLAY_FOR).is_some_and(|name| name.as_str() != self.acker.consumer.name)
        };
        let passes = self.acker.consumer.filter.matches(message.subject.as_bytes());
        if !passes || message.headers.as_ref().is_some_and(others) {
            self.passed.push(receipt);
        } else if receipt.delivery_count > self.acker.consumer.max_deliver {
            self.exhausted.push(receipt);
        } else {
            let suspect_to = self.suspect_to.unwrap_or(u64::MAX);
            // Copied, so that one message that is kept does not keep all that was read from the socket with it.
            let mut record = Vec::with_capacity(HEADER_BYTES + message.subject.len() + message.payload.len());
            batch::write_record(&mut record, 0, message.subject.as_bytes(), b"", |out| {
                out.extend_from_slice(&message.payload);
            });
            self.ready_bytes += record.len();
            self.ready.push(Delivery {
                receipt,
                record: Bytes::from(record),
                published_at_ms: reply.published_at_ms,
                delivery_count: receipt.delivery_count,
                suspect: receipt.delivery_count > 1 || receipt.sequence <= suspect_to,
            });
        }
    }

    /// Messages that arrived while nobody fetched, and whose leases are more than half over, come again.
    fn let_go(&mut self) {
        let mut let_go = self.ready.len();
        self.ready.clear();
        self.ready_bytes = 0;
        while let Some(message) = self.at_hand() {
            let_go += usize::from(message.reply.is_some());
        }
        self.pull = None;
        if let_go > 0 {
            let consumer = &self.acker.consumer.name;
            warn!(messages = let_go, consumer, "messages waited too long here, they come again");
        }
    }

    /// Answers what was set aside; what cannot be answered comes again.
    async fn settle_aside(&mut self) {
        if !self.passed.is_empty() {
            let passed = std::mem::take(&mut self.passed);
            if let Err(error) = self.acker.ack(&passed).await {
                warn!(%error, "messages for another consumer could not be passed over");
            }
        }
        for receipt in std::mem::take(&mut self.exhausted) {
            let reason = "not acknowledged in the last delivery allowed";
            if let Err(error) = self.acker.dead_letter(receipt, reason).await {
                warn!(%error, consumer = self.acker.consumer.name, "cannot store dead letter");
            }
        }
    }

    /// A pull request of which nothing is heard, not even a heartbeat, is lost.
    async fn notice_silence(&mut self) {
        if self.pull.as_ref().is_some_and(|pull| pull.heard_at.elapsed() > SILENCE_MAX) {
            self.pull = None;
            let shared = self.acker.shared.clone();
            shared.link.unanswered(&shared.client).await;
        }
    }
}

async fn open_inbox(shared: &Shared) -> Result<(String, Subscriber), BusError> {
    let inbox = shared.client.new_inbox();
    let incoming = shared.client.subscribe(inbox.clone()).await;
    Ok((inbox, incoming.map_err(|error| super::streams::failed("subscribe to inbox", error))?))
}

/// `$JS.ACK.<stream>.<consumer>.<delivered>.<stream sequence>.<consumer sequence>.<time>.<pending>`, with domain and
/// account hash before the stream in the newer form (ADR-15).
struct AckSubject<'a> {
    prefix: &'a str,
    receipt: Receipt,
    published_at_ms: i64,
}

impl<'a> AckSubject<'a> {
    fn parse(reply: &'a str) -> Option<Self> {
        let names = match reply.split('.').count() {
            9 => 4,
            count if count >= 11 => 6,
            _ => return None,
        };
        let (dot, _) = reply.match_indices('.').nth(names - 1)?;
        let mut numbers = reply[dot + 1..].split('.');
        let delivery_count = numbers.next()?.parse().ok()?;
        let sequence = numbers.next()?.parse().ok()?;
        let consumer_sequence = numbers.next()?.parse().ok()?;
        let published_ns: i64 = numbers.next()?.parse().ok()?;
        Some(Self {
            prefix: &reply[..dot],
            receipt: Receipt { sequence, consumer_sequence, delivery_count },
            published_at_ms: published_ns / 1_000_000,
        })
    }
}

impl Acker {
    pub(in crate::bus) async fn ack(&self, receipts: &[Receipt]) -> Result<(), BusError> {
        self.answer(receipts, AckKind::Ack, "acknowledge messages").await
    }

    pub(in crate::bus) async fn nak(
        &self,
        receipts: &[Receipt],
        delay: Duration,
        reason: &str,
    ) -> Result<(), BusError> {
        let (exhausted, again): (Vec<Receipt>, Vec<Receipt>) =
            receipts.iter().partition(|receipt| receipt.delivery_count >= self.consumer.max_deliver);
        for receipt in exhausted {
            self.dead_letter(receipt, reason).await?;
        }
        self.answer(&again, AckKind::Nak(Some(delay)), "give messages back").await
    }

    pub(in crate::bus) async fn dead_letter(&self, receipt: Receipt, reason: &str) -> Result<(), BusError> {
        dead_letter::bury(&self.shared, &self.consumer.name, receipt, reason).await?;
        self.answer(&[receipt], AckKind::Term, "bury message").await
    }

    /// The server does not say whether a lease had lapsed: the caller's clock must.
    pub(in crate::bus) async fn renew(&self, receipts: &[Receipt]) -> Result<(), BusError> {
        self.answer(receipts, AckKind::Progress, "renew leases").await
    }

    /// Sends the same answer for all, in runs. The answers of one connection are handled in order, so the
    /// confirmation of the last one of a run confirms the others, unless the connection was replaced meanwhile.
    async fn answer(&self, receipts: &[Receipt], kind: AckKind, context: &'static str) -> Result<(), BusError> {
        let Some(prefix) = self.consumer.ack_prefix.get() else { return Ok(()) };
        let confirmed = !matches!(kind, AckKind::Progress);
        let body: Bytes = kind.into();
        let mut runs = FuturesUnordered::new();
        for run in receipts.chunks(RUN_MAX) {
            if runs.len() == RUNS_IN_FLIGHT {
                runs.next().await.unwrap_or(Ok(()))?;
            }
            runs.push(self.answer_run(prefix, run, &body, (confirmed, context)));
        }
        while let Some(answered) = runs.next().await {
            answered?;
        }
        Ok(())
    }

    /// Again when the connection was lost meanwhile, until the server has the answers.
    async fn answer_run(
        &self,
        prefix: &str,
        run: &[Receipt],
        body: &Bytes,
        (confirmed, context): (bool, &'static str),
    ) -> Result<(), BusError> {
        let shared = &self.shared;
        let mut attempt = 0;
        loop {
            shared.link.check(&shared.client, context)?;
            let epoch = shared.link.epoch();
            let sending = self.send_run(prefix, run, body, confirmed);
            let sent = tokio::time::timeout(2 * shared.settings.timeout, sending).await;
            let sent = sent
                .unwrap_or_else(|_| Err(BusError::caused(BusErrorKind::Unavailable, context, "NATS did not answer")));
            attempt += 1;
            match sent {
                Ok(()) if epoch == shared.link.epoch() => return Ok(()),
                Ok(()) | Err(_) if attempt < RUN_ATTEMPTS_MAX && epoch != shared.link.epoch() => {}
                Ok(()) => {
                    let lost = "the connection to NATS was lost meanwhile";
                    return Err(BusError::caused(BusErrorKind::Unavailable, context, lost));
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn send_run(&self, prefix: &str, run: &[Receipt], body: &Bytes, confirmed: bool) -> Result<(), BusError> {
        let shared = &self.shared;
        let failed = |error: async_nats::PublishError| super::streams::failed("send answers", error);
        let Some((last, others)) = run.split_last() else { return Ok(()) };
        for receipt in others {
            shared.client.publish(subject(prefix, receipt), body.clone()).await.map_err(failed)?;
        }
        if !confirmed {
            shared.client.publish(subject(prefix, last), body.clone()).await.map_err(failed)?;
            return shared.round_trip().await;
        }
        let call = shared.calls.call(&shared.link, 1);
        let sent = shared.client.publish_with_reply(subject(prefix, last), call.reply_to(0), body.clone()).await;
        sent.map_err(failed)?;
        let (_, why) = call.answers(&shared.client, &shared.link, shared.settings.timeout).await;
        why.map_or(Ok(()), Err)
    }
}

/// The server reads the counts only; time and pending are for the client.
fn subject(prefix: &str, receipt: &Receipt) -> String {
    format!("{prefix}.{}.{}.{}.0.0", receipt.delivery_count, receipt.sequence, receipt.consumer_sequence)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_acknowledgement_subjects_are_read_and_built() {
        for (text, prefix) in [
            ("$JS.ACK.S.c.2.30.41.1700000000123456789.7", "$JS.ACK.S.c"),
            ("$JS.ACK.hub.ABC.S.c.2.30.41.1700000000123456789.7", "$JS.ACK.hub.ABC.S.c"),
            ("$JS.ACK._.ABC.S.c.2.30.41.1700000000123456789.7.token", "$JS.ACK._.ABC.S.c"),
        ] {
            let read = AckSubject::parse(text).unwrap();
            assert_eq!(read.prefix, prefix);
            assert_eq!(read.receipt, Receipt { sequence: 30, consumer_sequence: 41, delivery_count: 2 });
            assert_eq!(read.published_at_ms, 1_700_000_000_123);
            assert_eq!(subject(read.prefix, &read.receipt), format!("{prefix}.2.30.41.0.0"));
        }
        for text in ["", "$JS.ACK.S.c.2.30.41.17", "$JS.ACK.S.c.x.30.41.17.7"] {
            assert!(AckSubject::parse(text).is_none(), "{text}");
        }
    }
}
