//! The commands as a person or a script runs them, against a running process.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use serde_json::{Value, json};

use causality::app::role::{Role, RoleSet};

use crate::harness::{Receiver, Server, binary, free_port, get, wait_until};

fn run(admin: &str, arguments: &[&str]) -> Output {
    Command::new(binary()).args(arguments).env_clear().env("CAUSALITY_ADMIN_URL", admin).output().unwrap()
}

pub(crate) fn ok(server: &Server, arguments: &[&str]) -> String {
    let output = run(&server.admin, arguments);
    let (out, err) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert!(output.status.success(), "{arguments:?}: {out}{err}");
    out
}

pub(crate) fn json_of(server: &Server, arguments: &[&str]) -> Value {
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
    let hook = json_of(&server, &["webhooks", "get", "ops", "--json"])["id"].as_str().unwrap().to_owned();
    assert_eq!(json_of(&server, &["rules", "get", "logins", "--json"])["actions"]["webhooks"], json!([hook]));
    for shown in [ok(&server, &["rules", "list"]), ok(&server, &["rules", "get", "logins"])] {
        assert!(shown.contains("ops") && !shown.contains(&hook), "people read names: {shown}");
    }

    let event = json!({"event": {"id": "e1", "appId": "a", "deviceId": "d", "userLogin": {}}});
    assert_eq!(server.send("/v1/events/ingest", &event).unwrap().0, 200);
    receiver.wait_for("/ops", 1);
    wait_until("the delivery is recorded", || {
        json_of(&server, &["deliveries", "list", "--json"])[0]["status"] == "delivered"
    });
    let delivery = json_of(&server, &["deliveries", "list", "--json"])[0]["id"].as_str().unwrap().to_owned();
    assert!(ok(&server, &["deliveries", "get", &delivery]).contains("e1"));
    assert_eq!(run(&server.admin, &["deliveries", "retry", &delivery]).status.code(), Some(1), "it was delivered");
    let since = ["--since", "2026-01-31T09:00:00Z"];
    let retried = json_of(&server, &["deliveries", "retry", since[0], since[1], "--webhook", "ops", "--json"]);
    assert_eq!(retried, json!({"retried": 0, "more": false}));
    ok(&server, &["deliveries", "delete", &delivery]);
    assert_eq!(run(&server.admin, &["deliveries", "get", &delivery]).status.code(), Some(1));

    let key = json_of(&server, &["keys", "create", "--app", "shop", "--name", "ci", "--json"]);
    assert_eq!(key["key"].as_str().unwrap().len(), 64);
    let listed = ok(&server, &["keys", "list", "--json"]);
    assert!(listed.contains("\"ci\"") && !listed.contains(key["key"].as_str().unwrap()));
    assert_eq!(json_of(&server, &["keys", "get", "ci", "--json"])["id"], key["id"]);
    ok(&server, &["keys", "delete", key["id"].as_str().unwrap()]);
    assert!(ok(&server, &["dead-letters", "list", "--json"]).trim().starts_with('['));
    assert_eq!(json_of(&server, &["dead-letters", "purge", "--json"]), json!({"deleted": 0}));
    assert!(ok(&server, &["status"]).contains("warehouse-sink"));
    let gateway = run(&server.http, &["rules", "list"]);
    assert!(String::from_utf8(gateway.stderr).unwrap().contains("is this the gateway's port?"));

    for (kind, name) in [("rules", "logins"), ("anomalies", "storm"), ("webhooks", "ops")] {
        ok(&server, &[kind, "delete", name]);
        assert_eq!(run(&server.admin, &[kind, "get", name]).status.code(), Some(1));
    }
    server.expect_quiet_log(&[]);
}

/// What was owed to a webhook that is switched off waits, and the one who asks for it is told.
#[test]
fn a_retry_to_a_disabled_webhook_says_what_it_waits_for() {
    let dir = tempfile::tempdir().unwrap();
    // 410 ends a delivery at once and disables the webhook.
    let receiver = Receiver::answering(|_| 410);
    let server = Server::start(dir.path(), &[]);
    server.admin_create("/webhooks", &json!({"name": "ops", "url": format!("{}/ops", receiver.url)}));
    server.admin_create("/rules", &json!({"name": "all", "actions": {"webhooks": ["ops"]}}));
    let event = json!({"event": {"id": "e1", "appId": "a", "deviceId": "d", "userLogin": {}}});
    assert_eq!(server.send("/v1/events/ingest", &event).unwrap().0, 200);
    wait_until("the delivery has failed", || {
        let delivery = &server.admin_get("/deliveries")["items"][0];
        delivery["status"] == "failed" || delivery["status"] == "dead_letter"
    });
    wait_until("the webhook is disabled", || server.admin_get("/webhooks/ops")["enabled"] == false);
    let id = server.admin_get("/deliveries")["items"][0]["id"].as_str().unwrap().to_owned();
    let output = run(&server.admin, &["deliveries", "retry", &id]);
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success() && told.contains("is pending until webhook \"ops\" is enabled"), "{told}");
}

