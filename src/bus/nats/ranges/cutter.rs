//! Cuts what the stream has taken into ranges, and puts them into the queue of their consumer.
//!
//! Invariants: the ranges of a consumer follow one another without a gap or an overlap, since each is stored
//! only as the next one after the last that its cutter knows; and a range is in the queue only
//! while the stream still holds, under its sequences, what it was cut from.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_nats::HeaderMap;
use async_nats::jetstream::context::ConsumerInfoErrorKind;
use async_nats::jetstream::message::StreamMessage;
use async_nats::jetstream::stream::{Info, RawMessageError};
use serde::{Deserialize, Serialize};
use tracing::{info, warn};

use crate::bus::nats::consume::pull::REFUSED_PAUSE;
use crate::bus::nats::dead_letter;
use crate::bus::nats::failed::failed;
use crate::bus::nats::publish::messages::{EXPECTED_LAST, PubAck, WRONG_LAST};
use crate::bus::nats::shared::Shared;
use crate::bus::{BusError, BusErrorKind};

/// How long the stream may be behind its own ranges before it is taken for one that lost messages.
const CATCH_UP_MAX: Duration = Duration::from_secs(5);

/// One message of the queue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SequenceRange {
    pub(super) first: u64,
    pub(super) last: u64,
    /// When the stream stored the last message, nanoseconds since the Unix epoch; tells another message under its
    /// sequence from the one that was meant. None when the message was gone already.
    last_time: Option<i64>,
    /// When the stream was created: another one counts anew.
    stream_created: i64,
}

pub(crate) struct Cutter {
    shared: Arc<Shared>,
    consumer: String,
    known: Option<Known>,
}

/// What the server said last. Never wrong about what is cut: whoever is behind is refused.
struct Known {
    cut_to: u64,
    /// The queue's sequence of the last range.
    queue_sequence: u64,
    stream: StreamEnd,
    /// A consumer of an earlier version, which leased every message by itself.
    replaces: bool,
}

/// How far the stream goes.
struct StreamEnd {
    created: i64,
    before_first: u64,
    last: u64,
    last_time: i64,
    /// The mean length.
    message_bytes: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cut {
    /// One range; there is more.
    Full,
    /// All that there was.
    Tail,
    /// Nothing new: everything up to here is cut.
    Nothing(u64),
}

impl SequenceRange {
    pub(super) fn read(payload: &[u8]) -> Option<Self> {
        serde_json::from_slice(payload).ok().filter(|range: &Self| range.first <= range.last)
    }
}

impl StreamEnd {
    fn of(Info { created, state, .. }: &Info) -> Self {
        Self {
            created: nanoseconds(*created),
            before_first: state.first_sequence.saturating_sub(1),
            last: state.last_sequence,
            last_time: nanoseconds(state.last_timestamp),
            message_bytes: (state.bytes / state.messages.max(1)).max(1),
        }
    }
}

impl Cutter {
    pub(super) fn new(shared: Arc<Shared>, consumer: String) -> Self {
        Self { shared, consumer, known: None }
    }

    /// Learns where to go on; takes ranges out of the queue that the stream no longer holds.
    pub(super) async fn learn(&mut self) -> Result<(), BusError> {
        self.known = Some(self.look().await?);
        Ok(())
    }

    async fn look(&self) -> Result<Known, BusError> {
        let mut last = last_range(&self.shared, &self.consumer).await?;
        // Read after the range: what it was cut from must be there by now.
        let info = self.stream_behind(last.as_ref().map(|(_, range)| range)).await?;
        while let Some((message, range)) = &last {
            if self.stream_holds(&info, range).await? {
                break;
            }
            let (first, to) = (range.first, range.last);
            warn!(first, to, consumer = self.consumer, "the stream has not these messages any more, a range goes");
            self.remove(message.sequence, nanoseconds(info.created) != range.stream_created).await?;
            last = last_range(&self.shared, &self.consumer).await?;
        }
        let (cut_to, queue_sequence, replaces) = match last {
            Some((message, range)) => (range.last, message.sequence, false),
            None => {
                let before = self.replaced().await?;
                (before.unwrap_or_default().min(info.state.last_sequence), 0, before.is_some())
            }
        };
        let stream = StreamEnd::of(&info);
        Ok(Known { cut_to: cut_to.max(stream.before_first), queue_sequence, stream, replaces })
    }

    /// Cuts one range of at most so many messages, and about so many bytes.
    pub(super) async fn cut(&mut self, messages_max: usize, bytes_max: usize) -> Result<Cut, BusError> {
        // Given up when it fails in between: whether the range is stored is then not known.
        let mut known = match self.known.take() {
            Some(known) => known,
            None => self.look().await?,
        };
        if known.stream.last <= known.cut_to {
            let stream = StreamEnd::of(&self.shared.stream_info().await?);
            if stream.created != known.stream.created || stream.last < known.cut_to {
                // Another stream, or one that lost messages: the next look finds out.
                return Ok(Cut::Full);
            }
            known.cut_to = known.cut_to.max(stream.before_first);
            known.stream = stream;
        }
        let (cut_to, stream) = (known.cut_to, &known.stream);
        if stream.last <= cut_to {
            self.known = Some(known);
            return Ok(Cut::Nothing(cut_to));
        }
        let messages = (bytes_max as u64 / stream.message_bytes).clamp(1, messages_max.max(1) as u64);
        let last = stream.last.min(cut_to + messages);
        let last_time = match last == stream.last {
            true => Some(stream.last_time),
            false => dead_letter::raw(&self.shared.stream, last).await?.map(|message| nanoseconds(message.time)),
        };
        let range = SequenceRange { first: cut_to + 1, last, last_time, stream_created: stream.created };
        let Some(queue_sequence) = self.store(&range, known.queue_sequence).await? else {
            // Somebody else was first.
            return Ok(Cut::Full);
        };
        if std::mem::take(&mut known.replaces) {
            self.replace().await;
        }
        (known.cut_to, known.queue_sequence) = (last, queue_sequence);
        let cut = if last < known.stream.last { Cut::Full } else { Cut::Tail };
        self.known = Some(known);
        Ok(cut)
    }

