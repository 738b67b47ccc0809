//! A page-aligned file in memory, which direct I/O can write without a copy.
//!
//! Knows bytes and their alignment, nothing of the content of a file.

use std::io;

use bytes::Bytes;

/// Memory, offsets and lengths of direct writes are multiples of this: a page, and at least a block of any disk.
pub(crate) const ALIGNMENT: usize = 4096;

/// A growing file.
#[derive(Debug)]
pub(crate) struct AlignedFile {
    memory: Vec<u8>,
    /// The offset of the file in `memory`.
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

    /// Returns the bytes. Copies them if they use less than half of the memory.
    pub(crate) fn into_bytes(self) -> Bytes {
        let content = &self.memory[self.start..];
        if content.len() < self.memory.capacity() / 2 {
            let mut exact = Self::with_capacity(content.len());
            exact.memory.extend_from_slice(content);
            return Bytes::from(exact.memory).slice(exact.start..);
        }
        Bytes::from(self.memory).slice(self.start..)
    }
}

impl io::Write for AlignedFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = self.memory.capacity() - self.memory.len();
        if room < bytes.len() {
            // Reallocated memory may not be aligned.
            let content = &self.memory[self.start..];
            let mut larger = Self::with_capacity((content.len() + bytes.len()).max(2 * content.len()));
            larger.memory.extend_from_slice(content);
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
