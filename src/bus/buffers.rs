//! Large buffers that are used again.
//!
//! A buffer of a request travels to the writer's thread and dies there; a group lives as long as its slowest
//! reader. Freed and allocated anew, each would be cleared by the kernel page by page before its first byte is
//! written. Invariant: a pool holds no more than its bound, and nothing that lay unused for a whole interval.

use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Records of requests on their way to the bus.
pub(super) static RECORDS: Pool = Pool::new(8 << 20);
/// What readers are handed: groups of the embedded bus, its tail included, and what was read from NATS.
pub(super) static GROUPS: Pool = Pool::new(16 << 20);

/// Buffers below this are the allocator's: it has them at hand.
const BUFFER_BYTES_MIN: usize = 16 << 10;

pub(crate) struct Pool {
    bytes_max: usize,
    idle: Mutex<Idle>,
}

struct Idle {
    buffers: Vec<Vec<u8>>,
    bytes: usize,
    /// So many of them, from the first on, were not taken since the last `trim`.
    unused: usize,
}

/// A buffer on loan; given back when dropped.
pub(crate) struct Buffer {
    bytes: Vec<u8>,
    pool: &'static Pool,
}

impl Pool {
    const fn new(bytes_max: usize) -> Self {
        Self { bytes_max, idle: Mutex::new(Idle { buffers: Vec::new(), bytes: 0, unused: 0 }) }
    }

    /// An empty buffer with room for `bytes`.
    pub(super) fn take(&'static self, bytes: usize) -> Buffer {
        if bytes < BUFFER_BYTES_MIN {
            return Buffer { bytes: Vec::with_capacity(bytes), pool: self };
        }
        let idle = self.idle().take(bytes);
        // Few sizes fit more requests; the kernel gives what is not written no memory.
        let buffer = idle.unwrap_or_else(|| Vec::with_capacity(bytes.next_power_of_two()));
        Buffer { bytes: buffer, pool: self }
    }

    /// Frees what nobody took since the last call.
    pub(super) fn trim(&self) {
        let mut idle = self.idle();
        let unused = idle.unused;
        let freed: usize = idle.buffers.drain(..unused).map(|buffer| buffer.capacity()).sum();
        idle.bytes -= freed;
        idle.unused = idle.buffers.len();
    }

    fn give_back(&self, mut buffer: Vec<u8>) {
        if buffer.capacity() < BUFFER_BYTES_MIN {
            return;
        }
        buffer.clear();
        let mut idle = self.idle();
        idle.bytes += buffer.capacity();
        idle.buffers.push(buffer);
        // What was used last is of the size that is asked for now.
        let mut freed = 0;
        while idle.bytes > self.bytes_max && freed < idle.buffers.len() {
            idle.bytes -= idle.buffers[freed].capacity();
            freed += 1;
        }
        idle.buffers.drain(..freed);
        idle.unused = idle.unused.saturating_sub(freed);
    }

    fn idle(&self) -> MutexGuard<'_, Idle> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Idle {
    /// The smallest with room. One that would have to grow is worth nothing: the allocator would copy what it does
    /// not hold any more.
    fn take(&mut self, bytes: usize) -> Option<Vec<u8>> {
        let fits = |(_, buffer): &(usize, &Vec<u8>)| buffer.capacity() >= bytes;
        let smallest = self.buffers.iter().enumerate().rev().filter(fits).min_by_key(|(_, buffer)| buffer.capacity());
        let index = smallest?.0;
        let buffer = self.buffers.remove(index);
        self.bytes -= buffer.capacity();
        // Those below it were not needed for this either.
        self.unused = self.unused.min(index);
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
        let others = [POOL.take(20_000), POOL.take(20_000)];
        drop(again);
        drop(others);
        let kept = {
            let idle = POOL.idle();
            (idle.buffers.len(), idle.bytes)
        };
        assert_eq!(kept, (2, 65_536), "the oldest made room");
        let larger = POOL.take(60_000);
        assert_eq!(POOL.idle().buffers.len(), 2, "neither has room for it");
        drop(larger);
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
