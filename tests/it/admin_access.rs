//! The admin port where others can reach it: tokens, roles and the audit log, with the real binary and its commands.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::harness::{Server, binary, free_port, get, wait_until};

const FIRST: &str = "0123456789abcdef0123456789abcdef";

/// A command of an operator elsewhere, who knows the address and maybe a token.
fn run(admin: &str, environment: &[(&str, &str)], arguments: &[&str]) -> Output {
    let mut command = Command::new(binary());
    command.args(arguments).env_clear().env("CAUSALITY_ADMIN_URL", admin).envs(environment.iter().copied());
    command.output().unwrap()
}

fn told(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

fn ok(admin: &str, token: &str, arguments: &[&str]) -> String {
    let output = run(admin, &[("CAUSALITY_ADMIN_TOKEN", token)], arguments);
    assert!(output.status.success(), "{arguments:?}: {}", told(&output));
    String::from_utf8(output.stdout).unwrap()
}

fn json_of(admin: &str, token: &str, arguments: &[&str]) -> Value {
    serde_json::from_str(&ok(admin, token, arguments)).unwrap()
}

/// What fails says why.
fn fails(output: &Output, words: &str) {
    let told = told(output);
    assert!(output.status.code() == Some(1) && told.contains(words), "{words}: {told}");
}

/// A process whose admin port is on every interface.
fn beyond_loopback(dir: &Path, environment: &[(&str, &str)]) -> (Server, String) {
    let port = free_port();
    let address = format!("0.0.0.0:{port}");
    let mut all = vec![("ADMIN_ADDR", address.as_str())];
    all.extend(environment);
    let server = Server::launch(dir, &all);
    let admin = format!("http://127.0.0.1:{port}");
    wait_until("the process is ready", || get(&format!("{admin}/ready")).is_some_and(|(status, _)| status == 200));
    (server, admin)
}

#[test]
fn beyond_loopback_the_admin_port_asks_for_tokens() {
    let dir = tempfile::tempdir().unwrap();
    let (mut server, admin) = beyond_loopback(dir.path(), &[("ADMIN_TOKEN", FIRST)]);
    let status = |path: &str| get(&format!("{admin}{path}")).unwrap();
    assert_eq!(status("/health").0, 200);
    assert_eq!(status("/ready"), (200, r#"{"status":"ready"}"#.to_owned()));
    for path in ["/metrics", "/api/admin/status", "/api/admin/rules", "/"] {
        assert_eq!(status(path).0, 401, "{path}");
    }
    fails(&run(&admin, &[], &["rules", "list"]), "CAUSALITY_ADMIN_TOKEN");
    fails(&run(&admin, &[("CAUSALITY_ADMIN_TOKEN", "wrong")], &["rules", "list"]), "The token is not valid");
    // The token of the settings is for the process that they name, and for no other address.
    fails(&run(&admin, &[("ADMIN_TOKEN", FIRST)], &["rules", "list"]), "CAUSALITY_ADMIN_TOKEN");
    let here = Command::new(binary())
        .args(["rules", "list"])
        .env_clear()
        .env("ADMIN_ADDR", admin.strip_prefix("http://").unwrap())
        .env("ADMIN_TOKEN", FIRST)
        .output()
        .unwrap();
    assert!(here.status.success(), "{}", told(&here));

    let viewer = ok(&admin, FIRST, &["tokens", "create", "--name", "dashboard", "--role", "viewer", "--expires", "7d"]);
    let operator = ok(&admin, FIRST, &["tokens", "create", "--name", "ops", "--role", "operator"]);
    let (viewer, operator) = (viewer.trim(), operator.trim());
    let file = dir.path().join("token");
    std::fs::write(&file, operator).unwrap();
    let by_file = [("CAUSALITY_ADMIN_TOKEN_FILE", file.to_str().unwrap())];
    let rules = dir.path().join("rules.yaml");
    std::fs::write(&rules, "rules:\n  - {name: logins, event_type: login}\n").unwrap();
    let apply = ["apply", "-f", rules.to_str().unwrap()];
    assert!(run(&admin, &by_file, &apply).status.success());
    assert_eq!(json_of(&admin, viewer, &["rules", "list", "--json"])[0]["name"], "logins");
    let refused = run(&admin, &[("CAUSALITY_ADMIN_TOKEN", viewer)], &["rules", "delete", "logins"]);
    fails(&refused, "needs a token with the role operator; this one's is viewer");
    fails(&run(&admin, &by_file, &["audit"]), "the role admin");

    // What was decided survives a kill.
    server.kill();
    server.relaunch();
    wait_until("the process is ready again", || {
        get(&format!("{admin}/ready")).is_some_and(|(status, _)| status == 200)
    });
    assert_eq!(json_of(&admin, viewer, &["rules", "list", "--json"])[0]["name"], "logins");
    let records = json_of(&admin, FIRST, &["audit", "--json"]);
    let made = records.as_array().unwrap().iter().find(|record| record["kind"] == "rule").unwrap();
    assert_eq!((&made["actor"], &made["action"], &made["name"]), (&json!("ops"), &json!("create"), &json!("logins")));
    assert_eq!((&made["address"], &made["after"]["event_type"]), (&json!("127.0.0.1"), &json!("login")));
    assert!(ok(&admin, FIRST, &["audit", "--actor", "ops", "--since", "1h"]).contains("create rule"));
    assert!(ok(&admin, FIRST, &["tokens", "list"]).contains("dashboard"));
    ok(&admin, FIRST, &["tokens", "delete", "dashboard"]);
    fails(&run(&admin, &[("CAUSALITY_ADMIN_TOKEN", viewer)], &["rules", "list"]), "was revoked");

    let log = std::fs::read_to_string(dir.path().join("log.jsonl")).unwrap();
    let kept = records.to_string();
    for secret in [FIRST, viewer, operator] {
        assert!(!log.contains(secret) && !kept.contains(secret));
    }
    server.expect_quiet_log(&[]);
}

#[test]
fn beyond_loopback_without_a_first_token_nobody_gets_in() {
    let dir = tempfile::tempdir().unwrap();
    let scraper = "s".repeat(40);
    let (server, admin) = beyond_loopback(dir.path(), &[("METRICS_TOKEN", &scraper)]);
    fails(&run(&admin, &[], &["rules", "list"]), "ADMIN_TOKEN, which is not set in this process");
    fails(&run(&admin, &[("CAUSALITY_ADMIN_TOKEN", &scraper)], &["status"]), "not valid");
    assert_eq!(get(&format!("{admin}/ready")).unwrap().1, r#"{"status":"ready"}"#);
    assert_eq!(get(&format!("{admin}/metrics")).unwrap().0, 401);
    let mut scraped = ureq::get(format!("{admin}/metrics")).header("authorization", format!("Bearer {scraper}")).call();
    let metrics = scraped.as_mut().unwrap().body_mut().read_to_string().unwrap();
    assert!(metrics.contains(r#"causality_admin_refused_total{reason="missing"}"#), "{metrics}");
    let log = std::fs::read_to_string(dir.path().join("log.jsonl")).unwrap();
    assert!(log.contains("ADMIN_TOKEN is not set"), "{log}");
    server.expect_quiet_log(&["ADMIN_TOKEN is not set"]);
}

#[test]
fn a_first_token_is_asked_for_on_loopback_too_and_is_never_shown() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &[("ADMIN_TOKEN", FIRST)]);
    assert_eq!(get(&format!("{}/api/admin/status", server.admin)).unwrap().0, 401);
    assert!(ok(&server.admin, FIRST, &["status"]).contains("version"));
    let config =
        |token: &str| Command::new(binary()).arg("config").env_clear().env("ADMIN_TOKEN", token).output().unwrap();
    let shown = config(FIRST);
    assert!(shown.status.success() && !told(&shown).contains(FIRST) && told(&shown).contains("admin_token = \"***\""));
    let short = config("hunter2");
    assert_eq!(short.status.code(), Some(64));
    assert!(told(&short).contains("admin_token") && !told(&short).contains("hunter2"), "{}", told(&short));
}

/// Over PostgreSQL: what one process makes and revokes, the other knows with the next request.
#[test]
fn a_token_that_one_process_revokes_is_refused_by_the_other() {
    let cluster = Cluster::start(&[("ADMIN_TOKEN", FIRST)]);
    let [one, other] = [cluster.role("reaction", 0), cluster.role("reaction", 1)];
    let token = ok(&one.admin, FIRST, &["tokens", "create", "--name", "ops", "--role", "operator"]);
    let token = token.trim();
    assert_eq!(json_of(&other.admin, token, &["rules", "list", "--json"]), json!([]));
    ok(&other.admin, FIRST, &["tokens", "delete", "ops"]);
    fails(&run(&one.admin, &[("CAUSALITY_ADMIN_TOKEN", token)], &["rules", "list"]), "was revoked");
    let records = json_of(&one.admin, FIRST, &["audit", "--kind", "token", "--json"]);
    let actions: Vec<&Value> = records.as_array().unwrap().iter().map(|record| &record["action"]).collect();
    assert_eq!(actions, ["delete", "create"]);
    // One without a store says who serves the API, and asks for a token for its metrics.
    let sink = cluster.role("sink", 0);
    assert_eq!(get(&format!("{}/api/admin/rules", sink.admin)).unwrap().0, 404);
    assert_eq!(get(&format!("{}/metrics", sink.admin)).unwrap().0, 401);
}
