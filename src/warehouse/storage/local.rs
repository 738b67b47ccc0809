//! Whole files in a local directory, stored atomically and durably.
//!
//! Invariant: a name without `.tmp` is a complete file whose bytes, name and directories
//! survive a power cut.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use parking_lot::Mutex;

use super::failure::no_create;
use super::listing::{Listed, Walked};
use crate::warehouse::error::{WarehouseError, WarehouseErrorKind};
use crate::warehouse::layout::Naming;

/// Suffix of a file that is being written.
const TEMPORARY: &str = ".tmp";
/// The maximum depth of a walk; our tree has five levels.
const DEPTH_MAX: usize = 16;
/// How many directories are remembered as durable.
const DURABLE_MAX: usize = 20_000;

#[derive(Debug)]
pub(super) struct Local {
    root: PathBuf,
    /// The device of the root when it was opened.
    device: u64,
    /// Directories that are known to survive a power cut. The lock is held while one is
    /// created, so that no other writer considers it durable too early.
    durable: Mutex<HashSet<PathBuf>>,
    naming: Naming,
    /// When this was opened, by the clock of the file system, which may be another machine's. None if that is unknown.
    opened_at: Option<SystemTime>,
}

impl Local {
    /// Opens `root`, creating it if missing.
    pub(super) fn open(root: PathBuf) -> Result<Self, WarehouseError> {
        make_durable(&root, Path::new("")).map_err(|error| error.at(root.display().to_string()))?;
        let (opened_at, naming) = probe(&root).map_or((None, Naming::Plain), |(at, naming)| (Some(at), naming));
        let device = device(&root).map_err(|error| error.at(root.display().to_string()))?;
        Ok(Self { root, device, durable: Mutex::default(), naming, opened_at })
    }

    pub(super) fn naming(&self) -> Naming {
        self.naming
    }

    #[cfg(test)]
    pub(super) fn folding_case(mut self) -> Self {
        self.naming = Naming::FoldedCase;
        self
    }

    pub(super) fn store(
        &self,
        directory: &str,
        name: &str,
        bytes: &[u8],
        commit: impl FnOnce() -> bool,
    ) -> Result<bool, WarehouseError> {
        let directory = self.root.join(directory);
        let stored = self.write(&directory, name, bytes, commit);
        stored.map_err(|error| error.at(directory.join(name).display().to_string()))
    }

    /// Creates the file by a hard link, which fails if the name exists.
    pub(super) fn create(&self, directory: &str, name: &str, bytes: &[u8]) -> Result<bool, WarehouseError> {
        let directory = self.root.join(directory);
        let target = directory.join(name);
        let created = self.ensure(&directory).and_then(|()| self.check_device()).and_then(|()| {
            let temporary = directory.join(format!(".{name}.{}{TEMPORARY}", uuid::Uuid::now_v7()));
            let linked = write_temporary(&temporary, bytes).map(|()| fs::hard_link(&temporary, &target));
            // Best effort: the next start removes leftover temporary files.
            let _ = fs::remove_file(&temporary);
            match linked? {
                Ok(()) => sync_directory(&directory).and_then(|()| self.check_device()).map(|()| true),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
                Err(error) => Err(WarehouseError::io("link file", error, false)),
            }
        });
        created.map_err(|error| error.at(target.display().to_string()))
    }

    pub(super) fn check_create(&self) -> Result<(), WarehouseError> {
        let name = format!(".{}{TEMPORARY}", uuid::Uuid::now_v7());
        let tried = self.create("", &name, b"").and_then(|_| self.create("", &name, b""));
        let _ = fs::remove_file(self.root.join(&name));
        match tried {
            Ok(false) => Ok(()),
            Ok(true) => Err(no_create("the file system links a name that is taken")),
            Err(error) if error.kind == WarehouseErrorKind::Unavailable => {
                Err(no_create(&format!("the file system of the warehouse makes no links ({error})")))
            }
            Err(error) => Err(error),
        }
    }

