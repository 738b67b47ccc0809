//! The commands as a person or a script runs them, against a running process.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::{Value, json};

use crate::harness::{Receiver, Server, binary, free_port, wait_until};

fn run(admin: &str, arguments: &[&str]) -> Output {
    Command::new(binary()).args(arguments).env_clear().env("CAUSALITY_ADMIN_URL", admin).output().unwrap()
}

fn ok(server: &Server, arguments: &[&str]) -> String {
    let output = run(&server.admin, arguments);
    let (out, err) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert!(output.status.success(), "{arguments:?}: {out}{err}");
    out
}

fn json_of(server: &Server, arguments: &[&str]) -> Value {
    serde_json::from_str(&ok(server, arguments)).unwrap()
}

#[test]
fn documents_are_applied_listed_shown_and_deleted() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &[]);
    let receiver = Receiver::start();
    let file = dir.path().join("reactions.yaml");
    let text = format!(
        "webhooks:\n  - {{name: ops, url: \"{}/ops\", auth_type: bearer, auth_config: {{token: t0k}}}}\n\
         rules:\n  - {{name: logins, event_type: login, actions: {{webhooks: [ops]}}}}\n\
         anomalies:\n  - {{name: storm, detection_type: rate, config: {{max_per_minute: 1000}}}}\n",
        receiver.url
    );
    std::fs::write(&file, text).unwrap();
    let file = file.to_str().unwrap();
    assert_eq!(ok(&server, &["apply", "-f", file]).matches("created").count(), 3);
    assert_eq!(ok(&server, &["apply", "-f", file]).matches("created").count(), 0, "a second time changes nothing");
    for (kind, name) in [("webhooks", "ops"), ("rules", "logins"), ("anomalies", "storm")] {
        assert!(ok(&server, &[kind, "list"]).contains(name));
        assert_eq!(json_of(&server, &[kind, "list", "--json"])[0]["name"], name);
        assert_eq!(json_of(&server, &[kind, "get", name, "--json"])["name"], name);
    }
    assert!(!ok(&server, &["webhooks", "get", "ops"]).contains("t0k"));

    let event = json!({"event": {"id": "e1", "appId": "a", "deviceId": "d", "userLogin": {}}});
    assert_eq!(server.send("/v1/events/ingest", &event).unwrap().0, 200);
    receiver.wait_for("/ops", 1);
    wait_until("the delivery is recorded", || {
        json_of(&server, &["deliveries", "list", "--json"])[0]["status"] == "delivered"
    });
    let delivery = json_of(&server, &["deliveries", "list", "--json"])[0]["id"].as_str().unwrap().to_owned();
    assert!(ok(&server, &["deliveries", "get", &delivery]).contains("e1"));
    assert_eq!(run(&server.admin, &["deliveries", "retry", &delivery]).status.code(), Some(1), "it was delivered");
    ok(&server, &["deliveries", "delete", &delivery]);
    assert_eq!(run(&server.admin, &["deliveries", "get", &delivery]).status.code(), Some(1));

    let key = json_of(&server, &["keys", "create", "--app", "shop", "--name", "ci", "--json"]);
    assert_eq!(key["key"].as_str().unwrap().len(), 64);
    let listed = ok(&server, &["keys", "list", "--json"]);
    assert!(listed.contains("\"ci\"") && !listed.contains(key["key"].as_str().unwrap()));
    ok(&server, &["keys", "delete", key["id"].as_str().unwrap()]);
    assert!(ok(&server, &["dead-letters", "list", "--json"]).trim().starts_with('['));
    assert!(ok(&server, &["status"]).contains("warehouse-sink"));

    for (kind, name) in [("rules", "logins"), ("anomalies", "storm"), ("webhooks", "ops")] {
        ok(&server, &[kind, "delete", name]);
        assert_eq!(run(&server.admin, &[kind, "get", name]).status.code(), Some(1));
    }
    server.expect_quiet_log(&[]);
}

