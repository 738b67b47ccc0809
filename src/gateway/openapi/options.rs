//! The settings that the document depends on, and the parts that ingest operations share.

use serde_json::{Value, json};

use crate::gateway::auth::access::Access;
use crate::gateway::settings::Settings;
use crate::openapi::Operation;

pub(super) const EVENTS: &str = "events";
pub(super) const SEGMENT: &str = "segment";
pub(super) const OPENTELEMETRY: &str = "opentelemetry";
/// Number of inputs that were quarantined.
pub(super) const QUARANTINED: &str = "X-Quarantined";

/// The settings that shape the document.
#[derive(Clone, Copy, Debug)]
pub struct DocumentOptions {
    /// API keys are required.
    pub keys: bool,
    /// Refused input is quarantined.
    pub quarantine: bool,
    pub batch_events_max: usize,
}

impl DocumentOptions {
    /// API keys are required if the gateway has some.
    pub fn of(settings: &Settings) -> Self {
        Self {
            keys: matches!(settings.access, Access::Keys(_)),
            quarantine: settings.quarantine_bytes_max.is_some(),
            batch_events_max: settings.batch_events_max,
        }
    }

    /// If keys are not required, one may still be sent.
    pub(super) fn security(self) -> Value {
        let mut ways = vec![json!({"apiKey": []}), json!({"bearer": []}), json!({"basic": []})];
        if !self.keys {
            ways.push(json!({}));
        }
        ways.into()
    }

    /// The status of a request without a key.
    pub(super) fn unauthorized(self) -> &'static [u16] {
        if self.keys { &[401] } else { &[] }
    }

    /// Turns the schema of an optional app member into that of a required one, if keys are not required.
    pub(super) fn app(self, schema: &mut Value) {
        if !self.keys {
            schema["type"] = "string".into();
            schema["minLength"] = 1.into();
            schema["description"] = "The app. Required, since no API key says which.".into();
        }
    }

    /// Adds the app member to the required ones, if keys are not required.
    pub(super) fn required(self, app: &'static str, others: &[&'static str]) -> Value {
        let app = (!self.keys).then_some(app);
        app.into_iter().chain(others.iter().copied()).collect()
    }
}

impl Default for DocumentOptions {
    /// A gateway on a public network.
    fn default() -> Self {
        Self { keys: true, ..Self::of(&Settings::default()) }
    }
}

/// The parameters of an operation that takes events: the content coding, and the header that reports quarantined
/// inputs.
pub(super) fn takes_events(operation: Operation, options: DocumentOptions) -> Operation {
    let operation = operation.parameter(json!({
        "name": "Content-Encoding",
        "in": "header",
        "description": "How the body is compressed; absent when it is not.",
        "schema": {"type": "string", "enum": ["identity", "gzip", "deflate", "br", "zstd"]},
    }));
    if options.quarantine { operation.headers(&[200, 400], &[QUARANTINED]) } else { operation }
}
