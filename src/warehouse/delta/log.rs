//! The log's files: their names, listing them, and reading one.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::action::{self, Action};
use crate::warehouse::storage::{Listed, Objects};
use crate::warehouse::{WarehouseError, WarehouseErrorKind};

/// The directory at the root of the table.
pub(super) const LOG: &str = "_delta_log";
const HINT: &str = "_last_checkpoint";
/// Digits of the version in a file name.
const DIGITS: usize = 20;

/// The kind of a log file, by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LogFile {
    Commit(i64),
    /// The version, and the number of files that form the checkpoint.
    Checkpoint(i64, u32),
}

pub(super) fn commit_name(version: i64) -> String {
    format!("{version:020}.json")
}

/// The name of a part of a checkpoint. Parts count from 1.
pub(super) fn checkpoint_name(version: i64, part: usize, parts: usize) -> String {
    match parts {
        1 => format!("{version:020}.checkpoint.parquet"),
        _ => format!("{version:020}.checkpoint.{part:010}.{parts:010}.parquet"),
    }
}

pub(super) fn kind(name: &str) -> Option<LogFile> {
    let (digits, rest) = name.split_at_checked(DIGITS)?;
    let version: i64 = digits.parse().ok().filter(|_| digits.bytes().all(|byte| byte.is_ascii_digit()))?;
    if rest == ".json" {
        return Some(LogFile::Commit(version));
    }
    let part = rest.strip_prefix(".checkpoint.")?.strip_suffix("parquet")?;
    match part.strip_suffix('.') {
        None => part.is_empty().then_some(LogFile::Checkpoint(version, 1)),
        Some(part) => {
            let (of, parts) = part.split_once('.')?;
            let (_, parts): (u32, u32) = (of.parse().ok()?, parts.parse().ok()?);
            Some(LogFile::Checkpoint(version, parts))
        }
    }
}

/// One listing of the log.
#[derive(Debug, Default)]
pub(super) struct Listing {
    /// The latest version.
    pub(super) latest: Option<i64>,
    pub(super) commits: BTreeMap<i64, Listed>,
    /// Complete checkpoints by version.
    pub(super) checkpoints: BTreeMap<i64, Vec<Listed>>,
    /// Files of incomplete checkpoints with their versions: their writer or remover was killed.
    pub(super) strays: Vec<(i64, Listed)>,
}

impl Listing {
    pub(super) fn read(objects: &Objects) -> Result<Self, WarehouseError> {
        let mut listing = Self::default();
        let mut parts: BTreeMap<(i64, u32), Vec<Listed>> = BTreeMap::new();
        for file in objects.list(LOG)? {
            match kind(&file.name) {
                Some(LogFile::Commit(version)) => drop(listing.commits.insert(version, file)),
                Some(LogFile::Checkpoint(version, of)) => parts.entry((version, of)).or_default().push(file),
                None => {}
            }
        }
        for ((version, of), mut files) in parts {
            if files.len() == of as usize {
                files.sort_by(|one, other| one.name.cmp(&other.name));
                listing.checkpoints.insert(version, files);
            } else {
                listing.strays.extend(files.into_iter().map(|file| (version, file)));
            }
        }
        let commit = listing.commits.last_key_value().map(|(version, _)| *version);
        listing.latest = commit.max(listing.checkpoints.last_key_value().map(|(version, _)| *version));
        Ok(listing)
    }

    /// The newest checkpoint that is not newer than `version`.
    pub(super) fn checkpoint(&self, version: i64) -> Option<(i64, &[Listed])> {
        let (at, files) = self.checkpoints.range(..=version).next_back()?;
        Some((*at, files))
    }
}

/// Returns `None` if there is no such version yet.
pub(super) fn read_commit(objects: &Objects, version: i64) -> Result<Option<Vec<Action>>, WarehouseError> {
    let name = commit_name(version);
    let Some(text) = objects.read_whole(LOG, &name)? else { return Ok(None) };
    action::decode(&text).map(Some).map_err(|error| error.at(format!("{LOG}/{name}")))
}

/// Like [`read_commit`], but a missing version is an error.
pub(super) fn read_existing(objects: &Objects, version: i64) -> Result<Vec<Action>, WarehouseError> {
    let missing = || WarehouseError::new(WarehouseErrorKind::Corrupt, "find commit").at(commit_name(version));
    read_commit(objects, version)?.ok_or_else(missing)
}

/// The content of `_last_checkpoint`, where readers find the newest checkpoint without listing.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Hint {
    pub(super) version: i64,
    /// The number of actions in the checkpoint.
    pub(super) size: i64,
    /// The number of its files, if more than one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) parts: Option<usize>,
    pub(super) size_in_bytes: i64,
    pub(super) num_of_add_files: i64,
}

/// Points readers to a checkpoint, unless the hint already points to a newer one.
pub(super) fn write_hint(objects: &Objects, hint: &Hint) -> Result<(), WarehouseError> {
    #[derive(Deserialize)]
    struct Version {
        version: i64,
    }
    let there = objects.read_whole(LOG, HINT)?;
    let there: Option<Version> = there.and_then(|text| serde_json::from_slice(&text).ok());
    if there.is_some_and(|there| there.version >= hint.version) {
        return Ok(());
    }
    let text = serde_json::to_vec(hint)
        .map_err(|error| WarehouseError::caused(WarehouseErrorKind::Encode, "write checkpoint's hint", error))?;
    objects.store(LOG, HINT, &Bytes::from(text), || true).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_the_kind_of_a_log_file() {
        for (name, known) in [
            ("00000000000000000012.json", Some(LogFile::Commit(12))),
            ("00000000000000000100.checkpoint.parquet", Some(LogFile::Checkpoint(100, 1))),
            ("00000000000000000100.checkpoint.0000000001.0000000003.parquet", Some(LogFile::Checkpoint(100, 3))),
            ("00000000000000000100.checkpoint.3a0d65cd-4056-49b8-937b-95f9e3ee90e5.parquet", None),
            ("00000000000000000012.crc", None),
            ("_last_checkpoint", None),
            ("+0000000000000000012.json", None),
            (".00000000000000000012.json.tmp", None),
        ] {
            assert_eq!(kind(name), known, "{name}");
        }
        assert_eq!(kind(&commit_name(7)), Some(LogFile::Commit(7)));
        assert_eq!(kind(&checkpoint_name(7, 1, 1)), Some(LogFile::Checkpoint(7, 1)));
        assert_eq!(kind(&checkpoint_name(7, 2, 3)), Some(LogFile::Checkpoint(7, 3)));
    }
}
