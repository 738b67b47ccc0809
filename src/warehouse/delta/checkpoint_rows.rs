//! Checkpoints as Parquet: one row per action, one nullable struct column per kind of action.
//!
//! Also reads checkpoints of other writers, as far as this product needs them.

use std::sync::Arc;

use arrow_array::builder::{ListBuilder, MapBuilder, MapFieldNames, StringBuilder};
use arrow_array::cast::AsArray;
use arrow_array::types::{ArrowPrimitiveType, Int32Type, Int64Type};
use arrow_array::{Array, ArrayRef, BooleanArray, Int32Array, Int64Array, RecordBatch, StringArray, StructArray};
use arrow_schema::{ArrowError, Field, Schema, SchemaRef};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder};
use parquet::file::metadata::RowGroupMetaData;
use parquet::file::reader::ChunkReader;
use parquet::file::statistics::Statistics;

use super::action::{Action, Add, Format, Metadata, Protocol, Remove, StringMap, Txn};
use super::log::LOG;
use crate::warehouse::storage::{Listed, Objects};
use crate::warehouse::{WarehouseError, WarehouseErrorKind};

const CONTEXT: &str = "read checkpoint";
/// Actions per batch in memory.
pub(super) const BATCH_ROWS: usize = 2_048;

/// The columns to read.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Columns {
    All,
    /// Only paths.
    Files,
    /// Paths and removal times.
    Removals,
    /// Paths, removal times, and all actions that do not concern files.
    Names,
    AllButFiles,
}

/// Checkpoint files up to this size are read as a whole: reading column by column would take many requests to an object
/// store.
const WHOLE_BYTES_MAX: u64 = 32 << 20;

/// The number of actions in a checkpoint file.
pub(super) fn count(objects: &Objects, file: &Listed) -> Result<usize, WarehouseError> {
    let metadata = objects.open(LOG, file)?.read_with(|source| crate::warehouse::file::footer::read(&source))?;
    Ok(metadata.file_metadata().num_rows() as usize)
}

/// Calls `each` with batches of actions.
pub(super) fn read(
    objects: &Objects,
    file: &Listed,
    columns: Columns,
    each: &mut dyn FnMut(Vec<Action>) -> Result<(), WarehouseError>,
) -> Result<(), WarehouseError> {
    let read = if columns != Columns::AllButFiles && file.bytes <= WHOLE_BYTES_MAX {
        let missing = || WarehouseError::new(WarehouseErrorKind::Unavailable, "find checkpoint");
        objects.read_whole(LOG, &file.name).and_then(|whole| read_from(whole.ok_or_else(missing)?, columns, each))
    } else {
        objects.open(LOG, file)?.read_with(|source| read_from(source, columns, each))
    };
    read.map_err(|error| error.at(format!("{LOG}/{}", file.name)))
}

fn read_from<R: ChunkReader + 'static>(
    source: R,
    columns: Columns,
    each: &mut dyn FnMut(Vec<Action>) -> Result<(), WarehouseError>,
) -> Result<(), WarehouseError> {
    let parquet = |error| WarehouseError::parquet(CONTEXT, error);
    let options = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
    let metadata = Arc::new(crate::warehouse::file::footer::read(&source)?);
    let groups: Vec<usize> = (0..metadata.num_row_groups())
        .filter(|group| columns != Columns::AllButFiles || has_other_than_files(metadata.row_group(*group)))
        .collect();
    let metadata = ArrowReaderMetadata::try_new(metadata, options).map_err(parquet)?;
    let builder = ParquetRecordBatchReaderBuilder::new_with_metadata(source, metadata).with_row_groups(groups);
    let names: &[&str] = match columns {
        Columns::All => &["protocol", "metaData", "txn", "add", "remove"],
        Columns::Files => &["add.path", "remove.path"],
        Columns::Removals => &["add.path", "remove.path", "remove.deletionTimestamp"],
        Columns::Names => &["protocol", "metaData", "txn", "add.path", "remove.path", "remove.deletionTimestamp"],
        Columns::AllButFiles => &["protocol", "metaData", "txn"],
    };
    let mask = ProjectionMask::columns(builder.parquet_schema(), names.iter().copied());
    let batches = builder.with_projection(mask).with_batch_size(BATCH_ROWS).build().map_err(parquet)?;
    for batch in batches {
        let corrupt = |error| WarehouseError::caused(WarehouseErrorKind::Corrupt, CONTEXT, error);
        each(decode(&batch.map_err(corrupt)?))?;
    }
    Ok(())
}

