//! Replaces files by others in one commit, or not at all if another process was first.

use std::collections::HashMap;

use super::action::Action;
use super::checkpoint_rows::{self, Columns};
use super::log::{self, Listing};
use super::path_states::PathState;
use super::state::Delta;
use super::table::TableFile;
use crate::base::clock::unix_ms;
use crate::warehouse::WarehouseError;
use crate::warehouse::layout::Partition;
use crate::warehouse::storage::Objects;
use parquet::file::metadata::ParquetMetaData;

/// Why files are replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::warehouse) enum Change {
    /// The same rows in other files. Readers that follow the table see no change.
    Layout,
    /// Some rows are removed.
    Rows,
}

/// A file to be added to the table.
pub(in crate::warehouse) struct NewFile<'a> {
    pub(in crate::warehouse) name: &'a str,
    pub(in crate::warehouse) metadata: &'a ParquetMetaData,
    pub(in crate::warehouse) bytes: u64,
}

/// The state of a file according to the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::warehouse) enum FileState {
    InTable,
    Removed,
    /// The log does not name the file.
    Unlogged,
}

impl From<PathState> for FileState {
    fn from(state: PathState) -> Self {
        match state {
            PathState::Added => Self::InTable,
            PathState::Removed => Self::Removed,
            PathState::Unlogged | PathState::Unknown => Self::Unlogged,
        }
    }
}

