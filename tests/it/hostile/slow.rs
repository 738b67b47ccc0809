//! Senders and readers that never come to an end: each is answered or cut at the limit that is meant for it.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use super::floods::{TIMEOUT, TIMEOUTS};
use super::frames::{DATA, HEADERS, PREFACE, frame, frames, request, settings, status};
use super::http1::{Port, path};
use super::process::{self, Standing};
use super::rounds;
use crate::harness::{PATIENCE, Server, wait_until};
use crate::services::certificates::Authority;

/// How fast a slow sender is.
const PAUSE: Duration = Duration::from_millis(100);
/// A machine may be busy; a limit that is not the one that was set shows all the same.
const LATE_MAX: Duration = Duration::from_secs(20);
/// How long a TLS handshake may take; no setting.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// The head of a gzip member, and of a block of 64 KiB that stands for itself.
const GZIP: &[u8] = b"\x1f\x8b\x08\0\0\0\0\0\0\xff\0\xff\xff\0\0";

const CODED: &str = "a body that is coded, byte by byte";

struct Row {
    name: &'static str,
    at_once: Vec<u8>,
    /// One byte a pause, over and over.
    slowly: Vec<u8>,
    /// What is read in the end.
    answer: Answer,
    /// The limit that it meets.
    after: Duration,
}

enum Answer {
    None,
    Status(u16),
    /// The status of the first stream.
    Stream(u16),
}

fn head(port: Port, more: &str) -> Vec<u8> {
    format!("POST {} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n{more}\r\n", path(port)).into()
}

fn rows(port: Port) -> Vec<Row> {
    let row = |name, at_once: &[u8], slowly: &[u8], answer| Row {
        name,
        at_once: at_once.to_vec(),
        slowly: slowly.to_vec(),
        answer,
        after: TIMEOUT,
    };
    let http2 = [PREFACE, &settings(&[(1, 0)])].concat();
    let post = frame(HEADERS, 4, 1, &request("POST", path(port)));
    let mut rows = vec![
        row("nothing", b"", b"", Answer::None),
        row("half a request line", b"GET /hea", b"", Answer::None),
        row("a head byte by byte", b"", b"X", Answer::None),
        row("a head field by field", b"GET /health HTTP/1.1\r\n", b"X: y\r\n", Answer::None),
        row("empty lines and no request", b"", b"\r\n", Answer::None),
        row("half a preface of HTTP/2", &PREFACE[..10], b"", Answer::None),
        row(
            "a second head byte by byte",
            b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n",
            b"X",
            Answer::Status(200),
        ),
        row("a body that never comes", &head(port, "Content-Length: 100\r\n"), b"", Answer::Status(408)),
        row("a body byte by byte", &head(port, "Content-Length: 9999\r\n"), b" ", Answer::Status(408)),
        row(
            "a body of which one byte is missing",
            &[head(port, "Content-Length: 3\r\n"), b"{}".to_vec()].concat(),
            b"",
            Answer::Status(408),
        ),
        row("chunks byte by byte", &head(port, "Transfer-Encoding: chunked\r\n"), b"1\r\n \r\n", Answer::Status(408)),
        row("a chunk size byte by byte", &head(port, "Transfer-Encoding: chunked\r\n"), b"0", Answer::Status(408)),
        row(
            "a chunk extension byte by byte",
            &[head(port, "Transfer-Encoding: chunked\r\n"), b"5;".to_vec()].concat(),
            b"x",
            Answer::Status(408),
        ),
        row(
            "trailers byte by byte",
            &[head(port, "Transfer-Encoding: chunked\r\n"), b"0\r\n".to_vec()].concat(),
            b"X: y\r\n",
            Answer::Status(408),
        ),
        row(
            "a body announced with 100-continue",
            &head(port, "Expect: 100-continue\r\nContent-Length: 9\r\n"),
            b"",
            Answer::Status(408),
        ),
        row(
            CODED,
            &[head(port, "Content-Encoding: gzip\r\nContent-Length: 9999\r\n"), GZIP.to_vec()].concat(),
            b" ",
            Answer::Status(408),
        ),
        row("an HTTP/2 head that is half there", &[&http2[..], &post[..12]].concat(), b"", Answer::None),
        row("an HTTP/2 body that never comes", &[&http2[..], &post].concat(), b"", Answer::Stream(408)),
        row(
            "an HTTP/2 body byte by byte",
            &[&http2[..], &post].concat(),
            &frame(DATA, 0, 1, b" "),
            Answer::Stream(408),
        ),
    ];
    // It takes no coded bodies, and need not wait for them.
    rows.retain(|row| port == Port::Gateway || row.name != CODED);
    rows
}

