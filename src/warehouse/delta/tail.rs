//! The end of the log as far as this process has read it, and the next commit.
//!
//! Invariant: a version is put only after every version before it was read, so that a committer knows all earlier
//! commits.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use serde_json::json;
use uuid::Uuid;

use super::action::{self, Action, Metadata, Protocol, Txn};
use super::checkpoint_rows::{self, Columns};
use super::log::{self, LOG, Listing};
use super::path_states::{PathState, PathStates};
use crate::base::clock::{ClockReading, unix_ms};
use crate::warehouse::storage::Objects;
use crate::warehouse::{WarehouseError, WarehouseErrorKind};

/// The application id of the [`Txn`] that notes that the table has the files from before the log.
pub(super) const ADOPTED: &str = "causality.files_before_the_log";
/// The prefix of the application id of an import.
pub(super) const IMPORT: &str = "causality.import.";

#[derive(Debug)]
pub(super) struct Tail {
    pub(super) version: i64,
    pub(super) metadata: Metadata,
    /// Whether the table has the files from before the log.
    pub(super) adopted: bool,
    /// The position of each import, in rows.
    pub(super) imports: BTreeMap<String, i64>,
    pub(super) states: PathStates,
    /// When there was no version after `version`.
    read_at: ClockReading,
}

impl Tail {
    /// Returns `None` if there is no log.
    pub(super) fn open(objects: &Objects) -> Result<Option<Self>, WarehouseError> {
        let read_at = ClockReading::now();
        let listing = Listing::read(objects)?;
        let Some(latest) = listing.latest else { return Ok(None) };
        let mut read = TableActions::default();
        let mut version = -1;
        if let Some((at, files)) = listing.checkpoint(latest) {
            for file in files {
                checkpoint_rows::read(objects, file, Columns::AllButFiles, &mut |actions| {
                    actions.iter().for_each(|action| read.note(action));
                    Ok(())
                })?;
            }
            version = at;
        }
        let (states, from) = (PathStates::default(), version + 1);
        for version in from..=latest {
            let actions = log::read_existing(objects, version)?;
            actions.iter().for_each(|action| read.note(action));
            note_files(&states, &actions);
        }
        if from == 0 {
            states.completed();
        }
        let corrupt = |what| WarehouseError::new(WarehouseErrorKind::Corrupt, what).at(LOG);
        let metadata = read.metadata.ok_or_else(|| corrupt("find metadata in log"))?;
        check(read.protocol.ok_or_else(|| corrupt("find protocol in log"))?)?;
        let TableActions { adopted, imports, .. } = read;
        Ok(Some(Self { version: latest, metadata, adopted, imports, states, read_at }))
    }

    /// Reads newer commits. Returns false if there were none.
    pub(super) fn catch_up(&mut self, objects: &Objects) -> Result<bool, WarehouseError> {
        let before = self.version;
        loop {
            let read_at = ClockReading::now();
            let Some(actions) = log::read_commit(objects, self.version + 1)? else {
                self.read_at = read_at;
                return Ok(self.version > before);
            };
            self.apply(&actions)?;
        }
    }

    /// Puts the next version. Returns false if another process has put it.
    pub(super) fn append(
        &mut self,
        objects: &Objects,
        operation: &str,
        actions: &[Action],
    ) -> Result<bool, WarehouseError> {
        let mut lines = vec![info(operation)];
        lines.extend_from_slice(actions);
        let read_at = ClockReading::now();
        let created = objects.create(LOG, &log::commit_name(self.version + 1), &action::encode(&lines)?)?;
        if created {
            self.apply(actions)?;
            self.read_at = read_at;
        }
        Ok(created)
    }

    /// Whether versions may have been written and cleaned up since the end of the log was read. A version that is put now
    /// could then be a duplicate of one of them.
    pub(super) fn is_outdated(&self, retention: Duration) -> bool {
        self.read_at.age() > retention / 2
    }

    /// The state of each file. Reads the log for files that are not cached.
    pub(super) fn states_of(&mut self, objects: &Objects, paths: &[String]) -> Result<Vec<PathState>, WarehouseError> {
        let unknown: Vec<&String> = paths.iter().filter(|path| self.states.get(path) == PathState::Unknown).collect();
        if !unknown.is_empty() {
            self.read_back(objects, &unknown)?;
        }
        let state = |path: &String| match self.states.get(path) {
            PathState::Unknown => PathState::Unlogged,
            known => known,
        };
        Ok(paths.iter().map(state).collect())
    }

