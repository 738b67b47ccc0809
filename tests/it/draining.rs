//! A stop that load balancers can follow: unready at once, serving for `SHUTDOWN_DELAY`, then closing connections with
//! their replies.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::harness::{Server, get, signal, wait_until};

const EVENT: &str = r#"{"event":{"appId":"a","deviceId":"d","userLogin":{}}}"#;
/// `shutdown_timeout`, and a machine that is busy.
const STOP_MAX: Duration = Duration::from_secs(40);

/// One event on an open connection; the head of its reply.
fn send(tcp: &mut TcpStream) -> Option<String> {
    let head = format!("POST /v1/events/ingest HTTP/1.1\r\nhost: t\r\ncontent-length: {}\r\n\r\n", EVENT.len());
    tcp.write_all((head + EVENT).as_bytes()).ok()?;
    let mut reply = Vec::new();
    let mut space = [0; 4096];
    while !reply.windows(4).any(|four| four == b"\r\n\r\n") {
        match tcp.read(&mut space).ok()? {
            0 => return None,
            count => reply.extend_from_slice(&space[..count]),
        }
    }
    String::from_utf8(reply).ok()
}

fn connect(server: &Server) -> TcpStream {
    let tcp = TcpStream::connect(&server.http[7..]).unwrap();
    tcp.set_read_timeout(Some(STOP_MAX)).unwrap();
    tcp
}

#[test]
fn a_process_that_was_told_to_stop_serves_on_and_closes_with_its_replies() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = Server::start(dir.path(), &[("SHUTDOWN_DELAY", "3s")]);
    let mut kept = connect(&server);
    assert!(send(&mut kept).unwrap().starts_with("HTTP/1.1 200"));
    let told = Instant::now();
    signal(server.pid(), "TERM");
    for base in [&server.http, &server.admin] {
        wait_until("it is unready at once", || get(&format!("{base}/ready")).is_some_and(|(status, _)| status == 503));
        assert!(get(&format!("{base}/ready")).unwrap().1.contains("draining"));
        assert_eq!(get(&format!("{base}/health")).unwrap().0, 200, "and alive");
    }
    let (mut replies, mut last) = (0, String::new());
    // Until the connection is closed, and each of these may be the last.
    while let Some(reply) = send(&mut kept) {
        assert!(reply.starts_with("HTTP/1.1 200"), "{reply}");
        if told.elapsed() < Duration::from_millis(2_500) {
            assert!(!reply.to_lowercase().contains("connection: close"), "{reply}");
            assert!(send(&mut connect(&server)).unwrap().starts_with("HTTP/1.1 200"), "new connections too");
        }
        (replies, last) = (replies + 1, reply);
        if last.to_lowercase().contains("connection: close") {
            break;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(replies > 5 && last.to_lowercase().contains("connection: close"), "{replies}: {last}");
    assert!(told.elapsed() >= Duration::from_secs(3));
    assert_eq!(kept.read(&mut [0; 16]).unwrap(), 0);
    assert!(server.wait_for_exit(STOP_MAX).success());
    // A busy machine may take longer over the last files.
    server.expect_quiet_log(&["still waiting"]);
}

#[test]
fn a_second_signal_ends_the_delay() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = Server::start(dir.path(), &[("SHUTDOWN_DELAY", "10m")]);
    signal(server.pid(), "TERM");
    wait_until("it is unready", || get(&format!("{}/ready", server.http)).is_some_and(|(status, _)| status == 503));
    assert!(!server.has_ended());
    assert!(server.terminate(STOP_MAX).success(), "an orderly stop");
    server.expect_quiet_log(&[]);
}
