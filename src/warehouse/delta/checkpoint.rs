//! Checkpoints: the state of the table at one version, so that readers need not read the log from its beginning. Also
//! removes files of the log that a checkpoint makes superfluous.
//!
//! Invariants: a checkpoint is made from the previous one and the commits since, read as a stream and written in parts, so
//! that only one part, one commit, and a key for each file committed since are in memory; only the process that committed
//! a version writes its checkpoint; nothing is removed that a reader within the retention of [`Delta`] may still need, by
//! the clock of the store, which also set the modification times.

use std::collections::{BTreeMap, HashMap};
use std::ops::RangeInclusive;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use parquet::arrow::ArrowWriter;
use parquet::basic::Compression;
use parquet::file::properties::WriterProperties;
use parquet::schema::types::ColumnPath;

use super::action::Action;
use super::checkpoint_rows::{self, BATCH_ROWS, Columns};
use super::log::{self, Hint, LOG, Listing};
use super::path_states::PathHasher;
use super::state::Delta;
use crate::base::clock::unix_ms;
use crate::metrics;
use crate::warehouse::WarehouseError;
use crate::warehouse::storage::{Listed, Objects};

/// How long a checkpoint lists removed files: readers of an older version may still look for them, and a process that
/// stalled must not add them again.
const TOMBSTONES_MS: i64 = 14 * 24 * 3_600 * 1_000;
/// Files of the log removed per pass.
const REMOVED_MAX: usize = 2_000;
/// Actions per file of a checkpoint: about 40 MB with their statistics, and a fraction of that compressed.
const PART_ACTIONS_MAX: usize = 20_000;
/// Actions per row group, which is encoded in memory.
const GROUP_ACTIONS: usize = 2 * BATCH_ROWS;

impl Delta {
    /// Writes the checkpoint that is due, if any, and removes superfluous files. A failure is retried with the next
    /// checkpoint.
    pub(in crate::warehouse) fn checkpoint(&self, objects: &Objects) {
        let due = self.checkpoint_due.swap(-1, Ordering::AcqRel);
        if due < 0 || self.checkpointing.swap(true, Ordering::AcqRel) {
            return;
        }
        let written = write(objects, due);
        metrics::delta_checkpoint(written.is_ok());
        let failed = |what: &str, error: WarehouseError| {
            tracing::warn!(%error, version = due, "{what}, with the next checkpoint it is tried again");
            format!("{what}: {error}")
        };
        let trouble = match written.map(|()| clean_up(objects, self.settings.retention)) {
            Ok(Ok(removed)) => {
                tracing::debug!(version = due, removed, "checkpoint of the Delta log written");
                None
            }
            Ok(Err(error)) => Some(failed("old commits of the Delta log cannot be removed", error)),
            Err(error) => Some(failed("a checkpoint of the Delta log was not written", error)),
        };
        self.checkpointing.store(false, Ordering::Release);
        *self.trouble.lock() = trouble;
    }
}

/// Writes the checkpoint of `version`, which is committed.
pub(super) fn write(objects: &Objects, version: i64) -> Result<(), WarehouseError> {
    let listing = Listing::read(objects)?;
    if listing.checkpoints.contains_key(&version) {
        return Ok(());
    }
    let (before, files) = listing.checkpoint(version).unwrap_or((-1, &[]));
    let state = State::read(objects, files, before + 1..=version)?;
    let mut out = Writer::new(objects, version, state.count()?)?;
    state.each(&mut |action| out.push(action))?;
    log::write_hint(objects, &out.finish()?)
}

/// The table at one version: a checkpoint and the commits since.
struct State<'a> {
    objects: &'a Objects,
    checkpoint: &'a [Listed],
    commits: RangeInclusive<i64>,
    tombstones_from_ms: i64,
    /// The latest singleton actions of the commits.
    protocol: Option<Action>,
    metadata: Option<Action>,
    txns: BTreeMap<String, Action>,
    /// The last action of the commits about each file.
    files: HashMap<u128, Latest>,
    hasher: PathHasher,
}

/// The last action about a file: its version, its index there, and whether the checkpoint includes it.
struct Latest {
    version: i64,
    index: u32,
    is_kept: bool,
}

impl<'a> State<'a> {
    fn read(
        objects: &'a Objects,
        checkpoint: &'a [Listed],
        commits: RangeInclusive<i64>,
    ) -> Result<Self, WarehouseError> {
        let mut state = Self {
            objects,
            checkpoint,
            commits: commits.clone(),
            tombstones_from_ms: unix_ms() - TOMBSTONES_MS,
            protocol: None,
            metadata: None,
            txns: BTreeMap::new(),
            files: HashMap::new(),
            hasher: PathHasher::default(),
        };
        for version in commits {
            for (index, action) in (0..).zip(log::read_existing(objects, version)?) {
                state.note(version, index, action);
            }
        }
        Ok(state)
    }

