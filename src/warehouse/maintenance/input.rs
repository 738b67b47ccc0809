//! Reads the rows of the files that a job replaces.

use std::sync::Arc;

use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder};
use parquet::file::metadata::ParquetMetaData;
use parquet::schema::types::ColumnDescPtr;

use super::halt::Halt;
use crate::warehouse::columns::row::StoredRow;
use crate::warehouse::columns::schema;
use crate::warehouse::columns::schema::schema;
use crate::warehouse::columns::table::{COLUMNS, Column};
use crate::warehouse::error::WarehouseErrorKind;
use crate::warehouse::file::footer;
use crate::warehouse::file::rewrite::StoredColumns;
use crate::warehouse::storage::{Listed, Objects};
use crate::warehouse::{Compression, WarehouseError};

const CONTEXT: &str = "read rows of file";
/// Rows decoded per batch.
const BATCH_ROWS: usize = 2_048;
/// Bytes read from the end of a file to get its footer.
const FOOTER_READ_BYTES: usize = 64 << 10;
const FOOTERS_TOGETHER: usize = 64;

/// A file to be replaced.
#[derive(Clone, Debug)]
pub(in crate::warehouse) struct Input {
    pub(in crate::warehouse) file: Listed,
    pub(in crate::warehouse) rows: u64,
    /// `None` for a codec that this product does not write.
    pub(in crate::warehouse) compression: Option<Compression>,
    stream: Option<String>,
}

/// Reads footers. Leaves out files with columns that this version does not know.
pub(in crate::warehouse) fn inputs(
    objects: &Objects,
    directory: &str,
    files: &[Listed],
    tick: &mut dyn FnMut() -> Result<(), Halt>,
) -> Result<Vec<Input>, Halt> {
    let mut inputs = Vec::with_capacity(files.len());
    for files in files.chunks(FOOTERS_TOGETHER) {
        tick()?;
        let sources = objects.open_together(directory, files, FOOTER_READ_BYTES);
        for (file, source) in files.iter().zip(sources) {
            let metadata = source.and_then(|source| source.read_with(|source| footer::read(&source)));
            let metadata = metadata.map_err(|error| Halt::of(error, directory, file))?;
            if !is_of_our_columns(&metadata) {
                continue;
            }
            let rows = metadata.file_metadata().num_rows().max(0) as u64;
            let stream = footer::entry(&metadata, footer::STREAM_KEY).map(str::to_owned);
            let codec = metadata.row_groups().first().map(|group| group.column(0).compression());
            let compression = codec.and_then(Compression::of_codec);
            inputs.push(Input { file: file.clone(), rows, compression, stream });
        }
    }
    Ok(inputs)
}

/// Whether rows of the file can be rewritten: it has the mandatory columns, and no column that this version does not know.
/// Promoted columns are extracted from the payloads again.
fn is_of_our_columns(metadata: &ParquetMetaData) -> bool {
    let (theirs, ours) = (metadata.file_metadata().schema_descr().columns(), schema().columns());
    let is_known = |one: &ColumnDescPtr| {
        let mut same = ours.iter().filter(|other| other.name() == one.name());
        same.any(|other| other.physical_type() == one.physical_type() && other.max_def_level() == one.max_def_level())
            || schema::is_promoted(one)
    };
    let has = |column: &Column| theirs.iter().any(|one| one.name() == column.name);
    theirs.iter().all(is_known) && COLUMNS.iter().all(|column| !column.options.mandatory || has(column))
}

/// The streams to which the files' sequences belong.
pub(in crate::warehouse) fn streams(inputs: &[Input]) -> String {
    let mut streams: Vec<&str> =
        inputs.iter().filter_map(|input| input.stream.as_deref()).flat_map(|all| all.split(',')).collect();
    streams.sort_unstable();
    streams.dedup();
    streams.join(",")
}

/// Calls `each` with every row of the file.
pub(in crate::warehouse) fn each_row(
    objects: &Objects,
    directory: &str,
    input: &Input,
    mut each: impl FnMut(&StoredRow<'_>) -> Result<(), WarehouseError>,
    tick: &mut dyn FnMut() -> Result<(), Halt>,
) -> Result<(), Halt> {
    let file = &input.file;
    let mut halted = None;
    let read = objects.open(directory, file).and_then(|source| {
        source.read_with(|source| {
            let parquet = |error| WarehouseError::parquet(CONTEXT, error);
            let metadata = Arc::new(footer::read(&source)?);
            let metadata = ArrowReaderMetadata::try_new(metadata, ArrowReaderOptions::new()).map_err(parquet)?;
            let builder = ParquetRecordBatchReaderBuilder::new_with_metadata(source, metadata);
            let mut rows = 0;
            for batch in builder.with_batch_size(BATCH_ROWS).build().map_err(parquet)? {
                if let Err(halt) = tick() {
                    halted = Some(halt);
                    return Ok(());
                }
                let batch =
                    batch.map_err(|error| WarehouseError::caused(WarehouseErrorKind::Corrupt, CONTEXT, error))?;
                let columns = StoredColumns::of(&batch)?;
                for row in 0..batch.num_rows() {
                    each(&columns.row(row))?;
                }
                rows += batch.num_rows() as u64;
            }
            // The header of a page has no checksum, and says how many values follow.
            if rows != input.rows {
                let short = format!("{rows} rows instead of {}", input.rows);
                return Err(WarehouseError::caused(WarehouseErrorKind::Corrupt, CONTEXT, short));
            }
            Ok(())
        })
    });
    match halted {
        Some(halt) => Err(halt),
        None => read.map_err(|error| Halt::of(error, directory, file)),
    }
}