/// What a disabled webhook is owed waits, as much of it as is allowed; the rest is told.
#[test]
fn what_a_disabled_webhook_loses_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let receiver = Receiver::answering(|_| 200);
    let server = Server::start(dir.path(), &[("WEBHOOK_DISABLED_MAX_PENDING", "2")]);
    let ops = json!({"name": "ops", "url": format!("{}/ops", receiver.url), "enabled": false});
    server.admin_create("/webhooks", &ops);
    server.admin_create("/rules", &json!({"name": "all", "actions": {"webhooks": ["ops"]}}));
    for n in 0..5 {
        let event = json!({"event": {"id": format!("e{n}"), "appId": "a", "deviceId": "d", "userLogin": {}}});
        assert_eq!(server.send("/v1/events/ingest", &event).unwrap().0, 200);
    }
    wait_until("three are given up", || server.admin_get("/webhooks/ops")["deliveries_given_up"] == 3);
    let waiting = server.admin_get("/deliveries");
    let waiting: Vec<_> = waiting["items"].as_array().unwrap().iter().map(|d| (&d["event_id"], &d["status"])).collect();
    assert_eq!(waiting, [(&json!("e4"), &json!("pending")), (&json!("e3"), &json!("pending"))]);
    assert_eq!(server.admin_get("/status")["store"]["deliveries_given_up"], 3);
    let ready = || get(&format!("{}/ready", server.admin)).unwrap().1;
    wait_until("readiness warns of it", || ready().contains("ops (3)"));
    let metrics = get(&format!("{}/metrics", server.admin)).unwrap().1;
    assert!(metrics.contains("causality_store_deliveries_given_up_total 3"), "{metrics}");

    let replaced = dir.path().join("ops.yaml");
    std::fs::write(&replaced, json!({"webhooks": [{"name": "ops", "url": ops["url"]}]}).to_string()).unwrap();
    ok(&server, &["apply", "-f", replaced.to_str().unwrap()]);
    let mut received: Vec<Value> =
        receiver.wait_for("/ops", 2).iter().map(|got| got.json()["event_id"].clone()).collect();
    received.sort_by_key(Value::to_string);
    assert_eq!(received, ["e3", "e4"]);
    wait_until("the warning is taken back", || !ready().contains("given up"));
}

/// A key that does not open what is stored is told at the start, not when it is needed.
#[test]
fn another_secrets_key_ends_the_start_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = Server::start(dir.path(), &[("SECRETS_KEY", &"0f".repeat(32))]);
    server.admin_create("/webhooks", &json!({"name": "ops", "url": "http://127.0.0.1:1/?token=hunter2"}));
    assert!(server.terminate(Duration::from_secs(30)).success());
    drop(server);
    let mut server = Server::launch(dir.path(), &[("SECRETS_KEY", &"f0".repeat(32))]);
    let status = server.wait_for_exit(Duration::from_secs(30));
    let log = std::fs::read_to_string(dir.path().join("log.jsonl")).unwrap();
    assert_eq!(status.code(), Some(78), "{log}");
    assert!(log.lines().last().unwrap().contains("secrets_key") && !log.contains("hunter2"), "{log}");
}

/// What is kept is for its owner alone, and what is set is shown without its secrets.
#[test]
fn secrets_stay_where_they_are() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let _server = Server::start(dir.path(), &[]);
    let mode = |path: &str| std::fs::metadata(dir.path().join(path)).unwrap().permissions().mode() & 0o777;
    assert_eq!([mode("data"), mode("data/bus.db"), mode("data/store.db")], [0o700, 0o600, 0o600]);
    let output = Command::new(binary())
        .arg("config")
        .env_clear()
        .env("DATABASE_URL", "postgres://h/db?user=u&password=zzz")
        .output()
        .unwrap();
    let shown = String::from_utf8(output.stdout).unwrap();
    assert!(shown.contains("postgres://h/db?user=u&password=***") && !shown.contains("zzz"), "{shown}");
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