    pub(super) fn read_whole(&self, directory: &str, name: &str) -> Result<Option<Bytes>, WarehouseError> {
        let path = self.root.join(directory).join(name);
        match fs::read(&path) {
            Ok(bytes) => Ok(Some(bytes.into())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(WarehouseError::io("read file", error, false).at(path.display().to_string())),
        }
    }

    pub(super) fn walk(
        &self,
        each: &mut dyn FnMut(&Walked) -> Result<bool, WarehouseError>,
    ) -> Result<(), WarehouseError> {
        walk(&self.root, &mut |path| {
            let directory = path.parent().and_then(|parent| parent.strip_prefix(&self.root).ok()?.to_str());
            let name = path.file_name().and_then(|name| name.to_str());
            let (Some(directory), Some(name)) = (directory, name) else { return Ok(true) };
            let Ok(metadata) = fs::metadata(path) else { return Ok(true) };
            let modified_ms = metadata.modified().map_or(0, unix_ms);
            let file = Listed { name: name.to_owned(), modified_ms, bytes: metadata.len() };
            each(&Walked { directory: directory.to_owned(), file })
        })
    }

    /// The files of a directory; empty if it does not exist.
    pub(super) fn list(&self, directory: &str) -> Result<Vec<Listed>, WarehouseError> {
        let failed = |error| WarehouseError::io("list partition", error, false).at(directory);
        let entries = match fs::read_dir(self.root.join(directory)) {
            Ok(entries) => entries,
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Ok(Vec::new());
            }
            Err(error) => return Err(failed(error)),
        };
        let mut files = Vec::new();
        for entry in entries {
            let entry = entry.map_err(failed)?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            // Follows links. Only a file can hold rows, whatever the name.
            match fs::metadata(entry.path())
                .and_then(|metadata| Ok((metadata.is_file(), metadata.modified()?, metadata.len())))
            {
                Ok((true, modified, bytes)) => files.push(Listed { name, modified_ms: unix_ms(modified), bytes }),
                Ok((false, ..)) => {}
                // Removed since the directory was read.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(failed(error)),
            }
        }
        Ok(files)
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    pub(super) fn now_ms(&self) -> Result<i64, WarehouseError> {
        probe(&self.root)
            .map(|(at, _)| unix_ms(at))
            .map_err(|error| WarehouseError::io("read file system's clock", error, false))
    }

    pub(super) fn sync(&self, directory: &str, name: &str) -> Result<(), WarehouseError> {
        let path = self.root.join(directory).join(name);
        let file = File::open(&path).map_err(|error| WarehouseError::io("open file", error, false));
        file.and_then(|file| file.sync_all().map_err(|error| WarehouseError::io("sync file", error, true)))
            .map_err(|error| error.at(path.display().to_string()))
    }

    pub(super) fn rename(&self, from: (&str, &str), to: (&str, &str)) -> Result<(), WarehouseError> {
        let directory = self.root.join(to.0);
        let (from, to) = (self.root.join(from.0).join(from.1), directory.join(to.1));
        let renamed = self.ensure(&directory).and_then(|()| self.check_device()).and_then(|()| {
            fs::rename(&from, &to).map_err(|error| WarehouseError::io("rename file", error, false))?;
            sync_directory(&directory)
        });
        renamed.map_err(|error| error.at(to.display().to_string()))
    }

    pub(super) fn read(&self, directory: &str, name: &str) -> Result<File, WarehouseError> {
        let path = self.root.join(directory).join(name);
        File::open(&path).map_err(|error| WarehouseError::io("open file", error, false).at(path.display().to_string()))
    }

    pub(super) fn remove(&self, directory: &str, name: &str) -> Result<(), WarehouseError> {
        let path = self.root.join(directory).join(name);
        let removed = match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(WarehouseError::io("remove file", error, false))
            }
            _ => Ok(()),
        };
        let directory = self.root.join(directory);
        removed
            .and_then(|()| match sync_directory(&directory) {
                // Another process removed the empty directory.
                Err(_) if !directory.exists() => Ok(()),
                synced => synced,
            })
            .map_err(|error| error.at(path.display().to_string()))
    }

    /// Ignores failures: an empty directory holds no rows.
    pub(super) fn remove_empty(&self, directory: &str) {
        let empty = Path::new(directory).ancestors().take_while(|path| !path.as_os_str().is_empty());
        // Stops at the first directory that is not empty.
        let _ = empty.map(|path| fs::remove_dir(self.root.join(path))).find(Result::is_err);
    }

    /// Removes temporary files from before this store was opened, which a crash left. Returns how many.
    pub(super) fn remove_temporary(&self, go_on: impl Fn() -> bool) -> Result<u64, WarehouseError> {
        let Some(opened_at) = self.opened_at else { return Ok(0) };
        let mut removed = 0;
        walk(&self.root, &mut |path| {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if name.starts_with('.') && name.ends_with(TEMPORARY) {
                let modified = fs::metadata(path).and_then(|metadata| metadata.modified());
                if modified.is_ok_and(|at| at < opened_at) && fs::remove_file(path).is_ok() {
                    removed += 1;
                }
            }
            Ok(go_on())
        })?;
        Ok(removed)
    }
}

