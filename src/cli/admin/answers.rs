//! Reads documents from the admin API: members as text, and names by id.

use std::collections::HashMap;

use serde_json::Value;

use crate::cli::client::AdminClient;
use crate::cli::failure::Failure;

/// Maximum documents of a collection that are read to show names for ids.
const NAMES_MAX: usize = 1_000;

/// A member as text. Empty if it is null or absent, which a table shows as "-".
pub(crate) fn text(document: &Value, name: &str) -> String {
    match &document[name] {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// Names of the documents in these collections, by id.
pub(crate) async fn names(client: &AdminClient, collections: &[&str]) -> Result<HashMap<String, String>, Failure> {
    let mut names = HashMap::new();
    for collection in collections {
        for document in client.list(collection, &[], NAMES_MAX).await? {
            names.insert(text(&document, "id"), text(&document, "name"));
        }
    }
    Ok(names)
}
