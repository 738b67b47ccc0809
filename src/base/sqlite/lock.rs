//! The lock of a directory of databases: one process at a time.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

/// How long and how often a lock file is tried while another process holds it.
const LOCK_WAIT_MAX: Duration = Duration::from_secs(1);
const LOCK_INTERVAL: Duration = Duration::from_millis(10);

/// Held by the only process that may use the files of the directory. It lasts while the lock file is open, so a dead
/// process holds none.
#[derive(Debug)]
pub struct DirectoryLock(#[expect(dead_code, reason = "held for its lock")] File);

impl DirectoryLock {
    /// Creates the directory and the lock file if they are missing. Fails with `in_use` if another process holds it.
    pub fn take(dir: &Path, name: &str, in_use: String) -> Result<Self, String> {
        let failed = |path: &Path, error: io::Error| format!("{}: {error}", path.display());
        std::fs::create_dir_all(dir).map_err(|error| failed(dir, error))?;
        // A new directory must survive a power cut like its contents; SQLite syncs only the contents.
        for entry in [dir, dir.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))] {
            let synced = File::open(entry).and_then(|entry| entry.sync_all());
            synced.map_err(|error| failed(entry, error))?;
        }
        let path = dir.join(name);
        lock_file(&path).map(Self).map_err(|error| match error {
            TryLockError::WouldBlock => in_use,
            TryLockError::Error(error) => failed(&path, error),
        })
    }
}

/// Waits briefly for another holder: a process that is exiting, or a child of this process, which shares its descriptors
/// until it executes its own program.
fn lock_file(path: &Path) -> Result<File, TryLockError> {
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(path).map_err(TryLockError::Error)?;
    let started = Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if started.elapsed() < LOCK_WAIT_MAX => std::thread::sleep(LOCK_INTERVAL),
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locking_waits_for_a_lock_that_is_released_soon() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.lock");
        let held = lock_file(&path).unwrap();
        let ends = std::thread::spawn(move || {
            std::thread::sleep(LOCK_INTERVAL * 5);
            drop(held);
        });
        let held = lock_file(&path).unwrap();
        ends.join().unwrap();
        assert!(matches!(lock_file(&path), Err(TryLockError::WouldBlock)));
        drop(held);
    }
}
