//! What peers can make the listener hold, and what is evicted when it is too much. Over real sockets, HTTP/2 frame by
//! frame.

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{BIG_REPLY_BYTES, TestServer, quick};
use crate::http::connection::share::REQUEST_BYTES;
use crate::http::memory::{CONNECTION_BYTES, HTTP2_BYTES};
use crate::http::raw_client::RawClient;
use crate::http::{Limits, MemoryBudget};

const PATIENCE: Duration = Duration::from_secs(10);
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GO_AWAY: u8 = 7;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

fn with_memory(bytes: usize) -> (Limits, MemoryBudget) {
    let memory = MemoryBudget::new(bytes);
    (Limits { memory: memory.clone(), idle_timeout: Duration::from_secs(60), ..Limits::default() }, memory)
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < PATIENCE, "{what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn post_head(server: &TestServer, length: usize) -> RawClient {
    let mut client = server.client().await;
    client.send(format!("POST /a HTTP/1.1\r\nhost: test\r\ncontent-length: {length}\r\n\r\n")).await;
    client
}

/// An HTTP/2 client that writes exactly the frames it is given.
struct Frames {
    tcp: TcpStream,
}

impl Frames {
    /// With one setting: its id and value.
    async fn connect(server: &TestServer, setting: Option<(u16, u32)>) -> Self {
        let mut frames = Self { tcp: TcpStream::connect(server.address).await.unwrap() };
        frames.tcp.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
        let payload = setting.map(|(id, value)| [&id.to_be_bytes()[..], &value.to_be_bytes()].concat());
        frames.send(SETTINGS, 0, 0, &payload.unwrap_or_default()).await;
        frames
    }

    async fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let mut frame = (payload.len() as u32).to_be_bytes()[1..].to_vec();
        frame.extend([kind, flags]);
        frame.extend(stream.to_be_bytes());
        frame.extend(payload);
        // Fails if the server has cut the connection.
        let _ = self.tcp.write_all(&frame).await;
    }

    /// A request. Without [`END_STREAM`] in `flags` its body stays open.
    async fn request(&mut self, method: &str, path: &str, flags: u8, stream: u32) {
        let mut block = vec![0x86];
        for (name, value) in [(2, method), (4, path), (1, "test")] {
            block.extend([name, value.len() as u8]);
            block.extend(value.as_bytes());
        }
        self.send(HEADERS, flags | END_HEADERS, stream, &block).await;
    }

    /// Kind, flags and length of the next frame; `None` at the end of the connection.
    async fn next(&mut self) -> Option<(u8, u8, usize)> {
        let mut head = [0; 9];
        tokio::time::timeout(PATIENCE, self.tcp.read_exact(&mut head)).await.expect("a frame in time").ok()?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let mut payload = vec![0; length];
        self.tcp.read_exact(&mut payload).await.ok()?;
        Some((head[3], head[4], length))
    }

    async fn ended(&mut self) {
        while self.next().await.is_some() {}
    }
}

#[tokio::test]
async fn a_declared_body_takes_almost_no_memory() {
    let (limits, memory) = with_memory(1 << 20);
    let server = TestServer::start(limits).await;
    let mut waiting = Vec::new();
    for _ in 0..60 {
        waiting.push(post_head(&server, 65_536).await);
    }
    let each = CONNECTION_BYTES + REQUEST_BYTES;
    until("all heads are there", || memory.bytes_used() >= 60 * each).await;
    assert!(memory.bytes_used() < 60 * (each + 1_024), "{}", memory.bytes_used());
    assert_eq!(server.client().await.post("/a", "text/plain", vec![0; 10_000]).await.status, 200);
    for client in &mut waiting {
        client.send(vec![0; 65_536]).await;
        assert_eq!(client.reply().await.status, 200);
    }
    drop(waiting);
    until("all is given back", || memory.bytes_used() == 0).await;
    assert_eq!(memory.refused(), 0);
}

#[tokio::test]
async fn slow_bodies_are_evicted_for_fast_ones() {
    let (limits, memory) = with_memory(1 << 20);
    let server = TestServer::start(limits).await;
    let mut slow = Vec::new();
    for _ in 0..20 {
        let mut client = post_head(&server, 65_536).await;
        client.send(vec![0; 65_535]).await;
        slow.push(client);
    }
    until("the budget is short", || memory.refused() > 0).await;
    tokio::time::sleep(Duration::from_millis(600)).await;
    for _ in 0..50 {
        let reply = server.client().await.post("/a", "text/plain", vec![0; 60_000]).await;
        assert_eq!((reply.status, reply.body), (200, b"/a 60000".to_vec()));
    }
    let mut first = slow.swap_remove(0);
    let reply = first.reply().await;
    assert_eq!((reply.status, reply.header("connection")), (413, Some("close")), "the test service's word for it");
    assert!(first.closed().await);
    drop(slow);
    until("all is given back", || memory.bytes_used() == 0).await;
}

#[tokio::test]
async fn partial_heads_are_counted_and_evicted() {
    let (limits, memory) = with_memory(1 << 20);
    let server = TestServer::start(limits).await;
    let mut slow = Vec::new();
    for _ in 0..40 {
        let mut client = server.client().await;
        client.send(format!("GET /a HTTP/1.1\r\nhost: test\r\nx: {}", "x".repeat(50_000))).await;
        slow.push(client);
    }
    until("the budget is short", || memory.refused() > 0).await;
    assert!(memory.bytes_used() > 500_000, "{}", memory.bytes_used());
    tokio::time::sleep(Duration::from_millis(600)).await;
    for _ in 0..20 {
        let reply = server.client().await.post("/a", "text/plain", vec![0; 60_000]).await;
        assert_eq!(reply.status, 200);
    }
    drop(slow);
    until("all is given back", || memory.bytes_used() == 0).await;
}

