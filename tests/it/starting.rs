//! A start whose backends are away: what the process answers meanwhile, and how it ends when they stay away.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::cluster::ureq_head;
use crate::harness::{Server, binary, get, wait_until};
use crate::services::nats::{NatsServer, Version};
use crate::services::postgres::PostgresServer;
use crate::services::s3::{self, S3Server};

/// How long a backend is waited for.
const START_PATIENCE: Duration = Duration::from_secs(30);
/// An attempt that began at the end of it may take this long, on a busy machine.
const LAST_ATTEMPT_MAX: Duration = Duration::from_secs(25);

struct Backends {
    nats: NatsServer,
    postgres: PostgresServer,
    s3: S3Server,
    database: String,
}

impl Backends {
    fn start() -> Self {
        let postgres = PostgresServer::start();
        let database = postgres.url(&postgres.database());
        Self { nats: NatsServer::start(Version::Newest), postgres, s3: S3Server::start(), database }
    }

    fn launch(&self, dir: &std::path::Path) -> Server {
        let (nats, s3) = (self.nats.url(), self.s3.url());
        let environment = [
            ("NATS_URL", nats.as_str()),
            ("NATS_TIMEOUT", "1s"),
            ("DATABASE_URL", &self.database),
            ("DATABASE_CONNECT_TIMEOUT", "1s"),
            ("SECRETS_KEY", &"0f".repeat(32)),
            ("S3_ENDPOINT", &s3),
            ("S3_BUCKET", s3::BUCKET),
            ("S3_ACCESS_KEY_ID", s3::ACCESS_KEY),
            ("S3_SECRET_ACCESS_KEY", s3::SECRET_KEY),
            ("BATCH_FLUSH_INTERVAL", "200ms"),
        ];
        Server::launch(dir, &environment)
    }
}

/// The status and the document of `/ready`, on either port.
fn ready(base: &str) -> Option<(u16, Value)> {
    let (status, body) = get(&format!("{base}/ready"))?;
    Some((status, serde_json::from_str(&body).unwrap()))
}

fn wait_named(server: &Server, component: &str, setting: &str) {
    for base in [&server.admin, &server.http] {
        wait_until(&format!("{base} names {component}"), || {
            ready(base).is_some_and(|(status, report)| {
                let text = report["components"][component].as_str().unwrap_or_default();
                status == 503 && report["status"] == "starting" && text.contains(setting)
            })
        });
    }
}

#[test]
fn a_backend_that_is_not_there_yet_is_named_and_waited_for() {
    let mut backends = Backends::start();
    backends.nats.kill9();
    backends.postgres.kill9();
    backends.s3.stop();
    let dir = tempfile::tempdir().unwrap();
    let mut server = backends.launch(dir.path());

    wait_named(&server, "nats", "nats_url");
    let admin = server.admin["http://".len()..].to_owned();
    let health = |arguments: &[&str]| {
        let done = Command::new(binary())
            .arg("health")
            .args(arguments)
            .env_clear()
            .env("ADMIN_ADDR", &admin)
            .output()
            .unwrap();
        (done.status.code(), String::from_utf8(if done.stdout.is_empty() { done.stderr } else { done.stdout }).unwrap())
    };
    assert_eq!(health(&[]), (Some(0), "alive\n".to_owned()));
    let (code, why) = health(&["--ready"]);
    assert!(code == Some(1) && why.contains("starting") && why.contains("\n  nats: "), "{why}");
    assert_eq!(get(&format!("{}/health", server.http)).unwrap().0, 200);
    assert_eq!(get(&format!("{}/health", server.admin)).unwrap().0, 200);
    assert_eq!(get(&format!("{}/metrics", server.admin)).unwrap().0, 200);
    assert_eq!(get(&format!("{}/metrics", server.http)).unwrap().0, 503, "metrics are not for the public port");
    let event = json!({"event": {"appId": "a", "deviceId": "d", "userLogin": {}}});
    let (status, retry_after) = ureq_head(&format!("{}/v1/events/ingest", server.http), &event.to_string());
    assert_eq!((status, retry_after.as_deref()), (503, Some("1")));

    backends.nats.restart();
    wait_named(&server, "postgres", "database_host");
    assert_eq!(ready(&server.admin).unwrap().1["components"]["nats"], "ok");
    backends.postgres.restart();
    wait_named(&server, "warehouse", "s3_endpoint");
    backends.s3.restart();
    server.wait_ready();
    assert_eq!(health(&["--ready"]), (Some(0), "ready\n".to_owned()));
    assert_eq!(ready(&server.http).unwrap().1["status"], "ready");
    assert_eq!(server.send("/v1/events/ingest", &event).unwrap().0, 200);
    assert!(server.terminate(Duration::from_secs(30)).success());
    assert_eq!(health(&[]).0, Some(69));
}

/// As in a compose file or a job of a cluster, where the database starts together with it.
#[test]
fn a_migration_waits_for_the_database() {
    let mut postgres = PostgresServer::start();
    let url = postgres.url(&postgres.database());
    postgres.kill9();
    let mut migrate = Command::new(binary())
        .arg("migrate")
        .env_clear()
        .env("DATABASE_URL", &url)
        .env("DATABASE_CONNECT_TIMEOUT", "1s")
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut log = BufReader::new(migrate.stderr.take().unwrap());
    let mut line = String::new();
    log.read_line(&mut line).unwrap();
    assert!(line.contains("database_host") && line.contains("trying again"), "{line}");
    assert!(migrate.try_wait().unwrap().is_none());
    postgres.restart();
    assert!(migrate.wait().unwrap().success());
}

#[test]
fn a_start_that_waits_can_be_stopped() {
    let mut backends = Backends::start();
    backends.nats.kill9();
    let dir = tempfile::tempdir().unwrap();
    let mut server = backends.launch(dir.path());
    wait_named(&server, "nats", "nats_url");
    assert!(server.terminate(Duration::from_secs(5)).success());
}

#[test]
fn a_backend_that_stays_away_ends_the_start_and_is_named() {
    std::thread::scope(|scope| {
        for setting in ["nats_url", "database_host", "s3_endpoint"] {
            scope.spawn(move || {
                let mut backends = Backends::start();
                match setting {
                    "nats_url" => backends.nats.kill9(),
                    "database_host" => backends.postgres.kill9(),
                    _ => backends.s3.stop(),
                }
                let dir = tempfile::tempdir().unwrap();
                let (began, mut server) = (Instant::now(), backends.launch(dir.path()));
                let status = server.wait_for_exit(START_PATIENCE + LAST_ATTEMPT_MAX);
                let log = std::fs::read_to_string(dir.path().join("log.jsonl")).unwrap();
                assert_eq!(status.code(), Some(69), "{setting}: {log}");
                assert!(began.elapsed() >= START_PATIENCE, "{setting}: given up after {:?}", began.elapsed());
                let last = log.lines().last().unwrap();
                assert!(last.starts_with("causality: ") && last.contains(setting), "{setting}: {last}");
                assert!(!log.contains("opensesame") && !log.contains(s3::SECRET_KEY), "{log}");
            });
        }
    });
}