impl Delta {
    /// Replaces `old` files by `new` ones in one commit. Returns false and commits nothing if an old file is no longer in
    /// the table, or another process abandoned a new one (see [`Delta::abandon`]). May be retried after an error.
    pub(in crate::warehouse) fn replace(
        &self,
        objects: &Objects,
        partition: &Partition,
        old: &[&str],
        new: &[NewFile<'_>],
        change: Change,
    ) -> Result<bool, WarehouseError> {
        let file = |name: &str| TableFile::new(objects, partition, name);
        // Each attempt has its own time: the retention of removed files counts from it.
        let actions = || -> Vec<Action> {
            let now = unix_ms();
            let removes = old.iter().map(|name| {
                let mut remove = file(name).remove(now);
                remove.data_change = change == Change::Rows;
                Action::from(remove)
            });
            let adds = new.iter().map(|new| {
                let mut add = file(new.name).add(new.metadata, new.bytes, now);
                add.data_change = change == Change::Rows;
                Action::from(add)
            });
            removes.chain(adds).collect()
        };
        let paths =
            |names: &mut dyn Iterator<Item = &str>| names.map(|name| file(name).path()).collect::<Vec<String>>();
        let old_paths = paths(&mut old.iter().copied());
        let new_paths = paths(&mut new.iter().map(|new| new.name));
        let mut replaced = false;
        let operation = match change {
            Change::Layout => "OPTIMIZE",
            Change::Rows => "DELETE",
        };
        self.append(objects, &mut self.tail(), operation, |tail| {
            let all = |states: &[PathState], state: PathState| states.iter().all(|found| *found == state);
            let (theirs, ours) = (tail.states_of(objects, &old_paths)?, tail.states_of(objects, &new_paths)?);
            let is_committed = all(&ours, PathState::Added) && !ours.is_empty();
            let may = all(&theirs, PathState::Added) && all(&ours, PathState::Unlogged);
            replaced = is_committed || may;
            Ok(if may { actions() } else { Vec::new() })
        })?;
        if self.is_checkpoint_due() {
            self.checkpoint(objects);
        }
        Ok(replaced)
    }

    /// Removes the files that are in the table, with their rows, in one commit. Returns the new state of each file.
    pub(in crate::warehouse) fn expire(
        &self,
        objects: &Objects,
        partition: &Partition,
        names: &[&str],
    ) -> Result<Vec<FileState>, WarehouseError> {
        let states = self.remove_in_state(objects, partition, names, (PathState::Added, Change::Rows), "DELETE")?;
        if self.is_checkpoint_due() {
            self.checkpoint(objects);
        }
        Ok(states)
    }

    /// Notes in the log that files which it does not name do not belong to the table, so that their writer can no longer
    /// commit them. Returns the new state of each file.
    pub(in crate::warehouse) fn abandon(
        &self,
        objects: &Objects,
        partition: &Partition,
        names: &[&str],
    ) -> Result<Vec<FileState>, WarehouseError> {
        self.remove_in_state(objects, partition, names, (PathState::Unlogged, Change::Layout), "VACUUM START")
    }

    /// Removes the files that are in the state `of`, in one commit. Returns the new state of each file.
    fn remove_in_state(
        &self,
        objects: &Objects,
        partition: &Partition,
        names: &[&str],
        (of, change): (PathState, Change),
        operation: &str,
    ) -> Result<Vec<FileState>, WarehouseError> {
        let files: Vec<TableFile> = names.iter().map(|name| TableFile::new(objects, partition, name)).collect();
        let paths: Vec<String> = files.iter().map(TableFile::path).collect();
        let mut tail = self.tail();
        self.refresh(objects, &mut tail)?;
        tail.catch_up(objects)?;
        self.append(objects, &mut tail, operation, |tail| {
            let states = tail.states_of(objects, &paths)?;
            let those = files.iter().zip(states).filter(|(_, state)| *state == of);
            let action = |file: &TableFile| {
                let mut remove = file.remove(unix_ms());
                remove.data_change = change == Change::Rows;
                Action::from(remove)
            };
            Ok(those.map(|(file, _)| action(file)).collect())
        })?;
        Ok(tail.states_of(objects, &paths)?.into_iter().map(FileState::from).collect())
    }

    /// Reads the whole log, so that the state of each file is cached.
    pub(in crate::warehouse) fn read_all(&self, objects: &Objects) -> Result<(), WarehouseError> {
        self.file_states(objects, &Partition { app_id: "x".to_owned(), hour: 0 }, &["none"]).map(drop)
    }

    /// The current state of each file.
    pub(in crate::warehouse) fn file_states(
        &self,
        objects: &Objects,
        partition: &Partition,
        names: &[&str],
    ) -> Result<Vec<FileState>, WarehouseError> {
        let path = |name: &&str| TableFile::new(objects, partition, name).path();
        let paths: Vec<String> = names.iter().map(path).collect();
        let mut tail = self.tail();
        self.refresh(objects, &mut tail)?;
        tail.catch_up(objects)?;
        Ok(tail.states_of(objects, &paths)?.into_iter().map(FileState::from).collect())
    }

    /// The cached state of a file, or `None` if the log would have to be read.
    pub(in crate::warehouse) fn cached_state(
        &self,
        objects: &Objects,
        partition: &Partition,
        name: &str,
    ) -> Option<FileState> {
        let file = TableFile::new(objects, partition, name);
        match self.states.get(&file.path()) {
            PathState::Unknown => None,
            state => Some(state.into()),
        }
    }

    /// When each file was removed from the table, in milliseconds since the Unix epoch by the remover's clock. `None` if
    /// the log no longer tells.
    pub(in crate::warehouse) fn removed_at(
        &self,
        objects: &Objects,
        wanted: &[(Partition, String)],
    ) -> Result<Vec<Option<i64>>, WarehouseError> {
        let path = |(partition, name): &(Partition, String)| TableFile::new(objects, partition, name).path();
        let indexes: HashMap<String, usize> = wanted.iter().map(path).zip(0..).collect();
        let mut removed = vec![None; wanted.len()];
        let listing = Listing::read(objects)?;
        let Some(latest) = listing.latest else { return Ok(removed) };
        let (at, files) = listing.checkpoint(latest).unwrap_or((-1, &[]));
        let mut note = |actions: &[Action]| {
            for action in actions {
                let Some(index) = action.file().and_then(|(path, _)| indexes.get(path)) else { continue };
                removed[*index] = action.remove.as_ref().and_then(|remove| remove.deletion_timestamp);
            }
        };
        for file in files {
            checkpoint_rows::read(objects, file, Columns::Removals, &mut |actions| {
                note(&actions);
                Ok(())
            })?;
        }
        for version in at + 1..=latest {
            note(&log::read_existing(objects, version)?);
        }
        Ok(removed)
    }
}