/// A directory is one set: what is good in it waits for what is wrong.
#[test]
fn all_files_are_applied_or_none_and_a_dry_run_applies_none() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(&dir.path().join("data"), &[]);
    let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
    let path = dir.path().to_str().unwrap();
    write(
        "1.yaml",
        "webhooks: [{name: ops, url: 'http://127.0.0.1:1/'}]\nrules: [{name: good, actions: {webhooks: [ops]}}]\n",
    );
    write(
        "2.yaml",
        "rules:\n  - {name: broken, expression: 'event.', prioritty: 1, conditons: []}\n  - {name: lost, actions: {webhooks: [nobody]}}\n",
    );
    write(".hidden.yaml", "rules: [");
    write("3.yaml", "rules: [");
    let output = run(&server.admin, &["apply", "-f", path]);
    let message = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{message}");
    for part in [
        "2.yaml: rule \"broken\" /expression: ",
        "2.yaml: rule \"broken\" /prioritty: is not a known field (did you mean `priority`?)",
        "2.yaml: rule \"broken\" /conditons: is not a known field (did you mean `conditions`?)",
        "2.yaml: rule \"lost\" /actions/webhooks/0: ",
        "3.yaml: ",
    ] {
        assert!(message.contains(part), "{part}: {message}");
    }
    for list in ["/webhooks", "/rules"] {
        assert_eq!(server.admin_get(list)["items"], json!([]), "nothing of a set with a fault is stored");
    }

    std::fs::remove_file(dir.path().join("3.yaml")).unwrap();
    write("2.yaml", "rules: [{name: other, priority: 2}]\n");
    let dry = ok(&server, &["apply", "--dry-run", "-f", path]);
    assert_eq!(dry.matches("would be created").count(), 3, "{dry}");
    assert_eq!(server.admin_get("/rules")["items"], json!([]));
    // The listener's own setting says where it is.
    let address = server.admin.trim_start_matches("http://");
    let arguments = ["apply", "-f", path];
    let output = Command::new(binary()).args(arguments).env_clear().env("ADMIN_ADDR", address).output().unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap().matches("created").count(), 3);
    write("2.yaml", "rules: [{name: other, priority: 3}]\n");
    let dry = ok(&server, &["apply", "--dry-run", "-f", path]);
    assert!(dry.contains("rule \"other\" would be updated\n  - /priority: 2\n  + /priority: 3\n"), "{dry}");
    assert!(dry.contains("rule \"good\" is unchanged"), "{dry}");
    assert_eq!(server.admin_get("/rules/other")["priority"], 2);
    let said = String::from_utf8(run(&server.admin, &["deliveries", "retry", "--since", "soon"]).stderr).unwrap();
    assert!(said.contains("must be how long ago (30m, 1h, 7d), a date"), "{said}");
    let reversed = run(&server.admin, &["deliveries", "retry", "--since", "1h", "--until", "2h"]);
    let said = String::from_utf8(reversed.stderr).unwrap();
    assert!(
        reversed.status.code() == Some(1) && said.contains("/until") && said.contains("must be after `since`"),
        "{said}"
    );
    assert!(ok(&server, &["deliveries", "retry", "--since", "1h", "--json"]).contains("\"retried\": 0"));
}

