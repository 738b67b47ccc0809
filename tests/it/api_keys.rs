//! API keys as operators and apps meet them: made and revoked by the admin API and the command line, asked for by the
//! gateways of other processes, whatever happens to the store.

use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::cluster::{Cluster, readiness};
use crate::command_line::{json_of, ok};
use crate::harness::{PATIENCE, Server, binary, get, wait_until};

/// How soon every gateway knows of a change.
const KNOWN_WITHIN: Duration = Duration::from_secs(5);
const ON: (&str, &str) = ("AUTH_ENABLED", "true");

/// The status that an event of no app gets with this key.
fn send(server: &Server, key: &str) -> u16 {
    let event = json!({"event": {"deviceId": "d", "userLogin": {}}});
    let agent = ureq::Agent::config_builder().http_status_as_error(false).timeout_global(Some(PATIENCE)).build();
    let request = ureq::Agent::from(agent).post(format!("{}/v1/events/ingest", server.http));
    let request = request.header("content-type", "application/json").header("x-api-key", key);
    request.send(event.to_string()).unwrap().status().as_u16()
}

fn create(server: &Server, name: &str) -> String {
    let created = server.admin_create("/keys", &json!({"app_id": "shop", "name": name}));
    created["key"].as_str().unwrap().to_owned()
}

/// Each answers an event with this key so, soon enough.
fn all_answer(gateways: &[Server], key: &str, status: u16) {
    let changed = Instant::now();
    for gateway in gateways {
        wait_until(&format!("{status}; log in {}", gateway.dir.display()), || send(gateway, key) == status);
    }
    assert!(changed.elapsed() < KNOWN_WITHIN, "known after {:?}", changed.elapsed());
}

fn last_used(server: &Server, name: &str) -> Option<jiff::Timestamp> {
    server.admin_get(&format!("/keys/{name}"))["last_used_at"].as_str().map(|at| at.parse().unwrap())
}

#[test]
fn every_gateway_knows_the_keys_and_goes_on_without_postgresql() {
    let mut cluster = Cluster::start(&[ON]);
    let reaction = cluster.role("reaction", 0);
    let gateways = [cluster.role("gateway", 0), cluster.role("gateway", 1)];
    let keys = ["old", "new"].map(|name| create(&reaction, name));
    keys.iter().for_each(|key| all_answer(&gateways, key, 200));
    assert_eq!(send(&gateways[0], &"0".repeat(64)), 401);
    wait_until("the last use is noted", || last_used(&reaction, "new").is_some());

    reaction.admin_delete("/keys/old");
    all_answer(&gateways, &keys[0], 401);
    all_answer(&gateways, &keys[1], 200);

    // A change that nobody tells of is found, too.
    let silent = create(&reaction, "silent");
    all_answer(&gateways, &silent, 200);
    cluster.postgres.sql(
        &cluster.database,
        "UPDATE api_keys_state SET version = version + 1;
         INSERT INTO revoked_keys SELECT s.version, k.hash FROM api_keys k, api_keys_state s WHERE k.name = 'silent';
         DELETE FROM api_keys WHERE name = 'silent'",
    );
    all_answer(&gateways, &silent, 401);

    cluster.postgres.kill9();
    for gateway in &gateways {
        wait_until("the outage is told", || {
            readiness(gateway).1["warnings"].to_string().contains("API keys are those")
        });
        assert_eq!(readiness(gateway).0, 200);
        assert_eq!(get(&format!("{}/ready", gateway.http)).unwrap().0, 200);
        assert_eq!((send(gateway, &keys[1]), send(gateway, &keys[0])), (200, 401));
    }
    cluster.postgres.restart();
    for gateway in &gateways {
        wait_until("the outage is over", || readiness(gateway).1["warnings"].to_string().find("API keys").is_none());
    }
    reaction.wait_ready();
    all_answer(&gateways, &create(&reaction, "after"), 200);
    let administered = get(&format!("{}/api/admin/keys", gateways[0].admin)).unwrap().0;
    assert_eq!(administered, 404, "a gateway reads the keys and does not serve them");
}

#[test]
fn a_process_with_an_embedded_store_asks_for_keys_when_it_is_told_to() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = Server::start(dir.path(), &[ON]);
    assert!(readiness(&server).1["warnings"].to_string().contains("there are no API keys"));
    let create = ["keys", "create", "--app", "shop", "--name", "ci", "--expires", "90d", "--burst", "100", "--json"];
    let created = json_of(&server, &create);
    let key = created["key"].as_str().unwrap();
    let expires_at: jiff::Timestamp = created["expires_at"].as_str().unwrap().parse().unwrap();
    let days = expires_at.duration_since(jiff::Timestamp::now()).as_hours() / 24;
    assert!((89..=90).contains(&days) && created["burst"] == 100 && created["requests_per_second"].is_null());
    all_answer(std::slice::from_ref(&server), key, 200);
    let listed = ok(&server, &["keys", "list"]);
    assert!(listed.contains("burst 100") && !listed.contains(key), "{listed}");

    // The load generator brings the key, and leaves the app to it.
    let bench = |key: Option<&str>| {
        let mut command = Command::new(binary());
        command.env_clear().args(["bench", "--url", &server.http, "--count", "200", "--batch", "20", "--json"]);
        let output = command.envs(key.map(|key| ("CAUSALITY_API_KEY", key))).output().unwrap();
        serde_json::from_slice::<Value>(&output.stdout).map(|report| report["accepted"] == 200)
    };
    assert!(bench(Some(key)).unwrap());
    assert!(!bench(None).unwrap_or(false));

    server.terminate(Duration::from_secs(35));
    server.restart();
    assert!(last_used(&server, "ci").is_some(), "noted before the process ended");
    assert_eq!(send(&server, key), 200);
    server.admin_delete("/keys/ci");
    all_answer(std::slice::from_ref(&server), key, 401);
    server.expect_quiet_log(&[]);
}

/// Keys are read at the start: what stands in their way is named.
#[test]
fn a_gateway_that_cannot_read_keys_ends_the_start_and_says_why() {
    let cluster = Cluster::start(&[ON]);
    let wrong = cluster.postgres.url(&cluster.database).replace("opensesame", "wrong");
    let output = cluster.start_refused("gateway", &[("DATABASE_URL", &wrong)]);
    let message = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(78), "{message}");
    assert!(message.lines().last().unwrap_or_default().contains("database_password"), "{message}");
}
