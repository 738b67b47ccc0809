//! The OpenAPI documents: they are valid, their examples work, and no request that they describe or forbid is answered
//! otherwise than they say.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::harness::{Server, binary, get, python};

const TOKEN: &str = "the-first-admin-of-a-test-0123456789";

fn start(dir: &Path, closed: bool) -> Server {
    let mut environment = vec![("RATE_LIMIT_ENABLED", "false")];
    if closed {
        environment.extend([("AUTH_ENABLED", "true"), ("ADMIN_TOKEN", TOKEN)]);
    }
    Server::start(dir, &environment)
}

/// A key of the app that the examples are of.
fn key(server: &Server) -> String {
    let new = json!({"app_id": "shop", "name": "openapi"}).to_string();
    let request = ureq::post(format!("{}/api/admin/keys", server.admin)).header("content-type", "application/json");
    let reply = request.header("authorization", format!("Bearer {TOKEN}")).send(new).unwrap();
    let reply: Value = serde_json::from_str(&reply.into_body().read_to_string().unwrap()).unwrap();
    reply["key"].as_str().unwrap().to_owned()
}

fn printed(api: &str) -> Value {
    let output = Command::new(binary()).args(["openapi", api]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn the_documents_are_valid_and_their_examples_work() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path(), true);
    for (api, url) in [("gateway", &server.http), ("admin", &server.admin)] {
        let (status, served) = get(&format!("{url}/openapi.json")).unwrap();
        assert_eq!(status, 200);
        assert_eq!(serde_json::from_str::<Value>(&served).unwrap(), printed(api), "{api}");
    }
    let (status, of_gateway) = get(&format!("{}/docs/gateway.json", server.admin)).unwrap();
    assert_eq!((status, serde_json::from_str::<Value>(&of_gateway).unwrap()), (200, printed("gateway")));
    let key = key(&server);
    let sent = python("openapi/check.py", &["gateway", &server.http, &key], "");
    assert!(sent.trim().parse::<usize>().unwrap() > 40, "{sent}");
    let sent = python("openapi/check.py", &["admin", &server.admin, TOKEN, &server.http, &key], "");
    assert!(sent.trim().parse::<usize>().unwrap() > 40, "{sent}");
}
