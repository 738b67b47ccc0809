//! Allocates chunks: divides the stored messages of the stream into chunks and appends them to the queue of their
//! consumer.
//!
//! Invariants: the chunks of a consumer follow one another without gaps or overlaps, since a chunk is stored only
//! directly after the last one its allocator knows. A chunk is in the queue only while the stream still holds the
//! messages it was allocated from.

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

/// How long the stream may lag behind its own chunks before it is assumed to have lost messages.
const CATCH_UP_MAX: Duration = Duration::from_secs(5);

/// One message of the queue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Chunk {
    pub(super) first: u64,
    pub(super) last: u64,
    /// When the stream stored the last message, in nanoseconds since the Unix epoch. It distinguishes the intended
    /// message from another one with the same sequence. `None` when the message was already gone.
    last_time: Option<i64>,
    /// When the stream was created: sequences of another stream are unrelated.
    stream_created: i64,
}

pub(crate) struct ChunkAllocator {
    shared: Arc<Shared>,
    consumer: String,
    known: Option<Known>,
}

/// The last known state of the server. It may be outdated but never leads to a wrong chunk: the server rejects an
/// allocator that is behind.
struct Known {
    allocated_to: u64,
    /// The sequence of the last chunk in the queue.
    queue_sequence: u64,
    stream: StreamEnd,
    /// Replaces a consumer of an earlier version, which leased every message individually.
    replaces: bool,
}

