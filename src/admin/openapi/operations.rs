//! The operation of each route: parameters, request and responses.

use serde_json::{Value, json};

use super::examples;
use super::refusals::with_page_headers;
use crate::admin::route::{BASE, RouteInfo, Verb};
use crate::event::Reason;
use crate::openapi::{CACHE_CONTROL, Operation, reference};
use crate::store::AuditKind;

const DOCUMENTS: &str = "documents";
const DELIVERIES: &str = "deliveries";
const DEAD_LETTERS: &str = "dead letters";
const ACCESS: &str = "access";
const PROCESS: &str = "process";

pub(super) const TAGS: [(&str, &str); 5] = [
    (DOCUMENTS, "Webhooks, rules and anomaly configs, and what the last have found."),
    (DELIVERIES, "What webhooks are and were owed."),
    (DEAD_LETTERS, "Messages of the bus that could not be handled, and input that was refused."),
    (ACCESS, "API keys, tokens and the audit log."),
    (PROCESS, "What the process says of itself."),
];

/// Statuses of every route that reads a document.
const BODY: &[u16] = &[408, 413, 415, 422];

/// A kind of document.
struct Kind {
    path: &'static str,
    /// The name in schemas and operation ids.
    name: &'static str,
    words: &'static str,
    plural: &'static str,
    example: fn() -> Value,
}

const KINDS: [Kind; 3] = [
    Kind { path: "/webhooks", name: "Webhook", words: "a webhook", plural: "webhooks", example: examples::webhook },
    Kind { path: "/rules", name: "Rule", words: "a rule", plural: "rules", example: examples::rule },
    Kind {
        path: "/anomalies",
        name: "AnomalyConfig",
        words: "an anomaly config",
        plural: "anomaly configs",
        example: examples::anomaly,
    },
];

/// The operation of a route, if it is documented.
pub(super) fn of(route: &RouteInfo) -> Option<Operation> {
    match route.path.strip_prefix(BASE) {
        Some(path) => document_operation(route.verb, path).or_else(|| api_operation(route.verb, path)),
        None => process_operation(&route.path),
    }
}

fn document_operation(verb: Verb, path: &str) -> Option<Operation> {
    let kind = KINDS.iter().find(|kind| path.strip_suffix("/{id}").unwrap_or(path) == kind.path)?;
    let Kind { name, words, plural, .. } = kind;
    let example = (kind.example)();
    let key = example["name"].clone();
    let one = path.ends_with("/{id}");
    let stored = || json_of(name);
    let operation = |id: String, summary: String| Operation::new(DOCUMENTS, &id, &summary);
    Some(match (verb, one) {
        (Verb::Get, false) => paged(operation(format!("list{name}s"), format!("List {plural}")), name),
        (Verb::Post, false) => {
            let create = operation(format!("create{name}"), format!("Create {words}"));
            created(create.body(input(&format!("New{name}"), &example)), name, &format!("{name}s"))
                .refused(BODY)
                .refused(&[409])
        }
        (Verb::Get, true) => {
            let show = operation(format!("get{name}"), format!("Show {words}"));
            by_key(show, &key).answer(200, "The document.", stored()).refused(&[404])
        }
        (Verb::Put, true) => {
            let replace = operation(format!("replace{name}"), format!("Replace {words}"));
            by_key(replace, &key)
                .about("What the product itself writes into a document may be sent back, and is not read.")
                .body(input(&format!("New{name}"), &example))
                .answer(200, "The document as it is stored.", stored())
                .refused(BODY)
                .refused(&[404, 409])
        }
        (Verb::Patch, true) => {
            let patch = operation(format!("patch{name}"), format!("Change parts of {words}"));
            by_key(patch, &key)
                .body(merge_patch(&format!("{name}Patch"), &json!({"enabled": false})))
                .answer(200, "The document as it is stored.", stored())
                .refused(BODY)
                .refused(&[404, 409])
        }
        (Verb::Delete, true) => {
            let delete = operation(format!("delete{name}"), format!("Delete {words}"));
            let delete = by_key(delete, &key).answer_without_body(204, "It is gone.").refused(&[404]);
            // A webhook that a rule uses cannot be deleted.
            if *name == "Webhook" { delete.refused(&[409]) } else { delete }
        }
        _ => return None,
    })
}

