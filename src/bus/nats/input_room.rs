//! The room that is left for refused input.

use std::time::{Duration, Instant};

use crate::bus::RefusedInput;

/// How old the stream's own figure may be.
const LOOK_INTERVAL: Duration = Duration::from_secs(10);
/// This share of the room may be used up between two looks, so that several gateways pass the limit by little.
const LOOK_SHARE: u64 = 64;
/// What the stream of dead letters holds, as of the last look, with what was put there since.
#[derive(Debug, Default)]
pub(crate) struct Room {
    pub(super) looked_at: Option<Instant>,
    pub(super) bytes: u64,
    pub(super) since: u64,
}

impl Room {
    pub(super) fn is_old(&self, bytes_max: u64) -> bool {
        self.looked_at.is_none_or(|at| at.elapsed() > LOOK_INTERVAL) || self.since > bytes_max / LOOK_SHARE
    }

    /// Takes room for as many as fit.
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
