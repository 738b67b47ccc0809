//! The values of promoted columns in an open row group, taken from the payload's JSON.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::promoted::{ColumnType, PromotedColumn, PromotedColumns};
use crate::metrics;
use crate::warehouse::error::WarehouseError;
use crate::warehouse::pages::chunk::Chunk;
use crate::warehouse::pages::column::{BooleanColumn, DictionaryColumn, DoubleColumn, IntegerColumn};
use crate::warehouse::pages::compression::Compressor;
use crate::warehouse::pages::encodings::definition_levels;

/// The largest integer up to which every integer is exact as a double.
const EXACT_MAX: f64 = 9_007_199_254_740_992.0;

/// The promoted columns of an open row group.
pub(crate) struct Promoted {
    columns: PromotedColumns,
    open: Vec<OpenColumn>,
}

struct OpenColumn {
    /// Whether each row of the open page has a value.
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
    pub(crate) fn new(columns: &PromotedColumns) -> Self {
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

    pub(crate) fn columns(&self) -> &PromotedColumns {
        &self.columns
    }

    /// Adds a row. `payload` is its JSON.
    pub(crate) fn push(&mut self, kind: &str, payload: &[u8], seed: u64) {
        for (column, open) in self.columns.iter().zip(&mut self.open) {
            let found = if column.kind == kind { find(payload, &column.path) } else { Found::Nothing };
            open.push(found, seed);
        }
    }

    pub(crate) fn is_heavy(&self) -> bool {
        self.open.iter().any(|open| matches!(&open.values, Values::String(column) if column.is_heavy()))
    }

    pub(crate) fn memory_bytes(&self) -> usize {
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

    pub(crate) fn encoded_bytes(&self) -> usize {
        let bytes = |open: &OpenColumn| match &open.values {
            Values::String(column) => column.encoded_bytes(),
            Values::Int64(column) => column.encoded_bytes(),
            Values::Double(column) => column.encoded_bytes(),
            Values::Boolean(column) => column.encoded_bytes(),
        };
        self.open.iter().map(bytes).sum()
    }

    pub(crate) fn close_page(&mut self, compressor: &mut Compressor) -> Result<(), WarehouseError> {
        for open in &mut self.open {
            let (levels, rows) = (definition_levels(&open.present), open.present.len());
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

    pub(crate) fn close_into(self, chunks: &mut Vec<Chunk>, compressor: &mut Compressor) -> Result<(), WarehouseError> {
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
            // All numbers in `properties` are doubles.
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

/// The value at a path.
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

/// Finds the value at a path. Our own JSON is valid; if it cannot be read, the value counts as absent.
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
    /// `found` if the path ends here.
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
