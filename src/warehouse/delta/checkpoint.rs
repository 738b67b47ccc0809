//! Checkpoints: the state of the table at one version, so that readers need not read the log from its beginning; and
//! the removal of what a checkpoint makes superfluous.
//!
//! Invariants: a checkpoint is the one before it with the commits since, read as a stream, so that its actions are never
//! all in memory; nothing goes that a reader of the last [`Delta`](super::Delta) retention may still want, by the
//! clock of the store that gave the files their times.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use bytes::Bytes;
use parquet::arrow::ArrowWriter;
use parquet::basic::Compression;
use parquet::file::properties::WriterProperties;

use super::action::Action;
use super::log::{self, Hint, LOG, Listing};
use super::rows::{self, BATCH_ROWS, Columns};
use super::tail::now_ms;
use crate::warehouse::WarehouseError;
use crate::warehouse::objects::{Listed, Objects};

/// How long a checkpoint names files that were removed: who reads an older version may still look for them, and a
/// process that stood still must not add them again.
const TOMBSTONES_MS: i64 = 14 * 24 * 3_600 * 1_000;
/// Files of the log that one pass removes.
const REMOVED_MAX: usize = 2_000;

/// Writes the checkpoint of `version`, which was committed.
pub(super) fn write(objects: &Objects, version: i64) -> Result<(), WarehouseError> {
    let listing = Listing::read(objects)?;
    if listing.checkpoints.contains_key(&version) {
        return Ok(());
    }
    let (before, files) = listing.checkpoint(version).unwrap_or((-1, &[]));
    let mut since = Since::default();
    for version in before + 1..=version {
        log::read_known(objects, version)?.into_iter().for_each(|action| since.note(action));
    }
    let mut out = Writer::new()?;
    for file in files {
        rows::read(objects, file, Columns::All, &mut |actions| {
            actions.into_iter().filter(|action| !since.replaces(action)).try_for_each(|action| out.push(action))
        })?;
    }
    since.into_actions().try_for_each(|action| out.push(action))?;
    let (bytes, hint) = out.finish(version)?;
    objects.store(LOG, &log::checkpoint_name(version), &bytes, || true)?;
    log::write_hint(objects, &hint)
}

/// The latest of what each action is about.
#[derive(Default)]
struct Since {
    protocol: Option<Action>,
    metadata: Option<Action>,
    txns: BTreeMap<String, Action>,
    files: HashMap<String, Action>,
}

impl Since {
    fn note(&mut self, mut action: Action) {
        if let Some((path, _)) = action.file() {
            let path = path.to_owned();
            if let Some(add) = &mut action.add {
                add.data_change = false;
            }
            if let Some(remove) = &mut action.remove {
                remove.data_change = false;
            }
            self.files.insert(path, action);
        } else if action.protocol.is_some() {
            self.protocol = Some(action);
        } else if action.meta_data.is_some() {
            self.metadata = Some(action);
        } else if let Some(txn) = &action.txn {
            self.txns.insert(txn.app_id.clone(), action);
        }
    }

    fn replaces(&self, action: &Action) -> bool {
        match action.file() {
            Some((path, _)) => self.files.contains_key(path),
            None => {
                action.protocol.is_some() && self.protocol.is_some()
                    || action.meta_data.is_some() && self.metadata.is_some()
                    || action.txn.as_ref().is_some_and(|txn| self.txns.contains_key(&txn.app_id))
            }
        }
    }

    fn into_actions(self) -> impl Iterator<Item = Action> {
        let few = self.protocol.into_iter().chain(self.metadata).chain(self.txns.into_values());
        few.chain(self.files.into_values())
    }
}

struct Writer {
    writer: ArrowWriter<Vec<u8>>,
    batch: Vec<Action>,
    rows: i64,
    adds: i64,
    tombstones_from_ms: i64,
}

impl Writer {
    fn new() -> Result<Self, WarehouseError> {
        let properties = WriterProperties::builder().set_compression(Compression::SNAPPY).build();
        let writer = ArrowWriter::try_new(Vec::new(), rows::schema(), Some(properties));
        Ok(Self {
            writer: writer.map_err(WarehouseError::encode)?,
            batch: Vec::with_capacity(BATCH_ROWS),
            rows: 0,
            adds: 0,
            tombstones_from_ms: now_ms() - TOMBSTONES_MS,
        })
    }

    fn push(&mut self, action: Action) -> Result<(), WarehouseError> {
        let is_old = |at: Option<i64>| at.is_some_and(|at| at < self.tombstones_from_ms);
        if action.remove.as_ref().is_some_and(|remove| is_old(remove.deletion_timestamp)) {
            return Ok(());
        }
        self.rows += 1;
        self.adds += i64::from(action.add.is_some());
        self.batch.push(action);
        if self.batch.len() == BATCH_ROWS { self.write_batch() } else { Ok(()) }
    }

    fn write_batch(&mut self) -> Result<(), WarehouseError> {
        let written = self.writer.write(&rows::encode(&self.batch)?);
        self.batch.clear();
        written.map_err(WarehouseError::encode)
    }

    fn finish(mut self, version: i64) -> Result<(Bytes, Hint), WarehouseError> {
        self.write_batch()?;
        let bytes = Bytes::from(self.writer.into_inner().map_err(WarehouseError::encode)?);
        let hint = Hint { version, size: self.rows, size_in_bytes: bytes.len() as i64, num_of_add_files: self.adds };
        Ok((bytes, hint))
    }
}

/// Removes commits and checkpoints that are older than a checkpoint which is itself older than `retention`, some of
/// them at a time. Returns how many.
pub(super) fn clean_up(objects: &Objects, retention: Duration) -> Result<usize, WarehouseError> {
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
    // The oldest first: whoever is interrupted leaves a log without gaps.
    let commits = listing.commits.range(..kept_from).map(|(_, file)| file);
    let checkpoints = listing.checkpoints.range(..kept_from).flat_map(|(_, files)| files);
    commits.chain(checkpoints).take(REMOVED_MAX).map(|file| file.name.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_older_than_an_old_checkpoint_expires() {
        let file = |name: String, at: i64| Listed { name, modified_ms: at * 1_000, bytes: 1 };
        let mut listing = Listing::default();
        for version in 0..=35 {
            listing.commits.insert(version, file(log::commit_name(version), version * 10));
        }
        for version in [10, 20, 30] {
            listing.checkpoints.insert(version, vec![file(log::checkpoint_name(version), version * 10 + 1)]);
        }
        assert!(expired(&listing, Duration::from_secs(201)).is_empty());
        let names = expired(&listing, Duration::from_secs(150));
        assert_eq!((names.len(), names[0].clone()), (10, log::commit_name(0)));
        let names = expired(&listing, Duration::from_secs(100));
        assert_eq!((names.len(), names[20].clone()), (21, log::checkpoint_name(10)));
        assert_eq!(expired(&listing, Duration::ZERO).len(), 32);
    }
}
