//! A durable consumer that leases ranges of the stream instead of single messages.
//!
//! To the server every message that it delivers for an explicit acknowledgement is an entry that it
//! keeps, writes down and takes out again: more than twice the work of delivering it. A
//! consumer that takes nearly everything can do with less. Its subscriptions cut the stream into ranges of
//! sequences ([`Cutter`]) and put each as one message into a queue, a stream of its own; a
//! range is leased, renewed, acknowledged and redelivered there as any message is. What a range holds is
//! read from the stream without acknowledgements ([`Reader`]). A range is acknowledged when
//! each of its messages is ([`Held`]); one that is not, comes again as a whole.
//!
//! ```text
//!   stream   1 2 3 ... 8192 | 8193 ... 16384 | 16385 ...      read by sequence
//!   queue      {1..8192}        {8193..16384}                 leased and acknowledged
//! ```

mod acker;
mod cutter;
mod held;
pub(super) mod place;
mod reader;
mod ready;
mod subscription;

#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_replicas;

/// Ranges that may be leased at once: little comes with each where little comes at all.
pub(super) const PENDING_MAX: usize = 65_536;

pub(crate) use acker::RangeAcker;
pub(crate) use subscription::RangeSubscription;
