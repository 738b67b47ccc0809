//! Many connections at once, in the default configuration: what they may hold, and who is answered all the same.

use std::io::Write;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::json;
use tempfile::tempdir;

use crate::harness::{Server, get, wait_until};

/// The peak of the whole process in the default configuration, whatever peers do.
const PEAK_MEMORY_MB: u64 = 300;

fn connect(url: &str, request: &str) -> TcpStream {
    let mut tcp = TcpStream::connect(url.trim_start_matches("http://")).unwrap();
    tcp.write_all(request.as_bytes()).unwrap();
    tcp
}

fn event(device: usize) -> serde_json::Value {
    json!({"event": {"appId": "shop", "deviceId": device.to_string(), "screenView": {"screenName": "home"}}})
}

fn peak_mb(server: &Server) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1024
}

#[test]
fn bodies_that_are_only_announced_keep_nobody_out() {
    let dir = tempdir().unwrap();
    let server = Server::start(dir.path(), &[]);
    let head = "POST /v1/events/ingest HTTP/1.1\r\nhost: x\r\ncontent-length: 65536\r\n\r\n";
    let waiting: Vec<_> = (0..1_100).map(|_| connect(&server.http, head)).collect();
    for device in 0..50 {
        let (status, reply) = server.send("/v1/events/ingest", &event(device)).unwrap();
        assert_eq!(status, 200, "{reply}");
    }
    assert!(peak_mb(&server) < PEAK_MEMORY_MB, "{} MB", peak_mb(&server));
    drop(waiting);
    server.expect_quiet_log(&[]);
}

#[test]
fn replies_that_nobody_reads_are_bounded() {
    let dir = tempdir().unwrap();
    let server = Server::start(dir.path(), &[]);
    let name = "n".repeat(120);
    let wrong: Vec<_> = (0..30).map(|index| format!(r#""{name}{index}":1"#)).collect();
    let events = vec![format!("{{{}}}", wrong.join(",")); 1_000].join(",");
    let body = format!(r#"{{"events":[{events}]}}"#);
    let batch = format!("POST /v1/events/batch HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    let unread: Vec<_> = (0..20).map(|_| connect(&server.http, &batch)).collect();
    wait_until("the batches are handled", || {
        let (_, metrics) = get(&format!("{}/metrics", server.admin)).unwrap();
        let sum: u64 = metrics
            .lines()
            .filter(|line| line.starts_with("causality_gateway_requests_total") && line.contains(r#""batch""#))
            .filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok())
            .sum();
        sum >= 20
    });
    assert_eq!(server.send("/v1/events/ingest", &event(1)).unwrap().0, 200);
    assert!(peak_mb(&server) < PEAK_MEMORY_MB, "{} MB", peak_mb(&server));
    drop(unread);
}

#[test]
fn few_descriptors_and_many_idle_connections_stop_nothing() {
    let dir = tempdir().unwrap();
    let server = Server::start_with_descriptors(dir.path(), 128, 512);
    let lowered = "http_max_connections is lowered";
    let log = std::fs::read_to_string(dir.path().join("log.jsonl")).unwrap();
    let warning = log.lines().find(|line| line.contains(lowered)).expect("a warning at the start");
    assert!(warning.contains(r#""open_files_limit":512"#), "{warning}");

    // More than there are descriptors; many wait in the kernel's queue, or are told to go.
    let idle: Vec<_> = (0..600).map(|_| TcpStream::connect(&server.http[7..]).unwrap()).collect();
    let admin: Vec<_> = (0..200).map(|_| TcpStream::connect(&server.admin[7..]).unwrap()).collect();
    let started = Instant::now();
    for url in [format!("{}/health", server.http), format!("{}/health", server.admin)] {
        assert_eq!(get(&url).map(|(status, _)| status), Some(200), "{url}");
    }
    assert!(started.elapsed() < Duration::from_secs(15), "health after {:?}", started.elapsed());
    for device in 0..20 {
        let (status, reply) = server.send("/v1/events/ingest", &event(device)).unwrap();
        assert_eq!(status, 200, "{reply}");
    }
    server.wait_drained();
    assert_eq!(server.admin_get("/status")["consumers"].as_array().unwrap().len(), 2);
    drop((idle, admin));
    server.expect_quiet_log(&[lowered]);
}

#[test]
fn the_soft_limit_of_descriptors_is_raised() {
    let dir = tempdir().unwrap();
    let server = Server::start_with_descriptors(dir.path(), 256, 16_000);
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", server.pid())).unwrap();
    let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    assert_eq!(line.split_whitespace().nth(3), Some("16000"), "{line}");
    server.expect_quiet_log(&[]);
}
