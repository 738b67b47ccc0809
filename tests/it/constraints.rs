//! What the proto files say about a field holds in every language: an independent checker that knows nothing but those
//! files agrees with a running gateway.

use serde_json::{Value, json};

use crate::harness::{Server, python};

#[test]
fn protovalidate_says_what_the_gateway_says() {
    let (dir, keyed_dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let server = Server::start(dir.path(), &[]);
    let keyed = Server::start(keyed_dir.path(), &[("AUTH_ENABLED", "true")]);
    let key = keyed.admin_create("/keys", &json!({"app_id": "shop", "name": "constraints"}));
    let proto = concat!(env!("CARGO_MANIFEST_DIR"), "/proto");
    let arguments = [proto, &server.http, &keyed.http, key["key"].as_str().unwrap()];
    let summary: Value = serde_json::from_str(&python("check_constraints.py", &arguments, "")).unwrap();
    // The script fails at the first verdict that differs, and when a rule is not tried on both of its sides.
    assert_eq!(summary["events"], 10_000, "{summary}");
    assert!(summary["invalid"].as_u64().is_some_and(|invalid| (2_000..8_000).contains(&invalid)), "{summary}");
    // What options cannot say, as docs/events.md has it; each was tried.
    assert_eq!(summary["differences"], 10, "{summary}");
}
