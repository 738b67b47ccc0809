//! The cost of one event on its way into a Parquet file (decode, columns, pages), against `ArrowWriter` on the same events.

use std::hint::black_box;

use causality::event::EventRef;
use causality::warehouse::{Compression, EncodeSettings, Encoder, Origin};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use prost::Message;

mod plain;
mod shop;

const EVENTS: usize = 100_000;
const RECEIVED_AT_MS: i64 = 1_767_225_600_000;

fn main_benches(criterion: &mut Criterion) {
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

/// Measured passes, for people: processor nanoseconds and bytes a row.
fn report(events: &[Vec<u8>]) {
    let per_row = |start: u64| (processor_ns() - start) as usize / EVENTS;
    for _ in 0..5 {
        let start = processor_ns();
        decode(events);
        let decode_ns = per_row(start);
        let start = processor_ns();
        payload_json(events);
        let json_ns = per_row(start);
        let start = processor_ns();
        let file_bytes = parquet(events, Compression::Snappy);
        let all_ns = per_row(start);
        let start = processor_ns();
        let plain_bytes = plain::encode(events, RECEIVED_AT_MS);
        let plain_ns = per_row(start);
        println!(
            "by ArrowWriter: whole path {plain_ns} ns ({:.2} times as long), {} bytes in the file",
            plain_ns as f64 / all_ns as f64,
            plain_bytes / EVENTS
        );
        println!(
            "a row: decode {decode_ns} ns, decode and payload JSON {json_ns} ns, whole path {all_ns} ns, {} bytes in the file",
            file_bytes / EVENTS
        );
    }
}

/// Nanoseconds that this thread has spent on a processor: what others take of the machine does not count.
fn processor_ns() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    text.split(' ').next().and_then(|ns| ns.parse().ok()).unwrap_or(0)
}

fn decode(events: &[Vec<u8>]) {
    for event in events {
        black_box(EventRef::decode(event).expect("decode"));
    }
}

fn payload_json(events: &[Vec<u8>]) {
    let mut out = Vec::new();
    for event in events {
        out.clear();
        EventRef::decode(event).expect("decode").write_payload_json(&mut out);
        black_box(&out);
    }
}

fn parquet(events: &[Vec<u8>], compression: Compression) -> usize {
    let settings = EncodeSettings { compression, row_group_rows_max: 1_000_000, stream: "EVENTS".into() };
    let mut encoder = Encoder::new(settings).expect("encoder");
    let mut file = encoder.open("shop");
    for (event, sequence) in events.iter().zip(1..) {
        let event = EventRef::decode(event).expect("decode");
        encoder.push(&mut file, &event, Origin { sequence, received_at_ms: RECEIVED_AT_MS }).expect("push");
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
