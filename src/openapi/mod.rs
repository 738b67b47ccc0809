//! What OpenAPI 3.1 documents are made of, and how one is served. The roles describe their routes with it.
//!
//! Invariant: a document has the refusals, schemas and tags that its operations name, and no others. Knows no route.

mod operation;
mod served;

use std::collections::BTreeSet;

use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

pub use operation::Operation;
pub use served::Served;

/// Of the APIs, not of the product: a stranger need not learn which build answers.
const API_VERSION: &str = "1.0.0";
pub const SCHEMAS: &str = "#/components/schemas/";
const PROBLEM: &str = "Problem";
/// Why the listener may refuse any request, before its route is looked at.
const OF_EVERY_REQUEST: &[u16] = &[400, 414, 431, 501, 503];
pub const CACHE_CONTROL: &str = "Cache-Control";
const ETAG: &str = "ETag";
pub const PROBLEM_TYPE: &str = "application/problem+json";

/// Why a request may be refused, for all operations of a document.
pub struct Refusal {
    pub status: u16,
    /// Of the component.
    pub name: &'static str,
    pub description: &'static str,
    /// The `detail` of an example; empty for one that comes without a body.
    pub example: &'static str,
    /// Named in [`Document::header`].
    pub headers: &'static [&'static str],
}

/// A document in the making.
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

    /// Changes a schema that was added before.
    pub fn change(&mut self, name: &str, change: impl FnOnce(&mut Value)) {
        if let Some(schema) = self.schemas.get_mut(name) {
            change(schema);
        }
    }

    pub fn header(&mut self, name: &str, description: &str, schema: Value) {
        self.headers.insert(name.to_owned(), json!({"description": description, "schema": schema}));
    }

    /// Headers that every reply may have.
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

impl Refusal {
    /// What every listener says of a body that does not come.
    pub const REQUEST_TIMEOUT: Self = Self {
        status: 408,
        name: "RequestTimeout",
        description: "The body did not arrive in time.",
        example: "The body did not arrive in time.",
        headers: &[],
    };
    /// The same of a target that no head may have, however large it may be.
    pub const URI_TOO_LONG: Self = Self {
        status: 414,
        name: "UriTooLong",
        description: "The path and the query have more than 65,534 bytes together. There is no body.",
        example: "",
        headers: &[],
    };
    /// The same of a head that is too large.
    pub const HEADER_FIELDS_TOO_LARGE: Self = Self {
        status: 431,
        name: "RequestHeaderFieldsTooLarge",
        description: "The request line and the headers are too large together. There is no body.",
        example: "",
        headers: &[],
    };
    /// The same of a body that it cannot take out of its coding.
    pub const NOT_IMPLEMENTED: Self = Self {
        status: 501,
        name: "NotImplemented",
        description: "`Transfer-Encoding` names a coding other than chunked.",
        example: "Transfer-Encoding names a coding other than chunked.",
        headers: &[],
    };

    /// As OpenAPI has it.
    fn response(&self, common_headers: &[&str]) -> Value {
        let names = self.headers.iter().chain(common_headers);
        let mut response = json!({"description": self.description, "headers": headers(names)});
        if !self.example.is_empty() {
            response["content"] = json!({PROBLEM_TYPE: self.content()});
            response["headers"][CACHE_CONTROL] = header_reference(CACHE_CONTROL);
        }
        response
    }

    /// Of the media type of problems.
    fn content(&self) -> Value {
        let title = http::StatusCode::from_u16(self.status).ok().and_then(|status| status.canonical_reason());
        let example = json!({"type": "about:blank", "title": title, "status": self.status, "detail": self.example});
        json!({"schema": reference(PROBLEM), "example": example})
    }
}

/// A schema of the document, by its name.
pub fn reference(name: &str) -> Value {
    json!({"$ref": format!("{SCHEMAS}{name}")})
}

fn headers<'n>(names: impl Iterator<Item = &'n &'n str>) -> Value {
    Value::Object(names.map(|name| ((*name).to_owned(), header_reference(name))).collect())
}

fn header_reference(name: &str) -> Value {
    json!({"$ref": format!("#/components/headers/{name}")})
}

/// The schema of what is read as a `T`.
pub fn schema_of_input<T: JsonSchema>() -> Value {
    schema_by::<T>(SchemaSettings::draft2020_12())
}

/// The schema of what a `T` is written as.
pub fn schema_of_output<T: JsonSchema>() -> Value {
    schema_by::<T>(SchemaSettings::draft2020_12().for_serialize())
}

fn schema_by<T: JsonSchema>(settings: SchemaSettings) -> Value {
    let inlined = settings.with(|settings| {
        settings.inline_subschemas = true;
        settings.meta_schema = None;
    });
    inlined.into_generator().into_root_schema_for::<T>().to_value()
}

/// RFC 9457, as `crate::http` writes it.
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
