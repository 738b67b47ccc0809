//! Adopts files from before the log: adds all stored files to the table that no commit names.

use std::collections::HashSet;

use super::action::Action;
use super::hidden::Hidden;
use super::path_states::PathState;
use super::state::Delta;
use super::table::TableFile;
use super::tail;
use crate::base::clock::unix_ms;
use crate::warehouse::WarehouseError;
use crate::warehouse::catalog::damaged::Damaged;
use crate::warehouse::error::WarehouseErrorKind;
use crate::warehouse::file::footer;
use crate::warehouse::layout::{MARKS, is_compacted, is_data_file, mark_name};
use crate::warehouse::storage::{Listed, Objects, Walked};

/// Files per commit.
const COMMIT_FILES: usize = 500;
/// Files opened together, and the bytes read from their ends.
const OPEN_FILES: usize = 64;
const FOOTER_READ_BYTES: usize = 64 << 10;

/// The result of adopting files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Adopted {
    pub added: u64,
    /// Files that the log already named.
    pub known: u64,
    pub unreadable: u64,
    /// Data files in directories that are not partitions of ours.
    pub elsewhere: u64,
}

impl Delta {
    /// Whether the table has the files from before the log.
    pub(in crate::warehouse) fn has_adopted(&self) -> bool {
        self.tail().adopted
    }

    /// Adds stored files that the log does not name, while `go_on` returns true. Calls `report` after each step.
    pub(in crate::warehouse) fn adopt(
        &self,
        objects: &Objects,
        damaged: &Damaged,
        go_on: impl Fn() -> bool,
        report: impl Fn(Adopted),
    ) -> Result<Adopted, WarehouseError> {
        let Some(adopted) = self.adopt_found(objects, damaged, &go_on, &report)? else { return Ok(Adopted::default()) };
        // Processes of an older version may have stored files meanwhile in directories that were already walked.
        let report_more = |more: Adopted| report(Adopted { added: adopted.added + more.added, ..adopted });
        let Some(more) = self.adopt_found(objects, damaged, &go_on, &report_more)? else { return Ok(adopted) };
        self.append(objects, &mut self.tail(), "ADOPT", |tail| {
            let done = (!tail.adopted).then(|| Action::from(tail::adopted(unix_ms())));
            Ok(done.into_iter().collect())
        })?;
        Ok(Adopted { added: adopted.added + more.added, ..adopted })
    }

    /// Walks all files once. Returns `None` if `go_on` stopped it.
    fn adopt_found(
        &self,
        objects: &Objects,
        damaged: &Damaged,
        go_on: &impl Fn() -> bool,
        report: &impl Fn(Adopted),
    ) -> Result<Option<Adopted>, WarehouseError> {
        let mut adopted = Adopted::default();
        let mut batch: Vec<(TableFile, Listed)> = Vec::new();
        let mut finished = true;
        objects.walk(&mut |walked: &Walked| {
            if is_data_file(&walked.file.name) {
                match objects.partition(&walked.directory) {
                    Some(partition) => {
                        let file = TableFile::new(objects, &partition, &walked.file.name);
                        batch.push((file, walked.file.clone()));
                    }
                    None => adopted.elsewhere += 1,
                }
            }
            if batch.len() == COMMIT_FILES {
                self.adopt_batch(objects, damaged, std::mem::take(&mut batch), &mut adopted)?;
                report(adopted);
                // There may be no other committer to write it.
                self.checkpoint(objects);
            }
            finished = go_on();
            Ok(finished)
        })?;
        if !finished {
            return Ok(None);
        }
        self.adopt_batch(objects, damaged, batch, &mut adopted)?;
        report(adopted);
        Ok(Some(adopted))
    }

    fn adopt_batch(
        &self,
        objects: &Objects,
        damaged: &Damaged,
        batch: Vec<(TableFile, Listed)>,
        adopted: &mut Adopted,
    ) -> Result<(), WarehouseError> {
        let paths: Vec<String> = batch.iter().map(|(file, _)| file.path()).collect();
        let states = self.tail().states_of(objects, &paths)?;
        let logged = states.iter().filter(|state| **state != PathState::Unlogged).count();
        // Reconciling a fenced write updates the log.
        let fenced_marks: HashSet<String> = objects.list(MARKS)?.into_iter().map(|mark| mark.name).collect();
        let unlogged =
            batch.into_iter().zip(states).filter(|(_, state)| *state == PathState::Unlogged).map(|(file, _)| file);
        let unlogged = unlogged.filter(|(file, _)| !fenced_marks.contains(&mark_name(&file.name))).collect();
        let unlogged = without_hidden(objects, unlogged, !self.has_adopted())?;
        let actions = read_adds(objects, damaged, unlogged, adopted)?;
        adopted.known += logged as u64;
        let mut added = 0;
        self.append(objects, &mut self.tail(), "ADOPT", |tail| {
            let unlogged = |action: &&Action| {
                let state = action.file().map(|(path, _)| tail.states.get(path));
                matches!(state, Some(PathState::Unlogged | PathState::Unknown))
            };
            let actions: Vec<Action> = actions.iter().filter(unlogged).cloned().collect();
            added = added.max(actions.len() as u64);
            Ok(actions)
        })?;
        adopted.added += added;
        Ok(())
    }
}

/// Drops files whose rows a compacted file holds. The files come directory by directory.
fn without_hidden(
    objects: &Objects,
    files: Vec<(TableFile, Listed)>,
    is_new: bool,
) -> Result<Vec<(TableFile, Listed)>, WarehouseError> {
    let mut kept = Vec::with_capacity(files.len());
    let ends = [files.first(), files.last()].map(|file| file.map(|(file, _)| file.partition.clone()));
    for files in files.chunk_by(|(one, _), (other, _)| one.partition == other.partition) {
        let partition = &files[0].0.partition;
        // Only the first and last directory of the batch may be incomplete.
        let is_cut = ends.iter().flatten().any(|end| end == partition);
        let hidden = match !is_new || is_cut || files.iter().any(|(file, _)| is_compacted(&file.name)) {
            true => Hidden::read(objects, partition, is_new)?,
            false => Hidden::default(),
        };
        kept.extend(files.iter().filter(|(file, _)| !hidden.has(&file.name)).cloned());
    }
    Ok(kept)
}

fn read_adds(
    objects: &Objects,
    damaged: &Damaged,
    files: Vec<(TableFile, Listed)>,
    adopted: &mut Adopted,
) -> Result<Vec<Action>, WarehouseError> {
    let mut actions = Vec::with_capacity(files.len());
    // The files come directory by directory.
    for files in files.chunk_by(|(one, _), (other, _)| one.partition == other.partition) {
        let directory = files[0].0.directory.clone();
        for files in files.chunks(OPEN_FILES) {
            let listed: Vec<Listed> = files.iter().map(|(_, listed)| listed.clone()).collect();
            let sources = objects.open_together(&directory, &listed, FOOTER_READ_BYTES);
            for ((file, listed), source) in files.iter().zip(sources) {
                match source.and_then(|source| source.read_with(|source| footer::read(&source))) {
                    Ok(metadata) => actions.push(file.add(&metadata, listed.bytes, listed.modified_ms).into()),
                    Err(error) if error.kind == WarehouseErrorKind::Corrupt => {
                        damaged.note(&directory, listed, &error);
                        adopted.unreadable += 1;
                    }
                    Err(error) => return Err(error.at(format!("{directory}/{}", file.name))),
                }
            }
        }
    }
    Ok(actions)
}
