//! The OpenAPI documents: they are valid, their examples work, and no request that they describe or forbid is answered
//! otherwise than they say.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::harness::{Server, binary, get, python};

const TOKEN: &str = "the-first-admin-of-a-test-0123456789";

const NO_LIMITS: (&str, &str) = ("RATE_LIMIT_ENABLED", "false");
/// The origin that the examples are sent from.
const PAGE: (&str, &str) = ("CORS_ALLOWED_ORIGINS", "https://shop.example");
const CREDENTIALS: (&str, &str) = ("CORS_ALLOW_CREDENTIALS", "true");

/// A server that asks for keys and tokens.
fn start_closed(dir: &Path, rate_limit: (&str, &str)) -> Server {
    Server::start(dir, &[("AUTH_ENABLED", "true"), ("ADMIN_TOKEN", TOKEN), rate_limit, PAGE, CREDENTIALS])
}

/// One that asks for none, and keeps what it refuses.
fn start_open(dir: &Path) -> Server {
    Server::start(dir, &[("QUARANTINE", "true"), NO_LIMITS, PAGE, CREDENTIALS])
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
    // With limits, so that replies have their headers.
    let server = start_closed(dir.path(), ("RATE_LIMIT_ENABLED", "true"));
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

#[test]
fn what_a_gateway_without_keys_asks_for_is_documented() {
    let dir = tempfile::tempdir().unwrap();
    let server = start_open(dir.path());
    let sent = python("openapi/check.py", &["open", &server.http], "");
    assert!(sent.trim().parse::<usize>().unwrap() > 100, "{sent}");
}

/// Checks of each answer against the document, whatever was asked.
const OF_ANSWERS: &str = "not_a_server_error,status_code_conformance,content_type_conformance,\
                          response_headers_conformance,response_schema_conformance,no_undocumented_header";

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
    let (closed, open) = (start_closed(closed.path(), NO_LIMITS), start_open(open.path()));
    let (key, token) = (format!("X-API-Key: {}", key(&closed)), format!("Authorization: Bearer {TOKEN}"));
    // Beside each other: a run has one thread, and mostly waits for what is stored.
    let made = std::thread::scope(|scope| {
        let runs = [
            ("gateway, with a key", &closed.http, Some(&key)),
            ("gateway, without a key", &closed.http, None),
            ("gateway that asks for none", &open.http, None),
            ("admin API, with a token", &closed.admin, Some(&token)),
            ("admin API, without a token", &closed.admin, None),
            ("admin API that asks for none", &open.admin, None),
        ];
        let runs = runs.map(|(name, url, header)| scope.spawn(move || fuzz(name, url, header)));
        runs.map(|run| run.join().unwrap())
    });
    made.iter().for_each(|run| println!("{}", run.said));
    let cases: Vec<_> = made.iter().map(|run| cases(&run.said)).collect();
    println!("{} cases: {cases:?}", cases.iter().sum::<usize>());
    assert!(cases.iter().all(|cases| *cases > 20), "{cases:?}");
    assert!(made.iter().all(|run| run.passed), "what failed is told above");
    for server in [&closed, &open] {
        assert_eq!(get(&format!("{}/ready", server.admin)).map(|(status, _)| status), Some(200));
    }
}

/// A run of Schemathesis.
struct Fuzzed {
    said: String,
    passed: bool,
}

fn fuzz(name: &str, url: &str, header: Option<&String>) -> Fuzzed {
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
    if let Some(header) = header {
        command.args(["--header", header]);
    }
    let output = command.output().unwrap();
    let (out, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    Fuzzed { said: format!("{name}:\n{out}{error}"), passed: output.status.success() }
}

/// From the line `12345 generated, 12345 passed`.
fn cases(said: &str) -> usize {
    let mut counts = said.lines().filter_map(|line| line.trim().split_once(" generated, ")?.0.parse().ok());
    counts.next_back().unwrap_or(0)
}
