//! Opens the log, or begins it.

use super::action::{self, Action, Protocol};
use super::log::{self, LOG};
use super::state::{Delta, DeltaSettings};
use super::table;
use super::tail::{Tail, adopted};
use crate::base::clock::unix_ms;
use crate::metrics;
use crate::warehouse::WarehouseError;
use crate::warehouse::columns::promoted::PromotedColumns;
use crate::warehouse::error::WarehouseErrorKind;
use crate::warehouse::layout::is_data_file;
use crate::warehouse::storage::{Objects, Walked};

impl Delta {
    /// Reads the log, or begins it if there is none.
    pub(in crate::warehouse) fn open(
        objects: &Objects,
        settings: DeltaSettings,
        columns: &PromotedColumns,
    ) -> Result<Self, WarehouseError> {
        objects.check_create()?;
        let tail = match Tail::open(objects)? {
            Some(tail) => tail,
            None => begin(objects, columns)?,
        };
        metrics::delta_version(tail.version);
        let delta = Self::new(settings, tail);
        delta.add_columns(objects, columns)?;
        Ok(delta)
    }

    /// Adds the columns that this version writes and the table lacks.
    fn add_columns(&self, objects: &Objects, columns: &PromotedColumns) -> Result<(), WarehouseError> {
        self.append(objects, &mut self.tail(), "ADD COLUMNS", |tail| {
            Ok(table::widened(&tail.metadata, columns)?.map(Action::from).into_iter().collect())
        })
    }
}

/// Writes version 0. If another process is faster, its version is used.
fn begin(objects: &Objects, columns: &PromotedColumns) -> Result<Tail, WarehouseError> {
    let mut has_files = false;
    objects.walk(&mut |walked: &Walked| {
        has_files |= is_data_file(&walked.file.name);
        Ok(!has_files)
    })?;
    let now = unix_ms();
    let mut actions = vec![Action::from(Protocol::OURS), table::metadata(columns, now).into()];
    if !has_files {
        actions.push(adopted(now).into());
    }
    objects.create(LOG, &log::commit_name(0), &action::encode(&actions)?)?;
    Tail::open(objects)?.ok_or_else(|| WarehouseError::new(WarehouseErrorKind::Unavailable, "find new log").at(LOG))
}