/// The same under TLS: what does not come to the end of a handshake.
fn handshakes() -> Vec<Row> {
    let hello = [&b"\x16\x03\x01\x40\x00\x01\x00\x3f\xfc\x03\x03"[..], &[0; 8_000]].concat();
    let row = |name, at_once: &[u8], slowly: &[u8], after| Row {
        name,
        at_once: at_once.to_vec(),
        slowly: slowly.to_vec(),
        answer: Answer::None,
        after,
    };
    let first = HANDSHAKE_TIMEOUT.min(TIMEOUT);
    vec![
        row("no handshake", b"", b"", TIMEOUT),
        row("a handshake of one byte", &hello[..1], b"", first),
        row("a handshake byte by byte", b"", &hello[..40], first),
        row("half a handshake", &hello, b"", first),
        Row {
            answer: Answer::Status(400),
            ..row("no handshake but a request", b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n", b"", Duration::ZERO)
        },
    ]
}

/// Reads what there is; false at the end of the connection.
fn read(tcp: &mut TcpStream, came: &mut Vec<u8>) -> bool {
    let mut space = [0; 4096];
    match tcp.read(&mut space) {
        Ok(0) => false,
        Ok(count) => {
            came.extend(&space[..count]);
            true
        }
        Err(error) => matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
    }
}

fn judge(row: &Row, address: &str) -> Result<(), String> {
    let mut tcp = TcpStream::connect(address).unwrap();
    let started = Instant::now();
    tcp.set_nodelay(true).unwrap();
    tcp.set_read_timeout(Some(PAUSE)).unwrap();
    tcp.write_all(&row.at_once).unwrap();
    let (mut came, mut sent, mut open) = (Vec::new(), row.slowly.iter().cycle(), true);
    let ended = loop {
        if !read(&mut tcp, &mut came) {
            break true;
        }
        let answered = matches!(row.answer, Answer::Stream(_)) && stream_status(&came).is_some();
        if answered || started.elapsed() > PATIENCE {
            break answered;
        }
        open = open && sent.next().is_none_or(|byte| tcp.write_all(&[*byte]).is_ok());
    };
    let took = started.elapsed();
    let text = String::from_utf8_lossy(&came);
    let statuses: Vec<_> = text.match_indices("HTTP/1.1 ").map(|(at, _)| text[at + 9..at + 12].to_owned()).collect();
    let last = statuses.iter().rfind(|status| *status != "100").and_then(|status| status.parse().ok());
    let is_right = match row.answer {
        Answer::None => last.is_none(),
        Answer::Status(status) => last == Some(status),
        Answer::Stream(status) => stream_status(&came) == Some(status),
    };
    let in_time = took + Duration::from_millis(100) >= row.after && took <= row.after + LATE_MAX;
    let Row { name, .. } = row;
    if ended && is_right && in_time { Ok(()) } else { Err(format!("{name} after {took:?}, ended {ended}: {text:?}")) }
}

fn stream_status(came: &[u8]) -> Option<u16> {
    frames(came).iter().find(|frame| frame.kind == HEADERS).map(|frame| status(&frame.payload))
}

/// All at once: each of them only waits.
fn all(rows: &[Row], address: &str) {
    let wrong: Vec<_> = std::thread::scope(|scope| {
        let judged: Vec<_> = rows.iter().map(|row| scope.spawn(|| judge(row, address))).collect();
        judged.into_iter().filter_map(|row| row.join().unwrap().err()).collect()
    });
    assert!(wrong.is_empty(), "{address}:\n{}", wrong.join("\n"));
}

/// Asks on and on and reads nothing, until the server cuts.
fn never_reads(address: &str) {
    let mut tcp = TcpStream::connect(address).unwrap();
    tcp.set_write_timeout(Some(PATIENCE)).unwrap();
    let asked = b"GET /ready HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(100);
    let started = Instant::now();
    let error = loop {
        if let Err(error) = tcp.write_all(&asked) {
            break error;
        }
    };
    assert!(!matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), "never cut: {error}");
    assert!(started.elapsed() >= TIMEOUT, "cut after {:?}", started.elapsed());
}

/// Leaves with a body half sent.
fn leaves(address: &str, port: Port) {
    for how in [Shutdown::Write, Shutdown::Both] {
        let mut tcp = TcpStream::connect(address).unwrap();
        tcp.write_all(&[head(port, "Content-Length: 100\r\n"), b"{".to_vec()].concat()).unwrap();
        tcp.shutdown(how).unwrap();
    }
}

#[test]
fn whoever_is_slow_is_answered_or_cut_in_time() {
    let dir = tempfile::tempdir().unwrap();
    let server = process::start(dir.path(), &TIMEOUTS);
    let before = Standing::warm(&server);
    for _ in 0..rounds().div_ceil(2) {
        std::thread::scope(|scope| {
            for port in [Port::Gateway, Port::Admin] {
                let address = port.address(&server);
                scope.spawn(move || all(&rows(port), address));
                scope.spawn(move || never_reads(address));
                scope.spawn(move || (0..50).for_each(|_| leaves(address, port)));
            }
        });
    }
    before.is_regained_by(&server);
}

#[test]
fn a_tls_handshake_that_stalls_is_cut_in_time() {
    let dir = tempfile::tempdir().unwrap();
    let (server, _) = start_encrypted(dir.path(), &TIMEOUTS);
    std::thread::scope(|scope| {
        for port in [Port::Gateway, Port::Admin] {
            let address = port.address(&server);
            scope.spawn(move || all(&handshakes(), address));
        }
    });
}

/// Both ports under TLS, once they are ready.
pub(super) fn start_encrypted(dir: &Path, environment: &[(&str, &str)]) -> (Server, Authority) {
    let authority = Authority::new();
    let certificate = authority.issue("IP:127.0.0.1,DNS:localhost");
    let (chain, key) = (dir.join("tls.pem"), dir.join("tls.key"));
    std::fs::write(&chain, &certificate.chain).unwrap();
    std::fs::write(&key, &certificate.key).unwrap();
    let (chain, key) = (chain.to_str().unwrap(), key.to_str().unwrap());
    let encrypted =
        [("TLS_CERT_FILE", chain), ("TLS_KEY_FILE", key), ("ADMIN_TLS_CERT_FILE", chain), ("ADMIN_TLS_KEY_FILE", key)];
    let server = Server::launch(&dir.join("server"), &[&encrypted[..], environment].concat());
    let ready = "GET /ready HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    wait_until("it is ready over TLS", || {
        let answer = crate::tls::ask(Port::Admin.address(&server), &authority, ready);
        answer.is_some_and(|answer| answer.starts_with("HTTP/1.1 200"))
    });
    (server, authority)
}
