//! Reads ids, keys and sequences back, from one file or a whole tree.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
use arrow_array::{RecordBatch, StringArray};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder};
use parquet::file::reader::ChunkReader;

use super::footer;
use crate::warehouse::error::{WarehouseError, WarehouseErrorKind};
use crate::warehouse::layout::is_data_file;
use crate::warehouse::storage::walk;

const CONTEXT: &str = "read event ids";
const BATCH_ROWS: usize = 8_192;

/// Calls `each` with the id of every row in every data file below `dir`, and
/// returns the number of files. Reads only the `id` column.
pub fn scan_ids(dir: &Path, each: impl FnMut(&str)) -> Result<u64, WarehouseError> {
    scan(dir, "id", each)
}

/// Like [`scan_ids`], for the idempotency key of every row that has one.
pub fn scan_keys(dir: &Path, each: impl FnMut(&str)) -> Result<u64, WarehouseError> {
    scan(dir, "idempotency_key", each)
}

fn scan(dir: &Path, column: &str, mut each: impl FnMut(&str)) -> Result<u64, WarehouseError> {
    let mut files = 0;
    walk(dir, &mut |path| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if is_data_file(name) {
            let at = |error: WarehouseError| error.at(path.display().to_string());
            let file = File::open(path).map_err(|error| at(WarehouseError::io(CONTEXT, error, false)))?;
            each_text(file, column, &mut each).map_err(at)?;
            files += 1;
        }
        Ok(true)
    })?;
    Ok(files)
}

/// Calls `each` with the id of every row of one file.
pub(crate) fn each_id(file: impl ChunkReader + 'static, each: impl FnMut(&str)) -> Result<(), WarehouseError> {
    each_text(file, "id", each)
}

fn each_text(file: impl ChunkReader + 'static, column: &str, mut each: impl FnMut(&str)) -> Result<(), WarehouseError> {
    each_batch(file, &[column], |batch| {
        texts(batch)?.iter().flatten().for_each(&mut each);
        Ok(())
    })
}

/// Calls `each` with the id and the idempotency key of every row of one file.
pub(crate) fn each_identity(
    file: impl ChunkReader + 'static,
    mut each: impl FnMut(&str, &str),
) -> Result<(), WarehouseError> {
    each_batch(file, &["id", "idempotency_key"], |batch| {
        let keys = batch.columns().last().and_then(|column| column.as_string_opt::<i32>());
        let keys = keys.ok_or_else(|| missing("find the idempotency_key column"))?;
        texts(batch)?.iter().zip(keys).for_each(|(id, key)| each(id.unwrap_or_default(), key.unwrap_or_default()));
        Ok(())
    })
}

/// The stream sequence and the id of every row of one file.
pub(crate) fn rows(file: impl ChunkReader + 'static) -> Result<Vec<(u64, String)>, WarehouseError> {
    let mut rows = Vec::new();
    each_batch(file, &["id", "stream_sequence"], |batch| {
        let sequences = batch.columns().last().and_then(|column| column.as_primitive_opt::<Int64Type>());
        let sequences = sequences.ok_or_else(|| missing("find the stream_sequence column"))?;
        let pairs = sequences.iter().zip(texts(batch)?.iter());
        rows.extend(pairs.filter_map(|(sequence, id)| Some((sequence? as u64, id?.to_owned()))));
        Ok(())
    })?;
    Ok(rows)
}

/// The first projected column.
fn texts(batch: &RecordBatch) -> Result<&StringArray, WarehouseError> {
    let texts = batch.columns().first().and_then(|column| column.as_string_opt::<i32>());
    texts.ok_or_else(|| missing("find a column of text"))
}

fn missing(context: &'static str) -> WarehouseError {
    WarehouseError::new(WarehouseErrorKind::Corrupt, context)
}

fn each_batch(
    file: impl ChunkReader + 'static,
    columns: &[&str],
    mut each: impl FnMut(&RecordBatch) -> Result<(), WarehouseError>,
) -> Result<(), WarehouseError> {
    let corrupt = |error| WarehouseError::parquet(CONTEXT, error);
    let metadata = Arc::new(footer::read(&file)?);
    let rows = metadata.file_metadata().num_rows();
    let metadata = ArrowReaderMetadata::try_new(metadata, ArrowReaderOptions::new()).map_err(corrupt)?;
    let builder = ParquetRecordBatchReaderBuilder::new_with_metadata(file, metadata);
    let mask = ProjectionMask::columns(builder.parquet_schema(), columns.iter().copied());
    let batches = builder.with_projection(mask).with_batch_size(BATCH_ROWS).build().map_err(corrupt)?;
    let mut read = 0;
    for batch in batches {
        let batch = batch.map_err(|error| WarehouseError::caused(WarehouseErrorKind::Corrupt, CONTEXT, error))?;
        read += batch.num_rows() as i64;
        each(&batch)?;
    }
    // Page headers have no checksum, and a damaged one may report fewer values.
    if read != rows {
        let short = format!("{read} rows instead of {rows}");
        return Err(WarehouseError::caused(WarehouseErrorKind::Corrupt, CONTEXT, short));
    }
    Ok(())
}
