//! The warehouse's API for imports: files of rows that did not come from the stream. Everything here blocks, and
//! requires the Delta log.

use bytes::Bytes;

use super::delta::{Add, Delta};
use super::error::{WarehouseError, WarehouseErrorKind};
use super::file::scan;
use super::handle::{Shared, Warehouse};
use super::layout::{Partition, is_data_file};
use super::storage::Listed;

/// A stored file that is not in the table yet.
#[derive(Debug)]
pub struct ImportedFile(Add);

impl Warehouse {
    /// The number of rows that an import has processed; `None` if it has not started.
    pub fn import_position(&self, import: &str) -> Result<Option<u64>, WarehouseError> {
        let position = log_of(&self.0)?.import_position(&self.0.objects, import)?;
        Ok(position.and_then(|rows| u64::try_from(rows).ok()))
    }

    /// Calls `each` with the id and the idempotency key of every row of the partition's files that are in the table.
    pub fn each_identity(&self, partition: &Partition, mut each: impl FnMut(&str, &str)) -> Result<(), WarehouseError> {
        let Shared { objects, .. } = &*self.0;
        let directory = objects.directory(partition);
        let mut listed: Vec<Listed> = objects.list(&directory)?;
        listed.retain(|file| is_data_file(&file.name));
        if listed.is_empty() {
            return Ok(());
        }
        let names: Vec<String> = listed.iter().map(|file| file.name.clone()).collect();
        let in_table = log_of(&self.0)?.in_table(objects, partition, &names)?;
        for (file, _) in listed.iter().zip(in_table).filter(|(_, in_table)| *in_table) {
            let read = objects.open(&directory, file)?.read_with(|source| scan::each_identity(source, &mut each));
            read.map_err(|error| error.at(format!("{directory}/{}", file.name)))?;
        }
        Ok(())
    }

    /// Stores one file, durably.
    pub fn store_imported(
        &self,
        partition: &Partition,
        name: &str,
        bytes: &Bytes,
    ) -> Result<ImportedFile, WarehouseError> {
        let Shared { objects, .. } = &*self.0;
        objects.store(&objects.directory(partition), name, bytes, || true)?;
        Delta::describe(objects, partition, name, bytes).map(ImportedFile)
    }

    /// Commits the files to the table, together with the number of rows that the import has processed.
    pub fn commit_import(&self, files: Vec<ImportedFile>, import: &str, rows: u64) -> Result<(), WarehouseError> {
        let (delta, objects) = (log_of(&self.0)?, &self.0.objects);
        let adds: Vec<Add> = files.into_iter().map(|ImportedFile(add)| add).collect();
        delta.commit_import(objects, &adds, import, i64::try_from(rows).unwrap_or(i64::MAX))?;
        if delta.is_checkpoint_due() {
            delta.checkpoint(objects);
        }
        Ok(())
    }
}

fn log_of(shared: &Shared) -> Result<&Delta, WarehouseError> {
    let none = || WarehouseError::new(WarehouseErrorKind::Refused, "import without a Delta log");
    shared.delta.get().ok_or_else(none)
}
