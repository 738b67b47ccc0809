//! A delivered message, and the receipt that answers it.

use bytes::Bytes;

use super::batch;

/// One message as a consumer gets it.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// Names this delivery to [`Acker`](super::Acker); from 1, unique in the stream.
    pub receipt: Receipt,
    /// A whole record as `batch` lays it out: one share of the buffer that it came in.
    pub(super) record: Bytes,
    /// When the bus stored the message, milliseconds since the Unix epoch.
    pub published_at_ms: i64,
    /// 1 for the first delivery.
    pub delivery_count: u32,
    /// True when an earlier delivery may have been handled without the bus knowing it:
    /// the message is redelivered, or was already stored when this process connected.
    pub possibly_redelivered: bool,
    /// True for all messages of a fetch or for none: earlier deliveries may have ended the processes that had them, so
    /// these are to be tried apart from others. See [`Acker::begin_trial`](super::Acker::begin_trial).
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

/// Names one delivery of one message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Receipt {
    pub(crate) sequence: u64,
    /// Counts the deliveries of the consumer; 0 on an engine that needs none.
    pub(crate) consumer_sequence: u64,
    pub(crate) delivery_count: u32,
}
