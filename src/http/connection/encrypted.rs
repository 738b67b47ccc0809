//! The TLS part of a watch: the handshake timeout, and memory that HTTP cannot see.

use std::sync::atomic::Ordering::Relaxed;

use tokio::time::Instant;

use super::watch::Watch;
use crate::http::memory::{Exhausted, HANDSHAKE_BYTES};

impl Watch {
    /// The first bytes of a TLS handshake were received. `Err` when there is no memory for it.
    pub(crate) fn handshake_began(&self) -> Result<(), Exhausted> {
        self.memory.take(HANDSHAKE_BYTES, true)?;
        self.own_bytes.fetch_add(HANDSHAKE_BYTES, Relaxed);
        self.handshake.store(self.now(), Relaxed);
        Ok(())
    }

    pub(crate) fn handshake_ended(&self) {
        self.handshake.store(0, Relaxed);
        self.release_own();
    }

    /// When the current TLS handshake began.
    pub(crate) fn handshake_since(&self) -> Option<Instant> {
        let mark = self.handshake.load(Relaxed);
        (mark != 0).then(|| self.instant(mark))
    }

    pub(crate) fn handshake_answered(&self) {
        self.handshake_answered.store(true, Relaxed);
    }

    /// The client has everything that it needs to complete the handshake.
    pub(crate) fn is_handshake_answered(&self) -> bool {
        self.handshake_answered.load(Relaxed)
    }

    /// Takes memory for TLS records until they are complete. `Err` when there is none.
    pub(crate) fn records_hold(&self, bytes: usize) -> Result<(), Exhausted> {
        let missing = bytes.saturating_sub(self.record_bytes.load(Relaxed));
        if missing > 0 {
            self.memory.take(missing, true)?;
            self.record_bytes.fetch_add(missing, Relaxed);
        }
        Ok(())
    }

    /// The same for records that must be sent even without memory.
    pub(crate) fn records_wait(&self, bytes: usize) {
        let missing = bytes.saturating_sub(self.record_bytes.load(Relaxed));
        if missing > 0 {
            self.memory.overdraw(missing);
            self.record_bytes.fetch_add(missing, Relaxed);
        }
    }

    pub(crate) fn records_left(&self) {
        if self.record_bytes.load(Relaxed) > 0 {
            self.memory.release(self.record_bytes.swap(0, Relaxed));
        }
    }
}
