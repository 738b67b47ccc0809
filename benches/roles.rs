//! From the acceptance of an event to its webhook, and the memory of each role, with the roles apart on NATS,
//! PostgreSQL and an S3 endpoint: single events at 1,000 a second, one webhook for each.
//!
//! `CAUSALITY_BENCH_SECONDS` is how long events are sent. The servers, the receiver and the generator run on the
//! same machine.

use std::process::{Command, Stdio};

use serde_json::Value;

#[allow(dead_code, reason = "each user has its own part")]
mod role;
#[allow(dead_code, reason = "each user has its own part")]
#[path = "../tests/services/mod.rs"]
mod services;

use role::Process;
use services::free_port;
use services::nats::{NatsServer, Version};
use services::postgres::PostgresServer;
use services::s3::{ACCESS_KEY, BUCKET, S3Server, SECRET_KEY};

const SECONDS: u64 = 30;
const RATE: u64 = 1_000;
const P99_MS_MAX: f64 = 50.0;
const RESIDENT_MIB_MAX: u64 = 250;

/// The most that a process ever had; none where `/proc` is not.
fn resident_mib(process: &Process) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.pid())).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().trim_end_matches("kB").trim().parse::<u64>().ok().map(|kib| kib / 1024)
}

fn main() {
    let seconds = std::env::var("CAUSALITY_BENCH_SECONDS").map_or(SECONDS, |text| text.parse().expect("seconds"));
    let (nats, postgres, s3) = (NatsServer::start(Version::Newest), PostgresServer::start(), S3Server::start());
    let environment = [
        ("NATS_URL", nats.url()),
        ("DATABASE_URL", postgres.url(&postgres.database())),
        ("SECRETS_KEY", "0f".repeat(32)),
        ("S3_ENDPOINT", s3.url()),
        ("S3_BUCKET", BUCKET.to_owned()),
        ("S3_ACCESS_KEY_ID", ACCESS_KEY.to_owned()),
        ("S3_SECRET_ACCESS_KEY", SECRET_KEY.to_owned()),
        ("BATCH_FLUSH_INTERVAL", "5s".to_owned()),
        ("LOG_LEVEL", "warn".to_owned()),
    ];
    let dir = tempfile::tempdir().unwrap();
    let [gateway, sink, reaction] =
        ["gateway", "sink", "reaction"].map(|role| Process::start(role, dir.path(), &environment));
    let output = Command::new(env!("CARGO_BIN_EXE_causality"))
        .args(["bench", "--json", "--url", &gateway.http, "--admin-url", &reaction.admin])
        .args(["--rate", &RATE.to_string(), "--batch", "1", "--connections", "16"])
        .args(["--duration", &format!("{seconds}s"), "--setup-webhook"])
        .args(["--webhook-listen", &format!("127.0.0.1:{}", free_port())])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let webhooks = &report["webhooks"];
    let since = &webhooks["since_accepted_ms"];
    let (p50, p99) = (since["p50"].as_f64().unwrap(), since["p99"].as_f64().unwrap());
    println!(
        "webhooks: {} received, {} missing, {} repeated",
        webhooks["received"], webhooks["missing"], webhooks["repeated"]
    );
    println!(
        "accepted to received at {RATE} events/s for {seconds} s: p50 {p50:.1} ms, p99 {p99:.1} ms, {:.0} % of the \
         limit ({P99_MS_MAX:.0} ms); longest {}",
        100.0 * p99 / P99_MS_MAX,
        since["max"]
    );
    for process in [gateway, sink, reaction] {
        if let Some(mib) = resident_mib(&process) {
            println!("{}: {mib} MiB resident at most (limit {RESIDENT_MIB_MAX})", process.role);
        }
    }
}
