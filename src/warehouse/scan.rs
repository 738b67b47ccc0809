//! Reading the `id` column back, of one file or of a whole tree.

use std::fs::File;
use std::path::Path;

use arrow_array::cast::AsArray;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use super::error::WarehouseErrorKind;
use super::objects::walk;
use super::{WarehouseError, is_data_file};

const CONTEXT: &str = "read event ids";
const BATCH_ROWS: usize = 8_192;

/// Calls `each` with the id of every row in every file of this product below `dir`, and
/// returns the number of files. Nothing but the `id` columns is read.
pub fn scan_ids(dir: &Path, mut each: impl FnMut(&str)) -> Result<u64, WarehouseError> {
    let mut files = 0;
    walk(dir, &mut |path| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if is_data_file(name) {
            let at = |error: WarehouseError| error.at(path.display().to_string());
            let file = File::open(path).map_err(|error| at(WarehouseError::io(CONTEXT, error, false)))?;
            each_id(file, &mut each).map_err(at)?;
            files += 1;
        }
        Ok(true)
    })?;
    Ok(files)
}

/// Calls `each` with the id of every row of one file.
pub(super) fn each_id(file: File, mut each: impl FnMut(&str)) -> Result<(), WarehouseError> {
    let corrupt = |error| WarehouseError::parquet(CONTEXT, error);
    let builder = ParquetRecordBatchReaderBuilder::try_new(file).map_err(corrupt)?;
    let column = ProjectionMask::columns(builder.parquet_schema(), ["id"]);
    let batches = builder.with_projection(column).with_batch_size(BATCH_ROWS).build().map_err(corrupt)?;
    for batch in batches {
        let batch = batch.map_err(|error| WarehouseError::caused(WarehouseErrorKind::Corrupt, CONTEXT, error))?;
        let ids = batch.columns().first().and_then(|column| column.as_string_opt::<i32>());
        let ids = ids.ok_or_else(|| WarehouseError::new(WarehouseErrorKind::Corrupt, "find the id column"))?;
        ids.iter().flatten().for_each(&mut each);
    }
    Ok(())
}
