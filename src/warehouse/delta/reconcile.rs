//! Reconciles the log with the stored files: adds files that a crash left uncommitted, and removes fenced writes that
//! were discarded.

use std::collections::{HashMap, HashSet};

use super::action::Action;
use super::path_states::PathState;
use super::state::Delta;
use super::table::TableFile;
use super::tail::Tail;
use crate::base::clock::unix_ms;
use crate::warehouse::WarehouseError;
use crate::warehouse::catalog::damaged::Damaged;
use crate::warehouse::error::WarehouseErrorKind;
use crate::warehouse::file::footer;
use crate::warehouse::layout::Partition;
use crate::warehouse::storage::{Listed, Objects};

/// How often the files or the log may change while they are being compared.
const ROUNDS_MAX: usize = 200;

/// What one call knows in addition to the log.
#[derive(Default)]
struct CallState {
    /// Files that the log did not name at first. The tail notes later commits.
    unlogged: HashSet<String>,
    /// Sizes of the files that this call added.
    added: HashMap<String, u64>,
}

impl Delta {
    /// Ensures that the log names these stored files, in which rows were found.
    pub(in crate::warehouse) fn ensure(
        &self,
        objects: &Objects,
        damaged: &Damaged,
        partition: &Partition,
        names: &[&str],
    ) -> Result<(), WarehouseError> {
        let file = |name: &&str| TableFile::new(objects, partition, name);
        let is_logged =
            |file: &TableFile| matches!(self.states.get(&file.path()), PathState::Added | PathState::Removed);
        let files: Vec<TableFile> = names.iter().map(file).filter(|file| !is_logged(file)).collect();
        if files.is_empty() { Ok(()) } else { self.reconcile_files(objects, damaged, &files, false) }
    }

    /// Like [`Delta::ensure`], for a file that may have been removed, or replaced by one with fewer rows.
    pub(in crate::warehouse) fn reconcile(
        &self,
        objects: &Objects,
        damaged: &Damaged,
        partition: &Partition,
        name: &str,
        replaced: bool,
    ) -> Result<(), WarehouseError> {
        let file = TableFile::new(objects, partition, name);
        self.reconcile_files(objects, damaged, &[file], replaced)
    }

    /// Removes a file from the table, before it is removed from the store.
    pub(in crate::warehouse) fn remove_file(
        &self,
        objects: &Objects,
        partition: &Partition,
        name: &str,
    ) -> Result<(), WarehouseError> {
        let file = TableFile::new(objects, partition, name);
        let mut tail = self.tail();
        self.refresh(objects, &mut tail)?;
        tail.catch_up(objects)?;
        self.append(objects, &mut tail, "DELETE", |tail| {
            let is_there = tail.states_of(objects, &[file.path()])?.contains(&PathState::Added);
            Ok(is_there.then(|| Action::from(file.remove(unix_ms()))).into_iter().collect())
        })
    }

    /// Compares again after each commit. A process that removes or replaces a file does so before it reads the log, and
    /// this function commits before it lists the files, so the later of the two sees what the other did.
    fn reconcile_files(
        &self,
        objects: &Objects,
        damaged: &Damaged,
        files: &[TableFile],
        replaced: bool,
    ) -> Result<(), WarehouseError> {
        let mut known = CallState::default();
        let mut tail = self.tail();
        for _ in 0..ROUNDS_MAX {
            self.refresh(objects, &mut tail)?;
            tail.catch_up(objects)?;
            let (actions, added) = differences(objects, damaged, &mut tail, files, replaced, &mut known)?;
            if actions.is_empty() {
                return Ok(());
            }
            let began = std::time::Instant::now();
            if tail.append(objects, "WRITE", &actions)? {
                known.added.extend(added);
                self.committed(&tail, actions.len(), began.elapsed());
            }
        }
        let why = format!("they changed {ROUNDS_MAX} times");
        Err(WarehouseError::caused(WarehouseErrorKind::Unavailable, "commit stored files", why))
    }
}

type Added = Vec<(String, u64)>;

fn differences(
    objects: &Objects,
    damaged: &Damaged,
    tail: &mut Tail,
    files: &[TableFile],
    replaced: bool,
    known: &mut CallState,
) -> Result<(Vec<Action>, Added), WarehouseError> {
    let (mut actions, mut added) = (Vec::new(), Vec::new());
    let Some(partition) = files.first().map(|file| file.directory.clone()) else { return Ok((actions, added)) };
    let listed = objects.list(&partition)?;
    let states = states_of(objects, tail, files, known)?;
    for (file, state) in files.iter().zip(states) {
        let (path, there) = (file.path(), listed.iter().find(|there| there.name == file.name));
        match (there, state) {
            (None, PathState::Added) => actions.push(file.remove(unix_ms()).into()),
            (Some(there), PathState::Unlogged | PathState::Unknown) => {
                actions.extend(add(objects, damaged, file, there, true)?);
                added.push((path, there.bytes));
            }
            (Some(there), PathState::Added) => {
                let is_changed = known.added.get(&path).is_none_or(|bytes| *bytes != there.bytes);
                if is_changed && (replaced || known.added.contains_key(&path)) {
                    actions.extend(add(objects, damaged, file, there, false)?);
                    added.push((path, there.bytes));
                }
            }
            (None, _) | (_, PathState::Removed) => {}
        }
    }
    Ok((actions, added))
}

/// Reads back the log at most once per call.
fn states_of(
    objects: &Objects,
    tail: &mut Tail,
    files: &[TableFile],
    known: &mut CallState,
) -> Result<Vec<PathState>, WarehouseError> {
    let paths: Vec<String> = files.iter().map(TableFile::path).collect();
    let unknown = |path: &String| tail.states.get(path) == PathState::Unknown && !known.unlogged.contains(path);
    if paths.iter().any(unknown) {
        let states = tail.states_of(objects, &paths)?;
        let unlogged = paths.iter().zip(&states).filter(|(_, state)| **state == PathState::Unlogged);
        known.unlogged.extend(unlogged.map(|(path, _)| path.clone()));
        return Ok(states);
    }
    Ok(paths.iter().map(|path| tail.states.get(path)).collect())
}

/// Returns `None` for an unreadable file.
fn add(
    objects: &Objects,
    damaged: &Damaged,
    file: &TableFile,
    there: &Listed,
    data_change: bool,
) -> Result<Option<Action>, WarehouseError> {
    match objects.open(&file.directory, there)?.read_with(|source| footer::read(&source)) {
        Ok(metadata) => {
            let mut add = file.add(&metadata, there.bytes, there.modified_ms);
            add.data_change = data_change;
            Ok(Some(add.into()))
        }
        Err(error) if error.kind == WarehouseErrorKind::Corrupt => {
            damaged.note(&file.directory, there, &error);
            Ok(None)
        }
        Err(error) => Err(error),
    }
}
