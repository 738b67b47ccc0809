//! The row of a stored document, the same in both engines.

use std::fmt::Display;

use jiff::Timestamp;
use serde::Serialize;
use serde::de::DeserializeOwned;
use uuid::Uuid;

use super::rule::Faults;
use crate::store::error::{StoreError, StoreErrorKind};

/// The value of a column.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Cell {
    Null,
    Bool(bool),
    Integer(i64),
    Text(String),
    Bytes(Vec<u8>),
}

/// A stored document.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) id: Uuid,
    pub(crate) name: String,
    pub(crate) created_at: Timestamp,
    pub(crate) updated_at: Timestamp,
    pub(crate) faults: Faults,
    /// The columns that only its type has, and their values.
    pub(in crate::store) columns: &'static [&'static str],
    pub(in crate::store) cells: Vec<Cell>,
}

impl Row {
    /// Without cells: of a document that is created.
    pub(in crate::store) fn new(id: Uuid, name: &str, created_at: Timestamp) -> Self {
        let (name, faults) = (name.to_owned(), Faults::default());
        Self { id, name, created_at, updated_at: created_at, faults, columns: &[], cells: Vec::new() }
    }

    /// The row of the version that is written over this one.
    pub(in crate::store) fn next(self, now_ms: i64) -> Result<Self, StoreError> {
        let updated_ms = now_ms.max(self.updated_at.as_millisecond() + 1);
        let updated_at = Timestamp::from_millisecond(updated_ms).map_err(damaged)?;
        Ok(Self { updated_at, faults: Faults::default(), ..self })
    }

    /// `Null` if there is no such cell.
    fn cell(&self, column: &str) -> &Cell {
        let place = self.columns.iter().position(|known| *known == column);
        place.and_then(|place| self.cells.get(place)).unwrap_or(&Cell::Null)
    }

    pub(in crate::store) fn text(&self, column: &str) -> Result<&str, StoreError> {
        match self.cell(column) {
            Cell::Text(text) => Ok(text),
            _ => Err(self.damaged(format!("{column} is not text"))),
        }
    }

    pub(in crate::store) fn optional_text(&self, column: &str) -> Option<String> {
        self.text(column).ok().map(str::to_owned)
    }

    /// 0 if it is null.
    pub(in crate::store) fn integer(&self, column: &str) -> Result<i64, StoreError> {
        match self.cell(column) {
            Cell::Null => Ok(0),
            Cell::Integer(integer) => Ok(*integer),
            _ => Err(self.damaged(format!("{column} is not an integer"))),
        }
    }

    /// False if it is null. SQLite stores integers.
    pub(in crate::store) fn bool(&self, column: &str) -> Result<bool, StoreError> {
        match self.cell(column) {
            Cell::Bool(bool) => Ok(*bool),
            _ => self.integer(column).map(|integer| integer != 0),
        }
    }

    pub(in crate::store) fn bytes(&self, column: &str) -> Option<Vec<u8>> {
        match self.cell(column) {
            Cell::Bytes(bytes) => Some(bytes.clone()),
            _ => None,
        }
    }

    pub(in crate::store) fn json<T: DeserializeOwned>(&self, column: &str) -> Result<T, StoreError> {
        serde_json::from_str(self.text(column)?).map_err(|error| self.damaged(error))
    }

    fn damaged(&self, error: impl Display) -> StoreError {
        damaged(format!("{:?} ({}): {error}", self.name, self.id))
    }
}

impl Cell {
    pub(in crate::store) fn json(value: &impl Serialize) -> Result<Self, StoreError> {
        serde_json::to_string(value).map(Self::Text).map_err(damaged)
    }
}

impl From<Option<String>> for Cell {
    fn from(text: Option<String>) -> Self {
        text.map_or(Self::Null, Self::Text)
    }
}

impl From<Option<Vec<u8>>> for Cell {
    fn from(bytes: Option<Vec<u8>>) -> Self {
        bytes.map_or(Self::Null, Self::Bytes)
    }
}

/// Stored bytes that are not what the columns of a document hold.
pub(in crate::store) fn damaged(error: impl Display) -> StoreError {
    StoreError::caused(StoreErrorKind::Corrupt, "read document", error.to_string())
}
