//! Files in the place of others: one commit, or none when somebody else was first.

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

/// What files take the place of others for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::warehouse) enum Change {
    /// The same rows in other files: who follows the table has nothing to learn from it.
    Layout,
    /// Some of the rows are gone.
    Rows,
}

/// A file that comes into the table.
pub(in crate::warehouse) struct NewFile<'a> {
    pub(in crate::warehouse) name: &'a str,
    pub(in crate::warehouse) metadata: &'a ParquetMetaData,
    pub(in crate::warehouse) bytes: u64,
}

/// What the log says of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::warehouse) enum Named {
    InTable,
    Removed,
    No,
}

impl From<PathState> for Named {
    fn from(state: PathState) -> Self {
        match state {
            PathState::Added => Self::InTable,
            PathState::Removed => Self::Removed,
            PathState::Unlogged | PathState::Unknown => Self::No,
        }
    }
}

impl Delta {
    /// Puts `new` files in the place of `old` ones, in one commit. False, and nothing is committed,
    /// when an old one is not in the table any more, or a new one was given up by others (see [`Delta::give_up`]).
    /// May be called again when it fails.
    pub(in crate::warehouse) fn replace(
        &self,
        objects: &Objects,
        partition: &Partition,
        old: &[&str],
        new: &[NewFile<'_>],
        change: Change,
    ) -> Result<bool, WarehouseError> {
        let file = |name: &str| TableFile::new(objects, partition, name);
        let now = unix_ms();
        let adds = new.iter().map(|new| {
            let mut add = file(new.name).add(new.metadata, new.bytes, now);
            add.data_change = change == Change::Rows;
            Action::from(add)
        });
        let removes = old.iter().map(|name| {
            let mut remove = file(name).remove(now);
            remove.data_change = change == Change::Rows;
            Action::from(remove)
        });
        let actions: Vec<Action> = removes.chain(adds).collect();
        let paths =
            |names: &mut dyn Iterator<Item = &str>| names.map(|name| file(name).path()).collect::<Vec<String>>();
        let old = paths(&mut old.iter().copied());
        let new = paths(&mut new.iter().map(|new| new.name));
        let mut replaced = false;
        let operation = match change {
            Change::Layout => "OPTIMIZE",
            Change::Rows => "DELETE",
        };
        self.append(objects, &mut self.tail(), operation, |tail| {
            let all = |states: &[PathState], state: PathState| states.iter().all(|found| *found == state);
            let (theirs, ours) = (tail.states_of(objects, &old)?, tail.states_of(objects, &new)?);
            let is_ours_already = all(&ours, PathState::Added) && !ours.is_empty();
            let may = all(&theirs, PathState::Added) && all(&ours, PathState::Unlogged);
            replaced = is_ours_already || may;
            Ok(if may { actions.clone() } else { Vec::new() })
        })?;
        if self.is_checkpoint_due() {
            self.checkpoint(objects);
        }
        Ok(replaced)
    }

    /// Takes those of the files that are in the table out of it, with their rows, in one commit. Returns what the log says
    /// of each then.
    pub(in crate::warehouse) fn expire(
        &self,
        objects: &Objects,
        partition: &Partition,
        names: &[&str],
    ) -> Result<Vec<Named>, WarehouseError> {
        let named = self.remove_those(objects, partition, names, (PathState::Added, Change::Rows), "DELETE")?;
        if self.is_checkpoint_due() {
            self.checkpoint(objects);
        }
        Ok(named)
    }

    /// Notes in the log that files which it does not name are none of the table's, so that whoever stored them cannot
    /// commit them any more. Returns what the log says of each then.
    pub(in crate::warehouse) fn give_up(
        &self,
        objects: &Objects,
        partition: &Partition,
        names: &[&str],
    ) -> Result<Vec<Named>, WarehouseError> {
        self.remove_those(objects, partition, names, (PathState::Unlogged, Change::Layout), "VACUUM START")
    }

    /// Removes those of the files that the log says this of, in one commit. Returns what it says of each then.
    fn remove_those(
        &self,
        objects: &Objects,
        partition: &Partition,
        names: &[&str],
        (of, change): (PathState, Change),
        operation: &str,
    ) -> Result<Vec<Named>, WarehouseError> {
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
        Ok(tail.states_of(objects, &paths)?.into_iter().map(Named::from).collect())
    }

    /// Reads the log, so that each file's place in it is remembered.
    pub(in crate::warehouse) fn read_all(&self, objects: &Objects) -> Result<(), WarehouseError> {
        self.named(objects, &Partition { app_id: "x".to_owned(), hour: 0 }, &["none"]).map(drop)
    }

    /// What the log says of the files now.
    pub(in crate::warehouse) fn named(
        &self,
        objects: &Objects,
        partition: &Partition,
        names: &[&str],
    ) -> Result<Vec<Named>, WarehouseError> {
        let path = |name: &&str| TableFile::new(objects, partition, name).path();
        let paths: Vec<String> = names.iter().map(path).collect();
        let mut tail = self.tail();
        self.refresh(objects, &mut tail)?;
        tail.catch_up(objects)?;
        Ok(tail.states_of(objects, &paths)?.into_iter().map(Named::from).collect())
    }

    /// The same as far as this process knows; none when it would have to look.
    pub(in crate::warehouse) fn remembered(
        &self,
        objects: &Objects,
        partition: &Partition,
        name: &str,
    ) -> Option<Named> {
        let file = TableFile::new(objects, partition, name);
        match self.states.get(&file.path()) {
            PathState::Unknown => None,
            state => Some(state.into()),
        }
    }

    /// When, by the clock of who did it, the files were removed from the table: milliseconds since the Unix epoch, of
    /// those of which the log still says so.
    pub(in crate::warehouse) fn removed_at(
        &self,
        objects: &Objects,
        wanted: &[(Partition, String)],
    ) -> Result<Vec<Option<i64>>, WarehouseError> {
        let path = |(partition, name): &(Partition, String)| TableFile::new(objects, partition, name).path();
        let places: HashMap<String, usize> = wanted.iter().map(path).zip(0..).collect();
        let mut removed = vec![None; wanted.len()];
        let listing = Listing::read(objects)?;
        let Some(latest) = listing.latest else { return Ok(removed) };
        let (at, files) = listing.checkpoint(latest).unwrap_or((-1, &[]));
        let mut note = |actions: &[Action]| {
            for action in actions {
                let Some(place) = action.file().and_then(|(path, _)| places.get(path)) else { continue };
                removed[*place] = action.remove.as_ref().and_then(|remove| remove.deletion_timestamp);
            }
        };
        for file in files {
            checkpoint_rows::read(objects, file, Columns::Removals, &mut |actions| {
                note(&actions);
                Ok(())
            })?;
        }
        for version in at + 1..=latest {
            note(&log::read_known(objects, version)?);
        }
        Ok(removed)
    }
}