#[tokio::test]
async fn unread_replies_are_counted_and_evicted() {
    let (limits, memory) = with_memory(80 << 20);
    let server = TestServer::start(limits).await;
    let mut clients = Vec::new();
    for _ in 0..4 {
        let mut client = server.client().await;
        client.send("GET /big HTTP/1.1\r\nhost: test\r\n\r\n").await;
        clients.push(client);
    }
    until("two replies wait, two are refused", || memory.refused() > 0 && memory.bytes_used() > 2 * BIG_REPLY_BYTES)
        .await;
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert_eq!(server.client().await.get("/big").await.body.len(), BIG_REPLY_BYTES, "an honest reader");
    drop(clients);
    until("all is given back", || memory.bytes_used() == 0).await;
}

#[tokio::test]
async fn open_streams_are_counted_and_evicted() {
    let (limits, memory) = with_memory(2 << 20);
    let server = TestServer::start(limits).await;
    let mut floods = Vec::new();
    for _ in 0..8 {
        let mut flood = Frames::connect(&server, None).await;
        for n in 0..60 {
            flood.request("POST", "/a", 0, 2 * n + 1).await;
        }
        floods.push(flood);
    }
    until("the budget is short", || memory.refused() > 0).await;
    assert!(memory.bytes_used() < 2 * (2 << 20), "{}", memory.bytes_used());
    for _ in 0..40 {
        assert_eq!(server.client().await.get("/health").await.status, 200, "short of memory, and alive");
    }
    tokio::time::sleep(Duration::from_millis(600)).await;
    for _ in 0..20 {
        assert_eq!(server.client().await.post("/a", "text/plain", vec![0; 60_000]).await.status, 200);
    }
    drop(floods);
    until("all is given back", || memory.bytes_used() == 0).await;
}

#[tokio::test]
async fn idle_http2_connections_are_evicted() {
    let (limits, memory) = with_memory(1 << 20);
    let server = TestServer::start(limits).await;
    let mut idle = Vec::new();
    for _ in 0..14 {
        let mut client = Frames::connect(&server, None).await;
        client.request("GET", "/a", END_STREAM, 1).await;
        while client.next().await.is_some_and(|(_, flags, _)| flags & END_STREAM == 0) {}
        idle.push(client);
    }
    until("only the connections are left", || memory.bytes_used() == 14 * (CONNECTION_BYTES + HTTP2_BYTES)).await;
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert_eq!(server.client().await.post("/a", "text/plain", vec![0; 200_000]).await.status, 200);
    idle[0].ended().await;
}

#[tokio::test]
async fn a_reply_without_a_window_times_out_despite_other_traffic() {
    let limits = Limits { idle_timeout: Duration::from_secs(60), ..quick() };
    let server = TestServer::start(limits).await;
    let mut client = Frames::connect(&server, Some((4, 0))).await;
    client.request("GET", "/a", END_STREAM, 1).await;
    let start = Instant::now();
    let (mut stream, mut ended) = (1, false);
    while !ended {
        assert!(start.elapsed() < PATIENCE, "the connection is never cut");
        // Other requests do not extend the time of the reply that waits.
        stream += 2;
        client.request("HEAD", "/a", END_STREAM, stream).await;
        client.send(PING, 0, 0, &[0; 8]).await;
        ended = tokio::time::timeout(Duration::from_millis(20), async { client.next().await.is_none() })
            .await
            .unwrap_or(false);
    }
    assert!(start.elapsed() >= Duration::from_millis(190));
}

#[tokio::test]
async fn pings_do_not_keep_an_idle_connection() {
    let server = TestServer::start(quick()).await;
    let mut client = Frames::connect(&server, None).await;
    client.request("GET", "/a", END_STREAM, 1).await;
    let start = Instant::now();
    let mut refused = false;
    loop {
        assert!(start.elapsed() < PATIENCE, "the connection is never closed");
        client.send(PING, 0, 0, &[0; 8]).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
        match client.next().await {
            Some((GO_AWAY, ..)) => refused = true,
            Some(_) => {}
            None => break,
        }
    }
    assert!(refused);
}

#[tokio::test]
async fn http2_replies_to_head_have_no_body() {
    let server = TestServer::start(Limits::default()).await;
    let mut client = Frames::connect(&server, None).await;
    for (stream, path) in [(1, "/a"), (3, "/big")] {
        client.request("HEAD", path, END_STREAM, stream).await;
        loop {
            let (kind, flags, _) = client.next().await.unwrap();
            assert_ne!(kind, 0, "a DATA frame");
            if kind == HEADERS {
                assert_eq!(flags & END_STREAM, END_STREAM, "{path}");
                break;
            }
        }
    }
}

#[tokio::test]
async fn ambiguous_hosts_are_refused() {
    let server = TestServer::start(Limits::default()).await;
    for (target, hosts, status) in [
        ("/a", "host: test\r\n", 200),
        ("/a", "", 400),
        ("/a", "host: test\r\nhost: test\r\n", 400),
        ("http://other/a", "host: test\r\n", 400),
        ("http://test/a", "host: test\r\n", 200),
    ] {
        let mut client = server.client().await;
        client.send(format!("GET {target} HTTP/1.1\r\n{hosts}\r\n")).await;
        assert_eq!(client.reply().await.status, status, "{target} {hosts}");
    }
}