/// Returns false if the statistics show that all actions of the row group concern files.
fn has_other_than_files(group: &RowGroupMetaData) -> bool {
    group.columns().iter().any(|column| {
        let is_file = matches!(column.column_path().parts().first().map(String::as_str), Some("add" | "remove"));
        let nulls = column.statistics().and_then(Statistics::null_count_opt);
        !is_file && nulls.is_none_or(|nulls| nulls < group.num_rows() as u64)
    })
}

/// The schema of the batches that [`encode`] returns.
pub(super) fn schema() -> SchemaRef {
    encode(&[]).map_or_else(|_| Arc::new(Schema::empty()), |batch| batch.schema())
}

pub(super) fn encode(actions: &[Action]) -> Result<RecordBatch, WarehouseError> {
    let columns = vec![
        ("txn", txns(&pick(actions, |action| action.txn.as_ref()))),
        ("add", adds(&pick(actions, |action| action.add.as_ref()))),
        ("remove", removes(&pick(actions, |action| action.remove.as_ref()))),
        ("metaData", metadatas(&pick(actions, |action| action.meta_data.as_ref()))),
        ("protocol", protocols(&pick(actions, |action| action.protocol.as_ref()))),
    ];
    let built = columns.into_iter().map(|(name, column)| Ok((name, Arc::new(column?) as ArrayRef, true)));
    let built: Result<Vec<_>, ArrowError> = built.collect();
    let batch = built.and_then(RecordBatch::try_from_iter_with_nullable);
    batch.map_err(|error| WarehouseError::caused(WarehouseErrorKind::Encode, "write checkpoint", error))
}

type Picked<'a, T> = Vec<Option<&'a T>>;

fn pick<'a, T>(actions: &'a [Action], kind: impl Fn(&'a Action) -> Option<&'a T>) -> Picked<'a, T> {
    actions.iter().map(kind).collect()
}

/// Builds a struct column from its fields, null where the row has no such action.
fn structs<T>(rows: &[Option<&T>], fields: Vec<(&str, ArrayRef)>) -> Result<StructArray, ArrowError> {
    let nulls = rows.iter().map(Option::is_some).collect::<Vec<bool>>().into();
    let named = |(name, array): &(&str, ArrayRef)| Field::new(*name, array.data_type().clone(), true);
    let schema = fields.iter().map(named).collect();
    StructArray::try_new(schema, fields.into_iter().map(|(_, array)| array).collect(), Some(nulls))
}

fn texts<'a, T>(rows: &[Option<&'a T>], of: impl Fn(&'a T) -> Option<&'a str>) -> ArrayRef {
    Arc::new(rows.iter().map(|row| row.and_then(&of)).collect::<StringArray>())
}

fn longs<'a, T>(rows: &[Option<&'a T>], of: impl Fn(&'a T) -> Option<i64>) -> ArrayRef {
    Arc::new(rows.iter().map(|row| row.and_then(&of)).collect::<Int64Array>())
}

fn integers<'a, T>(rows: &[Option<&'a T>], of: impl Fn(&'a T) -> i32) -> ArrayRef {
    Arc::new(rows.iter().map(|row| row.map(&of)).collect::<Int32Array>())
}

fn flags<'a, T>(rows: &[Option<&'a T>], of: impl Fn(&'a T) -> Option<bool>) -> ArrayRef {
    Arc::new(rows.iter().map(|row| row.and_then(&of)).collect::<BooleanArray>())
}

fn maps<'a, T>(rows: &[Option<&'a T>], of: impl Fn(&'a T) -> Option<&'a StringMap>) -> Result<ArrayRef, ArrowError> {
    let names = MapFieldNames { entry: "key_value".into(), key: "key".into(), value: "value".into() };
    let mut builder = MapBuilder::new(Some(names), StringBuilder::new(), StringBuilder::new());
    for row in rows {
        let map = row.and_then(&of);
        for (key, value) in map.into_iter().flatten() {
            builder.keys().append_value(key);
            builder.values().append_option(value.as_deref());
        }
        builder.append(map.is_some())?;
    }
    Ok(Arc::new(builder.finish()))
}

