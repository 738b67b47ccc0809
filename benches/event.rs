//! What one event costs on its way in and on its way to the sink and the rules.

use std::hint::black_box;

use causality::event::proto::{EventEnvelope, IngestEventBatchRequest};
use causality::event::{Arrival, EVENT_BYTES_MAX, EventRef, request};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use prost::Message as _;
use serde_json::json;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const ARRIVAL: Arrival<'static> =
    Arrival { received_at_ms: 1_767_225_600_000, key_app: None, event_bytes_max: EVENT_BYTES_MAX, assigned_id: None };
const BATCH_EVENTS: usize = 100;

fn purchase() -> serde_json::Value {
    json!({
        "appId": "com.example.shop",
        "deviceId": "3f0c9a52-6f57-4c5e-9a51-27d3c3a1b0de",
        "timestampMs": "1767225600123",
        "idempotencyKey": "01943d2b-6f57-7c5e-9a51-27d3c3a1b0de",
        "sessionId": "s-8842aa01",
        "deviceContext": {
            "platform": "PLATFORM_IOS", "osVersion": "18.2", "appVersion": "5.14.0", "buildNumber": "51402",
            "deviceModel": "iPhone17,2", "manufacturer": "Apple", "screenWidth": 1320, "screenHeight": 2868,
            "locale": "en_US", "timezone": "America/New_York", "networkType": "NETWORK_TYPE_WIFI", "sdkVersion": "2.3.1"
        },
        "purchaseComplete": {
            "orderId": "ord-20260101-000123", "cartId": "cart-8842", "itemCount": 2, "totalCents": "12998",
            "currency": "USD", "paymentMethod": "apple_pay",
            "items": [
                {"productId": "sku-1", "productName": "Trail Shoe", "quantity": 1, "priceCents": "8999"},
                {"productId": "sku-2", "productName": "Wool Socks", "quantity": 1, "priceCents": "3999"}
            ]
        }
    })
}

fn reading(criterion: &mut Criterion) {
    let single = json!({ "event": purchase() }).to_string();
    let batch = json!({ "events": vec![purchase(); BATCH_EVENTS] }).to_string();
    let events: IngestEventBatchRequest = serde_json::from_str(&batch).expect("read batch");
    let binary = events.encode_to_vec();

    let mut group = criterion.benchmark_group("accept");
    group.bench_function(format!("json single of {} bytes", single.len()), |bencher| {
        bencher.iter(|| request::accept_json_single(black_box(single.as_bytes()), &ARRIVAL).expect("accept"));
    });
    group.bench_function("json single, serde_json and pbjson alone", |bencher| {
        let event = purchase().to_string();
        bencher.iter(|| serde_json::from_str::<EventEnvelope>(black_box(&event)).expect("read"));
    });
    group.throughput(Throughput::Elements(BATCH_EVENTS as u64));
    group.bench_function("json batch", |bencher| {
        bencher.iter(|| request::accept_json_batch(black_box(batch.as_bytes()), 1000, &ARRIVAL).expect("accept"));
    });
    group.bench_function("json batch, fields in the order of their numbers", |bencher| {
        let batch = serde_json::to_string(&events).expect("write batch");
        bencher.iter(|| request::accept_json_batch(black_box(batch.as_bytes()), 1000, &ARRIVAL).expect("accept"));
    });
    // The plain ways to the same end: a library reads the body into messages, which are then encoded and validated. For
    // sonic-rs see benches/json.
    group.bench_function("json batch, serde_json and pbjson", |bencher| {
        bencher.iter(|| accept_messages(serde_json::from_str(black_box(&batch)).expect("read")));
    });
    group.bench_function("binary batch", |bencher| {
        bencher.iter(|| request::accept_binary_batch(black_box(&binary), 1000, &ARRIVAL).expect("accept"));
    });
    group.bench_function("binary batch, prost", |bencher| {
        bencher.iter(|| accept_messages(IngestEventBatchRequest::decode(black_box(&*binary)).expect("read")));
    });
    group.finish();
}

fn accept_messages(batch: IngestEventBatchRequest) -> request::Accepted {
    let mut accepted = request::Accepted::default();
    batch.events.iter().for_each(|event| accepted.add(event, &ARRIVAL));
    accepted
}

fn stored(criterion: &mut Criterion) {
    let body = json!({ "event": purchase() }).to_string();
    let accepted = request::accept_json_single(body.as_bytes(), &ARRIVAL).expect("accept");
    let bytes = accepted.iter().next().expect("one event").expect("accepted").bytes;
    let message = EventEnvelope::decode(bytes).expect("decode");

    let mut group = criterion.benchmark_group("stored");
    group.bench_function("prost encode", |bencher| bencher.iter(|| black_box(&message).encode_to_vec()));
    group.bench_function("decode", |bencher| bencher.iter(|| EventRef::decode(black_box(bytes)).expect("decode")));
    let event = EventRef::decode(bytes).expect("decode");
    let mut out = Vec::with_capacity(4096);
    group.bench_function("payload JSON", |bencher| {
        bencher.iter(|| {
            out.clear();
            black_box(&event).write_payload_json(&mut out);
        });
    });
    group.bench_function("rule view JSON", |bencher| {
        bencher.iter(|| {
            out.clear();
            black_box(&event).write_view_json(&mut out);
        });
    });
    group.bench_function("rule view", |bencher| bencher.iter(|| black_box(&event).rule_view()));
    group.bench_function("rule view, as serde_json::Value", |bencher| bencher.iter(|| black_box(&event).view()));
    group.finish();
}

criterion_group!(benches, reading, stored);
criterion_main!(benches);