#[test]
fn mistakes_end_with_their_exit_code_and_a_sentence() {
    let nobody = format!("http://127.0.0.1:{}", free_port());
    let output = run(&nobody, &["rules", "list"]);
    assert_eq!(output.status.code(), Some(69));
    assert!(String::from_utf8(output.stderr).unwrap().contains("is `causality run` running"));
    assert_eq!(run(&nobody, &["rules", "fly"]).status.code(), Some(64));
    let output = run(&nobody, &["bench", "--verify", "/nonexist"]);
    assert_eq!(output.status.code(), Some(64));
    assert!(String::from_utf8(output.stderr).unwrap().contains("/nonexist"));

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
    refused(("NATS_STREAM_SUBJECTS", "events.shop.>,anomalies.>"), &["run"], "nats_stream_subjects");
    refused(("AUTH_ENABLED", "maybe"), &["run"], "auth_enabled");
    refused(("RATE_LIMIT_PER_KEY_BURST", "5"), &["run"], "rate_limit_per_key_burst");
    refused(("CORS_ALLOWED_ORIGINS", "null"), &["run"], "cors_allowed_origins");
    refused(("TRUSTED_PROXIES", "my-proxy"), &["run"], "trusted_proxies");
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

fn compose_file() -> Value {
    serde_yaml_ng::from_str(include_str!("../../compose.yaml")).unwrap()
}

fn command(service: &Value) -> Vec<&str> {
    service["command"].as_array().unwrap().iter().filter_map(Value::as_str).collect()
}

/// What the compose file sets exists, and what it starts are all the roles.
#[test]
fn the_compose_file_sets_what_there_is() {
    let file = compose_file();
    let services = file["services"].as_object().unwrap();
    let mut roles = BTreeMap::new();
    for (name, service) in services {
        let ours = service["image"].is_null() || service["<<"]["image"] == "causality";
        let Some(environment) = service["environment"].as_object().filter(|_| ours) else { continue };
        let merged = environment.get("<<").into_iter().flat_map(|merged| match merged.as_array() {
            Some(several) => several.iter().collect(),
            None => vec![merged],
        });
        let inherited = merged.filter_map(Value::as_object).flatten();
        for (setting, _) in environment.iter().filter(|(key, _)| *key != "<<").chain(inherited) {
            let known = causality::config::NAMES.iter().any(|known| known.to_ascii_uppercase() == *setting);
            assert!(known, "{name} sets {setting}");
        }
        if let ["run", "--role", role] = command(service)[..] {
            role.parse::<RoleSet>().unwrap();
            roles.insert(name.as_str(), role);
        }
    }
    for role in Role::ALL.map(Role::name) {
        assert_eq!(roles.get(role), Some(&role), "each role has the service of its name");
    }
}

/// The secrets are made once, and each is given only to the roles that use it. Ports are open to this machine alone.
#[test]
fn the_compose_file_keeps_secrets_apart() {
    let dir = tempfile::tempdir().unwrap();
    let script = dir.path().join("deploy/docker/make-env");
    std::fs::create_dir_all(script.parent().unwrap()).unwrap();
    std::fs::copy(concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/docker/make-env"), &script).unwrap();
    let make = || assert!(Command::new(&script).output().unwrap().status.success());
    make();
    let env = std::fs::read_to_string(dir.path().join(".env")).unwrap();
    make();
    assert_eq!(std::fs::read_to_string(dir.path().join(".env")).unwrap(), env, "made once");
    let text = include_str!("../../compose.yaml");
    for required in text.split("${").skip(1).filter_map(|rest| rest.split_once(":?")).map(|(name, _)| name) {
        let value = env.lines().find_map(|line| line.strip_prefix(&format!("{required}="))).unwrap_or_default();
        assert!(value.len() >= 32, "{required} in {env}");
    }
    let file = compose_file();
    let keys_of = |service: &str| format!("{}", file["services"][service]["environment"]);
    for (service, secret, has) in [
        ("gateway", "S3_SECRET_ACCESS_KEY", false),
        ("gateway", "SECRETS_KEY", false),
        ("gateway", "DATABASE_PASSWORD", true),
        ("sink", "S3_SECRET_ACCESS_KEY", true),
        ("sink", "DATABASE_PASSWORD", false),
        ("sink", "SECRETS_KEY", false),
        ("reaction", "S3_SECRET_ACCESS_KEY", false),
        ("reaction", "SECRETS_KEY", true),
    ] {
        assert_eq!(keys_of(service).contains(secret), has, "{service} and {secret}");
    }
    for (name, service) in file["services"].as_object().unwrap() {
        for port in service["ports"].as_array().into_iter().flatten() {
            assert!(port.as_str().unwrap().starts_with("127.0.0.1:"), "{name}: {port}");
        }
    }
}

/// Nothing starts before what it needs is there, and what is waited for can be told to be there.
#[test]
fn the_compose_file_waits_for_what_is_needed() {
    let file = compose_file();
    let services = &file["services"];
    let (healthy, done) = ("service_healthy", "service_completed_successfully");
    for (service, needed, condition) in [
        ("bucket", "minio", healthy),
        ("migrate", "postgres", healthy),
        ("gateway", "nats", healthy),
        ("sink", "nats", healthy),
        ("sink", "bucket", done),
        ("reaction", "nats", healthy),
        ("reaction", "migrate", done),
    ] {
        assert_eq!(services[service]["depends_on"][needed]["condition"], condition, "{service} needs {needed}");
        let probe = services[needed]["healthcheck"]["test"].as_array();
        assert!(condition == done || probe.is_some_and(|test| test.len() > 1), "{needed} has a health check");
    }
    assert_eq!(command(&services["migrate"]), ["migrate"]);
    assert!(include_str!("../../deploy/docker/nats.conf").contains("sync_interval: always"), "a 2xx is on disk");
    assert_eq!(command(&services["bucket"])[0], "mb");
    for (name, service) in services.as_object().unwrap() {
        let image = service["image"].as_str().or_else(|| service["<<"]["image"].as_str()).unwrap();
        let pinned = image.split_once(':').is_some_and(|(_, tag)| tag.contains(|letter: char| letter.is_ascii_digit()));
        assert!(pinned || image == "causality", "{name}: {image} is no release");
    }
}
