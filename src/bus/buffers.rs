//! Large buffers that are used again.
//!
//! A buffer of a request travels to the writer's thread and dies there; a group lives as long as its slowest
//! reader. Freed and allocated anew, each would be cleared by the kernel page by page before its first byte is
//! written. Invariant: a pool holds no more than its bound, and nothing that lay unused for a whole interval.

use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Records of requests on their way to the bus.
pub(super) static RECORDS: Pool = Pool::new(8 << 20);
/// Groups in the tail and in readers' hands.
pub(super) static GROUPS: Pool = Pool::new(16 << 20);

/// Buffers below this are the allocator's: it has them at hand.
const BUFFER_BYTES_MIN: usize = 16 << 10;

pub(super) struct Pool {
    bytes_max: usize,
    idle: Mutex<Idle>,
}

struct Idle {
    buffers: Vec<Vec<u8>>,
    bytes: usize,
    /// The least number of buffers that lay here since the last `trim`.
    unused: usize,
}

/// A buffer on loan; given back when dropped.
pub(super) struct Buffer {
    bytes: Vec<u8>,
    pool: &'static Pool,
}

impl Pool {
    const fn new(bytes_max: usize) -> Self {
        Self { bytes_max, idle: Mutex::new(Idle { buffers: Vec::new(), bytes: 0, unused: 0 }) }
    }

    /// An empty buffer with room for `bytes`.
    pub(super) fn take(&'static self, bytes: usize) -> Buffer {
        let idle = if bytes < BUFFER_BYTES_MIN { None } else { self.idle().take() };
        let mut buffer = Buffer { bytes: idle.unwrap_or_default(), pool: self };
        buffer.bytes.reserve(bytes);
        buffer
    }

    /// Frees what nobody took since the last call.
    pub(super) fn trim(&self) {
        let mut idle = self.idle();
        let kept = idle.buffers.len() - idle.unused;
        let freed = idle.buffers.split_off(kept);
        idle.bytes -= freed.iter().map(Vec::capacity).sum::<usize>();
        idle.unused = kept;
    }

    fn give_back(&self, mut buffer: Vec<u8>) {
        if buffer.capacity() < BUFFER_BYTES_MIN {
            return;
        }
        buffer.clear();
        let mut idle = self.idle();
        if idle.bytes + buffer.capacity() <= self.bytes_max {
            idle.bytes += buffer.capacity();
            idle.buffers.push(buffer);
        }
    }

    fn idle(&self) -> MutexGuard<'_, Idle> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Idle {
    /// The one that was used last: the caches may still have it.
    fn take(&mut self) -> Option<Vec<u8>> {
        let buffer = self.buffers.pop()?;
        self.bytes -= buffer.capacity();
        self.unused = self.unused.min(self.buffers.len());
        Some(buffer)
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.pool.give_back(std::mem::take(&mut self.bytes));
    }
}

impl Deref for Buffer {
    type Target = Vec<u8>;
    fn deref(&self) -> &Vec<u8> {
        &self.bytes
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl std::fmt::Debug for Buffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes", self.bytes.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_come_back_empty_and_within_the_bound() {
        static POOL: Pool = Pool::new(100_000);
        let mut first = POOL.take(40_000);
        first.extend_from_slice(b"secret of somebody else");
        let at = first.as_ptr();
        drop(first);
        let again = POOL.take(30_000);
        assert!(again.as_ptr() == at && again.is_empty());
        let others = [POOL.take(40_000), POOL.take(40_000)];
        drop(again);
        drop(others);
        let kept = {
            let idle = POOL.idle();
            (idle.buffers.len(), idle.bytes)
        };
        assert_eq!(kept, (2, 80_000), "the third would pass the bound");
        drop(POOL.take(10));
        assert_eq!(POOL.idle().buffers.len(), 2, "small ones are not kept");
    }

    #[test]
    fn what_lies_unused_is_freed() {
        static POOL: Pool = Pool::new(1 << 20);
        drop([POOL.take(20_000), POOL.take(20_000), POOL.take(20_000)]);
        POOL.trim();
        drop(POOL.take(20_000));
        POOL.trim();
        assert_eq!(POOL.idle().buffers.len(), 1, "one of three was used");
        POOL.trim();
        let idle = POOL.idle();
        assert_eq!((idle.buffers.len(), idle.bytes), (0, 0));
    }
}
