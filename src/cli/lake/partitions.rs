//! What the commands on partitions share: bounds, errors and waiting for a lease.

use std::time::Duration;

use crate::cli::Failure;
use crate::event;
use crate::warehouse::{WarehouseError, WarehouseErrorKind};

/// How long to wait for a partition that another worker has. The lease of a worker that is gone expires within this.
pub(super) const LEASE_WAIT_MAX: Duration = Duration::from_secs(45);
pub(super) const LEASE_POLL_PAUSE: Duration = Duration::from_secs(1);
/// Partitions processed concurrently, given as many processors. Each takes up to 256 MB.
const CONCURRENT_PARTITIONS_MAX: usize = 4;

pub(super) fn app_id(text: &str) -> Result<String, String> {
    if event::is_app_id(text) { Ok(text.to_owned()) } else { Err("is no app id".to_owned()) }
}

pub(super) fn failed(error: &WarehouseError) -> Failure {
    match error.kind {
        WarehouseErrorKind::Refused => Failure::refused(error.to_string()),
        _ => Failure::failed(error.to_string()),
    }
}

/// The number of partitions to process concurrently.
pub(super) fn concurrent_partitions() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from).min(CONCURRENT_PARTITIONS_MAX)
}