fn api_operation(verb: Verb, path: &str) -> Option<Operation> {
    let new = Operation::new;
    Some(match (verb, path) {
        (Verb::Post, "/apply") => new(DOCUMENTS, "applyDocuments", "Create or replace a set of documents")
            .about("All of them are stored or none. At most 16 MiB.")
            .parameter(query(
                "dry_run",
                "Stores nothing, and answers what would become of each.",
                json!({"enum": ["true", "false"]}),
                None,
            ))
            .body(input("DocumentSet", &examples::set()))
            .answer(200, "What became of each document.", json_of("AppliedSet"))
            .refused(BODY)
            .refused(&[409]),
        (Verb::Get, "/anomaly-events") => {
            let list = new(DOCUMENTS, "listAnomalyEvents", "List what anomaly configs have found")
                .parameter(query("anomaly_config_id", "An id or a name.", text(), None))
                .parameter(query("app_id", "Of the app.", text(), Some(json!("shop"))))
                .parameter(since());
            paged(list, "AnomalyEvent")
        }
        (Verb::Get, "/deliveries") => {
            let statuses =
                json!({"enum": ["pending", "in_progress", "delivered", "failed", "dead_letter", "cancelled"]});
            let list = new(DELIVERIES, "listDeliveries", "List deliveries")
                .parameter(query("status", "Of the delivery.", statuses, None))
                .parameter(query("webhook_id", "An id or a name.", text(), None))
                .parameter(query("rule_id", "An id or a name.", text(), None))
                .parameter(query("event_id", "Of the event that caused it.", text(), None));
            paged(list, "Delivery")
        }
        (Verb::Post, "/deliveries/retry") => {
            new(DELIVERIES, "retryDeliveries", "Send deliveries again that did not arrive")
                .about("Those that failed or died, of a time and as the filters say; at most 10,000 with one request.")
                .body(input("RetryRequest", &json!({"since": "1h", "status": "dead_letter"})))
                .answer(200, "How many are sent again.", json_of("Retried"))
                .refused(BODY)
        }
        (Verb::Get, "/deliveries/{id}") => by_id(new(DELIVERIES, "getDelivery", "Show a delivery"))
            .answer(200, "The delivery.", json_of("Delivery"))
            .refused(&[404]),
        (Verb::Delete, "/deliveries/{id}") => by_id(new(DELIVERIES, "deleteDelivery", "Delete a delivery"))
            .answer_without_body(204, "It is gone.")
            .refused(&[404, 409]),
        (Verb::Post, "/deliveries/{id}/retry") => by_id(new(DELIVERIES, "retryDelivery", "Send a delivery again"))
            .answer(200, "The delivery, which is due now.", json_of("Delivery"))
            .refused(&[404, 409]),
        (Verb::Get, "/status") => new(PROCESS, "getStatus", "Version, roles, backends and backlogs")
            .answer(200, "The status.", json_of("Status"))
            .headers(&[200], &[CACHE_CONTROL]),
        _ => return dead_letter_operation(verb, path).or_else(|| access_operation(verb, path)),
    })
}

fn dead_letter_operation(verb: Verb, path: &str) -> Option<Operation> {
    let new = |id: &str, summary: &str| Operation::new(DEAD_LETTERS, id, summary);
    let numbered = |operation: Operation| {
        operation
            .parameter(json!({
                "name": "id", "in": "path", "required": true, "schema": {"type": "integer", "minimum": 0}, "example": 7,
            }))
            .refused(&[404])
    };
    Some(match (verb, path) {
        (Verb::Get, "/dead-letters") => {
            let reasons: Vec<_> = Reason::ALL.iter().map(|reason| reason.name()).collect();
            let list = new("listDeadLetters", "List dead letters, the latest first")
                .about("With filters a page may have fewer items than its limit, or none, and still not be the last.")
                .parameter(query(
                    "kind",
                    "Given up by a consumer, or refused.",
                    json!({"enum": ["message", "input"]}),
                    None,
                ))
                .parameter(query("consumer", "Who gave it up.", text(), None))
                .parameter(query("app_id", "Of the app.", text(), None))
                .parameter(query("reason_code", "Why input was refused.", json!({"enum": reasons}), None));
            paged(list, "DeadLetter")
        }
        (Verb::Get, "/dead-letters/counts") => new(
            "countDeadLetters",
            "Count refused input by app and reason, the most first",
        )
        .answer(200, "The counts.", json_of("DeadLetterCounts")),
        (Verb::Delete, "/dead-letters") => new("purgeDeadLetters", "Delete all dead letters")
            .parameter(query("before", "Only those that died before then.", time_schema(), Some(json!("30d"))))
            .answer(200, "How many are gone.", json_of("Deleted")),
        (Verb::Get, "/dead-letters/{id}") => numbered(new("getDeadLetter", "Show a dead letter with its payload"))
            .answer(200, "The dead letter.", json_of("DeadLetter")),
        (Verb::Delete, "/dead-letters/{id}") => {
            numbered(new("deleteDeadLetter", "Delete a dead letter")).answer_without_body(204, "It is gone.")
        }
        (Verb::Post, "/dead-letters/{id}/replay") => {
            numbered(new("replayDeadLetter", "Give a dead letter to its consumer again, or read refused input again"))
                .about("Input that is still refused stays, with what is wrong now (422).")
                .answer_without_body(204, "It is on its way.")
                .refused(&[422])
        }
        _ => return None,
    })
}

