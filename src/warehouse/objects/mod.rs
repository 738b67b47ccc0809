//! Whole files, in a local directory or in an object store: stored at once and durably, or not at all.
//!
//! Everything here blocks: it is called on threads that may. Knows names and bytes, nothing of
//! what is in a file.

mod advice;
mod client;
mod delete;
mod direct;
mod local;
mod markup;
mod profile;
mod remote;
mod requests;

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use parquet::errors::ParquetError;
use parquet::file::reader::{ChunkReader, Length};

pub(super) use local::walk;

use super::layout::{Naming, Partition};
use super::{ObjectSettings, WarehouseError, WarehouseErrorKind};
use local::Local;
use remote::Remote;

/// Where the files are, over the engine that the configuration chose.
#[derive(Debug)]
pub(super) struct Objects(Inner);

#[derive(Debug)]
enum Inner {
    Local(Local),
    Remote(Remote),
}

/// One file of a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Listed {
    pub(super) name: String,
    pub(super) modified_ms: i64,
    pub(super) bytes: u64,
}

/// One file of the whole.
#[derive(Clone, Debug)]
pub(super) struct Walked {
    /// Below the root.
    pub(super) directory: String,
    pub(super) file: Listed,
}

/// What people are told where nobody can be kept from replacing a commit.
fn no_create(what: &str) -> WarehouseError {
    let why = format!(
        "{what}: two processes could write the same commit of the Delta log; use a store with conditional puts \
         (If-None-Match), or set DELTA_ENABLED=false (delta_enabled in a file)"
    );
    WarehouseError::caused(WarehouseErrorKind::Refused, "begin Delta log", why)
}

impl Objects {
    /// Files below `root`, which is created.
    pub(super) fn local(root: PathBuf) -> Result<Self, WarehouseError> {
        Ok(Self(Inner::Local(Local::open(root)?)))
    }

    /// As on a file system that takes `Shop` and `shop` for one name.
    #[cfg(test)]
    pub(super) fn local_that_folds_case(root: PathBuf) -> Result<Self, WarehouseError> {
        Ok(Self(Inner::Local(Local::open(root)?.folding_case())))
    }

    /// An object store, which is tried out. Must be called where the runtime is.
    pub(super) async fn remote(settings: &ObjectSettings) -> Result<Self, WarehouseError> {
        Ok(Self(Inner::Remote(Remote::open(settings).await?)))
    }

    /// Where the files of a partition are.
    pub(super) fn directory(&self, partition: &Partition) -> String {
        self.naming().directory(partition)
    }

    /// The partition of a directory; none when it is no partition of ours.
    pub(super) fn partition(&self, directory: &str) -> Option<Partition> {
        self.naming().partition(directory)
    }

    fn naming(&self) -> Naming {
        match &self.0 {
            Inner::Local(local) => local.naming(),
            Inner::Remote(_) => Naming::Plain,
        }
    }

    /// Stores a file under `directory`; the same name again replaces it. `commit` is asked last, when all that
    /// remains is to make the file visible; when it says no, nothing is stored and the answer is false.
    pub(super) fn store(
        &self,
        directory: &str,
        name: &str,
        bytes: &Bytes,
        commit: impl FnOnce() -> bool,
    ) -> Result<bool, WarehouseError> {
        match &self.0 {
            Inner::Local(local) => local.store(directory, name, bytes, commit),
            Inner::Remote(remote) => remote.store(directory, name, bytes, commit),
        }
    }

    /// Stores a file unless the name is taken: then the answer is false. Of any number who try, one is told true.
    pub(super) fn create(&self, directory: &str, name: &str, bytes: &Bytes) -> Result<bool, WarehouseError> {
        match &self.0 {
            Inner::Local(local) => local.create(directory, name, bytes),
            Inner::Remote(remote) => remote.create(directory, name, bytes),
        }
    }

    /// Fails when [`Objects::create`] cannot be relied on here.
    pub(super) fn check_create(&self) -> Result<(), WarehouseError> {
        match &self.0 {
            Inner::Local(local) => local.check_create(),
            Inner::Remote(remote) => remote.check_create(),
        }
    }

    /// A small file; none when it is not there.
    pub(super) fn read_whole(&self, directory: &str, name: &str) -> Result<Option<Bytes>, WarehouseError> {
        match &self.0 {
            Inner::Local(local) => local.read_whole(directory, name),
            Inner::Remote(remote) => remote.read_whole(directory, name),
        }
    }

    /// Calls `each` with every file, one directory's after another's, until it answers false.
    pub(super) fn walk(
        &self,
        each: &mut dyn FnMut(&Walked) -> Result<bool, WarehouseError>,
    ) -> Result<(), WarehouseError> {
        match &self.0 {
            Inner::Local(local) => local.walk(each),
            Inner::Remote(remote) => remote.walk(each),
        }
    }

    /// The files of a directory; none when it does not exist.
    pub(super) fn list(&self, directory: &str) -> Result<Vec<Listed>, WarehouseError> {
        match &self.0 {
            Inner::Local(local) => local.list(directory),
            Inner::Remote(remote) => remote.list(directory),
        }
    }

    pub(super) fn open(&self, directory: &str, file: &Listed) -> Result<Source, WarehouseError> {
        match &self.0 {
            Inner::Local(local) => local.read(directory, &file.name).map(Source::file),
            Inner::Remote(remote) => Ok(Source::remote(remote.read(directory, file))),
        }
    }