/// The end of the stream.
struct StreamEnd {
    created: i64,
    before_first: u64,
    last: u64,
    last_time: i64,
    /// The mean size.
    message_bytes: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Allocation {
    /// Allocated one chunk; there is more.
    Full,
    /// Allocated everything there was.
    Tail,
    /// Nothing new: everything up to here is allocated.
    Nothing(u64),
}

impl Chunk {
    pub(super) fn read(payload: &[u8]) -> Option<Self> {
        serde_json::from_slice(payload).ok().filter(|chunk: &Self| chunk.first <= chunk.last)
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

impl ChunkAllocator {
    pub(super) fn new(shared: Arc<Shared>, consumer: String) -> Self {
        Self { shared, consumer, known: None }
    }

    /// Determines where to continue, and removes chunks from the queue that the stream no longer holds.
    pub(super) async fn learn(&mut self) -> Result<(), BusError> {
        self.known = Some(self.look().await?);
        Ok(())
    }

    async fn look(&self) -> Result<Known, BusError> {
        let mut last = last_chunk(&self.shared, &self.consumer).await?;
        // Read after the chunk: the messages it was allocated from must be there by now.
        let info = self.stream_behind(last.as_ref().map(|(_, chunk)| chunk)).await?;
        while let Some((message, chunk)) = &last {
            if self.stream_holds(&info, chunk).await? {
                break;
            }
            let (first, to) = (chunk.first, chunk.last);
            warn!(first, to, consumer = self.consumer, "the stream has not these messages any more, a range goes");
            self.remove(message.sequence, nanoseconds(info.created) != chunk.stream_created).await?;
            last = last_chunk(&self.shared, &self.consumer).await?;
        }
        let (allocated_to, queue_sequence, replaces) = match last {
            Some((message, chunk)) => (chunk.last, message.sequence, false),
            None => {
                let before = self.replaced().await?;
                (before.unwrap_or_default().min(info.state.last_sequence), 0, before.is_some())
            }
        };
        let stream = StreamEnd::of(&info);
        Ok(Known { allocated_to: allocated_to.max(stream.before_first), queue_sequence, stream, replaces })
    }

    /// Allocates one chunk of at most `messages_max` messages and about `bytes_max` bytes.
    pub(super) async fn allocate(&mut self, messages_max: usize, bytes_max: usize) -> Result<Allocation, BusError> {
        // Discarded on failure: it is then unknown whether the chunk is stored.
        let mut known = match self.known.take() {
            Some(known) => known,
            None => self.look().await?,
        };
        if known.stream.last <= known.allocated_to {
            let stream = StreamEnd::of(&self.shared.stream_info().await?);
            if stream.created != known.stream.created || stream.last < known.allocated_to {
                // Another stream, or one that lost messages: the next `look` finds out.
                return Ok(Allocation::Full);
            }
            known.allocated_to = known.allocated_to.max(stream.before_first);
            known.stream = stream;
        }
        let (allocated_to, stream) = (known.allocated_to, &known.stream);
        if stream.last <= allocated_to {
            self.known = Some(known);
            return Ok(Allocation::Nothing(allocated_to));
        }
        let messages = (bytes_max as u64 / stream.message_bytes).clamp(1, messages_max.max(1) as u64);
        let last = stream.last.min(allocated_to + messages);
        let last_time = match last == stream.last {
            true => Some(stream.last_time),
            false => dead_letter::raw(&self.shared.stream, last).await?.map(|message| nanoseconds(message.time)),
        };
        let chunk = Chunk { first: allocated_to + 1, last, last_time, stream_created: stream.created };
        let Some(queue_sequence) = self.store(&chunk, known.queue_sequence).await? else {
            // Another process was first.
            return Ok(Allocation::Full);
        };
        if std::mem::take(&mut known.replaces) {
            self.replace().await;
        }
        (known.allocated_to, known.queue_sequence) = (last, queue_sequence);
        let allocation = if last < known.stream.last { Allocation::Full } else { Allocation::Tail };
        self.known = Some(known);
        Ok(allocation)
    }

    /// Stores the chunk after the last one. Returns `None` when that is no longer the last.
    async fn store(&self, chunk: &Chunk, behind: u64) -> Result<Option<u64>, BusError> {
        let shared = &self.shared;
        let payload = serde_json::to_vec(chunk).map_err(|error| failed("store range", error))?;
        let mut headers = HeaderMap::new();
        headers.insert(EXPECTED_LAST, behind.to_string());
        let subject = shared.settings.chunk_subject(&self.consumer);
        let answer = shared.publish_one(subject, headers, payload.into(), "store range").await?;
        let refused = serde_json::from_slice::<PubAck>(&answer.payload).ok().and_then(|ack| ack.error);
        if refused.is_some_and(|error| error.err_code == WRONG_LAST) {
            return Ok(None);
        }
        shared.acknowledged(&answer, &shared.settings.chunk_stream()).map(|published| Some(published.sequence))
    }

    /// The stream once it has caught up with its last chunk, if ever: a server that has just become the leader of a
    /// replicated stream may still be catching up.
    async fn stream_behind(&self, chunk: Option<&Chunk>) -> Result<Info, BusError> {
        let until = Instant::now() + CATCH_UP_MAX;
        loop {
            let info = self.shared.stream_info().await?;
            let behind = |chunk: &Chunk| {
                nanoseconds(info.created) == chunk.stream_created && info.state.last_sequence < chunk.last
            };
            if !chunk.is_some_and(behind) || Instant::now() >= until {
                return Ok(info);
            }
            tokio::time::sleep(REFUSED_PAUSE).await;
        }
    }

    /// Removes one chunk from the queue, optionally with all earlier ones; never one that was stored in the meantime.
    async fn remove(&self, queue_sequence: u64, with_earlier: bool) -> Result<(), BusError> {
        let queue = &self.shared.chunks;
        let removed = match with_earlier {
            true => {
                let subject = self.shared.settings.chunk_subject(&self.consumer);
                queue.purge().filter(subject).sequence(queue_sequence + 1).await.map(drop).map_err(|e| e.to_string())
            }
            false => queue.delete_message(queue_sequence).await.map(drop).map_err(|error| error.to_string()),
        };
        removed.map_err(|error| failed("remove range", error))
    }

    /// Returns `false` when the stream was created again, or lost messages in a crash and reassigned their sequences. A
    /// single deleted message does not matter.
    async fn stream_holds(&self, info: &Info, chunk: &Chunk) -> Result<bool, BusError> {
        if nanoseconds(info.created) != chunk.stream_created || chunk.last > info.state.last_sequence {
            return Ok(false);
        }
        if chunk.last < info.state.first_sequence {
            return Ok(true);
        }
        let held = dead_letter::raw(&self.shared.stream, chunk.last).await?;
        let (held, meant) = (held.map(|message| nanoseconds(message.time)), chunk.last_time);
        Ok(held.zip(meant).is_none_or(|(held, meant)| held == meant))
    }

    /// The ack floor of a consumer of an earlier version, on the stream itself.
    async fn replaced(&self) -> Result<Option<u64>, BusError> {
        match self.shared.stream.consumer_info(&self.consumer).await {
            Ok(info) => Ok(Some(info.ack_floor.stream_sequence)),
            Err(error) if matches!(error.kind(), ConsumerInfoErrorKind::NotFound) => Ok(None),
            Err(error) => Err(failed("read consumer", error)),
        }
    }

    /// From now on, the chunks keep messages from being purged.
    async fn replace(&self) {
        match self.shared.stream.delete_consumer(&self.consumer).await {
            Ok(_) => info!(consumer = self.consumer, "leases ranges of messages now, its place was kept"),
            Err(error) => {
                warn!(%error, consumer = self.consumer, "the consumer of an earlier version could not be deleted")
            }
        }
    }
}

/// The last chunk of a consumer in the queue, with its message.
pub(super) async fn last_chunk(shared: &Shared, consumer: &str) -> Result<Option<(StreamMessage, Chunk)>, BusError> {
    let subject = shared.settings.chunk_subject(consumer);
    parse_chunk(shared, shared.chunks.get_last_raw_message_by_subject(&subject).await)
}

/// The first chunk of a consumer at or after this sequence of the queue.
pub(super) async fn chunk_from(
    shared: &Shared,
    consumer: &str,
    queue_sequence: u64,
) -> Result<Option<(StreamMessage, Chunk)>, BusError> {
    let subject = shared.settings.chunk_subject(consumer);
    parse_chunk(shared, shared.chunks.get_first_raw_message_by_subject(&subject, queue_sequence).await)
}

fn parse_chunk(
    shared: &Shared,
    message: Result<StreamMessage, RawMessageError>,
) -> Result<Option<(StreamMessage, Chunk)>, BusError> {
    let Some(message) = dead_letter::found("read range", message)? else { return Ok(None) };
    let Some(chunk) = Chunk::read(&message.payload) else {
        let text = format!("message {} of stream {} is no range", message.sequence, shared.settings.chunk_stream());
        return Err(BusError::caused(BusErrorKind::Refused, "read range", text));
    };
    Ok(Some((message, chunk)))
}

fn nanoseconds(time: async_nats::datetime::DateTime) -> i64 {
    i64::try_from(time.unix_timestamp_nanos()).unwrap_or(i64::MAX)
}
