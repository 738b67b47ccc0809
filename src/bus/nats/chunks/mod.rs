//! A durable consumer that leases chunks of the stream instead of single messages.
//!
//! For each message delivered with explicit acknowledgement, the server keeps an entry that it stores and removes
//! again, which more than doubles the work of the delivery. A consumer that takes nearly everything can avoid that. Its
//! subscriptions divide the stream into chunks of consecutive sequences (`ChunkAllocator`) and append each chunk as one
//! message to a queue, which is a separate stream. There a chunk is leased, renewed, acknowledged and redelivered like
//! any message. The messages of a chunk are read from the stream without acknowledgements (`Reader`). A chunk is
//! acknowledged once each of its messages is (`InFlightChunks`); otherwise it is redelivered as a whole.
//!
//! ```text
//!   stream   1 2 3 ... 8192 | 8193 ... 16384 | 16385 ...      read by sequence
//!   queue      {1..8192}        {8193..16384}                 leased and acknowledged
//! ```

mod acker;
mod allocator;
mod in_flight;
pub(super) mod progress;
mod reader;
mod ready;
mod subscription;

#[cfg(test)]
mod tests;

/// Chunks that may be leased at the same time; with little traffic, chunks are small.
pub(super) const PENDING_MAX: usize = 65_536;

pub(crate) use acker::ChunkAcker;
pub(crate) use subscription::ChunkSubscription;
