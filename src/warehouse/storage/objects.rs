//! The files of the warehouse, over the engine that the configuration chose.

use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::listing::{Listed, Walked};
use super::local::Local;
use super::remote::Remote;
use super::settings::ObjectSettings;
use super::source::Source;
use crate::warehouse::error::WarehouseError;
use crate::warehouse::layout::{Naming, Partition};

/// Where the files are, over the engine that the configuration chose.
#[derive(Debug)]
pub(crate) struct Objects(Inner);

#[derive(Debug)]
enum Inner {
    Local(Local),
    Remote(Remote),
}

impl Objects {
    /// Files below `root`, which is created.
    pub(crate) fn local(root: PathBuf) -> Result<Self, WarehouseError> {
        Ok(Self(Inner::Local(Local::open(root)?)))
    }

    /// As on a file system that takes `Shop` and `shop` for one name.
    #[cfg(test)]
    pub(crate) fn local_that_folds_case(root: PathBuf) -> Result<Self, WarehouseError> {
        Ok(Self(Inner::Local(Local::open(root)?.folding_case())))
    }

    /// An object store, which is tried out. Must be called where the runtime is.
    pub(crate) async fn remote(settings: &ObjectSettings) -> Result<Self, WarehouseError> {
        Ok(Self(Inner::Remote(Remote::open(settings).await?)))
    }

    /// Where the files of a partition are.
    pub(crate) fn directory(&self, partition: &Partition) -> String {
        self.naming().directory(partition)
    }

    /// The partition of a directory; none when it is no partition of ours.
    pub(crate) fn partition(&self, directory: &str) -> Option<Partition> {
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

    /// Stores a file unless the name is taken: then the answer is false. Of any number who try, one is told true.
    pub(crate) fn create(&self, directory: &str, name: &str, bytes: &Bytes) -> Result<bool, WarehouseError> {
        match &self.0 {
            Inner::Local(local) => local.create(directory, name, bytes),
            Inner::Remote(remote) => remote.create(directory, name, bytes),
        }
    }

    /// Fails when [`Objects::create`] cannot be relied on here.
    pub(crate) fn check_create(&self) -> Result<(), WarehouseError> {
        match &self.0 {
            Inner::Local(local) => local.check_create(),
            Inner::Remote(remote) => remote.check_create(),
        }
    }

    /// A small file; none when it is not there.
    pub(crate) fn read_whole(&self, directory: &str, name: &str) -> Result<Option<Bytes>, WarehouseError> {
        match &self.0 {
            Inner::Local(local) => local.read_whole(directory, name),
            Inner::Remote(remote) => remote.read_whole(directory, name),
        }
    }

    /// Calls `each` with every file, one directory's after another's, until it answers false.
    pub(crate) fn walk(
        &self,
        each: &mut dyn FnMut(&Walked) -> Result<bool, WarehouseError>,
    ) -> Result<(), WarehouseError> {
        match &self.0 {
            Inner::Local(local) => local.walk(each),
            Inner::Remote(remote) => remote.walk(each),
        }
    }

    /// The files of a directory; none when it does not exist.
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

    /// Opens files of which the last `end_bytes` will be read, or all that the Parquet reader asks for. An object
    /// store is asked for several of the ends at once.
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

    /// Removes a file, if it is there.
    pub(crate) fn remove(&self, directory: &str, name: &str) -> Result<(), WarehouseError> {
        match &self.0 {
            Inner::Local(local) => local.remove(directory, name),
            Inner::Remote(remote) => remote.remove(directory, name),
        }
    }

    /// Removes a directory, and those above it, as far as they are empty. An object store has none.
    pub(crate) fn remove_empty(&self, directory: &str) {
        match &self.0 {
            Inner::Local(local) => local.remove_empty(directory),
            Inner::Remote(_) => {}
        }
    }

    /// The time by the clock that gives files theirs.
    pub(crate) fn now_ms(&self) -> Result<i64, WarehouseError> {
        match &self.0 {
            Inner::Local(local) => local.now_ms(),
            Inner::Remote(remote) => remote.now_ms(),
        }
    }

    /// Where files are made that will be stored under `directory`: the same place where that is on this machine, so that
    /// they are stored by their name alone, and else `elsewhere`.
    pub(crate) fn workshop(&self, directory: &str, elsewhere: &Path) -> PathBuf {
        match &self.0 {
            Inner::Local(local) => local.root().join(directory),
            Inner::Remote(_) => elsewhere.to_owned(),
        }
    }

    /// Stores a file that was made in the workshop, durably, under its name there.
    pub(crate) fn bring(&self, workshop: &Path, directory: &str, name: &str) -> Result<(), WarehouseError> {
        match &self.0 {
            Inner::Local(local) => local.sync(directory, name),
            Inner::Remote(remote) => remote.bring(&workshop.join(name), directory, name),
        }
    }

    /// Gives a stored file another directory and name, durably. An object store copies it, on its own side.
    pub(crate) fn rename(&self, from: (&str, &str), to: (&str, &str)) -> Result<(), WarehouseError> {
        match &self.0 {
            Inner::Local(local) => local.rename(from, to),
            Inner::Remote(remote) => remote.rename(from, to),
        }
    }

    /// Removes the temporary files that a crash left before these objects were opened. Returns how many. An object
    /// store has none: what is not complete is not visible.
    pub(crate) fn remove_temporary(&self, go_on: impl Fn() -> bool) -> Result<u64, WarehouseError> {
        match &self.0 {
            Inner::Local(local) => local.remove_temporary(go_on),
            Inner::Remote(_) => Ok(0),
        }
    }
}
