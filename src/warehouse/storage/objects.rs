//! The files of the warehouse, over the configured engine.

use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::listing::{Listed, Walked};
use super::local::Local;
use super::remote::Remote;
use super::settings::ObjectSettings;
use super::source::Source;
use crate::warehouse::error::WarehouseError;
use crate::warehouse::layout::{Naming, Partition};

/// The file store: a local directory or an object store.
#[derive(Debug)]
pub(crate) struct Objects(Inner);

#[derive(Debug)]
enum Inner {
    Local(Local),
    Remote(Remote),
}

impl Objects {
    /// Files below `root`, which is created if missing.
    pub(crate) fn local(root: PathBuf) -> Result<Self, WarehouseError> {
        Ok(Self(Inner::Local(Local::open(root)?)))
    }

    /// As on a case-insensitive file system.
    #[cfg(test)]
    pub(crate) fn local_that_folds_case(root: PathBuf) -> Result<Self, WarehouseError> {
        Ok(Self(Inner::Local(Local::open(root)?.folding_case())))
    }

    /// Opens an object store and probes it. Must be called on the runtime.
    pub(crate) async fn remote(settings: &ObjectSettings) -> Result<Self, WarehouseError> {
        Ok(Self(Inner::Remote(Remote::open(settings).await?)))
    }

    /// The directory of a partition's files.
    pub(crate) fn directory(&self, partition: &Partition) -> String {
        self.naming().directory(partition)
    }

    /// The partition of a directory, if it is one of ours.
    pub(crate) fn partition(&self, directory: &str) -> Option<Partition> {
        self.naming().partition(directory)
    }

    fn naming(&self) -> Naming {
        match &self.0 {
            Inner::Local(local) => local.naming(),
            Inner::Remote(_) => Naming::Plain,
        }
    }

    /// Stores a file in `directory`, replacing any file of that name. `commit` runs last, when all that remains is to
    /// make the file visible; if it returns false, nothing is stored and the result is false.
    pub(crate) fn store(
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

    /// Stores a file unless the name is taken. Of any number of attempts, at most one returns true.
    pub(crate) fn create(&self, directory: &str, name: &str, bytes: &Bytes) -> Result<bool, WarehouseError> {
        match &self.0 {
            Inner::Local(local) => local.create(directory, name, bytes),
            Inner::Remote(remote) => remote.create(directory, name, bytes),
        }
    }

    /// Fails if [`Objects::create`] is not atomic here.
    pub(crate) fn check_create(&self) -> Result<(), WarehouseError> {
        match &self.0 {
            Inner::Local(local) => local.check_create(),
            Inner::Remote(remote) => remote.check_create(),
        }
    }

    /// Reads a small file; `None` if it does not exist.
    pub(crate) fn read_whole(&self, directory: &str, name: &str) -> Result<Option<Bytes>, WarehouseError> {
        match &self.0 {
            Inner::Local(local) => local.read_whole(directory, name),
            Inner::Remote(remote) => remote.read_whole(directory, name),
        }
    }

    /// Calls `each` with every file, directory by directory, until it returns false.
    pub(crate) fn walk(
        &self,
        each: &mut dyn FnMut(&Walked) -> Result<bool, WarehouseError>,
    ) -> Result<(), WarehouseError> {
        match &self.0 {
            Inner::Local(local) => local.walk(each),
            Inner::Remote(remote) => remote.walk(each),
        }
    }

    /// The files of a directory; empty if it does not exist.
    pub(crate) fn list(&self, directory: &str) -> Result<Vec<Listed>, WarehouseError> {
        match &self.0 {
            Inner::Local(local) => local.list(directory),
            Inner::Remote(remote) => remote.list(directory),
        }
    }

    pub(crate) fn open(&self, directory: &str, file: &Listed) -> Result<Source, WarehouseError> {
        match &self.0 {
            Inner::Local(local) => local.read(directory, &file.name).map(Source::file),
            Inner::Remote(remote) => Ok(Source::remote(remote.read(directory, file))),
        }
    }

    /// Opens files of which the last `end_bytes` will be read, or whatever the Parquet reader asks for. An object store
    /// prefetches several of these ends concurrently.
    pub(crate) fn open_together(
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

    /// Removes a file if it exists.
    pub(crate) fn remove(&self, directory: &str, name: &str) -> Result<(), WarehouseError> {
        match &self.0 {
            Inner::Local(local) => local.remove(directory, name),
            Inner::Remote(remote) => remote.remove(directory, name),
        }
    }

    /// Removes a directory and its parents as far as they are empty. Object stores have no directories.
    pub(crate) fn remove_empty(&self, directory: &str) {
        match &self.0 {
            Inner::Local(local) => local.remove_empty(directory),
            Inner::Remote(_) => {}
        }
    }

    /// The time by the clock that timestamps files.
    pub(crate) fn now_ms(&self) -> Result<i64, WarehouseError> {
        match &self.0 {
            Inner::Local(local) => local.now_ms(),
            Inner::Remote(remote) => remote.now_ms(),
        }
    }

    /// Where to build files that will be stored in `directory`: that directory itself if it is local, so that a file only
    /// needs to be synced, otherwise `elsewhere`.
    pub(crate) fn staging_directory(&self, directory: &str, elsewhere: &Path) -> PathBuf {
        match &self.0 {
            Inner::Local(local) => local.root().join(directory),
            Inner::Remote(_) => elsewhere.to_owned(),
        }
    }

    /// Stores a file that was built in the staging directory, durably and under the same name.
    pub(crate) fn store_staged(&self, staging: &Path, directory: &str, name: &str) -> Result<(), WarehouseError> {
        match &self.0 {
            Inner::Local(local) => local.sync(directory, name),
            Inner::Remote(remote) => remote.upload(&staging.join(name), directory, name),
        }
    }

    /// Moves a stored file to another directory and name, durably. An object store copies it server-side.
    pub(crate) fn rename(&self, from: (&str, &str), to: (&str, &str)) -> Result<(), WarehouseError> {
        match &self.0 {
            Inner::Local(local) => local.rename(from, to),
            Inner::Remote(remote) => remote.rename(from, to),
        }
    }

    /// Removes temporary files that a crash left before this store was opened, and returns how many. Object stores have
    /// none: an incomplete object is invisible.
    pub(crate) fn remove_temporary(&self, go_on: impl Fn() -> bool) -> Result<u64, WarehouseError> {
        match &self.0 {
            Inner::Local(local) => local.remove_temporary(go_on),
            Inner::Remote(_) => Ok(0),
        }
    }
}
