//! An OpenAPI document under construction: its operations and the components they refer to.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::operation::Operation;
use super::reference::{CACHE_CONTROL, ETAG, PROBLEM};
use super::refusal::Refusal;

/// The version of the APIs, not of the product, so that clients do not learn which build answers.
const API_VERSION: &str = "1.0.0";
/// Reasons for the listener to refuse any request, before routing.
const OF_EVERY_REQUEST: &[u16] = &[400, 414, 431, 501, 503];

/// A document under construction.
pub struct Document {
    info: Value,
    tags: Vec<(&'static str, &'static str)>,
    security_schemes: Value,
    schemas: Map<String, Value>,
    headers: Map<String, Value>,
    refusals: &'static [Refusal],
    /// Headers that every reply may have.
    common_headers: &'static [&'static str],
    paths: Map<String, Value>,
    tags_used: BTreeSet<&'static str>,
    statuses_used: BTreeSet<u16>,
}

impl Document {
    pub fn new(title: &str, description: &str, refusals: &'static [Refusal]) -> Self {
        let license = json!({"name": "Apache-2.0", "identifier": "Apache-2.0"});
        let mut document = Self {
            info: json!({"title": title, "description": description, "version": API_VERSION, "license": license}),
            tags: Vec::new(),
            security_schemes: json!({}),
            schemas: Map::new(),
            headers: Map::new(),
            refusals,
            common_headers: &[],
            paths: Map::new(),
            tags_used: BTreeSet::new(),
            statuses_used: BTreeSet::new(),
        };
        document.schema(PROBLEM, problem());
        let text = json!({"type": "string"});
        document.header(CACHE_CONTROL, "How long the reply may be kept: a refusal not at all.", text.clone());
        document.header(ETAG, "Names the content: `If-None-Match` asks whether it is still the same.", text);
        document
    }

    pub fn tag(&mut self, name: &'static str, description: &'static str) {
        self.tags.push((name, description));
    }

    pub fn security_schemes(&mut self, schemes: Value) {
        self.security_schemes = schemes;
    }

    pub fn schema(&mut self, name: &str, schema: Value) {
        self.schemas.insert(name.to_owned(), schema);
    }

    pub fn schemas(&mut self, schemas: Map<String, Value>) {
        self.schemas.extend(schemas);
    }

    /// Modifies a schema that was added before.
    pub fn change(&mut self, name: &str, change: impl FnOnce(&mut Value)) {
        if let Some(schema) = self.schemas.get_mut(name) {
            change(schema);
        }
    }

    pub fn header(&mut self, name: &str, description: &str, schema: Value) {
        self.headers.insert(name.to_owned(), json!({"description": description, "schema": schema}));
    }

    /// Sets the headers that every reply may have.
    pub fn common_headers(&mut self, names: &'static [&'static str]) {
        self.common_headers = names;
    }

    /// `method` in any case.
    pub fn add(&mut self, method: &str, path: &str, operation: Operation) {
        let operation = operation.refused(OF_EVERY_REQUEST);
        self.tags_used.insert(operation.tag);
        self.statuses_used.extend(&operation.refused);
        let refusal = |status| self.refusals.iter().find(|refusal| refusal.status == status);
        let operation = operation.finish(refusal, self.common_headers);
        let item = self.paths.entry(path).or_insert_with(|| json!({}));
        item[method.to_lowercase()] = operation;
    }

    pub fn finish(self) -> Value {
        let used = |tag: &&(&'static str, &str)| self.tags_used.contains(tag.0);
        let tags = self.tags.iter().filter(used);
        let tags: Vec<_> = tags.map(|(name, description)| json!({"name": name, "description": description})).collect();
        let used = self.refusals.iter().filter(|refusal| self.statuses_used.contains(&refusal.status));
        let responses: Map<_, _> =
            used.map(|refusal| (refusal.name.to_owned(), refusal.response(self.common_headers))).collect();
        json!({
            "openapi": "3.1.0",
            "jsonSchemaDialect": "https://spec.openapis.org/oas/3.1/dialect/base",
            "info": self.info,
            "servers": [{"url": "/", "description": "Where this document came from."}],
            "tags": tags,
            "paths": self.paths,
            "components": {
                "schemas": self.schemas,
                "headers": self.headers,
                "responses": responses,
                "securitySchemes": self.security_schemes,
            },
        })
    }
}

/// The schema of RFC 9457 problems as `crate::http` writes them.
fn problem() -> Value {
    let error = json!({
        "type": "object",
        "required": ["pointer", "detail"],
        "properties": {
            "pointer": {"type": "string", "description": "Where: a JSON pointer (RFC 6901) into the body, or `/` and a parameter of the query."},
            "detail": {"type": "string", "description": "What is wrong there."},
        },
    });
    json!({
        "type": "object",
        "description": "RFC 9457. Never repeats what was sent.",
        "required": ["type", "title", "status", "detail"],
        "properties": {
            "type": {"type": "string", "format": "uri-reference"},
            "title": {"type": "string"},
            "status": {"type": "integer", "minimum": 400, "maximum": 599},
            "detail": {"type": "string", "description": "One sentence for a person."},
            "errors": {"type": "array", "items": error},
        },
    })
}
