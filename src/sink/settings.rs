//! Settings of the sink.

use std::time::Duration;

use crate::base::supervisor::StopBudget;
use crate::warehouse::Compression;

/// Bytes of one fetch from a bus server. More than from the embedded bus, because each fetch costs some round trips to
/// the server and another to a remote warehouse.
pub const SERVER_FETCH_BYTES_MAX: usize = 8 * 1024 * 1024;

#[derive(Clone, Debug)]
pub struct Settings {
    /// Rows at which a file closes.
    pub batch_events_max: usize,
    /// Age at which a file closes.
    pub flush_interval: Duration,
    /// Encoded bytes at which a file closes.
    pub file_bytes_max: usize,
    /// Memory of open files, rows gathered for one, and uploads, in total. When the first two take half of it, the largest
    /// are closed; when all three reach it, fetching waits.
    pub memory_bytes_max: usize,
    /// Files open at the same time. Rows of further partitions are gathered until there are enough for a file.
    pub open_partitions_max: usize,
    pub fetch_messages_max: usize,
    pub fetch_bytes_max: usize,
    pub ack_wait: Duration,
    /// Deliveries after which the bus dead-letters a message.
    pub max_deliver: u32,
    /// Messages in flight at which the bus stops delivering.
    pub pending_max: usize,
    pub row_group_rows: usize,
    pub compression: Compression,
    /// Concurrent uploads of all workers of the process.
    pub max_concurrent_writes: usize,
    /// Loops that fetch and encode in parallel. Limits on memory are divided among them.
    pub workers: usize,
    /// The stream's name, for the files' footers.
    pub stream: String,
    /// How long a stop may take.
    pub stop_budget: StopBudget,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            batch_events_max: 500_000,
            flush_interval: Duration::from_secs(5),
            file_bytes_max: 64 * 1024 * 1024,
            memory_bytes_max: 96 * 1024 * 1024,
            open_partitions_max: 256,
            fetch_messages_max: 20_000,
            fetch_bytes_max: 4 * 1024 * 1024,
            ack_wait: Duration::from_secs(30),
            max_deliver: 1_000,
            pending_max: 2_000_000,
            row_group_rows: 122_880,
            compression: Compression::Snappy,
            max_concurrent_writes: 4,
            workers: 1,
            stream: "CAUSALITY_EVENTS".to_owned(),
            stop_budget: Duration::from_secs(20).into(),
        }
    }
}
