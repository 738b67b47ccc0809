//! Settings of the sink.

use std::time::Duration;

use crate::base::settings::{self, Reader};
use crate::base::supervisor::StopBudget;
use crate::bus::ack_wait;
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

/// The age at which a file closes: short for a local directory, longer where each file costs requests.
const FLUSH_LOCAL: Duration = Duration::from_secs(5);
const FLUSH_REMOTE: Duration = Duration::from_secs(300);
/// More workers than any machine can use.
const WORKERS_MAX: usize = 64;

impl Settings {
    /// `remote`: whether the warehouse is in an object store.
    pub fn read(from: &mut Reader<'_>, remote: bool) -> Self {
        let is_positive = |time: &Duration| !time.is_zero();
        let flush = from.optional_if("batch_flush_interval", "a duration above 0s", is_positive);
        Self {
            batch_events_max: from.get("batch_max_events"),
            flush_interval: flush.unwrap_or(if remote { FLUSH_REMOTE } else { FLUSH_LOCAL }),
            file_bytes_max: from.bytes("batch_max_bytes"),
            memory_bytes_max: from.bytes("batch_memory_max"),
            open_partitions_max: 256,
            fetch_messages_max: from.get("batch_fetch_batch_size"),
            fetch_bytes_max: 4 * 1024 * 1024,
            ack_wait: ack_wait(from),
            max_deliver: 1_000,
            pending_max: 2_000_000,
            row_group_rows: from.get("parquet_row_group_size"),
            compression: from.get("parquet_compression"),
            max_concurrent_writes: from.get("batch_max_concurrent_writes"),
            workers: from.count_to("batch_worker_count", WORKERS_MAX),
            stream: from.get("nats_stream_name"),
            stop_budget: Duration::from_secs(20).into(),
        }
    }
}

impl Default for Settings {
    fn default() -> Self {
        settings::defaults(|from| Self::read(from, false))
    }
}