/// The timestamp that the file system gives to a new file, and whether it is case-insensitive.
fn probe(root: &Path) -> io::Result<(SystemTime, Naming)> {
    let name = format!(".{}{TEMPORARY}", uuid::Uuid::now_v7());
    let probe = root.join(&name);
    let made = File::create(&probe).and_then(|file| file.metadata()?.modified());
    let folds = root.join(name.to_uppercase()).exists();
    let removed = fs::remove_file(&probe);
    let naming = if folds { Naming::FoldedCase } else { Naming::Plain };
    made.and_then(|at| removed.map(|()| (at, naming)))
}

/// Calls `each` with every file below `root` until it returns false. Does nothing if `root` does not exist.
pub(crate) fn walk(
    root: &Path,
    each: &mut dyn FnMut(&Path) -> Result<bool, WarehouseError>,
) -> Result<(), WarehouseError> {
    let mut directories = vec![(root.to_owned(), 0)];
    while let Some((directory, depth)) = directories.pop() {
        let failed = |error| WarehouseError::io("walk warehouse", error, false).at(directory.display().to_string());
        let entries = match fs::read_dir(&directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(failed(error)),
        };
        for entry in entries {
            let entry = entry.map_err(failed)?;
            let kind = entry.file_type().map_err(failed)?;
            if kind.is_dir() && depth < DEPTH_MAX {
                directories.push((entry.path(), depth + 1));
            } else if kind.is_file() && !each(&entry.path())? {
                return Ok(());
            }
        }
    }
    Ok(())
}

impl Local {
    fn write(
        &self,
        directory: &Path,
        name: &str,
        bytes: &[u8],
        commit: impl FnOnce() -> bool,
    ) -> Result<bool, WarehouseError> {
        self.ensure(directory)?;
        self.check_device()?;
        let temporary = directory.join(format!(".{name}{TEMPORARY}"));
        let written = write_temporary(&temporary, bytes);
        if written.is_err() || !commit() {
            // Best effort: the next start removes leftover temporary files.
            let _ = fs::remove_file(&temporary);
            return written.map(|()| false);
        }
        let failed = |error| WarehouseError::io("rename file", error, false);
        fs::rename(&temporary, directory.join(name)).map_err(failed)?;
        sync_directory(directory)?;
        self.check_device()?;
        Ok(true)
    }

