//! Compressed bodies and JSON lines: they are stored like plain ones.

use std::io::Write;

use flate2::Compression;
use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};
use prost::Message;
use serde_json::{Value, json};

use super::{BATCH, BINARY, INGEST, JSON, TestGateway};
use crate::event::EventRef;
use crate::event::proto::{EventEnvelope, IngestEventBatchRequest, IngestEventBatchResponse};
use crate::gateway::Settings;

const LINES: &str = "application/x-ndjson";

fn event(device: &str) -> Value {
    json!({"appId": "shop", "deviceId": device, "screenView": {"screenName": "home"}})
}

type Encode = fn(&[u8]) -> Vec<u8>;

/// The values of `Content-Encoding`, each with an encoder.
fn codings() -> [(&'static str, Encode); 5] {
    [
        ("gzip", |bytes| {
            let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
            encoder.write_all(bytes).unwrap();
            encoder.finish().unwrap()
        }),
        ("deflate", |bytes| {
            let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
            encoder.write_all(bytes).unwrap();
            encoder.finish().unwrap()
        }),
        ("deflate", |bytes| {
            let mut encoder = DeflateEncoder::new(Vec::new(), Compression::default());
            encoder.write_all(bytes).unwrap();
            encoder.finish().unwrap()
        }),
        ("zstd", |bytes| zstd::encode_all(bytes, 3).unwrap()),
        ("br", stored_brotli),
    ]
}

/// Brotli that stores without compression (RFC 7932 §9.2): a window of 64 KiB, one uncompressed meta-block, the end.
fn stored_brotli(bytes: &[u8]) -> Vec<u8> {
    let length = u32::try_from(bytes.len()).unwrap();
    assert!((1..=0x1_0000).contains(&length));
    // WBITS 0; ISLAST 0, MNIBBLES 00 (4), MLEN - 1 in 16 bits, ISUNCOMPRESSED 1; zeros to the end of the byte.
    let head = ((length - 1) << 4) | (1 << 20);
    let mut coded = head.to_le_bytes()[..3].to_vec();
    coded.extend_from_slice(bytes);
    // ISLAST 1, ISLASTEMPTY 1.
    coded.push(0b11);
    coded
}

fn request(path: &str, media_type: &str, coding: &str, body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: t\r\ncontent-type: {media_type}\r\ncontent-encoding: {coding}\r\n\
         content-length: {length}\r\n\r\n"
    );
    [head.as_bytes(), body].concat()
}

#[tokio::test]
async fn compressed_bodies_are_accepted_like_plain_ones() {
    let gateway = TestGateway::start(Settings::default()).await;
    let mut client = gateway.client().await;
    let envelope: EventEnvelope = serde_json::from_value(event("binary")).unwrap();
    let binary = IngestEventBatchRequest { events: vec![envelope; 3] }.encode_to_vec();
    let lines = format!("{}\n{}\n", event("line"), event("line"));
    let mut devices = Vec::new();
    for (name, code) in codings() {
        let single = json!({"event": event("single")}).to_string();
        client.send(request(INGEST, JSON, name, &code(single.as_bytes()))).await;
        assert_eq!(client.reply().await.status, 200, "{name}");
        let batch = json!({"events": [event("batch"), event("batch")]}).to_string();
        client.send(request(BATCH, JSON, name, &code(batch.as_bytes()))).await;
        assert_eq!(client.reply().await.json()["acceptedCount"], 2, "{name}");
        client.send(request(BATCH, LINES, name, &code(lines.as_bytes()))).await;
        assert_eq!(client.reply().await.json()["acceptedCount"], 2, "{name}");
        client.send(request(BATCH, BINARY, name, &code(&binary))).await;
        let reply = IngestEventBatchResponse::decode(client.reply().await.body.as_slice()).unwrap();
        assert_eq!(reply.accepted_count, 3, "{name}");
        devices.extend(["single", "batch", "batch", "line", "line", "binary", "binary", "binary"]);
    }
    let stored = gateway.payloads(devices.len()).await;
    let stored: Vec<_> = stored.iter().map(|payload| EventRef::decode(payload).unwrap().device_id).collect();
    assert_eq!(stored, devices);
}

#[tokio::test]
async fn a_decompression_bomb_is_refused_and_the_next_request_served() {
    let settings = Settings { body_bytes_max: 100_000, ..Settings::default() };
    let gateway = TestGateway::start(settings).await;
    let spaces = vec![b' '; 10 << 20];
    for (name, code) in codings().into_iter().filter(|(name, _)| *name != "br") {
        let mut client = gateway.client().await;
        client.send(request(BATCH, JSON, name, &code(&spaces))).await;
        let reply = client.reply().await;
        assert_eq!((reply.status, reply.header("connection")), (413, Some("close")), "{name}");
        let detail = reply.json()["detail"].as_str().unwrap().to_owned();
        assert!(detail.starts_with("The body inflates to") || detail.ends_with("once it is inflated."), "{detail}");
    }
    let mut client = gateway.client().await;
    let body = json!({"event": event("d")}).to_string();
    assert_eq!(client.post(INGEST, JSON, body).await.status, 200);
    assert_eq!(gateway.stored().await, 1);
}

#[tokio::test]
async fn each_line_has_its_own_outcome() {
    let gateway = TestGateway::start(Settings::default()).await;
    let mut client = gateway.client().await;
    let lines: Vec<Vec<u8>> = vec![
        format!("\u{feff}{}\r", event("first")).into_bytes(),
        b"   ".to_vec(),
        b"{\"appId\":\"shop\",".to_vec(),
        b"\xff{}".to_vec(),
        format!("{} {}", event("two"), event("two")).into_bytes(),
        json!({"appId": "shop", "deviceId": "d", "nothing": {}}).to_string().into_bytes(),
        b"[]".to_vec(),
        event("last").to_string().into_bytes(),
    ];
    let reply = client.post(BATCH, LINES, lines.join(&b'\n')).await;
    assert_eq!((reply.status, reply.header("content-type")), (200, Some(JSON)));
    let reply = reply.json();
    assert_eq!((&reply["acceptedCount"], &reply["rejectedCount"]), (&json!(2), &json!(5)), "{reply}");
    let refused = |at: usize| reply["results"][at]["error"].to_string();
    let length = event("two").to_string().len() + 1;
    for (at, told) in [
        (1, "is not well-formed JSON at byte 16 of its line".to_owned()),
        (2, "is not UTF-8 at byte 0 of its line".to_owned()),
        (3, format!("is not well-formed JSON at byte {length} of its line")),
        (4, "nothing".to_owned()),
        (5, "must be an object".to_owned()),
    ] {
        assert!(refused(at).contains(&told), "{at}: {told}: {reply}");
    }
    let stored = gateway.payloads(2).await;
    let stored: Vec<_> = stored.iter().map(|payload| EventRef::decode(payload).unwrap().device_id).collect();
    assert_eq!(stored, ["first", "last"]);
}
