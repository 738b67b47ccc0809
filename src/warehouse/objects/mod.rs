//! Whole files, in a local directory or in an object store: stored at once and durably, or not at all.
//!
//! Everything here blocks: it is called on threads that may. Knows names and bytes, nothing of
//! what is in a file.

mod advice;
mod client;
mod direct;
mod local;
mod profile;
mod remote;
mod requests;

use std::fs::File;
use std::io::Read;
use std::path::PathBuf;
use std::time::SystemTime;

use bytes::Bytes;
use parquet::errors::ParquetError;
use parquet::file::reader::{ChunkReader, Length};

pub(super) use local::walk;

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

impl Objects {
    /// Files below `root`, which is created.
    pub(super) fn local(root: PathBuf) -> Result<Self, WarehouseError> {
        Ok(Self(Inner::Local(Local::open(root)?)))
    }

    /// An object store, which is tried out. Must be called where the runtime is.
    pub(super) async fn remote(settings: &ObjectSettings) -> Result<Self, WarehouseError> {
        Ok(Self(Inner::Remote(Remote::open(settings).await?)))
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

    /// The files of a directory; none when it does not exist.
    pub(super) fn list(&self, directory: &str) -> Result<Vec<Listed>, WarehouseError> {
        match &self.0 {
            Inner::Local(local) => local.list(directory),
            Inner::Remote(remote) => remote.list(directory),
        }
    }

    pub(super) fn open(&self, directory: &str, file: &Listed) -> Result<Source, WarehouseError> {
        match &self.0 {
            Inner::Local(local) => local.read(directory, &file.name).map(Source::File),
            Inner::Remote(remote) => Ok(Source::Remote(remote.read(directory, file))),
        }
    }

    /// Removes a file, if it is there.
    pub(super) fn remove(&self, directory: &str, name: &str) -> Result<(), WarehouseError> {
        match &self.0 {
            Inner::Local(local) => local.remove(directory, name),
            Inner::Remote(remote) => remote.remove(directory, name),
        }
    }

    /// Removes temporary files that are older than `before`: a crash left them. Returns how many. An object store
    /// has none: what is not complete is not visible.
    pub(super) fn remove_temporary(&self, before: SystemTime, go_on: impl Fn() -> bool) -> Result<u64, WarehouseError> {
        match &self.0 {
            Inner::Local(local) => local.remove_temporary(before, go_on),
            Inner::Remote(_) => Ok(0),
        }
    }
}

/// A stored file as the Parquet reader wants it.
pub(super) enum Source {
    File(File),
    Remote(remote::Reading),
}

impl Source {
    /// Reads the whole file with `work`. A failure of the object store is told from damage to the file.
    pub(super) fn read_with<T>(
        self,
        work: impl FnOnce(Self) -> Result<T, WarehouseError>,
    ) -> Result<T, WarehouseError> {
        let Self::Remote(reading) = &self else { return work(self) };
        let reading = reading.clone();
        work(self).map_err(|error| match reading.failure() {
            Some(failure) => WarehouseError::caused(WarehouseErrorKind::Unavailable, "read object", failure),
            None => error,
        })
    }
}

impl Length for Source {
    fn len(&self) -> u64 {
        match self {
            Self::File(file) => file.len(),
            Self::Remote(reading) => reading.bytes(),
        }
    }
}

impl ChunkReader for Source {
    type T = Box<dyn Read>;

    fn get_read(&self, start: u64) -> Result<Self::T, ParquetError> {
        match self {
            Self::File(file) => Ok(Box::new(file.get_read(start)?)),
            Self::Remote(reading) => Ok(Box::new(reading.read_from(start))),
        }
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes, ParquetError> {
        match self {
            Self::File(file) => file.get_bytes(start, length),
            Self::Remote(reading) => {
                reading.get(start, length).map_err(|error| ParquetError::External(Box::new(error)))
            }
        }
    }
}