    /// Fails if the root is on a different file system than at the start: files written below an unmounted mount point
    /// would be hidden once it is mounted again.
    fn check_device(&self) -> Result<(), WarehouseError> {
        if device(&self.root)? == self.device {
            return Ok(());
        }
        let moved = io::Error::other(format!(
            "{} is on another file system than at the start: mount it again, or restart to store files where it is now",
            self.root.display()
        ));
        Err(WarehouseError::io("find warehouse directory", moved, false))
    }

    fn ensure(&self, directory: &Path) -> Result<(), WarehouseError> {
        let mut durable = self.durable.lock();
        if durable.contains(directory) && directory.is_dir() {
            return Ok(());
        }
        make_durable(directory, &self.root)?;
        if durable.len() == DURABLE_MAX {
            durable.clear();
        }
        durable.insert(directory.to_owned());
        Ok(())
    }
}

fn device(root: &Path) -> Result<u64, WarehouseError> {
    let found = fs::metadata(root).map_err(|error| WarehouseError::io("find warehouse directory", error, false))?;
    Ok(found.dev())
}

fn write_temporary(temporary: &Path, bytes: &[u8]) -> Result<(), WarehouseError> {
    let failed = |context| move |error| WarehouseError::io(context, error, false);
    let mut file = File::create(temporary).map_err(failed("write file"))?;
    file.write_all(bytes).map_err(failed("write file"))?;
    file.sync_all().map_err(|error| WarehouseError::io("sync file", error, true))
}

/// Creates the missing directories of a path and syncs the parent of every directory below `root`, including
/// existing ones: the process that created them may have been killed before it synced.
fn make_durable(path: &Path, root: &Path) -> Result<(), WarehouseError> {
    fs::create_dir_all(path).map_err(|error| WarehouseError::io("create directory", error, false))?;
    for directory in path.ancestors().take_while(|directory| *directory != root) {
        match directory.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => sync_directory(parent)?,
            _ => {}
        }
    }
    Ok(())
}

fn sync_directory(directory: &Path) -> Result<(), WarehouseError> {
    let opened = File::open(directory).map_err(|error| WarehouseError::io("open directory", error, false))?;
    opened.sync_all().map_err(|error| WarehouseError::io("sync directory", error, true))
}

fn unix_ms(time: SystemTime) -> i64 {
    let ms = |duration: Duration| i64::try_from(duration.as_millis()).unwrap_or(i64::MAX);
    match time.duration_since(UNIX_EPOCH) {
        Ok(since) => ms(since),
        Err(before) => -ms(before.duration()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Only on Linux is a second file system available to a test.
    #[cfg(target_os = "linux")]
    #[test]
    fn a_store_fails_if_the_root_is_on_another_file_system_than_at_the_start() {
        let (disk, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir_in("/dev/shm").unwrap());
        if device(disk.path()).unwrap() == device(other.path()).unwrap() {
            return;
        }
        let root = disk.path().join("root");
        let point_to = |place: &Path| {
            let _ = fs::remove_file(&root);
            std::os::unix::fs::symlink(place, &root).unwrap();
        };
        let mounted = disk.path().join("mounted");
        fs::create_dir(&mounted).unwrap();
        point_to(&mounted);
        let local = Local::open(root.clone()).unwrap();
        assert!(local.store("a", "1", b"one", || true).unwrap());
        point_to(other.path());
        let error = local.store("a", "2", b"two", || true).unwrap_err();
        let source = std::error::Error::source(&error).unwrap().to_string();
        assert!(source.contains("another file system"), "{source}");
        assert!(!other.path().join("a/2").exists());
        point_to(&mounted);
        assert!(local.store("a", "2", b"two", || true).unwrap());
        // A removed root is created again.
        fs::remove_dir_all(&mounted).unwrap();
        fs::create_dir(&mounted).unwrap();
        assert!(local.store("a", "3", b"three", || true).unwrap());
        assert_eq!(fs::read(mounted.join("a/3")).unwrap(), b"three");
    }
}
