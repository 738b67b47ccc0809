//! The product over servers that speak TLS alone: what is accepted arrives, and a wrong authority
//! ends the start with the setting's name.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::json;

use crate::harness::{Receiver, Server, binary, wait_until};
use crate::services::certificates::Authority;
use crate::services::nats::{NatsServer, Version};
use crate::services::postgres::PostgresServer;

/// What is wrong with a setting, by the exit codes of `sysexits.h`.
const EXIT_CONFIG: i32 = 78;

fn environment(nats: &NatsServer, postgres: &PostgresServer, authority: &Path) -> Vec<(&'static str, String)> {
    let ca_file = authority.to_str().unwrap().to_owned();
    vec![
        ("NATS_URL", format!("tls://user:secret@127.0.0.1:{}", nats.port())),
        ("NATS_CA_FILE", ca_file.clone()),
        ("NATS_TIMEOUT", "2s".to_owned()),
        // What a killed server forgot comes again after this long.
        ("NATS_ACK_WAIT", "2s".to_owned()),
        ("DATABASE_URL", postgres.url("postgres") + "?sslmode=verify-full"),
        ("DATABASE_CA_FILE", ca_file),
        ("SECRETS_KEY", "0f".repeat(32)),
        ("BATCH_FLUSH_INTERVAL", "100ms".to_owned()),
    ]
}

#[test]
fn everything_works_over_tls_and_a_wrong_authority_is_named() {
    let (ours, other) = (Authority::new(), Authority::new());
    let certificate = ours.issue("IP:127.0.0.1");
    let users = "authorization { user: user, password: secret }";
    let mut nats = NatsServer::start_tls(Version::Newest, &certificate, users);
    let postgres = PostgresServer::start_tls(&certificate);
    postgres.admit("hostssl all all 127.0.0.1/32 scram-sha-256\n");
    let right = environment(&nats, &postgres, &ours.file());
    for (setting, role) in [("NATS_CA_FILE", "gateway"), ("DATABASE_CA_FILE", "reaction")] {
        let wrong = right.iter().cloned().map(|(name, value)| {
            (name, if name == setting { other.file().to_str().unwrap().to_owned() } else { value })
        });
        let refused = Command::new(binary())
            .args(["run", "--role", role])
            .env_clear()
            .envs(wrong)
            .envs([("HTTP_ADDR", "127.0.0.1:0"), ("ADMIN_ADDR", "127.0.0.1:0")])
            .output()
            .unwrap();
        let message = String::from_utf8(refused.stderr).unwrap();
        assert_eq!(refused.status.code(), Some(EXIT_CONFIG), "{message}");
        assert!(message.lines().last().unwrap_or_default().contains(&setting.to_ascii_lowercase()), "{message}");
    }

    let migrated = Command::new(binary()).arg("migrate").env_clear().envs(right.clone()).output().unwrap();
    assert!(migrated.status.success(), "{}", String::from_utf8_lossy(&migrated.stderr));
    let dir = tempfile::tempdir().unwrap();
    let pairs: Vec<(&str, &str)> = right.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let mut server = Server::start(dir.path(), &pairs);
    let receiver = Receiver::start();
    server.admin_create("/webhooks", &json!({"name": "ops", "url": receiver.url}));
    server.admin_create("/rules", &json!({"name": "all", "actions": {"webhooks": ["ops"]}}));
    let send = || {
        let event = json!({"event": {"appId": "a", "deviceId": "d", "userLogin": {}}});
        server.send("/v1/events/ingest", &event).is_some_and(|(status, _)| status == 200)
    };
    assert!(send());
    wait_until("the first webhook is called", || receiver.all().len() == 1);
    // A connection that is made anew is as encrypted as the first.
    nats.kill9();
    nats.restart();
    wait_until("ingest resumes", send);
    wait_until("the second webhook is called", || receiver.all().len() >= 2);
    server.wait_drained();
    let plain = "SELECT count(*) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid)
                 WHERE application_name = 'causality' AND NOT ssl";
    assert_eq!(postgres.sql("postgres", plain), "0");
    assert!(server.terminate(Duration::from_secs(35)).success(), "log in {}", server.dir.display());
}
