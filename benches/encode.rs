//! The cost of one event on its way into a Parquet file (decode, columns, pages), against `ArrowWriter` on the same events.

use std::hint::black_box;

use causality::event::EventRef;
use causality::warehouse::{Compression, EncodeSettings, Encoder, Origin};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use prost::Message;

#[path = "plain/compare.rs"]
#[allow(dead_code, reason = "each user has its own part")]
mod compare;
mod plain;
mod shop;

/// As in the product.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const EVENTS: usize = 100_000;
const RUNS: usize = 9;
const RECEIVED_AT_MS: i64 = 1_767_225_600_000;

fn main_benches(criterion: &mut Criterion) {
    causality::base::memory::tune();
    let events = events();
    let bytes: usize = events.iter().map(Vec::len).sum();
    println!("{} bytes an event on the wire", bytes / EVENTS);
    report(&events);
    if std::env::var_os("REPORT_ONLY").is_some() {
        return;
    }
    let mut group = criterion.benchmark_group("encode");
    group.throughput(Throughput::Elements(EVENTS as u64)).sample_size(10);
    group.bench_function("decode", |b| b.iter(|| decode(&events)));
    group.bench_function("decode and payload JSON", |b| b.iter(|| payload_json(&events)));
    for (name, compression) in
        [("snappy", Compression::Snappy), ("zstd", Compression::Zstd), ("none", Compression::None)]
    {
        group.bench_function(format!("Parquet, {name}"), |b| b.iter(|| parquet(&events, compression)));
    }
    group.bench_function("Parquet, snappy, by ArrowWriter", |b| b.iter(|| plain::encode(&events, RECEIVED_AT_MS)));
    group.finish();
}

/// Passes in turns: processor nanoseconds and bytes a row.
fn report(events: &[Vec<u8>]) {
    let timed = |costs: &mut Vec<f64>, work: &dyn Fn() -> usize| {
        let start = compare::thread_ns();
        let bytes = work();
        costs.push((compare::thread_ns() - start) / EVENTS as f64);
        bytes / EVENTS
    };
    let [mut decoding, mut json, mut ours, mut plain] = [(); 4].map(|()| Vec::new());
    let (mut our_bytes, mut plain_bytes) = (0, 0);
    for _ in 0..RUNS {
        timed(&mut decoding, &|| decode(events));
        timed(&mut json, &|| payload_json(events));
        our_bytes = timed(&mut ours, &|| parquet(events, Compression::Snappy));
        plain_bytes = timed(&mut plain, &|| plain::encode(events, RECEIVED_AT_MS));
    }
    compare::ratio("ns a row", ("decode", &decoding), ("decode and payload JSON", &json));
    println!("bytes a row: page writer {our_bytes}, ArrowWriter {plain_bytes}");
    let ratio = compare::ratio("ns a row, whole path", ("page writer", &ours), ("ArrowWriter", &plain));
    compare::hold(ratio >= compare::BAR, "the page writer");
}

fn decode(events: &[Vec<u8>]) -> usize {
    events.iter().map(|event| black_box(decoded(event)).payload.len()).sum()
}

fn payload_json(events: &[Vec<u8>]) -> usize {
    let mut out = Vec::new();
    let write = |event: &Vec<u8>| {
        out.clear();
        decoded(event).write_payload_json(&mut out);
        black_box(&out).len()
    };
    events.iter().map(write).sum()
}

/// As the sink does: the gateway has checked the payload.
fn decoded(event: &[u8]) -> EventRef<'_> {
    EventRef::decode_admitted(event).expect("decode")
}

fn parquet(events: &[Vec<u8>], compression: Compression) -> usize {
    let settings = EncodeSettings { compression, row_group_rows_max: 1_000_000, stream: "EVENTS".into() };
    let mut encoder = Encoder::new(settings).expect("encoder");
    let mut file = encoder.open("shop");
    for (event, sequence) in events.iter().zip(1..) {
        encoder.push(&mut file, &decoded(event), Origin { sequence, received_at_ms: RECEIVED_AT_MS }).expect("push");
    }
    encoder.finish(file, 1..=events.len() as u64).expect("finish").len()
}

/// A shop's events, the same in every run.
fn events() -> Vec<Vec<u8>> {
    let mut random = shop::Random(42);
    (0..EVENTS as u64).map(|n| shop::event(n, &mut random).encode_to_vec()).collect()
}

criterion_group!(benches, main_benches);
criterion_main!(benches);