fn lists<'a, T>(rows: &[Option<&'a T>], of: impl Fn(&'a T) -> &'a [String]) -> ArrayRef {
    let element = Field::new("element", arrow_schema::DataType::Utf8, true);
    let mut builder = ListBuilder::new(StringBuilder::new()).with_field(element);
    for row in rows {
        for text in row.map(&of).unwrap_or_default() {
            builder.values().append_value(text);
        }
        builder.append(row.is_some());
    }
    Arc::new(builder.finish())
}

fn txns(rows: &[Option<&Txn>]) -> Result<StructArray, ArrowError> {
    let fields = vec![
        ("appId", texts(rows, |txn| Some(&txn.app_id))),
        ("version", longs(rows, |txn| Some(txn.version))),
        ("lastUpdated", longs(rows, |txn| txn.last_updated)),
    ];
    structs(rows, fields)
}

fn adds(rows: &[Option<&Add>]) -> Result<StructArray, ArrowError> {
    let fields = vec![
        ("path", texts(rows, |add| Some(&add.path))),
        ("partitionValues", maps(rows, |add| Some(&add.partition_values))?),
        ("size", longs(rows, |add| Some(add.size))),
        ("modificationTime", longs(rows, |add| Some(add.modification_time))),
        ("dataChange", flags(rows, |add| Some(add.data_change))),
        ("stats", texts(rows, |add| add.stats.as_deref())),
    ];
    structs(rows, fields)
}

fn removes(rows: &[Option<&Remove>]) -> Result<StructArray, ArrowError> {
    let fields = vec![
        ("path", texts(rows, |remove| Some(&remove.path))),
        ("deletionTimestamp", longs(rows, |remove| remove.deletion_timestamp)),
        ("dataChange", flags(rows, |remove| Some(remove.data_change))),
        ("extendedFileMetadata", flags(rows, |remove| remove.extended_file_metadata)),
        ("partitionValues", maps(rows, |remove| remove.partition_values.as_ref())?),
        ("size", longs(rows, |remove| remove.size)),
    ];
    structs(rows, fields)
}

fn metadatas(rows: &[Option<&Metadata>]) -> Result<StructArray, ArrowError> {
    let formats: Vec<Option<&Format>> = rows.iter().map(|row| row.map(|metadata| &metadata.format)).collect();
    let format = structs(
        &formats,
        vec![
            ("provider", texts(&formats, |format| Some(&format.provider))),
            ("options", maps(&formats, |format| Some(&format.options))?),
        ],
    )?;
    let fields = vec![
        ("id", texts(rows, |metadata| Some(&metadata.id))),
        ("name", texts(rows, |metadata| metadata.name.as_deref())),
        ("description", texts(rows, |metadata| metadata.description.as_deref())),
        ("format", Arc::new(format) as ArrayRef),
        ("schemaString", texts(rows, |metadata| Some(&metadata.schema_string))),
        ("partitionColumns", lists(rows, |metadata| &metadata.partition_columns)),
        ("configuration", maps(rows, |metadata| Some(&metadata.configuration))?),
        ("createdTime", longs(rows, |metadata| metadata.created_time)),
    ];
    structs(rows, fields)
}

fn protocols(rows: &[Option<&Protocol>]) -> Result<StructArray, ArrowError> {
    let fields = vec![
        ("minReaderVersion", integers(rows, |protocol| protocol.min_reader_version)),
        ("minWriterVersion", integers(rows, |protocol| protocol.min_writer_version)),
    ];
    structs(rows, fields)
}

/// Decodes actions. A missing field, or one whose type differs from the protocol's, is treated as absent.
fn decode(batch: &RecordBatch) -> Vec<Action> {
    let column = |name: &str| batch.column_by_name(name).and_then(|column| column.as_struct_opt());
    let (txn, add, remove) = (column("txn"), column("add"), column("remove"));
    let (metadata, protocol) = (column("metaData"), column("protocol"));
    let row = |at: usize| Action {
        commit_info: None,
        txn: Row::of(txn, at).and_then(|row| row.txn()),
        add: Row::of(add, at).and_then(|row| row.add()),
        remove: Row::of(remove, at).and_then(|row| row.remove()),
        meta_data: Row::of(metadata, at).and_then(|row| row.metadata()),
        protocol: Row::of(protocol, at).and_then(|row| row.protocol()),
    };
    (0..batch.num_rows()).map(row).collect()
}