#[test]
fn what_is_wrong_in_a_file_is_named_and_nothing_is_stored() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &[]);
    let file = dir.path().join("wrong.yaml");
    std::fs::write(&file, "rules:\n  - {name: r, expression: 'event.'}\n").unwrap();
    let output = run(&server.admin, &["apply", "-f", file.to_str().unwrap()]);
    let message = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(message.contains("wrong.yaml") && message.contains("/expression"), "{message}");
    assert_eq!(server.admin_get("/rules")["items"], json!([]));
}

#[test]
fn mistakes_end_with_their_exit_code_and_a_sentence() {
    let nobody = format!("http://127.0.0.1:{}", free_port());
    let output = run(&nobody, &["rules", "list"]);
    assert_eq!(output.status.code(), Some(69));
    assert!(String::from_utf8(output.stderr).unwrap().contains("is `causality run` running"));
    assert_eq!(run(&nobody, &["rules", "fly"]).status.code(), Some(64));

    let refused = |environment: (&str, &str), arguments: &[&str], wanted: &str| {
        let dir = tempfile::tempdir().unwrap();
        let output = Command::new(binary())
            .args(arguments)
            .env_clear()
            .env(environment.0, environment.1)
            .current_dir(dir.path())
            .output()
            .unwrap();
        let message = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(64), "{message}");
        assert!(message.contains(wanted), "{message}");
        assert!(!Path::new(&dir.path().join("causality-data")).exists(), "a refused start leaves nothing behind");
    };
    refused(("HTTP_ADDR", "nowhere"), &["run"], "http_addr = \"nowhere\" (from environment HTTP_ADDR)");
    refused(("NATS_URL", "h:4222"), &["run"], "nats_url");
    refused(("AUTH_ENABLED", "true"), &["run"], "AUTH_ENABLED");
    refused(("HTTP_ADDR", "127.0.0.1:0"), &["run", "--role", "gate"], "a role is all, gateway, sink or reaction");
    refused(("BATCH_FLUSH_INTERVAL", "soon"), &["config"], "a duration such as");
}

#[test]
fn a_taken_port_or_directory_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &[]);
    let again = |http: &str, admin: &str| {
        let output = Command::new(binary())
            .arg("run")
            .env_clear()
            .env("DATA_DIR", dir.path().join("data"))
            .env("HTTP_ADDR", http)
            .env("ADMIN_ADDR", admin)
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8(output.stderr).unwrap()
    };
    let taken = server.http.strip_prefix("http://").unwrap();
    let message = again(taken, "127.0.0.1:0");
    assert!(message.contains("http_addr") && message.contains(taken), "{message}");
    let message = again("127.0.0.1:0", "127.0.0.1:0");
    assert!(message.contains(dir.path().join("data").to_str().unwrap()), "{message}");
    assert_eq!(
        server
            .send("/v1/events/ingest", &json!({"event": {"appId": "a", "deviceId": "d", "userLogin": {}}}))
            .unwrap()
            .0,
        200
    );
}

/// What the compose file sets exists, and what it starts is a role.
#[test]
fn the_compose_file_sets_what_there_is() {
    let text = include_str!("../../compose.yaml");
    let file: Value = serde_yaml_ng::from_str(text).unwrap();
    let services = file["services"].as_object().unwrap();
    let mut roles = 0;
    for (name, service) in services {
        let ours = service["image"].is_null() || service["<<"]["image"] == "causality";
        let Some(environment) = service["environment"].as_object().filter(|_| ours) else { continue };
        let inherited = environment.get("<<").and_then(Value::as_object).into_iter().flatten();
        for (setting, _) in environment.iter().filter(|(key, _)| *key != "<<").chain(inherited) {
            let known = causality::config::NAMES.iter().any(|known| known.to_ascii_uppercase() == *setting);
            assert!(known, "{name} sets {setting}");
        }
        let arguments: Vec<&str> = service["command"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
        if let ["run", "--role", role] = arguments[..] {
            role.parse::<causality::role::RoleSet>().unwrap();
            roles += 1;
        }
    }
    assert!(roles >= 3, "gateway, sink and reaction are started");
}
