//! The JSON reader against `sonic-rs` and `serde_json`: from the body of a batch to validated, encoded events.
//!
//! The plain side reads the body into messages by way of `pbjson`, then encodes and validates each. The bodies are read
//! in turns. Fails if the plain side does not cost at least 1.3 times as much.

use std::hint::black_box;
use std::time::Instant;

use causality::event::proto::IngestEventBatchRequest;
use causality::event::request::{Accepted, accept_json_batch};
use causality::event::{Arrival, EVENT_BYTES_MAX};
use serde_json::json;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const ARRIVAL: Arrival<'static> =
    Arrival { received_at_ms: 1_767_225_600_000, key_app: None, event_bytes_max: EVENT_BYTES_MAX, assigned_id: None };
const EVENTS: usize = 100;
const RUNS: usize = 301;

fn main() {
    // The first event of the benchmark `event`.
    let event = json!({
        "appId": "com.example.shop", "deviceId": "3f0c9a52-6f57-4c5e-9a51-27d3c3a1b0de", "timestampMs": "1767225600123",
        "idempotencyKey": "01943d2b-6f57-7c5e-9a51-27d3c3a1b0de", "sessionId": "s-8842aa01",
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
    });
    let body = json!({ "events": vec![event; EVENTS] }).to_string().into_bytes();
    let read: [(&str, fn(&[u8]) -> Accepted); 3] = [
        ("the reader", |body| accept_json_batch(body, EVENTS, &ARRIVAL).expect("accept")),
        ("sonic-rs and pbjson", |body| accept(sonic_rs::from_slice(body).expect("read"))),
        ("serde_json and pbjson", |body| accept(serde_json::from_slice(body).expect("read"))),
    ];
    let mut times = [(); 3].map(|()| Vec::with_capacity(RUNS));
    for _ in 0..RUNS {
        for ((_, read), times) in read.iter().zip(&mut times) {
            let start = Instant::now();
            assert_eq!(black_box(read(black_box(&body))).iter().filter(Result::is_ok).count(), EVENTS);
            times.push(start.elapsed().as_nanos() / EVENTS as u128);
        }
    }
    let medians = times.map(|mut times| *times.select_nth_unstable(RUNS / 2).1);
    for ((name, _), median) in read.iter().zip(medians) {
        println!("{name}: {median} ns an event, {:.2} times the reader", median as f64 / medians[0] as f64);
    }
    assert!(medians[1].min(medians[2]) * 10 >= medians[0] * 13, "the plain way is good enough");
}

fn accept(batch: IngestEventBatchRequest) -> Accepted {
    let mut accepted = Accepted::default();
    batch.events.iter().for_each(|event| accepted.add(event, &ARRIVAL));
    accepted
}