    fn note(&mut self, version: i64, index: u32, action: Action) {
        if let Some((path, _)) = action.file() {
            let latest = Latest { version, index, is_kept: self.is_kept(&action) };
            self.files.insert(self.hasher.hash(path), latest);
        } else if action.protocol.is_some() {
            self.protocol = Some(action);
        } else if action.meta_data.is_some() {
            self.metadata = Some(action);
        } else if let Some(txn) = &action.txn {
            self.txns.insert(txn.app_id.clone(), action);
        }
    }

    /// Returns false for a file that was removed long ago.
    fn is_kept(&self, action: &Action) -> bool {
        let removed_at = action.remove.as_ref().and_then(|remove| remove.deletion_timestamp);
        removed_at.is_none_or(|at| at >= self.tombstones_from_ms)
    }

    /// Whether an action of the previous checkpoint is part of this state.
    fn stays(&self, action: &Action) -> bool {
        let is_replaced = match action.file() {
            Some((path, _)) => self.files.contains_key(&self.hasher.hash(path)),
            None => {
                action.protocol.is_some() && self.protocol.is_some()
                    || action.meta_data.is_some() && self.metadata.is_some()
                    || action.txn.as_ref().is_some_and(|txn| self.txns.contains_key(&txn.app_id))
            }
        };
        !is_replaced && self.is_kept(action)
    }

    /// The actions that do not concern files.
    fn table_actions(&self) -> impl Iterator<Item = &Action> {
        self.protocol.iter().chain(&self.metadata).chain(self.txns.values())
    }

    fn count(&self) -> Result<usize, WarehouseError> {
        let mut count = self.table_actions().count() + self.files.values().filter(|latest| latest.is_kept).count();
        for file in self.checkpoint {
            checkpoint_rows::read(self.objects, file, Columns::Names, &mut |actions| {
                count += actions.iter().filter(|action| self.stays(action)).count();
                Ok(())
            })?;
        }
        Ok(count)
    }

    /// Passes all actions to `out`, starting with those that do not concern files, so that they are found without reading
    /// the rest.
    fn each(&self, out: &mut dyn FnMut(Action) -> Result<(), WarehouseError>) -> Result<(), WarehouseError> {
        self.table_actions().cloned().try_for_each(&mut *out)?;
        for file in self.checkpoint {
            checkpoint_rows::read(self.objects, file, Columns::All, &mut |actions| {
                actions.into_iter().filter(|action| self.stays(action)).try_for_each(&mut *out)
            })?;
        }
        for version in self.commits.clone() {
            for (index, action) in (0..).zip(log::read_existing(self.objects, version)?) {
                let latest = action.file().and_then(|(path, _)| self.files.get(&self.hasher.hash(path)));
                if latest.is_some_and(|latest| latest.is_kept && (latest.version, latest.index) == (version, index)) {
                    out(without_change(action))?;
                }
            }
        }
        Ok(())
    }
}

/// The actions of a checkpoint change no data.
fn without_change(mut action: Action) -> Action {
    if let Some(add) = &mut action.add {
        add.data_change = false;
    }
    if let Some(remove) = &mut action.remove {
        remove.data_change = false;
    }
    action
}

/// Writes the files of one checkpoint one after another.
struct Writer<'a> {
    objects: &'a Objects,
    version: i64,
    parts: usize,
    /// Actions per part, except for the last.
    part_actions: usize,
    /// The number of the current part, from 1, and the actions written to it.
    part: usize,
    written: usize,
    writer: ArrowWriter<Vec<u8>>,
    batch: Vec<Action>,
    hint: Hint,
}

impl<'a> Writer<'a> {
    fn new(objects: &'a Objects, version: i64, actions: usize) -> Result<Self, WarehouseError> {
        let parts = actions.div_ceil(PART_ACTIONS_MAX).max(1);
        let hint_parts = (parts > 1).then_some(parts);
        Ok(Self {
            objects,
            version,
            parts,
            part_actions: actions.div_ceil(parts),
            part: 1,
            written: 0,
            writer: arrow_writer()?,
            batch: Vec::with_capacity(BATCH_ROWS),
            hint: Hint { version, size: 0, parts: hint_parts, size_in_bytes: 0, num_of_add_files: 0 },
        })
    }

