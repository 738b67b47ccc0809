//! Load shedding over real sockets: a refused client is told immediately, and health probes still work.

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::TestServer;
use crate::http::raw_client::RawClient;
use crate::http::{Limits, MemoryBudget};

const AMPLE: usize = 64 << 20;

fn limits(memory: &MemoryBudget) -> Limits {
    Limits { memory: memory.clone(), idle_timeout: Duration::from_secs(60), ..Limits::default() }
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < Duration::from_secs(10), "{what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A request whose body lacks its last byte.
async fn unfinished(server: &TestServer, bytes: usize) -> RawClient {
    let mut client = server.client().await;
    client.send(format!("POST /a HTTP/1.1\r\nhost: test\r\ncontent-length: {bytes}\r\n\r\n")).await;
    client.send(vec![0; bytes - 1]).await;
    client
}

#[tokio::test]
async fn requests_beyond_the_limit_are_refused_or_evict_slow_ones() {
    let memory = MemoryBudget::with_caps(AMPLE, 8, usize::MAX);
    let server = TestServer::start(limits(&memory)).await;
    let mut waiting = Vec::new();
    for _ in 0..8 {
        waiting.push(unfinished(&server, 10).await);
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    let start = Instant::now();
    let reply = server.client().await.post("/a", "text/plain", "1").await;
    assert_eq!((reply.status, reply.header("retry-after")), (503, Some("2")), "{}", reply.head);
    assert!(reply.json()["detail"].as_str().unwrap().contains("too many requests"));
    assert!(start.elapsed() < Duration::from_millis(400), "at once");
    assert_eq!(memory.refused(), 1);
    for path in ["/health", "/ready"] {
        assert_eq!(server.client().await.get(path).await.status, 200, "{path}");
    }
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert_eq!(server.client().await.post("/a", "text/plain", "1").await.status, 200, "the slow have paid");
    drop(waiting);
    until("all is given back", || memory.bytes_used() == 0).await;
    for _ in 0..20 {
        assert_eq!(server.client().await.post("/a", "text/plain", "1").await.status, 200);
    }
}

#[tokio::test]
async fn body_bytes_beyond_the_limit_are_refused_or_evict_slow_requests() {
    let memory = MemoryBudget::with_caps(AMPLE, usize::MAX, 1 << 20);
    let server = TestServer::start(limits(&memory)).await;
    let mut waiting = Vec::new();
    for _ in 0..14 {
        waiting.push(unfinished(&server, 70_000).await);
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(memory.refused(), 0);
    let reply = server.client().await.post("/a", "text/plain", vec![0; 200_000]).await;
    assert_ne!(reply.status, 200);
    assert_eq!(memory.refused(), 1);
    assert_eq!(server.client().await.post("/a", "text/plain", "small").await.status, 200);
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert_eq!(server.client().await.post("/a", "text/plain", vec![0; 200_000]).await.status, 200);
    drop(waiting);
    until("all is given back", || memory.bytes_used() == 0).await;
    let whole = server.client().await.post("/a", "text/plain", vec![0; 900_000]).await;
    assert_eq!(whole.status, 200, "the cap is free again");
}

#[tokio::test]
async fn a_head_without_memory_gets_a_reply() {
    let memory = MemoryBudget::new(1 << 20);
    let server = TestServer::start(limits(&memory)).await;
    let mut slow = Vec::new();
    let mut refused = None;
    for _ in 0..40 {
        let mut client = server.client().await;
        client.send(format!("GET /a HTTP/1.1\r\nhost: test\r\nx: {}", "x".repeat(50_000))).await;
        if memory.refused() > 0 {
            refused = Some(client);
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
        slow.push(client);
    }
    let mut candidates: Vec<_> = refused.into_iter().chain(slow.into_iter().rev().take(3)).collect();
    let mut replies = Vec::new();
    for client in &mut candidates {
        if let Ok(Some(reply)) = tokio::time::timeout(Duration::from_millis(300), client.try_reply()).await {
            replies.push((reply.status, reply.header("retry-after").map(str::to_owned)));
        }
    }
    assert!(replies.contains(&(503, Some("2".to_owned()))), "{replies:?}");
}

#[tokio::test]
async fn http2_without_memory_gets_enhance_your_calm() {
    let memory = MemoryBudget::new(100_000);
    let server = TestServer::start(limits(&memory)).await;
    let mut first = TcpStream::connect(server.address).await.unwrap();
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    first.write_all(preface).await.unwrap();
    until("it is charged", || memory.bytes_used() > 64 * 1024).await;
    let mut second = TcpStream::connect(server.address).await.unwrap();
    second.write_all(preface).await.unwrap();
    let mut frames = Vec::new();
    second.read_to_end(&mut frames).await.unwrap();
    assert_eq!(frames[..9], [0, 0, 0, 4, 0, 0, 0, 0, 0], "SETTINGS");
    assert_eq!((frames[9 + 3], frames[frames.len() - 1]), (7, 11), "GOAWAY: ENHANCE_YOUR_CALM");
    assert_eq!(memory.refused(), 1);
}
