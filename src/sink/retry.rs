//! How a failing bus or warehouse is retried.

use std::time::Duration;

use crate::base::backoff::Backoff;

/// Backoff between attempts. The longest delay plus the longest silence of a request is less than the ten seconds within
/// which work must resume after a fault.
pub(super) const RETRY: Backoff =
    Backoff { initial: Duration::from_millis(200), multiplier: 2.0, max: Duration::from_secs(1) };
