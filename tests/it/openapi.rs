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

/// Checks of each answer against the document, whatever was asked.
const OF_ANSWERS: &str = "not_a_server_error,status_code_conformance,content_type_conformance,\
                          response_headers_conformance,response_schema_conformance";

/// What the fuzzer does in CI, the same each time, and what it does when it is asked for more.
fn effort() -> Vec<String> {
    match std::env::var("CAUSALITY_OPENAPI_EXAMPLES") {
        Ok(examples) => {
            let phases = "examples,coverage,fuzzing,stateful";
            vec![
                "--max-examples".to_owned(),
                examples,
                "--phases".to_owned(),
                phases.to_owned(),
                "--checks=all".to_owned(),
            ]
        }
        Err(_) => {
            let fixed = ["--max-examples=3", "--phases=examples,fuzzing", "--generation-deterministic"];
            let fixed = fixed.map(str::to_owned).into_iter();
            fixed.chain([format!("--checks={OF_ANSWERS}")]).collect()
        }
    }
}

#[test]
fn no_request_is_answered_otherwise_than_documented() {
    let (closed, open) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (closed, open) = (start(closed.path(), true), start(open.path(), false));
    let (key, token) = (format!("X-API-Key: {}", key(&closed)), format!("Authorization: Bearer {TOKEN}"));
    let made = [
        fuzz("gateway, with a key", &closed.http, &[&key]),
        fuzz("gateway, without a key", &closed.http, &[]),
        fuzz("gateway that asks for none", &open.http, &[]),
        fuzz("admin API, with a token", &closed.admin, &[&token]),
        fuzz("admin API, without a token", &closed.admin, &[]),
        fuzz("admin API that asks for none", &open.admin, &[]),
    ];
    println!("{} cases: {made:?}", made.iter().sum::<usize>());
    assert!(made.iter().all(|cases| *cases > 20), "{made:?}");
    for server in [&closed, &open] {
        assert_eq!(get(&format!("{}/ready", server.admin)).map(|(status, _)| status), Some(200));
    }
}

/// A run of Schemathesis; how many cases it made.
fn fuzz(name: &str, url: &str, headers: &[&str]) -> usize {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let program = root.join("target/python/bin/schemathesis");
    assert!(program.exists(), "Schemathesis is missing: run .ci/setup --tests");
    // It leaves files where it runs: the cases that failed.
    let place = tempfile::tempdir().unwrap();
    let settings = std::fs::read_to_string(root.join("tests/it/openapi/schemathesis.toml")).unwrap();
    let settings =
        settings.replace("tests/it/openapi/hooks.py", root.join("tests/it/openapi/hooks.py").to_str().unwrap());
    std::fs::write(place.path().join("schemathesis.toml"), settings).unwrap();
    let mut command = Command::new(program);
    command.current_dir(place.path()).args(["run", &format!("{url}/openapi.json")]).args(effort());
    command.args(["--continue-on-failure", "--no-color", "--suppress-health-check", "all"]);
    for header in headers {
        command.args(["--header", header]);
    }
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    println!("{name}:\n{said}");
    assert!(output.status.success(), "{name}:\n{said}");
    cases(&said)
}

/// From the line `12345 generated, 12345 passed`.
fn cases(said: &str) -> usize {
    let mut counts = said.lines().filter_map(|line| line.trim().split_once(" generated, ")?.0.parse().ok());
    counts.next_back().unwrap_or(0)
}
