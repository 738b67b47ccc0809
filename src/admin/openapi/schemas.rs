//! The schemas of the documents, generated from the types that they are read into and written from.

use serde_json::{Value, json};

use crate::admin::handlers::{apply, dead_letters, deliveries, erasures, keys, tokens};
use crate::bus::{BusStatus, ConsumerStatus};
use crate::openapi::{Document, reference, schema_of_input, schema_of_output};
use crate::store::{
    AdminToken, AnomalyConfig, AnomalyEvent, ApiKey, AuditRecord, Delivery, NewAdminToken, NewAnomalyConfig, NewApiKey,
    NewRule, Rule, StoreStatus, WebhookDocument,
};

pub(super) fn add(document: &mut Document) {
    document.schema("NewWebhook", schema_of_input::<WebhookDocument>());
    document.schema("Webhook", webhook());
    document.schema("NewRule", schema_of_input::<NewRule>());
    document.schema("Rule", schema_of_output::<Rule>());
    document.schema("NewAnomalyConfig", schema_of_input::<NewAnomalyConfig>());
    document.schema("AnomalyConfig", schema_of_output::<AnomalyConfig>());
    for (name, of) in
        [("WebhookPatch", "NewWebhook"), ("RulePatch", "NewRule"), ("AnomalyConfigPatch", "NewAnomalyConfig")]
    {
        document.schema(name, patch(of));
    }
    document.schema("AnomalyEvent", schema_of_output::<AnomalyEvent>());
    document.schema("Delivery", schema_of_output::<Delivery>());
    document.schema("DeadLetter", schema_of_output::<dead_letters::DeadLetterView>());
    document.schema("DeadLetterCounts", schema_of_output::<dead_letters::Counts>());
    document.schema("Deleted", schema_of_output::<dead_letters::Deleted>());
    document.schema("RetryRequest", schema_of_input::<deliveries::RetryRequest>());
    document.schema("Retried", schema_of_output::<deliveries::Retried>());
    document.schema("NewApiKey", schema_of_input::<NewApiKey>());
    document.schema("ApiKey", schema_of_output::<ApiKey>());
    document.schema("CreatedApiKey", schema_of_output::<keys::Created>());
    document.schema("NewAdminToken", schema_of_input::<NewAdminToken>());
    document.schema("AdminToken", schema_of_output::<AdminToken>());
    document.schema("CreatedAdminToken", schema_of_output::<tokens::Created>());
    document.schema("ErasureRequest", schema_of_input::<erasures::ErasureRequest>());
    document.schema("Erasure", schema_of_output::<erasures::Erasure>());
    document.schema("AuditRecord", schema_of_output::<AuditRecord>());
    document.schema("DocumentSet", set());
    document.schema("AppliedSet", schema_of_output::<apply::AppliedItems>());
    document.schema("Status", status());
    for name in [
        "Webhook",
        "Rule",
        "AnomalyConfig",
        "AnomalyEvent",
        "Delivery",
        "DeadLetter",
        "ApiKey",
        "AdminToken",
        "AuditRecord",
    ] {
        document.schema(&format!("{name}List"), list(name));
    }
    document
        .schema("Health", json!({"type": "object", "required": ["status"], "properties": {"status": {"const": "ok"}}}));
    document.schema(
        "Ready",
        json!({
            "type": "object",
            "required": ["status"],
            "properties": {
                "status": {"enum": ["ready", "unready", "starting", "draining"]},
                "components": {"type": "object", "additionalProperties": {"type": "string"}},
                "warnings": {"type": "array", "items": {"type": "string"}},
            },
        }),
    );
}

/// A webhook is written as it was read, with secrets masked, plus the members that the product adds.
fn webhook() -> Value {
    let mut schema = schema_of_input::<WebhookDocument>();
    schema["title"] = "Webhook".into();
    schema["description"] = "A stored webhook; secrets are masked.".into();
    let own = json!({
        "id": {"type": "string", "format": "uuid"},
        "disabled_reason": {"type": ["string", "null"], "description": "Why the product disabled it, if it did."},
        "deliveries_given_up": {"type": "integer", "minimum": 0, "description": "Since it was last disabled, because too many waited or for too long."},
        "created_at": {"type": "string", "format": "date-time"},
        "updated_at": {"type": "string", "format": "date-time"},
    });
    let (Some(members), Value::Object(own)) = (schema["properties"].as_object_mut(), own) else { return schema };
    members.extend(own);
    let names: Vec<_> = members.keys().cloned().collect();
    schema["required"] = names.into();
    schema
}

/// A merge patch: its members replace those of the document, and null removes them.
fn patch(of: &str) -> Value {
    json!({
        "type": "object",
        "description": format!("A JSON merge patch (RFC 7396). What comes of it must be a valid `{of}`."),
    })
}

fn list(of: &str) -> Value {
    json!({
        "type": "object",
        "required": ["items", "next"],
        "properties": {
            "items": {"type": "array", "items": reference(of)},
            "next": {"type": ["string", "null"], "description": "The `cursor` of the next page."},
        },
    })
}

fn set() -> Value {
    let list = |of: &str| json!({"type": ["array", "null"], "items": reference(of)});
    json!({
        "type": "object",
        "description": "At most 10,000 documents; each is matched by its name.",
        "additionalProperties": false,
        "properties": {
            "webhooks": list("NewWebhook"),
            "rules": list("NewRule"),
            "anomalies": list("NewAnomalyConfig"),
        },
    })
}

fn status() -> Value {
    let mut bus = schema_of_output::<BusStatus>();
    if let Some(members) = bus["properties"].as_object_mut() {
        members.remove("consumers");
    }
    if let Some(required) = bus["required"].as_array_mut() {
        required.retain(|name| name != "consumers");
    }
    let failed = json!({"type": "object", "required": ["error"], "properties": {"error": {"type": "string"}}});
    json!({
        "type": "object",
        "description": "A port that fails is said to fail.",
        "required": ["version", "roles", "bus", "store", "consumers"],
        "properties": {
            "version": {"type": "string"},
            "roles": {"type": "array", "items": {"type": "string"}},
            "uptime_seconds": {"type": "integer", "minimum": 0},
            "backends": {"type": "object"},
            "sink": {"type": "object"},
            "bus": {"anyOf": [bus, failed]},
            "store": {"anyOf": [schema_of_output::<StoreStatus>(), failed]},
            "consumers": {"type": ["array", "null"], "items": schema_of_output::<ConsumerStatus>()},
        },
    })
}
