//! Fields of payloads as columns of their own, as the configuration says.
//!
//! Invariant: a column's value is what `payload_json` has at its path, so that whoever writes a row again gives it the
//! columns of today; what is of another type is NULL there, counted, and still in `payload_json`.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use parquet::basic::Type as Physical;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::WarehouseError;
use super::chunk::Chunk;
use super::column::{BooleanColumn, DictionaryColumn, DoubleColumn, IntegerColumn};
use super::compression::Compressor;
use super::rows::levels;
use super::schema;
use crate::event::{Holds, Kind, field_holds};
use crate::metrics;

/// Each costs memory in every open file.
const COLUMNS_MAX: usize = 64;
const NAME_BYTES_MAX: usize = 64;
/// Integers up to here are the same as doubles.
const EXACT_MAX: f64 = 9_007_199_254_740_992.0;

/// What a column holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ColumnType {
    String,
    Int64,
    Double,
    Boolean,
}

impl ColumnType {
    pub(super) fn physical(self) -> Physical {
        match self {
            Self::String => Physical::BYTE_ARRAY,
            Self::Int64 => Physical::INT64,
            Self::Double => Physical::DOUBLE,
            Self::Boolean => Physical::BOOLEAN,
        }
    }

    fn may_hold(self, holds: Holds) -> bool {
        match holds {
            Holds::Text => self == Self::String,
            Holds::Number => matches!(self, Self::Int64 | Self::Double),
            Holds::Bool => self == Self::Boolean,
            Holds::Json => true,
        }
    }
}

/// A field of one kind of payload, and the column that it is in: `total_cents: int64 = $.purchase_complete.total_cents`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PromotedColumn {
    pub name: String,
    pub of: ColumnType,
    /// The payload's field.
    kind: &'static str,
    /// Within the payload.
    path: Vec<String>,
}

/// Cheap to clone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PromotedColumns(Arc<[PromotedColumn]>);

impl PromotedColumns {
    /// What is wrong names the column.
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

    pub(super) fn iter(&self) -> impl Iterator<Item = &PromotedColumn> {
        self.0.iter()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether an event with this payload may have a value in one of them.
    pub(super) fn are_of(&self, kind: &str) -> bool {
        self.0.iter().any(|column| column.kind == kind)
    }
}

impl FromStr for PromotedColumn {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let form = || format!("`{text}` is not of the form name: int64 = $.purchase_complete.total_cents");
        let (head, path) = text.split_once('=').ok_or_else(form)?;
        let (name, of) = head.split_once(':').ok_or_else(form)?;
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
        let path = path.strip_prefix("$.").ok_or_else(form)?;
        let parts: Vec<&str> = path.split('.').collect();
        let kind = Kind::all().iter().find(|kind| kind.field == parts[0]);
        let (Some(kind), Some(holds)) = (kind, field_holds(&parts)) else {
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

/// The columns of an open row group.
pub(super) struct Promoted {
    columns: PromotedColumns,
    open: Vec<OpenColumn>,
}

struct OpenColumn {
    /// Which rows of the open page have a value.
    present: Vec<u16>,
    values: Values,
    mismatches: u64,
}

enum Values {
    String(Box<DictionaryColumn>),
    Int64(IntegerColumn),
    Double(DoubleColumn),
    Boolean(BooleanColumn),
}

impl Promoted {
    pub(super) fn new(columns: &PromotedColumns) -> Self {
        let open = |column: &PromotedColumn| OpenColumn {
            present: Vec::new(),
            mismatches: 0,
            values: match column.of {
                ColumnType::String => Values::String(Box::new(DictionaryColumn::new())),
                ColumnType::Int64 => Values::Int64(IntegerColumn::int64()),
                ColumnType::Double => Values::Double(DoubleColumn::default()),
                ColumnType::Boolean => Values::Boolean(BooleanColumn::default()),
            },
        };
        Self { open: columns.iter().map(open).collect(), columns: columns.clone() }
    }

    pub(super) fn columns(&self) -> &PromotedColumns {
        &self.columns
    }

    /// Adds a row. `payload` is its JSON.
    pub(super) fn push(&mut self, kind: &str, payload: &[u8], seed: u64) {
        for (column, open) in self.columns.iter().zip(&mut self.open) {
            let found = if column.kind == kind { find(payload, &column.path) } else { Found::Nothing };
            open.push(found, seed);
        }
    }

    pub(super) fn is_heavy(&self) -> bool {
        self.open.iter().any(|open| matches!(&open.values, Values::String(column) if column.is_heavy()))
    }

    pub(super) fn memory_bytes(&self) -> usize {
        let bytes = |open: &OpenColumn| {
            let values = match &open.values {
                Values::String(column) => column.memory_bytes(),
                Values::Int64(column) => column.memory_bytes(),
                Values::Double(column) => column.memory_bytes(),
                Values::Boolean(column) => column.memory_bytes(),
            };
            values + open.present.capacity() * 2
        };
        self.open.iter().map(bytes).sum()
    }

    pub(super) fn encoded_bytes(&self) -> usize {
        let bytes = |open: &OpenColumn| match &open.values {
            Values::String(column) => column.encoded_bytes(),
            Values::Int64(column) => column.encoded_bytes(),
            Values::Double(column) => column.encoded_bytes(),
            Values::Boolean(column) => column.encoded_bytes(),
        };
        self.open.iter().map(bytes).sum()
    }

    pub(super) fn close_page(&mut self, compressor: &mut Compressor) -> Result<(), WarehouseError> {
        for open in &mut self.open {
            let (levels, rows) = (levels(&open.present), open.present.len());
            open.present.clear();
            match &mut open.values {
                Values::String(column) => column.close_page(&levels, rows, compressor)?,
                Values::Int64(column) => column.close_page(&levels, rows, compressor)?,
                Values::Double(column) => column.close_page(&levels, rows, compressor)?,
                Values::Boolean(column) => column.close_page(&levels, rows, compressor)?,
            }
        }
        Ok(())
    }

    pub(super) fn close_into(self, chunks: &mut Vec<Chunk>, compressor: &mut Compressor) -> Result<(), WarehouseError> {
        for (column, open) in self.columns.iter().zip(self.open) {
            if open.mismatches > 0 {
                metrics::column_mismatches(&column.name, open.mismatches);
            }
            chunks.push(match open.values {
                Values::String(column) => column.close(compressor)?,
                Values::Int64(column) => column.close(),
                Values::Double(column) => column.close(),
                Values::Boolean(column) => column.close(),
            });
        }
        Ok(())
    }
}

impl OpenColumn {
    fn push(&mut self, found: Found, seed: u64) {
        let is_there = match (&mut self.values, found) {
            (_, Found::Nothing) => false,
            (Values::String(column), Found::Text(text)) => {
                column.push(&text, seed);
                true
            }
            (Values::Int64(column), Found::Integer(number)) => {
                column.push(number);
                true
            }
            // Numbers in `properties` are doubles, whatever was sent.
            (Values::Int64(column), Found::Double(number)) if number.fract() == 0.0 && number.abs() <= EXACT_MAX => {
                column.push(number as i64);
                true
            }
            (Values::Double(column), Found::Double(number)) => {
                column.push(number);
                true
            }
            (Values::Double(column), Found::Integer(number)) => {
                column.push(number as f64);
                true
            }
            (Values::Boolean(column), Found::Boolean(truth)) => {
                column.extend(std::iter::once(truth));
                true
            }
            _ => {
                self.mismatches += 1;
                false
            }
        };
        self.present.push(u16::from(is_there));
    }
}

/// What is at a path.
#[derive(Clone, Debug, PartialEq)]
enum Found {
    /// Nothing or null.
    Nothing,
    Text(String),
    Integer(i64),
    Double(f64),
    Boolean(bool),
    Other,
}

/// JSON of ours: what cannot be read is not there.
fn find(json: &[u8], path: &[String]) -> Found {
    let mut json = serde_json::Deserializer::from_slice(json);
    Path(path).deserialize(&mut json).unwrap_or(Found::Nothing)
}

#[derive(Clone, Copy)]
struct Path<'p>(&'p [String]);

impl<'de> DeserializeSeed<'de> for Path<'_> {
    type Value = Found;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Found, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl Path<'_> {
    /// What is found where the path ends.
    fn end(self, found: Found) -> Found {
        if self.0.is_empty() { found } else { Found::Nothing }
    }
}

impl<'de> Visitor<'de> for Path<'_> {
    type Value = Found;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Found, E> {
        Ok(Found::Nothing)
    }

