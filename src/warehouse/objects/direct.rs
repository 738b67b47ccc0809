//! Large files go to the disk past the page cache.
//!
//! What the sink writes it does not read again: a copy in the page cache costs more of the processor than encoding
//! some of the columns, and pushes out what others want to keep. Small files, which are read soon after they were
//! written on a quiet machine, go through the cache.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

/// Files below this go through the page cache.
#[cfg(target_os = "linux")]
const DIRECT_BYTES_MIN: usize = 1 << 20;
/// Memory, offsets and lengths of direct writes are multiples of this: a page, and at least a block of any disk.
#[cfg(target_os = "linux")]
const ALIGNMENT: usize = 4096;
/// What is written at once: enough to keep a disk busy, little enough to stay in the processor's cache.
#[cfg(target_os = "linux")]
const STAGE_BYTES: usize = 512 << 10;

/// Creates the file with these bytes, or replaces what it held. Not yet synced.
pub(super) fn create(path: &Path, bytes: &[u8]) -> io::Result<File> {
    #[cfg(target_os = "linux")]
    if bytes.len() >= DIRECT_BYTES_MIN
        && let Some(file) = write_direct(path, bytes)?
    {
        return Ok(file);
    }
    let mut file = File::create(path)?;
    file.write_all(bytes)?;
    Ok(file)
}

/// None where the file system does not take direct writes, or wants another alignment.
#[cfg(target_os = "linux")]
fn write_direct(path: &Path, bytes: &[u8]) -> io::Result<Option<File>> {
    use std::os::unix::fs::OpenOptionsExt;

    let mut options = File::options();
    options.write(true).create(true).truncate(true).custom_flags(libc::O_DIRECT);
    let written = options.open(path).and_then(|mut file| {
        let mut memory = vec![0; STAGE_BYTES + ALIGNMENT];
        let start = memory.as_ptr().align_offset(ALIGNMENT);
        let stage = &mut memory[start..start + STAGE_BYTES];
        for part in bytes.chunks(STAGE_BYTES) {
            let end = part.len().next_multiple_of(ALIGNMENT);
            stage[..part.len()].copy_from_slice(part);
            stage[part.len()..end].fill(0);
            file.write_all(&stage[..end])?;
        }
        file.set_len(bytes.len() as u64)?;
        Ok(file)
    });
    match written {
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(None),
        written => written.map(Some),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_any_length_hold_what_was_written() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        for length in [3 << 20, 0, 1, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, (1 << 20) + 4095, (2 << 20) + 4097] {
            let bytes: Vec<u8> = (0..length).map(|i| (i * 31 / 7) as u8).collect();
            let file = create(&path, &bytes).unwrap();
            file.sync_all().unwrap();
            assert!(std::fs::read(&path).unwrap() == bytes, "{length} bytes");
        }
    }

    #[test]
    fn a_file_system_without_direct_writes_is_written_all_the_same() {
        // Memory file systems refused direct writes until lately; where there is none the other test says it all.
        let Ok(directory) = tempfile::tempdir_in("/dev/shm") else { return };
        let path = directory.path().join("file");
        let bytes = vec![7; (1 << 20) + 5];
        create(&path, &bytes).unwrap();
        assert!(std::fs::read(&path).unwrap() == bytes);
    }
}
