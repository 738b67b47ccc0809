//! A file in memory that begins at a boundary of pages, so that a disk can take it from where it lies.
//!
//! Knows bytes and where they are, nothing of what is in a file.

use std::io;

use bytes::Bytes;

/// Memory, offsets and lengths of direct writes are multiples of this: a page, and at least a block of any disk.
pub(crate) const ALIGNMENT: usize = 4096;

/// A growing file.
#[derive(Debug)]
pub(crate) struct AlignedFile {
    memory: Vec<u8>,
    /// Where the file begins in `memory`.
    start: usize,
}

impl AlignedFile {
    pub(crate) fn with_capacity(bytes: usize) -> Self {
        let mut memory: Vec<u8> = Vec::with_capacity(bytes + ALIGNMENT);
        let start = memory.as_ptr().align_offset(ALIGNMENT).min(ALIGNMENT);
        memory.resize(start, 0);
        Self { memory, start }
    }

    pub(crate) fn capacity(&self) -> usize {
        self.memory.capacity()
    }

    pub(crate) fn as_mut_slice(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..]
    }

    /// What is much shorter than the memory that was made ready for it moves to memory of its own.
    pub(crate) fn into_bytes(self) -> Bytes {
        let held = &self.memory[self.start..];
        if held.len() < self.memory.capacity() / 2 {
            let mut exact = Self::with_capacity(held.len());
            exact.memory.extend_from_slice(held);
            return Bytes::from(exact.memory).slice(exact.start..);
        }
        Bytes::from(self.memory).slice(self.start..)
    }
}

impl io::Write for AlignedFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = self.memory.capacity() - self.memory.len();
        if room < bytes.len() {
            // Memory that grows may move to where it is not aligned.
            let held = &self.memory[self.start..];
            let mut larger = Self::with_capacity((held.len() + bytes.len()).max(2 * held.len()));
            larger.memory.extend_from_slice(held);
            *self = larger;
        }
        self.memory.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn a_file_is_aligned_however_it_grew() {
        let mut file = AlignedFile::with_capacity(10);
        let mut expected = Vec::new();
        for n in 0..100u8 {
            let part = vec![n; usize::from(n) * 40];
            file.write_all(&part).unwrap();
            expected.extend_from_slice(&part);
        }
        let bytes = file.into_bytes();
        assert!(bytes == expected);
        assert!(bytes.as_ptr().addr().is_multiple_of(ALIGNMENT));
    }
}
