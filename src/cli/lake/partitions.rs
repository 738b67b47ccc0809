//! What the commands that work on partitions share: bounds, errors, and waiting for a lease.

use std::time::Duration;

use crate::cli::Failure;
use crate::event;
use crate::warehouse::{WarehouseError, WarehouseErrorKind};

/// How long a partition is waited for that another worker has, or a worker that is gone: its lease ends within this.
pub(super) const BUSY_PATIENCE: Duration = Duration::from_secs(45);
pub(super) const BUSY_PAUSE: Duration = Duration::from_secs(1);
/// Partitions that are worked on at once, where there are as many processors: each takes up to 256 MB.
const PARTITIONS_TOGETHER_MAX: usize = 4;

pub(super) fn app_id(text: &str) -> Result<String, String> {
    if event::is_app_id(text) { Ok(text.to_owned()) } else { Err("is no app id".to_owned()) }
}

pub(super) fn failed(error: &WarehouseError) -> Failure {
    match error.kind {
        WarehouseErrorKind::Refused => Failure::refused(error.to_string()),
        _ => Failure::failed(error.to_string()),
    }
}

/// How many are worked on at once.
pub(super) fn partitions_together() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from).min(PARTITIONS_TOGETHER_MAX)
}
