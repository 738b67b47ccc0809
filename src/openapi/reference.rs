//! References to the components of a document, and names shared by several parts.

use serde_json::{Value, json};

pub const SCHEMAS: &str = "#/components/schemas/";
pub(super) const PROBLEM: &str = "Problem";
pub const CACHE_CONTROL: &str = "Cache-Control";
pub(super) const ETAG: &str = "ETag";
pub const PROBLEM_TYPE: &str = "application/problem+json";

/// A reference to a schema of the document.
pub fn reference(name: &str) -> Value {
    json!({"$ref": format!("{SCHEMAS}{name}")})
}

pub(super) fn headers<'n>(names: impl Iterator<Item = &'n &'n str>) -> Value {
    Value::Object(names.map(|name| ((*name).to_owned(), header_reference(name))).collect())
}

pub(super) fn header_reference(name: &str) -> Value {
    json!({"$ref": format!("#/components/headers/{name}")})
}
