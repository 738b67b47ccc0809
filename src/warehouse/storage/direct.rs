//! Writes large files directly to disk, bypassing the page cache.
//!
//! The sink does not read its files again. Copying them to the page cache takes more CPU time than encoding
//! some of the columns, and evicts pages that are in use. Small files, which on a quiet machine are read soon after
//! they are written, go through the cache.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

#[cfg(target_os = "linux")]
use super::aligned::ALIGNMENT;

/// Smaller files go through the page cache.
#[cfg(target_os = "linux")]
const DIRECT_BYTES_MIN: usize = 1 << 20;

/// Creates the file with these bytes, or replaces its content. Does not sync it.
pub(super) fn create(path: &Path, bytes: &[u8]) -> io::Result<File> {
    #[cfg(target_os = "linux")]
    if bytes.len() >= DIRECT_BYTES_MIN
        && bytes.as_ptr().addr().is_multiple_of(ALIGNMENT)
        && let Some(file) = write_direct(path, bytes)?
    {
        return Ok(file);
    }
    let mut file = File::create(path)?;
    file.write_all(bytes)?;
    Ok(file)
}

/// Returns `None` if the file system does not support direct writes, or requires another alignment.
#[cfg(target_os = "linux")]
fn write_direct(path: &Path, bytes: &[u8]) -> io::Result<Option<File>> {
    use std::os::unix::fs::OpenOptionsExt;

    let (blocks, rest) = bytes.split_at(bytes.len() - bytes.len() % ALIGNMENT);
    let mut options = File::options();
    options.write(true).create(true).truncate(true).custom_flags(libc::O_DIRECT);
    // In one call: each wait for the disk is also a wait to be scheduled again.
    match options.open(path).and_then(|mut file| file.write_all(blocks)) {
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => return Ok(None),
        written => written?,
    }
    let mut file = File::options().append(true).open(path)?;
    file.write_all(rest)?;
    Ok(Some(file))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::warehouse::storage::aligned::AlignedFile;

    fn bytes_of(length: usize) -> bytes::Bytes {
        let bytes: Vec<u8> = (0..length).map(|i| (i * 31 / 7) as u8).collect();
        let mut file = AlignedFile::with_capacity(length);
        file.write_all(&bytes).unwrap();
        file.into_bytes()
    }

    #[test]
    fn files_of_any_length_hold_what_was_written() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        for length in [3 << 20, 0, 1, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, (1 << 20) + 4095, (2 << 20) + 4097] {
            let bytes = bytes_of(length);
            create(&path, &bytes).unwrap().sync_all().unwrap();
            assert!(std::fs::read(&path).unwrap() == bytes, "{length} bytes");
        }
    }

    #[test]
    fn unaligned_memory_is_written_too() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        let bytes = bytes_of(2 << 20).slice(1..);
        create(&path, &bytes).unwrap();
        assert!(std::fs::read(&path).unwrap() == bytes);
    }

    #[test]
    fn a_file_system_without_direct_writes_works_too() {
        // Memory file systems used to reject direct writes. Without one, the other tests cover the rest.
        let Ok(directory) = tempfile::tempdir_in("/dev/shm") else { return };
        let path = directory.path().join("file");
        let bytes = bytes_of((1 << 20) + 5);
        create(&path, &bytes).unwrap();
        assert!(std::fs::read(&path).unwrap() == bytes);
    }
}
