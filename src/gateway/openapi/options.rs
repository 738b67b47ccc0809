//! What a document depends on, and what the operations that take events have in common.

use serde_json::{Value, json};

use crate::gateway::auth::access::Access;
use crate::gateway::settings::Settings;
use crate::openapi::Operation;

pub(super) const EVENTS: &str = "events";
pub(super) const SEGMENT: &str = "segment";
pub(super) const OPENTELEMETRY: &str = "opentelemetry";
/// How many inputs are kept.
pub(super) const QUARANTINED: &str = "X-Quarantined";

/// What a document says of the settings.
#[derive(Clone, Copy, Debug)]
pub struct Shown {
    /// Whether a key is asked for.
    pub keys: bool,
    /// Whether refused input is kept.
    pub quarantine: bool,
    pub batch_events_max: usize,
}

impl Shown {
    pub(crate) fn of(settings: &Settings) -> Self {
        Self {
            keys: matches!(settings.access, Access::Keys(_)),
            quarantine: settings.quarantine_bytes_max.is_some(),
            batch_events_max: settings.batch_events_max,
        }
    }

    /// Where no key is asked for, one may be sent all the same.
    pub(super) fn security(self) -> Value {
        let mut ways = vec![json!({"apiKey": []}), json!({"bearer": []}), json!({"basic": []})];
        if !self.keys {
            ways.push(json!({}));
        }
        ways.into()
    }

    /// Why a request is refused when it has no key.
    pub(super) fn unauthorized(self) -> &'static [u16] {
        if self.keys { &[401] } else { &[] }
    }

    /// The schema of a member that names the app, made from that of one that may be left out.
    pub(super) fn app(self, schema: &mut Value) {
        if !self.keys {
            schema["type"] = "string".into();
            schema["minLength"] = 1.into();
            schema["description"] = "The app. Required, since no API key says which.".into();
        }
    }

    /// Where the app has to be named, its member is among those that are required.
    pub(super) fn required(self, app: &'static str, others: &[&'static str]) -> Value {
        let app = (!self.keys).then_some(app);
        app.into_iter().chain(others.iter().copied()).collect()
    }
}

impl Default for Shown {
    /// Of a gateway that faces the world.
    fn default() -> Self {
        Self { keys: true, ..Self::of(&Settings::default()) }
    }
}

/// Of what takes events: how its body may be coded, and how much of it may be kept when it is refused.
pub(super) fn takes_events(operation: Operation, shown: Shown) -> Operation {
    let operation = operation.parameter(json!({
        "name": "Content-Encoding",
        "in": "header",
        "description": "How the body is compressed; absent when it is not.",
        "schema": {"type": "string", "enum": ["identity", "gzip", "deflate", "br", "zstd"]},
    }));
    if shown.quarantine { operation.headers(&[200, 400], &[QUARANTINED]) } else { operation }
}
