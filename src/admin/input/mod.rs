//! Reading requests: the body as JSON, the JSON as a document, and the query string.

pub(super) mod body;
pub(super) mod decode;
pub(super) mod query;
