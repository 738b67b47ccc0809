//! Pools of large buffers.
//!
//! The buffer of a request travels to the writer thread and is dropped there; a group lives as long as its slowest
//! reader. Freshly allocated buffers would be zeroed by the kernel page by page before their first byte is written, so
//! buffers are reused. Invariant: a pool holds no more than its bound, and nothing that stayed unused for a whole
//! interval.

use std::ops::{Deref, DerefMut};

use parking_lot::Mutex;

/// Records of requests on their way to the bus.
pub(super) static RECORDS: Pool = Pool::new(8 << 20);
/// Data handed to readers: groups of the embedded bus, including its tail, and messages read from NATS.
pub(super) static GROUPS: Pool = Pool::new(16 << 20);

/// Smaller buffers come straight from the allocator, which is fast for them.
const BUFFER_BYTES_MIN: usize = 16 << 10;

pub(crate) struct Pool {
    bytes_max: usize,
    idle: Mutex<Idle>,
}

struct Idle {
    buffers: Vec<Vec<u8>>,
    bytes: usize,
    /// How many buffers, counted from the oldest, have not been used since the last `trim`.
    unused: usize,
}

/// A borrowed buffer; returns to its pool when dropped.
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
        let idle = self.idle.lock().take(bytes);
        // Few distinct sizes fit more requests; the kernel backs only written pages with memory.
        let buffer = idle.unwrap_or_else(|| Vec::with_capacity(bytes.next_power_of_two()));
        Buffer { bytes: buffer, pool: self }
    }

    /// Frees the buffers that were not used since the last call.
    pub(super) fn trim(&self) {
        let mut idle = self.idle.lock();
        let unused = idle.unused;
        let freed: usize = idle.buffers.drain(..unused).map(|buffer| buffer.capacity()).sum();
        idle.bytes -= freed;
        idle.unused = idle.buffers.len();
    }

    fn recycle(&self, mut buffer: Vec<u8>) {
        if buffer.capacity() < BUFFER_BYTES_MIN {
            return;
        }
        buffer.clear();
        let mut idle = self.idle.lock();
        idle.bytes += buffer.capacity();
        idle.buffers.push(buffer);
        // Recently used buffers have the size that is needed now, so the oldest are freed.
        let mut freed = 0;
        while idle.bytes > self.bytes_max && freed < idle.buffers.len() {
            idle.bytes -= idle.buffers[freed].capacity();
            freed += 1;
        }
        idle.buffers.drain(..freed);
        idle.unused = idle.unused.saturating_sub(freed);
    }
}

impl Idle {
    /// The smallest buffer that is large enough. A buffer that must grow is useless: the allocator would copy contents
    /// that are no longer needed.
    fn take(&mut self, bytes: usize) -> Option<Vec<u8>> {
        let fits = |(_, buffer): &(usize, &Vec<u8>)| buffer.capacity() >= bytes;
        let smallest = self.buffers.iter().enumerate().rev().filter(fits).min_by_key(|(_, buffer)| buffer.capacity());
        let index = smallest?.0;
        let buffer = self.buffers.remove(index);
        self.bytes -= buffer.capacity();
        // The buffers below it were not needed for this request either.
        self.unused = self.unused.min(index);
        Some(buffer)
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.pool.recycle(std::mem::take(&mut self.bytes));
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
    fn buffers_are_reused_empty_and_within_the_bound() {
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
            let idle = POOL.idle.lock();
            (idle.buffers.len(), idle.bytes)
        };
        assert_eq!(kept, (2, 65_536), "the oldest made room");
        let larger = POOL.take(60_000);
        assert_eq!(POOL.idle.lock().buffers.len(), 2, "neither has room for it");
        drop(larger);
        drop(POOL.take(10));
        assert_eq!(POOL.idle.lock().buffers.len(), 2, "small ones are not kept");
    }

    #[test]
    fn unused_buffers_are_freed() {
        static POOL: Pool = Pool::new(1 << 20);
        drop([POOL.take(20_000), POOL.take(20_000), POOL.take(20_000)]);
        POOL.trim();
        drop(POOL.take(20_000));
        POOL.trim();
        assert_eq!(POOL.idle.lock().buffers.len(), 1, "one of three was used");
        POOL.trim();
        let idle = POOL.idle.lock();
        assert_eq!((idle.buffers.len(), idle.bytes), (0, 0));
    }
}
