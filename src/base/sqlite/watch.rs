//! Checks that the open files are still the ones at their paths, and that their disk accepts writes.
//!
//! A file that was removed or replaced stays writable for the process that has it open, but a restart does not find it.
//! Invariant: never opens a file, because closing a descriptor of one would release SQLite's locks on it.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::log::beside;
use crate::base::disk::Disk;

/// With fewer free bytes a disk counts as full: the commit of one group may not fit.
const FREE_BYTES_MIN: u64 = 1 << 20;

/// The files of one database, as they were when it was opened.
#[derive(Clone, Debug)]
pub(super) struct Watch {
    files: Vec<(PathBuf, (u64, u64))>,
}

impl Watch {
    /// Watches an open database, its log, the index of the log, and the other files that a restart needs.
    pub(super) fn over(database: &Path, others: &[PathBuf]) -> std::io::Result<Self> {
        let own = [database.to_owned(), beside(database, "-wal"), beside(database, "-shm")];
        let files = own.iter().chain(others).map(|path| Ok((path.clone(), identity(&std::fs::metadata(path)?))));
        Ok(Self { files: files.collect::<std::io::Result<_>>()? })
    }

    /// Fails if a file is no longer at its path. Costs one system call per file.
    pub(super) fn check(&self) -> Result<(), String> {
        for (path, opened) in &self.files {
            let what = match std::fs::metadata(path) {
                Ok(found) if identity(&found) == *opened => continue,
                Ok(_) => "was replaced by another file".to_owned(),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => "was removed".to_owned(),
                Err(error) => format!("cannot be found: {error}"),
            };
            return Err(format!(
                "{} {what} while in use; a restart would not find what is stored now: put the original back, or \
                 restart the process to go on with what is there",
                path.display()
            ));
        }
        Ok(())
    }

    /// Fails if the disk is full or read-only.
    pub(super) fn check_disk(&self) -> Result<(), String> {
        let Some(dir) = self.files.first().and_then(|(path, _)| path.parent()) else { return Ok(()) };
        let Some(disk) = Disk::of(dir) else { return Ok(()) };
        if disk.read_only {
            return Err(format!("the file system of {} is read-only", dir.display()));
        }
        if disk.free_bytes < FREE_BYTES_MIN {
            return Err(format!("the disk of {} is full: {} bytes are free", dir.display(), disk.free_bytes));
        }
        Ok(())
    }
}

fn identity(file: &Metadata) -> (u64, u64) {
    (file.dev(), file.ino())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moved_or_replaced_file_is_reported_until_it_is_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.db");
        let connection = crate::base::sqlite::open_writer(&path).unwrap();
        connection.execute_batch("CREATE TABLE t(a)").unwrap();
        let watch = Watch::over(&path, &[]).unwrap();
        assert_eq!((watch.check(), watch.check_disk()), (Ok(()), Ok(())));
        for file in ["a.db", "a.db-wal", "a.db-shm"] {
            let (file, aside) = (dir.path().join(file), dir.path().join("aside"));
            std::fs::rename(&file, &aside).unwrap();
            let gone = watch.check().unwrap_err();
            assert!(gone.contains(&file.display().to_string()) && gone.contains("was removed"), "{gone}");
            std::fs::write(&file, b"").unwrap();
            assert!(watch.check().unwrap_err().contains("was replaced"));
            std::fs::rename(&aside, &file).unwrap();
            assert_eq!(watch.check(), Ok(()));
        }
    }
}
