//! Chunk leases on NATS against the plain durable pull consumer, which acknowledges every message, and against a consumer
//! that acknowledges everything up to a message. Each drains the same backlog in turns, on a real server on this machine:
//! fetch, decode, encode to Parquet, acknowledge once a file is closed.
//!
//! The last is no replacement, so the bar does not apply to it: its sinks cannot share a stream without dividing the
//! subjects among them in advance, and none of its messages can fail alone. Here it also skips what the bus does besides.
//!
//! The cost is the processor time of this process and of the server. `CAUSALITY_BENCH_EVENTS` is the length of the
//! backlog, `CAUSALITY_BENCH_SLICES` how often each way drains it.

use std::time::{Duration, Instant};

use async_nats::jetstream::{self, AckKind, consumer::AckPolicy, consumer::pull::Config};
use causality::bus::{Bus, ConsumerSpec};
use causality::event::EventRef;
use causality::sink::SERVER_FETCH_BYTES_MAX;
use causality::warehouse::{Compression, EncodeSettings, Encoder, OpenFile, Origin};
use futures_util::StreamExt;

mod backlog;
#[path = "plain/compare.rs"]
#[allow(dead_code, reason = "each user has its own part")]
mod compare;
#[allow(dead_code, reason = "each user has its own part")]
#[path = "../tests/services/mod.rs"]
mod services;
mod shop;

use services::nats::{NatsServer, Version};

/// As in the product.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const EVENTS: u64 = 500_000;
const SLICES: u64 = 7;
const FILE_ROWS: usize = 100_000;
const FETCH_MESSAGES_MAX: usize = 10_000;
/// More than a file has: the server stops delivering there.
const PENDING_MAX: usize = 300_000;
const ACK_WAIT: Duration = Duration::from_secs(60);

/// The measured slices of one way.
#[derive(Default)]
struct Way {
    processor_us: Vec<f64>,
    wall_us: Vec<f64>,
}

fn main() {
    let from_environment = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().expect("a number"));
    let events = from_environment("CAUSALITY_BENCH_EVENTS").unwrap_or(EVENTS).next_multiple_of(backlog::BATCH);
    let slices = from_environment("CAUSALITY_BENCH_SLICES").unwrap_or(SLICES);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let server = NatsServer::start(Version::Newest);
    let bus = runtime.block_on(Bus::connect_nats(backlog::nats_settings(server.url(), events))).unwrap();
    runtime.block_on(backlog::publish(&bus, events));
    let (mut leases, mut single, mut all) = (Way::default(), Way::default(), Way::default());
    for slice in 0..slices {
        let name = |way: &str| format!("{way}-{slice}");
        leases.measure(&server, events, || runtime.block_on(through_bus(&bus, name("leases"), true, events)));
        single.measure(&server, events, || runtime.block_on(through_bus(&bus, name("single"), false, events)));
        all.measure(&server, events, || runtime.block_on(acknowledging_all(server.url(), name("all"), events)));
    }
    runtime.block_on(bus.close());
    let ratio_to = |name: &str, plain: &Way| {
        let processor = ("chunk leases", leases.processor_us.as_slice());
        let processor = compare::ratio("µs of processor time an event", processor, (name, &plain.processor_us));
        let wall = compare::ratio("µs an event", ("chunk leases", &leases.wall_us), (name, &plain.wall_us));
        processor.max(wall)
    };
    let single = ratio_to("pull consumer", &single);
    let all = ratio_to("ack-all consumer", &all);
    println!("chunk leases: {single:.2} times as good as the pull consumer, {all:.2} times as good as ack-all");
    compare::hold(single >= compare::BAR, "chunk leases");
}

impl Way {
    fn measure(&mut self, server: &NatsServer, events: u64, drain: impl FnOnce()) {
        let processor = || compare::processor_seconds() + compare::processor_seconds_of(server.pid());
        let (before, began) = (processor(), Instant::now());
        drain();
        self.wall_us.push(began.elapsed().as_secs_f64() * 1e6 / events as f64);
        self.processor_us.push((processor() - before) * 1e6 / events as f64);
    }
}

/// The file that the rows of a slice go to.
struct Files {
    encoder: Encoder,
    open: OpenFile,
    sequences: Vec<u64>,
    rows: u64,
}

impl Files {
    fn new() -> Self {
        let settings =
            EncodeSettings { compression: Compression::Snappy, row_group_rows_max: 1_000_000, stream: "EVENTS".into() };
        let encoder = Encoder::new(settings).unwrap();
        let open = encoder.open("shop");
        Self { encoder, open, sequences: Vec::new(), rows: 0 }
    }

    fn push(&mut self, payload: &[u8], sequence: u64, received_at_ms: i64) {
        let event = EventRef::decode_admitted(payload).unwrap();
        self.encoder.push(&mut self.open, &event, Origin { sequence, received_at_ms }).unwrap();
        self.sequences.push(sequence);
        self.rows += 1;
    }

    /// True once a file is closed, after which its messages are acknowledged.
    fn close_if_full(&mut self, end: bool) -> bool {
        if self.sequences.len() < FILE_ROWS && !end {
            return false;
        }
        let file = std::mem::replace(&mut self.open, self.encoder.open("shop"));
        let bytes = self.encoder.finish(file, self.sequences.drain(..)).unwrap();
        assert!(!bytes.is_empty());
        true
    }
}

async fn through_bus(bus: &Bus, name: String, coarse_acks: bool, events: u64) {
    let spec = ConsumerSpec {
        name,
        filter: "events.>".into(),
        matches_most: true,
        coarse_acks,
        ack_wait: ACK_WAIT,
        max_deliver: 5,
        pending_max: PENDING_MAX,
    };
    let mut subscription = bus.subscribe(spec).await.unwrap();
    let (acker, mut files, mut receipts) = (subscription.acker(), Files::new(), Vec::new());
    while files.rows < events {
        for delivery in subscription.fetch(FETCH_MESSAGES_MAX, SERVER_FETCH_BYTES_MAX).await.unwrap() {
            files.push(delivery.payload(), delivery.sequence(), delivery.published_at_ms);
            receipts.push(delivery.receipt);
        }
        if files.close_if_full(files.rows == events) {
            acker.ack(&receipts).await.unwrap();
            receipts.clear();
        }
    }
    subscription.release().await.unwrap();
}

async fn acknowledging_all(url: String, name: String, events: u64) {
    let client = async_nats::connect(url).await.unwrap();
    let stream = jetstream::new(client).get_stream("CAUSALITY_EVENTS").await.unwrap();
    let config = Config {
        durable_name: Some(name),
        ack_policy: AckPolicy::All,
        ack_wait: ACK_WAIT,
        max_ack_pending: PENDING_MAX as i64,
        ..Config::default()
    };
    let consumer = stream.create_consumer(config).await.unwrap();
    let mut messages = consumer.stream().max_messages_per_batch(FETCH_MESSAGES_MAX).messages().await.unwrap();
    let mut files = Files::new();
    while files.rows < events {
        let message = messages.next().await.unwrap().unwrap();
        let info = message.info().unwrap();
        let at_ms = (info.published.unix_timestamp_nanos() / 1_000_000) as i64;
        files.push(&message.payload, info.stream_sequence, at_ms);
        if files.close_if_full(files.rows == events) {
            message.double_ack_with(AckKind::Ack).await.unwrap();
        }
    }
}