    fn visit_bool<E>(self, truth: bool) -> Result<Found, E> {
        Ok(self.end(Found::Boolean(truth)))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Found, E> {
        Ok(self.end(Found::Integer(number)))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Found, E> {
        Ok(self.end(i64::try_from(number).map_or(Found::Double(number as f64), Found::Integer)))
    }

    fn visit_f64<E>(self, number: f64) -> Result<Found, E> {
        Ok(self.end(Found::Double(number)))
    }

    fn visit_str<E>(self, text: &str) -> Result<Found, E> {
        Ok(self.end(Found::Text(text.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Found, A::Error> {
        while elements.next_element::<IgnoredAny>()?.is_some() {}
        Ok(self.end(Found::Other))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Found, A::Error> {
        let mut found = self.end(Found::Other);
        while let Some(name) = members.next_key::<std::borrow::Cow<'de, str>>()? {
            match self.0.split_first() {
                Some((wanted, rest)) if *wanted == *name => found = members.next_value_seed(Path(rest))?,
                _ => _ = members.next_value::<IgnoredAny>()?,
            }
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_column_says_its_name_its_type_and_where_its_value_is() {
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
            let told = wrong.parse::<PromotedColumn>().unwrap_err();
            assert!(told.contains(expected), "{wrong}: {told}");
        }
        let twice = "a: int64 = $.purchase_complete.total_cents";
        assert!(PromotedColumns::parse([twice, twice].into_iter()).unwrap_err().contains("twice"));
    }

    #[test]
    fn a_path_leads_to_its_value() {
        let json = r#"{"a": {"b": [1, {"c": 2}], "c": {"d": 7, "é\n": "x"}}, "n": null, "t": true, "f": 1.5}"#;
        let at = |path: &str| find(json.as_bytes(), &path.split('.').map(str::to_owned).collect::<Vec<_>>());
        assert_eq!(at("a.c.d"), Found::Integer(7));
        assert_eq!(at("a.c.é\n"), Found::Text("x".to_owned()));
        assert_eq!((at("a.b"), at("a.c")), (Found::Other, Found::Other));
        assert_eq!((at("t"), at("f")), (Found::Boolean(true), Found::Double(1.5)));
        for nothing in ["n", "a.c.d.e", "a.b.c", "x", "t.a"] {
            assert_eq!(at(nothing), Found::Nothing, "{nothing}");
        }
        assert_eq!(find(b"{\"a\": ", &["a".to_owned()]), Found::Nothing);
    }
}
