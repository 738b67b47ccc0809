//! Past each cap with real connections: 503 with `Retry-After` at once, counted by reason, and health all the same. And
//! what connections cost that ask nothing.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::harness::{Server, get, wait_until};

const EVENT: &str = r#"{"event":{"appId":"a","deviceId":"d","userLogin":{}}}"#;

/// A request whose body lacks its last byte.
fn unfinished(server: &Server, bytes: usize) -> TcpStream {
    let mut tcp = TcpStream::connect(&server.http[7..]).unwrap();
    let head = format!("POST /v1/events/ingest HTTP/1.1\r\nhost: t\r\ncontent-length: {bytes}\r\n\r\n");
    tcp.write_all(head.as_bytes()).unwrap();
    tcp.write_all(&vec![b' '; bytes - 1]).unwrap();
    tcp
}

/// A whole request of so many bytes on a connection of its own; the reply.
fn whole(server: &Server, bytes: usize) -> String {
    let mut tcp = unfinished(server, bytes);
    // A refusal may come before the end.
    let _ = tcp.write_all(b" ");
    let mut reply = String::new();
    let mut space = [0; 4096];
    tcp.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    while !reply.contains("\r\n\r\n") {
        let count = tcp.read(&mut space).unwrap();
        assert!(count > 0, "closed without a reply: {reply:?}");
        reply.push_str(std::str::from_utf8(&space[..count]).unwrap());
    }
    reply.to_lowercase()
}

fn refused(server: &Server, reason: &str) -> u64 {
    let (_, metrics) = get(&format!("{}/metrics", server.admin)).unwrap();
    let start = format!("causality_http_refused_total{{reason=\"{reason}\"}} ");
    metrics.lines().find_map(|line| line.strip_prefix(&start)?.parse().ok()).unwrap_or_default()
}

fn is_alive(server: &Server) {
    for base in [&server.http, &server.admin] {
        for path in ["health", "ready"] {
            assert_eq!(get(&format!("{base}/{path}")).map(|(status, _)| status), Some(200), "{base}/{path}");
        }
    }
}

/// Fills, and goes past the cap before anyone is slow; a busy machine may need some attempts for that.
fn past(server: &Server, reason: &str, fill: impl Fn() -> Vec<TcpStream>, ask: impl Fn() -> String) {
    for _ in 0..20 {
        let held = fill();
        // Less than makes anyone slow, and enough to be read.
        std::thread::sleep(Duration::from_millis(150));
        let started = Instant::now();
        let reply = ask();
        if reply.starts_with("http/1.1 503") {
            assert!(reply.contains("\r\nretry-after: "), "{reply}");
            assert!(started.elapsed() < Duration::from_secs(2), "at once: {:?}", started.elapsed());
            is_alive(server);
            drop(held);
            // Metrics are no probe: they may be refused as well.
            return wait_until(&format!("{reason} is counted"), || refused(server, reason) > 0);
        }
    }
    panic!("never past {reason}");
}

#[test]
fn each_cap_is_told_at_once_and_by_its_name() {
    let dir = tempfile::tempdir().unwrap();
    let limits = [("HTTP_MAX_REQUESTS", "40"), ("HTTP_BODY_MEMORY_MAX", "6MiB"), ("HTTP_MEMORY_MAX", "12MiB")];
    let server = Server::start(dir.path(), &limits);
    past(&server, "requests", || (0..40).map(|_| unfinished(&server, 100)).collect(), || whole(&server, 100));
    let large = || (0..6).map(|_| unfinished(&server, 1 << 20)).collect();
    past(&server, "body_bytes", large, || whole(&server, 1 << 20));
    // Once nobody is in the way, all is as before.
    wait_until("events are taken again", || {
        server.send("/v1/events/ingest", &serde_json::from_str(EVENT).unwrap()).is_some_and(|(status, _)| status == 200)
    });
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &[("HTTP_MAX_CONNECTIONS", "5")]);
    past(&server, "connections", || (0..5).map(|_| unfinished(&server, 100)).collect(), || whole(&server, 100));
    let dir = tempfile::tempdir().unwrap();
    let limits = [("HTTP_MEMORY_MAX", "4MiB"), ("MAX_BODY_SIZE", "1MiB"), ("HTTP_BODY_MEMORY_MAX", "4MiB")];
    let server = Server::start(dir.path(), &limits);
    let bodies = || (0..5).map(|_| unfinished(&server, 700_000)).collect();
    past(&server, "memory", bodies, || whole(&server, 400_000));
}

fn resident_kb(server: &Server) -> i64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[test]
fn an_idle_connection_keeps_no_buffers() {
    const CONNECTIONS: usize = 2_000;
    // 10,000 of them and the rest of the process have to fit 200 MB.
    const EACH_KB_MAX: i64 = 10;
    causality::app::open_files::raise();
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &[]);
    let before = resident_kb(&server);
    let mut idle = Vec::new();
    for _ in 0..CONNECTIONS {
        let mut tcp = unfinished(&server, 100_000);
        tcp.write_all(b" ").unwrap();
        assert!(tcp.read(&mut [0; 4096]).unwrap() > 0);
        idle.push(tcp);
    }
    let least = before + CONNECTIONS as i64 * EACH_KB_MAX;
    wait_until(&format!("{CONNECTIONS} idle connections hold less than {EACH_KB_MAX} kB each"), || {
        resident_kb(&server) < least
    });
    // They are as good as new.
    let event = format!("POST /v1/events/ingest HTTP/1.1\r\nhost: t\r\ncontent-length: {}\r\n\r\n{EVENT}", EVENT.len());
    for tcp in idle.iter_mut().step_by(100) {
        tcp.write_all(event.as_bytes()).unwrap();
        let mut reply = [0; 4096];
        let count = tcp.read(&mut reply).unwrap();
        let reply = String::from_utf8_lossy(&reply[..count]);
        assert!(reply.contains("HTTP/1.1 200"), "{reply}");
    }
}
