//! Builds OpenAPI 3.1 documents and serves them. The roles describe their routes with it.
//!
//! Invariant: a document contains exactly the refusals, schemas and tags that its operations refer to. Knows no route.

mod document;
mod operation;
mod reference;
mod refusal;
mod schema;
mod served;

pub use document::Document;
pub use operation::Operation;
pub use reference::{CACHE_CONTROL, PROBLEM_TYPE, SCHEMAS, reference};
pub use refusal::Refusal;
pub use schema::{schema_of_input, schema_of_output};
pub use served::ServedDocument;
