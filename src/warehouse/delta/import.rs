//! Commits the files of an import together with its position, so that a resumed import knows where to continue.

use bytes::Bytes;

use super::action::{Action, Add, Txn};
use super::path_states::PathState;
use super::state::Delta;
use super::table::TableFile;
use super::tail::IMPORT;
use crate::base::clock::unix_ms;
use crate::warehouse::WarehouseError;
use crate::warehouse::file::footer;
use crate::warehouse::layout::Partition;
use crate::warehouse::storage::Objects;

impl Delta {
    /// The number of rows that an import has committed.
    pub(in crate::warehouse) fn import_position(
        &self,
        objects: &Objects,
        import: &str,
    ) -> Result<Option<i64>, WarehouseError> {
        let mut tail = self.tail();
        self.refresh(objects, &mut tail)?;
        tail.catch_up(objects)?;
        Ok(tail.imports.get(import).copied())
    }

    /// Describes a stored file for the table.
    pub(in crate::warehouse) fn describe(
        objects: &Objects,
        partition: &Partition,
        name: &str,
        bytes: &Bytes,
    ) -> Result<Add, WarehouseError> {
        Ok(TableFile::new(objects, partition, name).add(&footer::read(bytes)?, bytes.len() as u64, unix_ms()))
    }

    /// Adds the files, unless the import has already reached `position`: then an attempt whose answer was lost has added
    /// them.
    pub(in crate::warehouse) fn commit_import(
        &self,
        objects: &Objects,
        files: &[Add],
        import: &str,
        position: i64,
    ) -> Result<(), WarehouseError> {
        self.append(objects, &mut self.tail(), "IMPORT", |tail| {
            if tail.imports.get(import).is_some_and(|done| *done >= position) {
                return Ok(Vec::new());
            }
            let mut actions: Vec<Action> = files.iter().cloned().map(Action::from).collect();
            let txn = Txn { app_id: format!("{IMPORT}{import}"), version: position, last_updated: Some(unix_ms()) };
            actions.push(txn.into());
            Ok(actions)
        })
    }

    /// Tells for each stored file of a partition whether it is in the table.
    pub(in crate::warehouse) fn in_table(
        &self,
        objects: &Objects,
        partition: &Partition,
        names: &[String],
    ) -> Result<Vec<bool>, WarehouseError> {
        let paths: Vec<String> = names.iter().map(|name| TableFile::new(objects, partition, name).path()).collect();
        let mut tail = self.tail();
        self.refresh(objects, &mut tail)?;
        tail.catch_up(objects)?;
        Ok(tail.states_of(objects, &paths)?.into_iter().map(|state| state == PathState::Added).collect())
    }
}