/// One value of a struct column.
#[derive(Clone, Copy)]
struct Row<'a> {
    column: &'a StructArray,
    at: usize,
}

impl<'a> Row<'a> {
    fn of(column: Option<&'a StructArray>, at: usize) -> Option<Self> {
        column.filter(|column| column.is_valid(at)).map(|column| Self { column, at })
    }

    fn field(self, name: &str) -> Option<&'a ArrayRef> {
        self.column.column_by_name(name).filter(|field| field.is_valid(self.at))
    }

    fn text(self, name: &str) -> Option<String> {
        Some(self.field(name)?.as_string_opt::<i32>()?.value(self.at).to_owned())
    }

    fn number<T: ArrowPrimitiveType>(self, name: &str) -> Option<T::Native> {
        Some(self.field(name)?.as_primitive_opt::<T>()?.value(self.at))
    }

    fn flag(self, name: &str) -> Option<bool> {
        Some(self.field(name)?.as_boolean_opt()?.value(self.at))
    }

    fn map(self, name: &str) -> Option<StringMap> {
        let entries = self.field(name)?.as_map_opt()?.value(self.at);
        let (keys, values) = (entries.column(0).as_string_opt::<i32>()?, entries.column(1).as_string_opt::<i32>()?);
        let pairs = keys.iter().zip(values.iter());
        Some(pairs.filter_map(|(key, value)| Some((key?.to_owned(), value.map(str::to_owned)))).collect())
    }

    fn list(self, name: &str) -> Option<Vec<String>> {
        let elements = self.field(name)?.as_list_opt::<i32>()?.value(self.at);
        Some(elements.as_string_opt::<i32>()?.iter().flatten().map(str::to_owned).collect())
    }

    fn txn(self) -> Option<Txn> {
        let (app_id, version) = (self.text("appId")?, self.number::<Int64Type>("version")?);
        Some(Txn { app_id, version, last_updated: self.number::<Int64Type>("lastUpdated") })
    }

    fn add(self) -> Option<Add> {
        Some(Add {
            path: self.text("path")?,
            partition_values: self.map("partitionValues").unwrap_or_default(),
            size: self.number::<Int64Type>("size").unwrap_or_default(),
            modification_time: self.number::<Int64Type>("modificationTime").unwrap_or_default(),
            data_change: self.flag("dataChange").unwrap_or_default(),
            stats: self.text("stats"),
        })
    }

    fn remove(self) -> Option<Remove> {
        Some(Remove {
            path: self.text("path")?,
            deletion_timestamp: self.number::<Int64Type>("deletionTimestamp"),
            data_change: self.flag("dataChange").unwrap_or_default(),
            extended_file_metadata: self.flag("extendedFileMetadata"),
            partition_values: self.map("partitionValues"),
            size: self.number::<Int64Type>("size"),
        })
    }

    fn metadata(self) -> Option<Metadata> {
        let format = Row::of(self.field("format").and_then(|field| field.as_struct_opt()), self.at);
        Some(Metadata {
            id: self.text("id")?,
            name: self.text("name"),
            description: self.text("description"),
            format: Format {
                provider: format.and_then(|format| format.text("provider")).unwrap_or_else(|| "parquet".to_owned()),
                options: format.and_then(|format| format.map("options")).unwrap_or_default(),
            },
            schema_string: self.text("schemaString")?,
            partition_columns: self.list("partitionColumns").unwrap_or_default(),
            configuration: self.map("configuration").unwrap_or_default(),
            created_time: self.number::<Int64Type>("createdTime"),
        })
    }

    fn protocol(self) -> Option<Protocol> {
        let (min_reader_version, min_writer_version) =
            (self.number::<Int32Type>("minReaderVersion")?, self.number::<Int32Type>("minWriterVersion")?);
        Some(Protocol { min_reader_version, min_writer_version })
    }
}