    /// Stores the range behind the last one; none when that is another one by now.
    async fn store(&self, range: &SequenceRange, behind: u64) -> Result<Option<u64>, BusError> {
        let shared = &self.shared;
        let payload = serde_json::to_vec(range).map_err(|error| failed("store range", error))?;
        let mut headers = HeaderMap::new();
        headers.insert(EXPECTED_LAST, behind.to_string());
        let subject = shared.settings.range_subject(&self.consumer);
        let answer = shared.publish_one(subject, headers, payload.into(), "store range").await?;
        let refused = serde_json::from_slice::<PubAck>(&answer.payload).ok().and_then(|ack| ack.error);
        if refused.is_some_and(|error| error.err_code == WRONG_LAST) {
            return Ok(None);
        }
        shared.acknowledged(&answer, &shared.settings.range_stream()).map(|published| Some(published.sequence))
    }

    /// The stream as it is when it has caught up with its last range, if ever: a server that has just become the
    /// leader of a replicated stream may not have taken in all that it has.
    async fn stream_behind(&self, range: Option<&SequenceRange>) -> Result<Info, BusError> {
        let until = Instant::now() + CATCH_UP_MAX;
        loop {
            let info = self.shared.stream_info().await?;
            let behind = |range: &SequenceRange| {
                nanoseconds(info.created) == range.stream_created && info.state.last_sequence < range.last
            };
            if !range.is_some_and(behind) || Instant::now() >= until {
                return Ok(info);
            }
            tokio::time::sleep(REFUSED_PAUSE).await;
        }
    }

    /// Takes one range out of the queue, or with all before it. Never one that was stored meanwhile.
    async fn remove(&self, queue_sequence: u64, with_earlier: bool) -> Result<(), BusError> {
        let queue = &self.shared.ranges;
        let removed = match with_earlier {
            true => {
                let subject = self.shared.settings.range_subject(&self.consumer);
                queue.purge().filter(subject).sequence(queue_sequence + 1).await.map(drop).map_err(|e| e.to_string())
            }
            false => queue.delete_message(queue_sequence).await.map(drop).map_err(|error| error.to_string()),
        };
        removed.map_err(|error| failed("remove range", error))
    }

    /// False when the stream was created anew, or lost messages in a crash and gave their sequences to others. A
    /// message that was deleted by itself says nothing.
    async fn stream_holds(&self, info: &Info, range: &SequenceRange) -> Result<bool, BusError> {
        if nanoseconds(info.created) != range.stream_created || range.last > info.state.last_sequence {
            return Ok(false);
        }
        if range.last < info.state.first_sequence {
            return Ok(true);
        }
        let held = dead_letter::raw(&self.shared.stream, range.last).await?;
        let (held, meant) = (held.map(|message| nanoseconds(message.time)), range.last_time);
        Ok(held.zip(meant).is_none_or(|(held, meant)| held == meant))
    }

    /// What a consumer of an earlier version, on the stream itself, has acknowledged.
    async fn replaced(&self) -> Result<Option<u64>, BusError> {
        match self.shared.stream.consumer_info(&self.consumer).await {
            Ok(info) => Ok(Some(info.ack_floor.stream_sequence)),
            Err(error) if matches!(error.kind(), ConsumerInfoErrorKind::NotFound) => Ok(None),
            Err(error) => Err(failed("read consumer", error)),
        }
    }

    /// From now on the ranges are what holds messages back from being purged.
    async fn replace(&self) {
        match self.shared.stream.delete_consumer(&self.consumer).await {
            Ok(_) => info!(consumer = self.consumer, "leases ranges of messages now, its place was kept"),
            Err(error) => {
                warn!(%error, consumer = self.consumer, "the consumer of an earlier version could not be deleted")
            }
        }
    }
}

/// The last range of a consumer in the queue, with the message that it is.
pub(super) async fn last_range(
    shared: &Shared,
    consumer: &str,
) -> Result<Option<(StreamMessage, SequenceRange)>, BusError> {
    let subject = shared.settings.range_subject(consumer);
    range_of(shared, shared.ranges.get_last_raw_message_by_subject(&subject).await)
}

/// The first range of a consumer that is not before that sequence of the queue.
pub(super) async fn range_from(
    shared: &Shared,
    consumer: &str,
    queue_sequence: u64,
) -> Result<Option<(StreamMessage, SequenceRange)>, BusError> {
    let subject = shared.settings.range_subject(consumer);
    range_of(shared, shared.ranges.get_first_raw_message_by_subject(&subject, queue_sequence).await)
}

fn range_of(
    shared: &Shared,
    message: Result<StreamMessage, RawMessageError>,
) -> Result<Option<(StreamMessage, SequenceRange)>, BusError> {
    let Some(message) = dead_letter::found("read range", message)? else { return Ok(None) };
    let Some(range) = SequenceRange::read(&message.payload) else {
        let text = format!("message {} of stream {} is no range", message.sequence, shared.settings.range_stream());
        return Err(BusError::caused(BusErrorKind::Refused, "read range", text));
    };
    Ok(Some((message, range)))
}

fn nanoseconds(time: async_nats::datetime::DateTime) -> i64 {
    i64::try_from(time.unix_timestamp_nanos()).unwrap_or(i64::MAX)
}
