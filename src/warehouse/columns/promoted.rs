//! Promoted columns: payload fields that the configuration makes columns.
//!
//! Invariant: a column's value is the value at its path in `payload_json`, so rewriting a row gives it the
//! currently configured columns. A value of another type becomes NULL, is counted, and stays in `payload_json`.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use parquet::basic::{Repetition, Type as Physical};
use parquet::schema::types::{ColumnDescPtr, SchemaDescPtr, SchemaDescriptor, Type};

use super::schema::{self, PROMOTED_ID_MIN, field, schema};
use crate::event::{FieldType, Kind, field_type};

/// Each column takes memory in every open file.
const COLUMNS_MAX: usize = 64;
const NAME_BYTES_MAX: usize = 64;

/// The type of a promoted column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ColumnType {
    String,
    Int64,
    Double,
    Boolean,
}

impl ColumnType {
    pub(crate) fn physical(self) -> Physical {
        match self {
            Self::String => Physical::BYTE_ARRAY,
            Self::Int64 => Physical::INT64,
            Self::Double => Physical::DOUBLE,
            Self::Boolean => Physical::BOOLEAN,
        }
    }

    fn may_hold(self, holds: FieldType) -> bool {
        match holds {
            FieldType::Text => self == Self::String,
            FieldType::Number => matches!(self, Self::Int64 | Self::Double),
            FieldType::Bool => self == Self::Boolean,
            FieldType::Json => true,
        }
    }
}

/// A payload field and its column, for example `total_cents: int64 = $.purchase_complete.total_cents`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PromotedColumn {
    pub name: String,
    pub of: ColumnType,
    /// The payload's field in the envelope.
    pub(super) kind: &'static str,
    /// The path within the payload.
    pub(super) path: Vec<String>,
}

/// The configured promoted columns. Cheap to clone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PromotedColumns(Arc<[PromotedColumn]>);

impl PromotedColumns {
    /// Parses the columns. Errors name the column.
    pub fn parse<'t>(texts: impl Iterator<Item = &'t str>) -> Result<Self, String> {
        let columns: Vec<PromotedColumn> = texts.map(str::parse).collect::<Result<_, _>>()?;
        if columns.len() > COLUMNS_MAX {
            return Err(format!("there are {} columns, and may be {COLUMNS_MAX}", columns.len()));
        }
        for (n, column) in columns.iter().enumerate() {
            if columns[..n].iter().any(|other| other.name == column.name) {
                return Err(format!("column {} is there twice", column.name));
            }
        }
        Ok(Self(columns.into()))
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &PromotedColumn> {
        self.0.iter()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether an event of this kind may have a value in one of the columns.
    pub(crate) fn are_of(&self, kind: &str) -> bool {
        self.0.iter().any(|column| column.kind == kind)
    }
}

impl FromStr for PromotedColumn {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let malformed = || format!("`{text}` is not of the form name: int64 = $.purchase_complete.total_cents");
        let (head, path) = text.split_once('=').ok_or_else(malformed)?;
        let (name, of) = head.split_once(':').ok_or_else(malformed)?;
        let (name, of, path) = (name.trim(), of.trim(), path.trim());
        let of = match of {
            "string" => ColumnType::String,
            "int64" => ColumnType::Int64,
            "double" => ColumnType::Double,
            "boolean" => ColumnType::Boolean,
            _ => return Err(format!("column {name}: the type {of} is not string, int64, double or boolean")),
        };
        let is_name = name.len() <= NAME_BYTES_MAX
            && name.starts_with(|c: char| c.is_ascii_lowercase())
            && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
        if !is_name {
            return Err(format!("column {name}: a name begins with a small letter and has a-z, 0-9 and _ only"));
        }
        if schema::is_taken(name) {
            return Err(format!("column {name}: every file has a column of this name"));
        }
        let path = path.strip_prefix("$.").ok_or_else(malformed)?;
        let parts: Vec<&str> = path.split('.').collect();
        let kind = Kind::all().iter().find(|kind| kind.field == parts[0]);
        let (Some(kind), Some(holds)) = (kind, field_type(&parts)) else {
            return Err(format!("column {name}: no event has {path}, such as purchase_complete.total_cents"));
        };
        if parts.len() < 2 || !of.may_hold(holds) {
            return Err(format!("column {name}: what is at {path} is no {}", of.to_string().to_ascii_lowercase()));
        }
        let path = parts[1..].iter().map(|part| (*part).to_owned()).collect();
        Ok(Self { name: name.to_owned(), of, kind: kind.field, path })
    }
}