fn access_operation(verb: Verb, path: &str) -> Option<Operation> {
    let new = |id: &str, summary: &str| Operation::new(ACCESS, id, summary);
    let (key, token) = (json!("ios release"), json!("ops laptop"));
    Some(match (verb, path) {
        (Verb::Get, "/keys") => paged(new("listKeys", "List API keys; never the keys themselves"), "ApiKey"),
        (Verb::Post, "/keys") => {
            let create = new("createKey", "Create an API key").about("The answer is the only place where it is shown.");
            let example = json!({"app_id": "shop", "name": key, "requests_per_second": 100, "burst": 200});
            created(create.body(input("NewApiKey", &example)), "CreatedApiKey", "Keys")
                .headers(&[201], &[CACHE_CONTROL])
                .refused(BODY)
                .refused(&[409])
        }
        (Verb::Get, "/keys/{id}") => by_key(new("getKey", "Show an API key, but for the key itself"), &key)
            .answer(200, "About the key.", json_of("ApiKey"))
            .refused(&[404]),
        (Verb::Delete, "/keys/{id}") => by_key(new("revokeKey", "Revoke an API key"), &key)
            .answer_without_body(204, "It is revoked; gateways know within five seconds.")
            .refused(&[404]),
        (Verb::Get, "/tokens") => paged(new("listTokens", "List tokens; never the tokens themselves"), "AdminToken"),
        (Verb::Post, "/tokens") => {
            let create = new("createToken", "Create a token").about("The answer is the only place where it is shown.");
            let example = json!({"name": token, "role": "operator", "expires_at": "2099-12-31T00:00:00Z"});
            created(create.body(input("NewAdminToken", &example)), "CreatedAdminToken", "Tokens")
                .headers(&[201], &[CACHE_CONTROL])
                .refused(BODY)
                .refused(&[409])
        }
        (Verb::Get, "/tokens/{id}") => by_key(new("getToken", "Show a token, but for the token itself"), &token)
            .answer(200, "About the token.", json_of("AdminToken"))
            .refused(&[404]),
        (Verb::Delete, "/tokens/{id}") => by_key(new("revokeToken", "Revoke a token"), &token)
            .answer_without_body(204, "It is revoked.")
            .refused(&[404]),
        (Verb::Get, "/audit") => {
            let list = new("listAudit", "List changes, the latest first")
                .parameter(query("actor", "A token's id or name.", text(), None))
                .parameter(query(
                    "kind",
                    "Of what was changed.",
                    json!({"enum": AuditKind::ALL.map(AuditKind::text)}),
                    None,
                ))
                .parameter(since());
            paged(list, "AuditRecord")
        }
        (Verb::Post, "/erasures") => new("erasePerson", "Erase what is stored of a person, one step of it")
            .about(
                "Erases events of the bus, dead letters, deliveries and anomaly events of a device or a user; the \
                 lake is not touched. A call takes seconds. Repeat it with `after_sequence` as `scanned_through` says and \
                 the same `through_sequence` until `is_scanned` and `is_settled`.",
            )
            .body(input("ErasureRequest", &examples::erasure()))
            .answer(200, "How far it has come.", json_of("Erasure"))
            .refused(BODY),
        _ => return None,
    })
}

