//! A delivered message and the receipt that answers it.

use bytes::Bytes;

use super::batch;

/// One message as delivered to a consumer.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// Identifies this delivery to [`Acker`](super::Acker). Its sequence starts at 1 and is unique in the stream.
    pub receipt: Receipt,
    /// A whole record in the layout of `batch`, sharing the buffer it was read into.
    pub(super) record: Bytes,
    /// When the bus stored the message, milliseconds since the Unix epoch.
    pub published_at_ms: i64,
    /// 1 for the first delivery.
    pub delivery_count: u32,
    /// True when the message may have been handled before without the bus knowing: it is a redelivery, or it was
    /// already stored when this process connected.
    pub possibly_redelivered: bool,
    /// True for all messages of a fetch or for none. Earlier deliveries may have ended their process, so these messages
    /// are tried apart from others. See [`Acker::begin_trial`](super::Acker::begin_trial).
    pub isolated: bool,
}

impl Delivery {
    pub fn subject(&self) -> &[u8] {
        batch::layout(&self.record, 0).map_or(&[], |layout| &self.record[layout.subject])
    }

    pub fn payload(&self) -> &[u8] {
        batch::layout(&self.record, 0).map_or(&[], |layout| &self.record[layout.payload])
    }

    pub fn sequence(&self) -> u64 {
        self.receipt.sequence
    }
}

/// Identifies one delivery of one message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Receipt {
    pub(crate) sequence: u64,
    /// Counts the deliveries of the consumer; 0 on an engine that does not need it.
    pub(crate) consumer_sequence: u64,
    pub(crate) delivery_count: u32,
}
