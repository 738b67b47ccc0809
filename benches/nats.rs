//! Durable ingest through NATS as a share of a bare publisher with the same payloads and window,
//! in alternating slices of one run: singles on a server as it comes, and atomic batches on one
//! that syncs every write. `CAUSALITY_BENCH_SECONDS` is the length of a slice.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use async_nats::{Client, HeaderMap, jetstream};
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use serde_json::Value;

#[allow(dead_code, reason = "each user has its own part")]
mod role;
#[allow(dead_code, reason = "each user has its own part")]
#[path = "../tests/services/mod.rs"]
mod services;

use role::Process;
use services::nats::{NatsServer, Version};

const SLICES: usize = 4;
const BATCH: usize = 100;
/// Messages on their way at once where each is acknowledged alone.
const SINGLES_IN_FLIGHT: usize = 1_600;
const SAMPLES: u64 = 2_000;
/// Messages of one bare atomic batch, and how many batches are on their way.
const ATOMIC: usize = 1_000;
const ATOMIC_IN_FLIGHT: usize = 3;

fn gateway(server: &NatsServer, dir: &std::path::Path) -> Process {
    Process::start("gateway", dir, &[("NATS_URL", server.url()), ("LOG_LEVEL", "error".to_owned())])
}

/// Events a second through the gateway.
fn through(gateway: &Process, slice: Duration, keys: bool) -> f64 {
    // The window of the bare publisher beside it.
    let connections = if keys { ATOMIC * ATOMIC_IN_FLIGHT } else { SINGLES_IN_FLIGHT } / BATCH;
    let mut command = Command::new(env!("CARGO_BIN_EXE_causality"));
    command.args(["bench", "--json", "--url", &gateway.http, "--duration", &format!("{}s", slice.as_secs())]);
    command.args(["--connections", &connections.to_string(), "--batch", &BATCH.to_string()]);
    if keys {
        command.arg("--idempotency-keys");
    }
    let output = command.stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    find(&report, "events_per_second").unwrap_or_else(|| panic!("no rate in {report}"))
}

fn find(value: &Value, name: &str) -> Option<f64> {
    match value {
        Value::Object(members) => {
            members.get(name).and_then(Value::as_f64).or_else(|| members.values().find_map(|value| find(value, name)))
        }
        Value::Array(items) => items.iter().find_map(|value| find(value, name)),
        _ => None,
    }
}

async fn samples(client: &Client) -> Vec<(String, Bytes)> {
    let stream = jetstream::new(client.clone()).get_stream("CAUSALITY_EVENTS").await.unwrap();
    let mut samples = Vec::new();
    for sequence in 1..=SAMPLES {
        let message = stream.get_raw_message(sequence).await.unwrap();
        samples.push((message.subject.to_string(), message.payload));
    }
    samples
}

/// The client alone: as many unacknowledged messages as the gateway's callers have.
async fn bare_singles(client: &Client, samples: &[(String, Bytes)], slice: Duration) -> f64 {
    let context = jetstream::new(client.clone());
    let mut acks = FuturesUnordered::new();
    let (started, mut acknowledged, mut next) = (Instant::now(), 0u64, 0);
    while started.elapsed() < slice {
        while acks.len() < SINGLES_IN_FLIGHT {
            let (subject, payload) = &samples[next % samples.len()];
            next += 1;
            acks.push(context.publish(subject.clone(), payload.clone()).await.unwrap().into_future());
        }
        acks.next().await.unwrap().unwrap();
        acknowledged += 1;
    }
    acknowledged as f64 / started.elapsed().as_secs_f64()
}

async fn bare_batch(client: &Client, samples: &[(String, Bytes)], id: String) {
    for index in 0..ATOMIC {
        let (subject, payload) = &samples[index % samples.len()];
        let mut headers = HeaderMap::new();
        headers.insert("Nats-Batch-Id", id.as_str());
        headers.insert("Nats-Batch-Sequence", (index + 1).to_string());
        headers.insert("Nats-Msg-Id", format!("{id}-{index}"));
        if index + 1 < ATOMIC {
            client.publish_with_headers(subject.clone(), headers, payload.clone()).await.unwrap();
        } else {
            headers.insert("Nats-Batch-Commit", "1");
            let ack = client.request_with_headers(subject.clone(), headers, payload.clone()).await.unwrap();
            assert!(ack.payload.starts_with(b"{\"stream\""), "{:?}", ack.payload);
        }
    }
}

async fn bare_batches(client: &Client, samples: &[(String, Bytes)], slice: Duration) -> f64 {
    let (started, mut acknowledged) = (Instant::now(), 0);
    let mut on_their_way = FuturesUnordered::new();
    while started.elapsed() < slice {
        while on_their_way.len() < ATOMIC_IN_FLIGHT {
            on_their_way.push(bare_batch(client, samples, uuid::Uuid::now_v7().simple().to_string()));
        }
        on_their_way.next().await;
        acknowledged += ATOMIC;
    }
    acknowledged as f64 / started.elapsed().as_secs_f64()
}

fn main() {
    let seconds = std::env::var("CAUSALITY_BENCH_SECONDS").map_or(4, |text| text.parse().unwrap());
    let slice = Duration::from_secs(seconds);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    for (name, configuration, atomic) in [
        ("singles, sync_interval as it comes", "", false),
        ("batches, sync_interval: always", "#jetstream\n  sync_interval: always", true),
    ] {
        let server = NatsServer::start_with(Version::Newest, configuration);
        let dir = tempfile::tempdir().unwrap();
        let gateway = gateway(&server, dir.path());
        // Also lets the gateway find the better way to publish.
        through(&gateway, slice, atomic);
        let client = runtime.block_on(async_nats::connect(server.url())).unwrap();
        let samples = runtime.block_on(samples(&client));
        let (mut ours, mut bare) = (Vec::new(), Vec::new());
        for _ in 0..SLICES {
            ours.push(through(&gateway, slice, atomic));
            bare.push(runtime.block_on(async {
                if atomic {
                    bare_batches(&client, &samples, slice).await
                } else {
                    bare_singles(&client, &samples, slice).await
                }
            }));
        }
        let mean = |rates: &[f64]| rates.iter().sum::<f64>() / rates.len() as f64;
        println!(
            "{name}: gateway {:.0} events/s, bare publisher {:.0}/s, {:.0} %",
            mean(&ours),
            mean(&bare),
            100.0 * mean(&ours) / mean(&bare)
        );
    }
}
