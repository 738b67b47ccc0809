//! What the settings of the bus mean to real processes on a real NATS: what ends the start, what ends
//! the process, and what `/ready` tells.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use async_nats::jetstream::consumer::{DeliverPolicy, Info, pull};
use serde_json::{Value, json};

use crate::harness::{PATIENCE, Server, binary, get, wait_until};
use crate::services::nats::{NatsServer, Version};

/// What is wrong with a setting, by the exit codes of `sysexits.h`.
const EXIT_CONFIG: i32 = 78;
const STREAM: &str = "CAUSALITY_EVENTS";

fn jetstream<T>(nats: &NatsServer, work: impl AsyncFnOnce(async_nats::jetstream::Context) -> T) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let client = async_nats::connect(nats.url()).await.unwrap();
        work(async_nats::jetstream::new(client)).await
    })
}

fn consumer(nats: &NatsServer, stream: &str, name: &str) -> Info {
    jetstream(nats, async |context| context.get_stream(stream).await.unwrap().consumer_info(name).await.unwrap())
}

/// A start that is refused: its exit code and the last line of what it says.
fn refused(dir: &Path, environment: &[(&str, &str)]) -> (Option<i32>, String) {
    let output = Command::new(binary())
        .arg("run")
        .env_clear()
        .env("DATA_DIR", dir)
        .env("HTTP_ADDR", "127.0.0.1:0")
        .env("ADMIN_ADDR", "127.0.0.1:0")
        .envs(environment.iter().copied())
        .output()
        .unwrap();
    let message = String::from_utf8(output.stderr).unwrap();
    (output.status.code(), message.lines().last().unwrap_or_default().to_owned())
}

/// Nothing in a gateway would fail by itself: it would answer 503 for ever.
#[test]
fn a_gateway_whose_server_is_gone_for_good_ends_and_names_the_setting() {
    let mut nats = NatsServer::start(Version::Newest);
    let dir = tempfile::tempdir().unwrap();
    let environment = [
        ("NATS_URL", nats.url()),
        ("NATS_MAX_RECONNECTS", "2".to_owned()),
        ("NATS_RECONNECT_WAIT", "200ms".to_owned()),
        ("NATS_TIMEOUT", "2s".to_owned()),
    ];
    let environment = environment.map(|(name, value)| (name.to_owned(), value));
    let mut gateway = Server::start_role(dir.path(), "gateway", &environment);
    // A server that comes back in time is none that is gone.
    nats.kill9();
    nats.restart();
    let event = json!({"event": {"appId": "a", "deviceId": "d", "userLogin": {}}});
    wait_until("ingest resumes", || gateway.send("/v1/events/ingest", &event).is_some_and(|(status, _)| status == 200));
    nats.kill9();
    let status = gateway.wait_for_exit(Duration::from_secs(15));
    assert_eq!(status.code(), Some(1));
    let log = std::fs::read_to_string(dir.path().join("log.jsonl")).unwrap();
    let last = log.lines().last().unwrap();
    assert!(last.contains("bus connection") && last.contains("nats_max_reconnects"), "{last}");
}

/// The consumers are as the settings say before the process says that it is ready.
#[test]
fn consumers_are_brought_to_the_settings_at_the_start_or_end_it() {
    let nats = NatsServer::start(Version::Newest);
    let dir = tempfile::tempdir().unwrap();
    let url = nats.url();
    let stop = |mut server: Server| assert!(server.terminate(PATIENCE).success());
    for (wait, seconds) in [("7s", 7), ("9s", 9)] {
        let server = Server::start(dir.path(), &[("NATS_URL", &url), ("NATS_ACK_WAIT", wait)]);
        for (stream, name) in [(STREAM, "analysis-engine"), ("CAUSALITY_EVENTS_RANGES", "warehouse-sink")] {
            assert_eq!(consumer(&nats, stream, name).config.ack_wait, Duration::from_secs(seconds), "{name}");
        }
        server.expect_quiet_log(&[]);
        stop(server);
    }
    jetstream(&nats, async |context| {
        let taken = pull::Config {
            durable_name: Some("taken".to_owned()),
            deliver_policy: DeliverPolicy::New,
            ..pull::Config::default()
        };
        context.get_stream(STREAM).await.unwrap().create_consumer(taken).await.unwrap();
    });
    let other = tempfile::tempdir().unwrap();
    let (code, last) = refused(other.path(), &[("NATS_URL", &url), ("CONSUMER_NAME", "taken")]);
    assert_eq!(code, Some(EXIT_CONFIG), "{last}");
    assert!(last.contains("consumer taken") && last.contains("consumer_name, nats_ack_wait"), "{last}");

    let (code, last) = refused(other.path(), &[("NATS_URL", &url), ("DEDUP_WINDOW", "50ms")]);
    assert_eq!(code, Some(EXIT_CONFIG), "{last}");
    assert!(last.contains("dedup_window") && last.contains("nats_stream_"), "{last}");
}