    /// Opens files of which the last `end_bytes` will be read, or all that the Parquet reader asks for. An object
    /// store is asked for several of the ends at once.
    pub(super) fn open_together(
        &self,
        directory: &str,
        files: &[Listed],
        end_bytes: usize,
    ) -> Vec<Result<Source, WarehouseError>> {
        match &self.0 {
            Inner::Local(_) => files.iter().map(|file| self.open(directory, file)).collect(),
            Inner::Remote(remote) => {
                let readings = remote.read_ends(directory, files, end_bytes);
                readings.into_iter().map(|reading| Ok(Source::remote(reading))).collect()
            }
        }
    }

    /// Removes a file, if it is there.
    pub(super) fn remove(&self, directory: &str, name: &str) -> Result<(), WarehouseError> {
        match &self.0 {
            Inner::Local(local) => local.remove(directory, name),
            Inner::Remote(remote) => remote.remove(directory, name),
        }
    }

    /// Removes a directory, and those above it, as far as they are empty. An object store has none.
    pub(super) fn remove_empty(&self, directory: &str) {
        match &self.0 {
            Inner::Local(local) => local.remove_empty(directory),
            Inner::Remote(_) => {}
        }
    }

    /// The time by the clock that gives files theirs.
    pub(super) fn now_ms(&self) -> Result<i64, WarehouseError> {
        match &self.0 {
            Inner::Local(local) => local.now_ms(),
            Inner::Remote(remote) => remote.now_ms(),
        }
    }

    /// Where files are made that will be stored under `directory`: the same place where that is on this machine, so that
    /// they are stored by their name alone, and else `elsewhere`.
    pub(super) fn workshop(&self, directory: &str, elsewhere: &Path) -> PathBuf {
        match &self.0 {
            Inner::Local(local) => local.root().join(directory),
            Inner::Remote(_) => elsewhere.to_owned(),
        }
    }

    /// Stores a file that was made in the workshop, durably, under its name there.
    pub(super) fn bring(&self, workshop: &Path, directory: &str, name: &str) -> Result<(), WarehouseError> {
        match &self.0 {
            Inner::Local(local) => local.sync(directory, name),
            Inner::Remote(remote) => remote.bring(&workshop.join(name), directory, name),
        }
    }

    /// Gives a stored file another directory and name, durably. An object store copies it, on its own side.
    pub(super) fn rename(&self, from: (&str, &str), to: (&str, &str)) -> Result<(), WarehouseError> {
        match &self.0 {
            Inner::Local(local) => local.rename(from, to),
            Inner::Remote(remote) => remote.rename(from, to),
        }
    }

    /// Removes the temporary files that a crash left before these objects were opened. Returns how many. An object
    /// store has none: what is not complete is not visible.
    pub(super) fn remove_temporary(&self, go_on: impl Fn() -> bool) -> Result<u64, WarehouseError> {
        match &self.0 {
            Inner::Local(local) => local.remove_temporary(go_on),
            Inner::Remote(_) => Ok(0),
        }
    }
}

/// A stored file as the Parquet reader wants it.
pub(super) struct Source {
    content: Content,
    failure: Failure,
}

enum Content {
    File(File),
    Remote(remote::Reading),
}

/// Why the store did not give bytes that were asked for, when that is so: the Parquet reader keeps only the text of
/// it, and would call the file damaged.
#[derive(Clone, Debug, Default)]
struct Failure(Arc<Mutex<Option<String>>>);

impl Failure {
    fn note(&self, why: String) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(why);
    }

    fn take(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl Source {
    fn file(file: File) -> Self {
        Self { content: Content::File(file), failure: Failure::default() }
    }

    fn remote(reading: remote::Reading) -> Self {
        let failure = reading.noted_failure();
        Self { content: Content::Remote(reading), failure }
    }

    /// Reads the file with `work`. A failure of the store is told from damage to the file.
    pub(super) fn read_with<T>(
        self,
        work: impl FnOnce(Self) -> Result<T, WarehouseError>,
    ) -> Result<T, WarehouseError> {
        let failure = self.failure.clone();
        work(self).map_err(|error| match failure.take() {
            Some(failure) => WarehouseError::caused(WarehouseErrorKind::Unavailable, "read stored file", failure),
            None => error,
        })
    }
}

impl Length for Source {
    fn len(&self) -> u64 {
        match &self.content {
            Content::File(file) => file.len(),
            Content::Remote(reading) => reading.bytes(),
        }
    }
}

impl ChunkReader for Source {
    type T = Box<dyn Read>;

    fn get_read(&self, start: u64) -> Result<Self::T, ParquetError> {
        match &self.content {
            Content::File(file) => {
                let read = file.get_read(start).inspect_err(|error| self.failure.note(error.to_string()))?;
                Ok(Box::new(Noting { read, failure: self.failure.clone() }))
            }
            Content::Remote(reading) => Ok(Box::new(reading.read_from(start))),
        }
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes, ParquetError> {
        // What a damaged file says of lengths is not to be believed.
        if start.checked_add(length as u64).is_none_or(|end| end > self.len()) {
            return Err(ParquetError::EOF("the file ends before".to_owned()));
        }
        match &self.content {
            Content::File(_) => {
                let mut bytes = vec![0; length];
                self.get_read(start)?.read_exact(&mut bytes)?;
                Ok(bytes.into())
            }
            Content::Remote(reading) => {
                reading.get(start, length).map_err(|error| ParquetError::External(Box::new(error)))
            }
        }
    }
}

/// Takes note of what the operating system cannot read.
struct Noting<R> {
    read: R,
    failure: Failure,
}

impl<R: Read> Read for Noting<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        self.read.read(out).inspect_err(|error| {
            if error.kind() != io::ErrorKind::Interrupted {
                self.failure.note(error.to_string());
            }
        })
    }
}
