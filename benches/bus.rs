//! The embedded bus with fsync on: publishing as the gateway does, and fetching with acknowledgements.
//!
//! Beside criterion's wall clock each bench prints the processor time that one message took in the whole
//! process. The data directory is `BENCH_DIR`, or the system's temporary directory.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use causality::bus::{Batch, Bus, ConsumerSpec, EmbeddedSettings};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use tokio::runtime::Runtime;

const PAYLOAD: [u8; 320] = [b'x'; 320];
const SUBJECT: &str = "events.shop.commerce.view";

/// Ids that no run repeats.
static NEXT_ID: AtomicU64 = AtomicU64::new(0);

fn open(runtime: &Runtime) -> (Bus, tempfile::TempDir) {
    let parent = std::env::var_os("BENCH_DIR").map_or_else(std::env::temp_dir, Into::into);
    let dir = tempfile::tempdir_in(parent).expect("a directory for the bench");
    let settings = EmbeddedSettings {
        dir: dir.path().to_owned(),
        bytes_max: 64 << 30,
        age_max: Duration::from_secs(3_600),
        dead_letter_age_max: Duration::from_secs(3_600),
        dedup_window: Duration::from_secs(600),
        tail_bytes_max: 64 << 20,
    };
    let _entered = runtime.enter();
    (Bus::open_embedded(settings).expect("a bus"), dir)
}

fn batch(messages: u64, ids: bool) -> Batch {
    let mut batch = Batch::with_capacity(messages as usize, messages as usize * 400);
    let first = NEXT_ID.fetch_add(messages, Ordering::Relaxed);
    for n in first..first + messages {
        let id = ids.then(|| format!("shop/0198f3a2-7c4b-7d3e-9a51-{n:012x}"));
        batch.push(SUBJECT, id.as_deref(), |out| out.extend_from_slice(&PAYLOAD));
    }
    batch
}

/// Processor time of this process so far, in seconds; 0 where `/proc` is not.
fn processor_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
    let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<f64>().ok()).unwrap_or(0.0);
    (ticks(11) + ticks(12)) / 100.0
}

/// Times `tasks` publishers that send `batches` batches in all.
fn publish(runtime: &Runtime, bus: &Bus, tasks: u64, batches: u64, messages: u64, ids: bool) -> Duration {
    let sent = AtomicU64::new(0);
    let began = Instant::now();
    let one = || async {
        while sent.fetch_add(1, Ordering::Relaxed) < batches {
            let answers = bus.publish(batch(messages, ids)).await;
            assert!(answers.iter().all(|answer| answer.as_ref().is_ok_and(|stored| !stored.duplicate)));
        }
    };
    runtime.block_on(async { futures_util::future::join_all((0..tasks).map(|_| one())).await });
    began.elapsed()
}

fn publishing(criterion: &mut Criterion) {
    let runtime = Runtime::new().expect("a runtime");
    let mut group = criterion.benchmark_group("publish");
    group.sample_size(10).measurement_time(Duration::from_secs(8));
    for (name, tasks, messages, ids) in [
        ("8 tasks, batches of 100", 8, 100, false),
        ("8 tasks, batches of 100, ids", 8, 100, true),
        ("64 tasks, single messages", 64, 1, false),
    ] {
        let (bus, _dir) = open(&runtime);
        let (mut total, mut seconds, processor) = (0, 0.0, processor_seconds());
        group.throughput(Throughput::Elements(messages));
        group.bench_function(name, |bencher| {
            bencher.iter_custom(|batches| {
                let elapsed = publish(&runtime, &bus, tasks, batches, messages, ids);
                total += batches * messages;
                seconds += elapsed.as_secs_f64();
                elapsed
            });
        });
        report(name, total, seconds, processor);
        runtime.block_on(bus.close());
    }
    group.finish();
}

fn consuming(criterion: &mut Criterion) {
    let runtime = Runtime::new().expect("a runtime");
    let mut group = criterion.benchmark_group("fetch and acknowledge");
    group.sample_size(10).measurement_time(Duration::from_secs(8));
    for (name, stored) in [("from the tail", 100_000), ("from the file", 1_000_000)] {
        let (bus, _dir) = open(&runtime);
        publish(&runtime, &bus, 8, stored / 1_000, 1_000, false);
        let mut readers = 0;
        let (mut total, mut seconds, processor) = (0, 0.0, processor_seconds());
        group.throughput(Throughput::Elements(stored));
        group.bench_function(name, |bencher| {
            bencher.iter_custom(|rounds| {
                let mut elapsed = Duration::ZERO;
                for _ in 0..rounds {
                    readers += 1;
                    elapsed += runtime.block_on(read_all(&bus, format!("reader-{readers}"), stored));
                }
                total += rounds * stored;
                seconds += elapsed.as_secs_f64();
                elapsed
            });
        });
        report(name, total, seconds, processor);
        runtime.block_on(bus.close());
    }
    group.finish();
}

async fn read_all(bus: &Bus, name: String, messages: u64) -> Duration {
    let spec = ConsumerSpec {
        name,
        filter: "events.>".into(),
        matches_most: true,
        coarse_acks: false,
        ack_wait: Duration::from_secs(60),
        max_deliver: 5,
        pending_max: 500_000,
    };
    let mut subscription = bus.subscribe(spec).await.expect("a subscription");
    let acker = subscription.acker();
    let began = Instant::now();
    let mut read = 0;
    while read < messages {
        let deliveries = subscription.fetch(10_000, 8 << 20).await.expect("messages");
        read += deliveries.len() as u64;
        let receipts: Vec<_> = deliveries.iter().map(|delivery| delivery.receipt).collect();
        acker.ack(&receipts).await.expect("acknowledged");
    }
    began.elapsed()
}

fn report(name: &str, messages: u64, seconds: f64, processor: f64) {
    let used = processor_seconds() - processor;
    eprintln!(
        "{name}: {messages} messages, {:.0} a second, {:.2} µs of processor time each",
        messages as f64 / seconds,
        used * 1e6 / messages as f64
    );
}

criterion_group!(benches, publishing, consuming);
criterion_main!(benches);
