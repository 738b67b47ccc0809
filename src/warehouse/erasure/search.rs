//! Finds files with rows of a person: by the column's bounds, then by its Bloom filter, and only then by the values.
//!
//! Reads the end of each file, and for nearly all files nothing more.

use std::sync::Arc;

use arrow_array::cast::AsArray;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder};
use parquet::bloom_filter::Sbbf;
use parquet::file::metadata::{ColumnChunkMetaData, ParquetMetaData};
use parquet::file::reader::ChunkReader;

use crate::event::PersonId;
use crate::warehouse::WarehouseError;
use crate::warehouse::error::WarehouseErrorKind;
use crate::warehouse::file::footer;
use crate::warehouse::maintenance::Halt;
use crate::warehouse::storage::{Listed, Objects};

const CONTEXT: &str = "look for rows of a person";
/// Files opened together, and the bytes read from their ends, which cover the footer and filters of most files.
const FILES_TOGETHER: usize = 64;
const END_BYTES: usize = 128 << 10;
const BATCH_ROWS: usize = 8_192;

/// Counts the rows of the person in each file. The result of a damaged file is an error.
pub(super) fn count_rows(
    objects: &Objects,
    directory: &str,
    files: &[Listed],
    person: &PersonId,
    tick: &mut dyn FnMut() -> Result<(), Halt>,
) -> Result<Vec<Result<u64, WarehouseError>>, Halt> {
    let mut counts = Vec::with_capacity(files.len());
    for files in files.chunks(FILES_TOGETHER) {
        tick()?;
        let sources = objects.open_together(directory, files, END_BYTES);
        for (file, source) in files.iter().zip(sources) {
            let rows = source.and_then(|source| source.read_with(|source| rows_in(source, person)));
            match rows {
                Err(error) if error.kind != WarehouseErrorKind::Corrupt => {
                    return Err(Halt::of(error, directory, file));
                }
                rows => counts.push(rows),
            }
        }
    }
    Ok(counts)
}

fn rows_in<R: ChunkReader + 'static>(source: R, person: &PersonId) -> Result<u64, WarehouseError> {
    let metadata = footer::read(&source)?;
    let columns = metadata.file_metadata().schema_descr().columns();
    // A file from before the column was added has no such ids.
    let Some(column) = columns.iter().position(|column| column.name() == person.field()) else { return Ok(0) };
    let mut groups = Vec::new();
    for (index, group) in metadata.row_groups().iter().enumerate() {
        if may_hold(&source, group.column(column), person.text())? {
            groups.push(index);
        }
    }
    if groups.is_empty() { Ok(0) } else { count(source, metadata, groups, person) }
}

/// Returns false if the bounds or the filter rule the id out.
fn may_hold(source: &impl ChunkReader, chunk: &ColumnChunkMetaData, id: &str) -> Result<bool, WarehouseError> {
    if let Some(statistics) = chunk.statistics()
        && let (Some(min), Some(max)) = (statistics.min_bytes_opt(), statistics.max_bytes_opt())
        // Truncated bounds may be too wide, but never too narrow.
        && !(min <= id.as_bytes() && id.as_bytes() <= max)
    {
        return Ok(false);
    }
    let filter = Sbbf::read_from_column_chunk(chunk, source);
    let filter = filter.map_err(|error| WarehouseError::parquet(CONTEXT, error))?;
    Ok(filter.is_none_or(|filter| filter.check(id)))
}

fn count<R: ChunkReader + 'static>(
    source: R,
    metadata: ParquetMetaData,
    groups: Vec<usize>,
    person: &PersonId,
) -> Result<u64, WarehouseError> {
    let parquet = |error| WarehouseError::parquet(CONTEXT, error);
    let metadata = ArrowReaderMetadata::try_new(Arc::new(metadata), ArrowReaderOptions::new()).map_err(parquet)?;
    let builder = ParquetRecordBatchReaderBuilder::new_with_metadata(source, metadata);
    let mask = ProjectionMask::columns(builder.parquet_schema(), [person.field()]);
    let builder = builder.with_projection(mask).with_row_groups(groups).with_batch_size(BATCH_ROWS);
    let mut rows = 0;
    for batch in builder.build().map_err(parquet)? {
        let batch = batch.map_err(|error| WarehouseError::caused(WarehouseErrorKind::Corrupt, CONTEXT, error))?;
        let ids = batch.columns().first().and_then(|column| column.as_string_opt::<i32>());
        let ids = ids.ok_or_else(|| WarehouseError::new(WarehouseErrorKind::Corrupt, "find a column of text"))?;
        rows += ids.iter().filter(|id| *id == Some(person.text())).count() as u64;
    }
    Ok(rows)
}
