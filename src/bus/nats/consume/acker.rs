//! Answers deliveries: acknowledges, renews, releases and dead-letters them.
//!
//! Invariant: an answer reported as sent has reached the server over one connection, or was sent again over the next.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_nats::jetstream::AckKind;
use async_nats::jetstream::stream::Stream;
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;

use super::trials::TrialStore;
use crate::bus::dead_letter::DeadReason;
use crate::bus::nats::dead_letter;
use crate::bus::nats::failed::failed as not_answered;
use crate::bus::nats::shared::Shared;
use crate::bus::nats::topology::streams::StreamRole;
use crate::bus::subject::Filter;
use crate::bus::trials::{FATAL, TrialOutcome};
use crate::bus::{BusError, BusErrorKind, Receipt};

/// Acknowledgements covered by one confirmation.
const RUN_MAX: usize = 1_000;
/// Concurrent runs of acknowledgements: while one is confirmed, the server works on the next.
const RUNS_IN_FLIGHT: usize = 4;
/// Attempts to send a run of answers when the connection is lost in the meantime.
const RUN_ATTEMPTS_MAX: usize = 3;

#[derive(Clone)]
pub(crate) struct Acker {
    pub(crate) shared: Arc<Shared>,
    pub(crate) consumer: Arc<Consumer>,
    pub(crate) trials: TrialStore,
}

/// Properties of the consumer shared by the subscription and its ackers.
pub(crate) struct Consumer {
    pub(crate) stream: String,
    pub(crate) name: String,
    pub(crate) filter: Filter,
    pub(crate) max_deliver: u32,
    /// Messages that were delivered often without an answer are tried apart from others.
    pub(crate) isolates: bool,
    pub(crate) ack_wait: Duration,
    /// The prefix of acknowledgement subjects, known from the first message.
    pub(crate) ack_prefix: OnceLock<String>,
}

impl Consumer {
    /// The stream of the consumer.
    pub(crate) fn stream_in<'s>(&self, shared: &'s Shared) -> &'s Stream {
        let role = if self.stream == shared.settings.stream { StreamRole::Events } else { StreamRole::Chunks };
        shared.stream_of(role)
    }
}

impl Acker {
    pub(crate) async fn ack(&self, receipts: &[Receipt]) -> Result<(), BusError> {
        self.answer(receipts, AckKind::Ack, "acknowledge messages").await
    }

    pub(crate) async fn nak(&self, receipts: &[Receipt], delay: Duration, reason: &str) -> Result<(), BusError> {
        let (exhausted, again) = self.failed(receipts).await?;
        for receipt in exhausted {
            self.store_dead_letter(receipt, (DeadReason::Failed, reason)).await?;
        }
        self.release(&again, delay).await
    }

    /// Counts failures of these messages. Returns those that have failed `max_deliver` times, and the others.
    pub(crate) async fn failed(&self, receipts: &[Receipt]) -> Result<(Vec<Receipt>, Vec<Receipt>), BusError> {
        if self.consumer.max_deliver <= 1 || receipts.is_empty() {
            return Ok((receipts.to_vec(), Vec::new()));
        }
        let max = self.consumer.max_deliver;
        let count = |log: &mut crate::bus::trials::TrialLog| {
            receipts.iter().partition(|receipt| log.failed(receipt.sequence) >= max)
        };
        self.trials.change(count).await
    }

    /// Releases messages for redelivery without counting a failure.
    pub(crate) async fn release(&self, receipts: &[Receipt], delay: Duration) -> Result<(), BusError> {
        let delay = Some(delay).filter(|delay| !delay.is_zero());
        self.answer(receipts, AckKind::Nak(delay), "give messages back").await
    }

    pub(crate) async fn dead_letter(&self, receipt: Receipt, reason: &str) -> Result<(), BusError> {
        self.store_dead_letter(receipt, (DeadReason::Refused, reason)).await
    }

    /// Dead-letters a message that ended the process in each trial.
    pub(crate) async fn dead_letter_fatal(&self, receipt: Receipt) -> Result<(), BusError> {
        self.store_dead_letter(receipt, (DeadReason::Fatal, FATAL)).await?;
        self.trials.change(|log| log.forget(0, &[receipt.sequence])).await
    }

