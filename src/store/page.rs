//! Cursor pagination of the admin API's lists.

use serde::Serialize;

/// A page of a list.
#[derive(Clone, Debug, Serialize)]
pub struct Page<T> {
    pub items: Vec<T>,
    /// The cursor of the next page; null on the last one.
    pub next: Option<String>,
}

/// Selects a page; `limit` is from 1 to 1,000.
#[derive(Clone, Debug)]
pub struct PageRequest {
    pub limit: usize,
    pub cursor: Option<String>,
}