    fn push(&mut self, action: Action) -> Result<(), WarehouseError> {
        if self.written == self.part_actions && self.part < self.parts {
            self.finish_part()?;
            self.writer = arrow_writer()?;
            (self.part, self.written) = (self.part + 1, 0);
        }
        self.written += 1;
        self.hint.size += 1;
        self.hint.num_of_add_files += i64::from(action.add.is_some());
        self.batch.push(action);
        if self.batch.len() == BATCH_ROWS { self.write_batch() } else { Ok(()) }
    }

    fn write_batch(&mut self) -> Result<(), WarehouseError> {
        let written = self.writer.write(&checkpoint_rows::encode(&self.batch)?);
        self.batch.clear();
        written.map_err(WarehouseError::encode)
    }

    fn finish_part(&mut self) -> Result<(), WarehouseError> {
        self.write_batch()?;
        self.writer.finish().map_err(WarehouseError::encode)?;
        let bytes = Bytes::from(std::mem::take(self.writer.inner_mut()));
        self.hint.size_in_bytes += bytes.len() as i64;
        let name = log::checkpoint_name(self.version, self.part, self.parts);
        self.objects.store(LOG, &name, &bytes, || true).map(drop)
    }

    fn finish(mut self) -> Result<Hint, WarehouseError> {
        self.finish_part()?;
        Ok(self.hint)
    }
}

fn arrow_writer() -> Result<ArrowWriter<Vec<u8>>, WarehouseError> {
    let of_add = |name: &str| ColumnPath::new(vec!["add".to_owned(), name.to_owned()]);
    let properties = WriterProperties::builder()
        .set_compression(Compression::SNAPPY)
        .set_max_row_group_row_count(Some(GROUP_ACTIONS))
        // All values are distinct.
        .set_column_dictionary_enabled(of_add("path"), false)
        .set_column_dictionary_enabled(of_add("stats"), false)
        .build();
    ArrowWriter::try_new(Vec::new(), checkpoint_rows::schema(), Some(properties)).map_err(WarehouseError::encode)
}

/// Removes a bounded number of commits and checkpoints that are older than a checkpoint which is itself older than
/// `retention`. Returns how many.
fn clean_up(objects: &Objects, retention: Duration) -> Result<usize, WarehouseError> {
    let listing = Listing::read(objects)?;
    let expired = expired(&listing, retention);
    for name in &expired {
        objects.remove(LOG, name)?;
    }
    Ok(expired.len())
}

fn expired(listing: &Listing, retention: Duration) -> Vec<String> {
    let newest = |files: &[Listed]| files.iter().map(|file| file.modified_ms).max();
    let retention_ms = i64::try_from(retention.as_millis()).unwrap_or(i64::MAX);
    // The store's own time, as of the newest checkpoint.
    let now = listing.checkpoints.values().filter_map(|files| newest(files)).max();
    let Some(until) = now.map(|now| now.saturating_sub(retention_ms)) else { return Vec::new() };
    let kept_from = listing.checkpoints.iter().filter(|(_, files)| newest(files).is_some_and(|at| at <= until));
    let Some(kept_from) = kept_from.map(|(version, _)| *version).max() else { return Vec::new() };
    // Oldest first: an interrupted pass leaves a log without gaps.
    let commits = listing.commits.range(..kept_from).map(|(_, file)| file);
    let checkpoints = listing.checkpoints.range(..kept_from).flat_map(|(_, files)| files);
    let strays = listing.strays.iter().filter(|(version, _)| *version < kept_from).map(|(_, file)| file);
    commits.chain(checkpoints).chain(strays).take(REMOVED_MAX).map(|file| file.name.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_older_than_an_old_checkpoint_expire() {
        let file = |name: String, at: i64| Listed { name, modified_ms: at * 1_000, bytes: 1 };
        let mut listing = Listing::default();
        for version in 0..=35 {
            listing.commits.insert(version, file(log::commit_name(version), version * 10));
        }
        for version in [10, 20, 30] {
            listing.checkpoints.insert(version, vec![file(log::checkpoint_name(version, 1, 1), version * 10 + 1)]);
        }
        assert!(expired(&listing, Duration::from_secs(201)).is_empty());
        let names = expired(&listing, Duration::from_secs(150));
        assert_eq!((names.len(), names[0].clone()), (10, log::commit_name(0)));
        let names = expired(&listing, Duration::from_secs(100));
        assert_eq!((names.len(), names[20].clone()), (21, log::checkpoint_name(10, 1, 1)));
        assert_eq!(expired(&listing, Duration::ZERO).len(), 32);
        // Left by a process that was killed.
        listing.strays = [5, 31].map(|at| (at, file(log::checkpoint_name(at, 1, 2), 0))).into();
        let names = expired(&listing, Duration::from_secs(100));
        assert_eq!((names.len(), names[21].clone()), (22, log::checkpoint_name(5, 1, 2)));
    }
}