    async fn store_dead_letter(&self, receipt: Receipt, reason: (DeadReason, &str)) -> Result<(), BusError> {
        dead_letter::store(&self.shared, &self.consumer.name, receipt, reason).await?;
        self.answer(&[receipt], AckKind::Term, "bury message").await
    }

    pub(crate) async fn begin_trial(&self, receipts: &[Receipt]) {
        self.trials.begin_trial(receipts.iter().map(|receipt| receipt.sequence).collect()).await;
    }

    pub(crate) async fn end_trial(&self, end: TrialOutcome) {
        self.trials.end_trial(end).await;
    }

    /// The server does not report whether a lease had expired; the caller has to check its clock.
    pub(crate) async fn renew(&self, receipts: &[Receipt]) -> Result<(), BusError> {
        self.answer(receipts, AckKind::Progress, "renew leases").await
    }

    /// Sends the same answer for all messages, in runs. The server processes the answers of a connection in order, so
    /// confirming the last answer of a run confirms the others, unless the connection was replaced in the meantime.
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

    /// Repeats the run if the connection was lost, until the server has the answers.
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
        let failed = |error: async_nats::PublishError| not_answered("send answers", error);
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

/// `$JS.ACK.<stream>.<consumer>.<delivered>.<stream sequence>.<consumer sequence>.<time>.<pending>`. The newer form
/// (ADR-15) has the domain and the account hash before the stream.
pub(crate) struct AckSubject<'a> {
    pub(crate) prefix: &'a str,
    pub(crate) receipt: Receipt,
    pub(crate) published_at_ms: i64,
}

impl<'a> AckSubject<'a> {
    pub(crate) fn parse(reply: &'a str) -> Option<Self> {
        let (mut dots, mut count) = ([0; 10], 0);
        for (at, _) in reply.bytes().enumerate().filter(|(_, byte)| *byte == b'.') {
            if let Some(dot) = dots.get_mut(count) {
                *dot = at;
            }
            count += 1;
        }
        let behind_names = match count {
            8 => &dots[3..8],
            10.. => &dots[5..10],
            _ => return None,
        };
        Self::parse_after(&reply[..behind_names[0]], reply)
    }

    /// Parses a reply with the same prefix as an earlier one. The names in it are long, and this runs for every
    /// message.
    pub(crate) fn parse_after(prefix: &str, reply: &'a str) -> Option<Self> {
        let mut rest = reply.strip_prefix(prefix)?.strip_prefix('.')?.as_bytes().iter();
        let mut number = || {
            let mut value = None;
            loop {
                match rest.next()? {
                    b'.' => return value,
                    digit => {
                        let digit = u64::from(digit.wrapping_sub(b'0'));
                        let tens = value.unwrap_or(0u64).checked_mul(10)?;
                        value = Some(tens.checked_add(digit).filter(|_| digit < 10)?);
                    }
                }
            }
        };
        let (delivery_count, sequence, consumer_sequence) = (u32::try_from(number()?).ok()?, number()?, number()?);
        let published_ns = i64::try_from(number()?).ok()?;
        Some(Self {
            prefix: &reply[..prefix.len()],
            receipt: Receipt { sequence, consumer_sequence, delivery_count },
            published_at_ms: published_ns / 1_000_000,
        })
    }
}

/// The server only reads the counts; time and pending are for the client.
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
            assert_eq!(AckSubject::parse_after(prefix, text).unwrap().receipt, read.receipt);
            assert!(AckSubject::parse_after(&prefix[..prefix.len() - 1], text).is_none(), "another consumer's");
        }
        for text in [
            "",
            "$JS.ACK.S.c.2.30.41.17",
            "$JS.ACK.S.c.x.30.41.17.7",
            "$JS.ACK.S.c..30.41.17.7",
            "$JS.ACK.S.c.1.99999999999999999999.41.17.7",
        ] {
            assert!(AckSubject::parse(text).is_none(), "{text}");
        }
    }
}
