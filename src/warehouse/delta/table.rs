//! The table that the log describes: its columns, its partition columns, and how it refers to files.
//!
//! The log declares the types of the partition columns, so that no reader has to guess from the path whether `007` is a
//! number.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};
use uuid::Uuid;

use parquet::basic::Type as Physical;

use super::action::{Add, Format, Metadata, Remove, StringMap};
use super::stats;
use crate::warehouse::columns::promoted::PromotedColumns;
use crate::warehouse::columns::promoted::schema_with;
use crate::warehouse::layout::Partition;
use crate::warehouse::storage::Objects;
use crate::warehouse::{WarehouseError, WarehouseErrorKind};
use parquet::file::metadata::ParquetMetaData;

/// The partition columns with their types. Integers, so that `month = 3` matches `month=03`.
const PARTITION_COLUMNS: [(&str, &str); 5] =
    [("app_id", "string"), ("year", "integer"), ("month", "integer"), ("day", "integer"), ("hour", "integer")];

/// A file of the table.
#[derive(Clone, Debug)]
pub(super) struct TableFile {
    pub(super) partition: Partition,
    pub(super) directory: String,
    pub(super) name: String,
}

impl TableFile {
    pub(super) fn new(objects: &Objects, partition: &Partition, name: &str) -> Self {
        Self { partition: partition.clone(), directory: objects.directory(partition), name: name.to_owned() }
    }

    pub(super) fn path(&self) -> String {
        encode_path(&format!("{}/{}", self.directory, self.name))
    }

    pub(super) fn add(&self, metadata: &ParquetMetaData, bytes: u64, modified_ms: i64) -> Add {
        Add {
            path: self.path(),
            partition_values: values(&self.partition),
            size: bytes as i64,
            modification_time: modified_ms,
            data_change: true,
            stats: Some(stats::of(metadata)),
        }
    }

    pub(super) fn remove(&self, now_ms: i64) -> Remove {
        Remove {
            path: self.path(),
            deletion_timestamp: Some(now_ms),
            data_change: true,
            extended_file_metadata: None,
            partition_values: None,
            size: None,
        }
    }
}

fn values(partition: &Partition) -> StringMap {
    let (year, month, day, hour) = partition.date();
    let numbers = [("year", year), ("month", month), ("day", day), ("hour", hour)];
    let numbers = numbers.map(|(name, number)| (name.to_owned(), Some(number.to_string())));
    let app = ("app_id".to_owned(), Some(partition.app_id.clone()));
    std::iter::once(app).chain(numbers).collect()
}

/// Percent-encodes a path: the log contains URIs.
fn encode_path(path: &str) -> String {
    const ENCODED: &AsciiSet =
        &NON_ALPHANUMERIC.remove(b'/').remove(b'=').remove(b'.').remove(b'_').remove(b'-').remove(b'~');
    utf8_percent_encode(path, ENCODED).to_string()
}

/// The metadata of a new table.
pub(super) fn metadata(columns: &PromotedColumns, now_ms: i64) -> Metadata {
    Metadata {
        id: Uuid::now_v7().to_string(),
        name: Some("events".to_owned()),
        description: None,
        format: Format { provider: "parquet".to_owned(), options: StringMap::new() },
        schema_string: json!({"type": "struct", "fields": fields(columns)}).to_string(),
        partition_columns: PARTITION_COLUMNS.map(|(name, _)| name.to_owned()).into(),
        configuration: StringMap::new(),
        created_time: Some(now_ms),
    }
}

/// Adds missing columns to the metadata that an older version or another program wrote. Returns `None` if none is
/// missing.
pub(super) fn widened(metadata: &Metadata, promoted: &PromotedColumns) -> Result<Option<Metadata>, WarehouseError> {
    let refused = |what: String| Err(WarehouseError::caused(WarehouseErrorKind::Refused, "use Delta table", what));
    let ours = PARTITION_COLUMNS.map(|(name, _)| name);
    if metadata.partition_columns != ours {
        return refused(format!("it is partitioned by {:?} and not by {ours:?}", metadata.partition_columns));
    }
    let mut schema: Value = serde_json::from_str(&metadata.schema_string)
        .map_err(|error| WarehouseError::caused(WarehouseErrorKind::Corrupt, "read table's schema", error))?;
    let Some(there) = schema.get_mut("fields").and_then(Value::as_array_mut) else {
        return Err(WarehouseError::new(WarehouseErrorKind::Corrupt, "find columns in table's schema"));
    };
    let before = there.len();
    for field in fields(promoted) {
        match there.iter().find(|there| there["name"] == field["name"]) {
            None => there.push(field),
            Some(there) if there["type"] == field["type"] => {}
            Some(there) => {
                return refused(format!("its column {} is {} and not {}", there["name"], there["type"], field["type"]));
            }
        }
    }
    let wider = there.len() > before;
    Ok(wider.then(|| Metadata { schema_string: schema.to_string(), ..metadata.clone() }))
}

/// Every column is nullable: files from before a column was added lack it.
fn fields(promoted: &PromotedColumns) -> Vec<Value> {
    let field = |name: &str, kind: &str| json!({"name": name, "type": kind, "nullable": true, "metadata": {}});
    let schema = schema_with(promoted);
    let columns = schema.columns().iter().map(|column| {
        let kind = match column.physical_type() {
            Physical::BOOLEAN => "boolean",
            Physical::INT32 => "integer",
            Physical::INT64 => "long",
            Physical::DOUBLE => "double",
            _ => "string",
        };
        field(column.name(), kind)
    });
    columns.chain(PARTITION_COLUMNS.iter().map(|(name, kind)| field(name, kind))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_named_by_its_path_and_valued_without_zeros() {
        let partition = Partition { app_id: "007".to_owned(), hour: 491_000 };
        let directory = partition.to_string();
        let file = TableFile { partition, directory, name: "events_1.parquet".to_owned() };
        assert_eq!(file.path(), "app_id=007/year=2026/month=01/day=05/hour=08/events_1.parquet");
        let values = values(&file.partition);
        let texts: Vec<_> = values.iter().map(|(name, value)| (name.as_str(), value.as_deref().unwrap())).collect();
        assert_eq!(texts, [("app_id", "007"), ("day", "5"), ("hour", "8"), ("month", "1"), ("year", "2026")]);
        assert_eq!(encode_path("a b%/é"), "a%20b%25/%C3%A9");
    }

    #[test]
    fn a_table_of_an_older_version_gets_the_missing_columns() {
        let none = PromotedColumns::default;
        let whole = metadata(&PromotedColumns::default(), 0);
        assert_eq!(widened(&whole, &none()).unwrap(), None);
        let mut schema: Value = serde_json::from_str(&whole.schema_string).unwrap();
        schema["fields"].as_array_mut().unwrap().remove(3);
        let older = Metadata { schema_string: schema.to_string(), ..whole.clone() };
        let wider = widened(&older, &none()).unwrap().unwrap();
        assert_eq!(wider.id, whole.id);
        assert!(wider.schema_string.contains("correlation_id") && widened(&wider, &none()).unwrap().is_none());

        schema["fields"][2]["type"] = "string".into();
        let other = Metadata { schema_string: schema.to_string(), ..whole.clone() };
        assert_eq!(widened(&other, &none()).unwrap_err().kind, WarehouseErrorKind::Refused);
        let other = Metadata { partition_columns: vec!["app_id".to_owned()], ..whole };
        assert_eq!(widened(&other, &none()).unwrap_err().kind, WarehouseErrorKind::Refused);
    }
}
