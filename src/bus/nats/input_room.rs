//! The remaining room for refused input.

use std::time::{Duration, Instant};

use crate::bus::RefusedInput;

/// The maximum age of the size reported by the stream.
const CHECK_INTERVAL: Duration = Duration::from_secs(10);
/// The fraction of the room that may be used between two reports, so that several gateways exceed the limit only
/// slightly.
const LOOK_SHARE: u64 = 64;
/// The size of the stream of dead letters at the last report, and what was added since.
#[derive(Debug, Default)]
pub(crate) struct Room {
    pub(super) checked_at: Option<Instant>,
    pub(super) bytes: u64,
    pub(super) since: u64,
}

impl Room {
    pub(super) fn is_old(&self, bytes_max: u64) -> bool {
        self.checked_at.is_none_or(|at| at.elapsed() > CHECK_INTERVAL) || self.since > bytes_max / LOOK_SHARE
    }

    /// Reserves room for as many inputs as fit.
    pub(super) fn take(&mut self, inputs: &[RefusedInput], bytes_max: u64) -> usize {
        let fits = inputs.iter().take_while(|input| {
            let bytes = input.stored_bytes();
            let fits = self.bytes.saturating_add(bytes) <= bytes_max;
            if fits {
                self.bytes += bytes;
                self.since += bytes;
            }
            fits
        });
        fits.count()
    }
}