#[test]
fn readiness_tells_what_a_2xx_is_worth_and_stays_ready() {
    let nats = NatsServer::start(Version::Newest);
    let url = nats.url();
    let ready = |server: &Server, base: &str| -> Value {
        server.wait_ready();
        let (status, body) = get(&format!("{base}/ready")).unwrap();
        assert_eq!(status, 200, "{body}");
        serde_json::from_str(&body).unwrap()
    };
    for (storage, wanted) in [("file", "sync_interval: always"), ("memory", "loses everything")] {
        let dir = tempfile::tempdir().unwrap();
        let name = format!("WEAK_{storage}");
        let environment = [
            ("NATS_URL", url.as_str()),
            ("NATS_STREAM_STORAGE", storage),
            ("NATS_STREAM_NAME", &name),
            ("NATS_STREAM_DLQ_STREAM_NAME", &format!("{name}_DLQ")),
            ("NATS_STREAM_SUBJECTS", "events.>,anomalies.>"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()));
        let server = Server::start_role(dir.path(), "gateway", &environment);
        for base in [&server.http, &server.admin] {
            let report = ready(&server, base);
            assert_eq!(report["status"], "ready");
            let warning = report["warnings"][0].as_str().unwrap();
            assert!(warning.contains(wanted) && warning.contains("nats_stream_replicas"), "{report}");
        }
        drop(server);
        // Its subjects are for the next one.
        jetstream(&nats, async |context| {
            for stream in [name.clone(), format!("{name}_DLQ"), format!("{name}_RANGES")] {
                context.delete_stream(stream).await.unwrap();
            }
        });
    }
    let dir = tempfile::tempdir().unwrap();
    let embedded = Server::start(dir.path(), &[]);
    assert_eq!(ready(&embedded, &embedded.http).get("warnings"), None);
}

/// Any process purges, and none what a role that never ran has not read.
#[test]
fn events_wait_for_a_role_that_never_ran_unless_the_deployment_has_none() {
    let nats = NatsServer::start(Version::Newest);
    let dir = tempfile::tempdir().unwrap();
    let with = |more: &[(&str, &str)]| -> Vec<(String, String)> {
        let warehouse = format!("file://{}", dir.path().join("warehouse").display());
        let own = [("NATS_URL", nats.url()), ("WAREHOUSE_URL", warehouse), ("BATCH_FLUSH_INTERVAL", "50ms".to_owned())];
        let more = more.iter().map(|(name, value)| (*name, (*value).to_owned()));
        own.into_iter().chain(more).map(|(name, value)| (name.to_owned(), value)).collect()
    };
    let stored =
        || jetstream(&nats, async |context| context.get_stream(STREAM).await.unwrap().cached_info().state.messages);
    let gateway = Server::start_role(&dir.path().join("gateway"), "gateway", &with(&[]));
    let event = json!({"event": {"appId": "a", "deviceId": "d", "userLogin": {}}});
    for _ in 0..5 {
        assert_eq!(gateway.send("/v1/events/ingest", &event).unwrap().0, 200);
    }
    let sink = Server::start_role(&dir.path().join("sink"), "sink", &with(&[]));
    wait_until("the sink has acknowledged all", || {
        let (_, metrics) = get(&format!("{}/metrics", sink.admin)).unwrap();
        metrics.lines().any(|line| line.starts_with("causality_sink_rows_total") && line.ends_with(" 5"))
            && consumer(&nats, "CAUSALITY_EVENTS_RANGES", "warehouse-sink").num_ack_pending == 0
    });
    // The first thing that a process does is to look for what may go.
    let old = [("NATS_STREAM_MAX_AGE", "10ms"), ("NATS_STREAM_READERS", "sink")];
    let _careful = Server::start_role(&dir.path().join("careful"), "gateway", &with(&old[..1]));
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(stored(), 5, "no reaction has read them");
    let _sinks_only = Server::start_role(&dir.path().join("sinks-only"), "gateway", &with(&old));
    wait_until("what the sinks have stored is purged", || stored() == 0);
}