    /// Caches the states of all files in the log, or only of the wanted ones if there are too many.
    fn read_back(&mut self, objects: &Objects, wanted: &[&String]) -> Result<(), WarehouseError> {
        let wanted: HashSet<&str> = wanted.iter().map(|path| path.as_str()).collect();
        let listing = Listing::read(objects)?;
        let (version, files) = listing.checkpoint(self.version).unwrap_or((-1, &[]));
        let rows: usize = files.iter().map(|file| checkpoint_rows::count(objects, file)).sum::<Result<_, _>>()?;
        let all = self.states.has_room(rows);
        let mut noted = 0;
        let states = &self.states;
        let mut note = |actions: &[Action]| {
            for (path, is_there) in actions.iter().filter_map(Action::file) {
                if all || wanted.contains(path) {
                    states.note_earlier(path, is_there);
                    noted += 1;
                }
            }
        };
        // Newest first: earlier entries do not overwrite later ones.
        for version in (version + 1..=self.version).rev() {
            note(&log::read_existing(objects, version)?);
        }
        for file in files {
            checkpoint_rows::read(objects, file, Columns::Files, &mut |actions| {
                note(&actions);
                Ok(())
            })?;
        }
        if all {
            self.states.completed();
        }
        tracing::debug!(files = noted, version = self.version, "log read");
        Ok(())
    }

    fn apply(&mut self, actions: &[Action]) -> Result<(), WarehouseError> {
        let mut read = TableActions { adopted: self.adopted, ..TableActions::default() };
        actions.iter().for_each(|action| read.note(action));
        if let Some(protocol) = read.protocol {
            check(protocol)?;
        }
        self.metadata = read.metadata.unwrap_or_else(|| self.metadata.clone());
        self.adopted = read.adopted;
        self.imports.append(&mut read.imports);
        note_files(&self.states, actions);
        self.version += 1;
        Ok(())
    }
}

/// The actions that do not concern files.
#[derive(Default)]
struct TableActions {
    protocol: Option<Protocol>,
    metadata: Option<Metadata>,
    adopted: bool,
    imports: BTreeMap<String, i64>,
}

impl TableActions {
    fn note(&mut self, action: &Action) {
        self.protocol = action.protocol.or(self.protocol);
        if let Some(metadata) = &action.meta_data {
            self.metadata = Some(metadata.clone());
        }
        if let Some(txn) = &action.txn {
            self.adopted |= txn.app_id == ADOPTED;
            if let Some(import) = txn.app_id.strip_prefix(IMPORT) {
                self.imports.insert(import.to_owned(), txn.version);
            }
        }
    }
}

fn note_files(states: &PathStates, actions: &[Action]) {
    for (path, is_there) in actions.iter().filter_map(Action::file) {
        states.note(path, is_there);
    }
}

fn check(protocol: Protocol) -> Result<(), WarehouseError> {
    if protocol.is_ours() {
        return Ok(());
    }
    let Protocol { min_reader_version, min_writer_version } = protocol;
    let what = format!(
        "the table's protocol asks for reader version {min_reader_version} and writer version {min_writer_version}, \
         this program has 1 and 2: undo what upgraded the table, or set DELTA_ENABLED=false (delta_enabled in a file)"
    );
    Err(WarehouseError::caused(WarehouseErrorKind::Refused, "use Delta table", what))
}

fn info(operation: &str) -> Action {
    let adds_only = matches!(operation, "WRITE" | "ADOPT");
    let info = json!({
        "timestamp": unix_ms(),
        "operation": operation,
        "operationParameters": if adds_only { json!({"mode": "Append"}) } else { json!({}) },
        "isBlindAppend": adds_only,
        "engineInfo": concat!("causality/", env!("CARGO_PKG_VERSION")),
        "txnId": Uuid::now_v7(),
    });
    Action { commit_info: Some(info), ..Action::default() }
}

/// The action that notes that the table has the files from before the log.
pub(super) fn adopted(now_ms: i64) -> Txn {
    Txn { app_id: ADOPTED.to_owned(), version: 1, last_updated: Some(now_ms) }
}