fn process_operation(path: &str) -> Option<Operation> {
    let new = |id: &str, summary: &str| Operation::new(PROCESS, id, summary);
    let ready =
        |example: &str| json!({"application/json": {"schema": reference("Ready"), "example": {"status": example}}});
    let page = |id: &str, summary: &str, media_type: &str| {
        with_page_headers(new(id, summary).serves(Some(json!({media_type: {"schema": {}}}))))
    };
    Some(match path {
        "/health" => new("getHealth", "Whether the process lives")
            .answer(200, "It lives.", json_of("Health"))
            .headers(&[200], &[CACHE_CONTROL]),
        "/ready" => new("getReady", "Whether the process works")
            .about("Those with a valid token, and everybody where none is asked for, are told why not.")
            .answer(200, "It does.", ready("ready"))
            .answer(503, "It does not.", ready("unready"))
            .headers(&[200, 503], &[CACHE_CONTROL]),
        "/metrics" => new("getMetrics", "Metrics for Prometheus")
            .answer(200, "Prometheus's text format.", json!({"text/plain": {"schema": {"type": "string"}}}))
            .headers(&[200], &[CACHE_CONTROL]),
        "/openapi.json" => page("getOpenApi", "This document", "application/json"),
        "/docs" => page("getDocs", "A page to read this document and try the API", "text/html"),
        "/docs/page.js" => page("getDocsScript", "The script of that page", "text/javascript"),
        "/docs/page.css" => page("getDocsStyle", "The style of that page", "text/css"),
        "/docs/gateway.json" => {
            page("getGatewayOpenApi", "The document of the gateway", "application/json").refused(&[404])
        }
        _ => return None,
    })
}

fn json_of(schema: &str) -> Value {
    json!({"application/json": {"schema": reference(schema)}})
}

fn input(schema: &str, example: &Value) -> Value {
    json!({"application/json": {"schema": reference(schema), "examples": {"example": {"value": example}}}})
}

fn merge_patch(schema: &str, example: &Value) -> Value {
    let content = json!({"schema": reference(schema), "examples": {"disable": {"value": example}}});
    json!({"application/merge-patch+json": content, "application/json": content})
}

/// 201 with the location; the new object can be shown and deleted by its id.
fn created(operation: Operation, schema: &str, plural: &str) -> Operation {
    let singular = plural.trim_end_matches('s');
    let delete = if matches!(plural, "Keys" | "Tokens") { "revoke" } else { "delete" };
    let link =
        |verb: &str| json!({"operationId": format!("{verb}{singular}"), "parameters": {"id": "$response.body#/id"}});
    operation.answer_with(
        201,
        json!({
            "description": "It is stored.",
            "headers": {"Location": {"$ref": "#/components/headers/Location"}},
            "content": json_of(schema),
            "links": {"show": link("get"), "delete": link(delete)},
        }),
    )
}

fn by_key(operation: Operation, example: &Value) -> Operation {
    operation.parameter(json!({
        "name": "id",
        "in": "path",
        "required": true,
        "description": "An id or a name.",
        "schema": {"type": "string", "minLength": 1},
        "example": example,
    }))
}

fn by_id(operation: Operation) -> Operation {
    operation.parameter(json!({
        "name": "id",
        "in": "path",
        "required": true,
        "schema": {"type": "string", "format": "uuid"},
        "example": "0190a2b4-7c1e-7000-8000-3f2a9c1b4d5e",
    }))
}

fn query(name: &str, description: &str, schema: Value, example: Option<Value>) -> Value {
    let mut parameter = json!({"name": name, "in": "query", "description": description, "schema": schema});
    if let Some(example) = example {
        parameter["example"] = example;
    }
    parameter
}

fn text() -> Value {
    json!({"type": "string"})
}

/// See [`crate::base::time::FORMS`].
fn time_schema() -> Value {
    json!({
        "type": "string",
        "description": format!("{}, or milliseconds since the Unix epoch.", crate::base::time::FORMS),
    })
}

fn since() -> Value {
    query("since", "Only what came since then.", time_schema(), Some(json!("7d")))
}

/// A paginated list.
fn paged(operation: Operation, item: &str) -> Operation {
    operation
        .parameter(query(
            "limit",
            "Items of a page; 100 when absent.",
            json!({"type": "integer", "minimum": 1, "maximum": 1000}),
            Some(json!(10)),
        ))
        .parameter(query("cursor", "`next` of the page before.", text(), None))
        .answer(200, "One page.", json_of(&format!("{item}List")))
}