impl fmt::Display for ColumnType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::String => "string",
            Self::Int64 => "int64",
            Self::Double => "double",
            Self::Boolean => "boolean",
        })
    }
}

/// The columns with their Hive types.
pub(crate) fn hive_columns(promoted: &PromotedColumns) -> Vec<(String, &'static str)> {
    let typed = |column: &ColumnDescPtr| {
        let kind = match column.physical_type() {
            Physical::BOOLEAN => "boolean",
            Physical::INT32 => "int",
            Physical::INT64 => "bigint",
            Physical::DOUBLE => "double",
            _ => "string",
        };
        (column.name().to_owned(), kind)
    };
    schema_with(promoted).columns().iter().map(typed).collect()
}

/// The schema with promoted columns, which come last. Their field ids are hashes of their names, so that they do not depend
/// on each other.
pub(crate) fn schema_with(columns: &PromotedColumns) -> SchemaDescPtr {
    if columns.is_empty() {
        return schema().clone();
    }
    let mut all = schema().root_schema().get_fields().to_vec();
    all.extend(columns.iter().map(|column| {
        let id = PROMOTED_ID_MIN + crc32fast::hash(column.name.as_bytes()) % (i32::MAX as u32 - PROMOTED_ID_MIN);
        field(&(column.name.as_str(), column.of.physical()), Repetition::OPTIONAL, id as i32)
    }));
    let root = Type::group_type_builder("event").with_fields(all).build();
    Arc::new(SchemaDescriptor::new(Arc::new(root.expect("checked names make a valid schema"))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_column_has_a_name_a_type_and_a_path() {
        let column: PromotedColumn = "total_cents:int64=$.purchase_complete.total_cents".parse().unwrap();
        assert_eq!((column.kind, &column.path[..]), ("purchase_complete", &["total_cents".to_owned()][..]));
        for right in [
            "plan: string = $.custom_event.properties.plan",
            "level : double = $.custom_event.properties.game.level",
            "revenue: double = $.purchase_complete.total_cents",
        ] {
            assert!(right.parse::<PromotedColumn>().is_ok(), "{right}");
        }
        for (wrong, expected) in [
            ("total", "is not of the form"),
            ("a: int64 = purchase_complete.total_cents", "is not of the form"),
            ("a: int = $.purchase_complete.total_cents", "the type int"),
            ("Total: int64 = $.purchase_complete.total_cents", "a name begins"),
            ("user_id: string = $.custom_event.event_name", "every file has"),
            ("hour: int64 = $.purchase_complete.total_cents", "every file has"),
            ("a: int64 = $.purchase.total_cents", "no event has"),
            ("a: int64 = $.purchase_complete.total", "no event has"),
            ("a: int64 = $.device_context.screen_width", "no event has"),
            ("a: string = $.purchase_complete.total_cents", "is no string"),
            ("a: int64 = $.purchase_complete", "is no int64"),
        ] {
            let error = wrong.parse::<PromotedColumn>().unwrap_err();
            assert!(error.contains(expected), "{wrong}: {error}");
        }
        let twice = "a: int64 = $.purchase_complete.total_cents";
        assert!(PromotedColumns::parse([twice, twice].into_iter()).unwrap_err().contains("twice"));
    }
}
