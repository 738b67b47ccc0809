//! Reading what a request says: its body as JSON, the JSON as a document, and its query string.

pub(super) mod body;
pub(super) mod decode;
pub(super) mod query;
