//! Floods of HTTP/2 frames, and clients that keep their windows shut: each ends with an exact code, within a bound. What
//! clients may have a use for is served on.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use super::frames::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, Frame, GO_AWAY, HEADERS, PING, PREFACE, PRIORITY, RST_STREAM,
    SETTINGS, WINDOW_UPDATE, code, field, frame, frames, get, request, settings, status,
};
use super::http1::{Port, path};
use super::process::{self, Standing};
use super::wire::Line;
use super::{each, rounds};
use crate::harness::{PATIENCE, Server};

/// What the server under attack waits for at most: a head, a reader, a next request.
pub(super) const TIMEOUT: Duration = Duration::from_secs(3);
pub(super) const TIMEOUTS: [(&str, &str); 3] =
    [("HTTP_READ_TIMEOUT", "3s"), ("HTTP_WRITE_TIMEOUT", "3s"), ("HTTP_IDLE_TIMEOUT", "3s")];
const PROBE_STREAM: u32 = 200_001;
const CANCEL: &[u8] = &[0, 0, 0, 8];
/// Settings: no table of fields, and streams whose answers have no room.
const NO_TABLE: (u16, u32) = (1, 0);
const NO_WINDOW: (u16, u32) = (4, 0);

struct Row {
    name: &'static str,
    port: Port,
    /// Sent once, then again and again until the connection ends.
    sent: Vec<u8>,
    again: Option<Again>,
    /// What comes back is read.
    reads: bool,
    end: End,
}

struct Again {
    frames: Vec<u8>,
    every: Duration,
}

#[derive(Clone)]
enum End {
    /// The connection ends, and says why.
    GoAway(&'static str),
    /// The same, or cut without a word once the time is over: on a busy machine that may come first.
    GoAwayOrCut(&'static str),
    /// The streams end so often in this; the connection goes on.
    Served(&'static [(&'static str, usize)]),
    /// Cut without a word, once the time is over.
    Cut,
    /// The connection ends; why is not read.
    Closed,
}

fn odd(count: u32) -> impl Iterator<Item = u32> {
    (0..count).map(|number| 2 * number + 1)
}

fn post(port: Port, stream: u32) -> Vec<u8> {
    frame(HEADERS, END_HEADERS, stream, &request("POST", path(port)))
}

fn reset(stream: u32) -> Vec<u8> {
    frame(RST_STREAM, 0, stream, CANCEL)
}

fn many(count: usize, frame: Vec<u8>) -> Vec<u8> {
    frame.repeat(count)
}

/// Floods that end by themselves: what is sent, and what becomes of it.
fn floods(port: Port) -> Vec<(&'static str, Vec<u8>, End)> {
    const CALM: End = End::GoAway("ENHANCE_YOUR_CALM");
    const SERVED: End = End::Served(&[]);
    let ping = frame(PING, 0, 0, b"12345678");
    let each_stream = |count, frames: &dyn Fn(u32) -> Vec<u8>| odd(count).flat_map(frames).collect::<Vec<_>>();
    let behind_post = |frames: Vec<u8>| [post(port, 1), frames].concat();
    let open_head = frame(HEADERS, END_STREAM, 1, &request("GET", "/health"));
    let continued = |count, value: usize| {
        let part = frame(CONTINUATION, 0, 1, &field(b"x", &vec![b'y'; value]));
        [open_head.clone(), many(count, part), frame(CONTINUATION, END_HEADERS, 1, &[])].concat()
    };
    // One field of 4 KB, and 4,000 references to it of one byte each.
    let large = field(b"big", &[b'x'; 4_000]);
    let indexed = [&[0x40], &large[1..]].concat();
    let head = |extra: &[u8], stream| {
        frame(HEADERS, END_HEADERS | END_STREAM, stream, &[&request("GET", "/health"), extra].concat())
    };
    let overflow = frame(WINDOW_UPDATE, 0, 1, &[0x7f, 255, 255, 255]);
    let overflow = |stream: u32| [&overflow[..5], &stream.to_be_bytes(), &overflow[9..]].concat();
    vec![
        // CVE-2023-44487.
        ("rapid reset", each_stream(5_000, &|stream| [get(stream), reset(stream)].concat()), CALM),
        ("rapid reset of bodies", each_stream(5_000, &|stream| [post(port, stream), reset(stream)].concat()), CALM),
        // CVE-2025-8671: the server resets, the client opens.
        (
            "resets by the server",
            each_stream(5_000, &|stream| [post(port, stream), overflow(stream).repeat(2)].concat()),
            CALM,
        ),
        // CVE-2024-27316.
        (
            "CONTINUATION",
            [open_head.clone(), many(20_000, frame(CONTINUATION, 0, 1, &field(b"x", b"y")))].concat(),
            CALM,
        ),
        ("empty CONTINUATION", [open_head.clone(), many(20_000, frame(CONTINUATION, 0, 1, &[]))].concat(), CALM),
        // CVE-2019-9518.
        ("empty DATA", behind_post(many(20_000, frame(DATA, 0, 1, &[]))), CALM),
        ("DATA of padding alone", behind_post(many(5_000, frame(DATA, 8, 1, &[&[255][..], &[0; 255]].concat()))), CALM),
        // CVE-2019-9515, CVE-2019-9512, with answers that are read.
        ("SETTINGS", many(2_000, settings(&[])), CALM),
        ("PING", many(2_000, ping.clone()), CALM),
        ("PINGs that one may send", many(900, ping.clone()), SERVED),
        (
            "PINGs that go with requests",
            each_stream(100, &|stream| [get(stream), many(18, ping.clone())].concat()),
            End::Served(&[("200", 100)]),
        ),
        ("answers to no PING", many(2_000, frame(PING, 1, 0, b"12345678")), CALM),
        ("acknowledgements of no SETTINGS", many(2_000, frame(SETTINGS, 1, 0, &[])), End::GoAway("PROTOCOL_ERROR")),
        // CVE-2019-9513.
        ("PRIORITY", each_stream(20_000, &|stream| frame(PRIORITY, 0, stream, &[0, 0, 0, 0, 16])), CALM),
        ("WINDOW_UPDATE", many(20_000, frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1])), CALM),
        ("frames that nobody knows", many(20_000, frame(99, 0, 0, b"x")), CALM),
        // CVE-2019-9514.
        ("RST_STREAM of one stream", behind_post(many(20_000, reset(1))), CALM),
        ("GOAWAY", many(900, frame(GO_AWAY, 0, 0, &[0; 8])), End::GoAway("NO_ERROR")),
        (
            "more streams than are allowed",
            [each_stream(300, &|stream| post(port, stream)), reset(1)].concat(),
            End::Served(&[("REFUSED_STREAM", 172)]),
        ),
        (
            "a body beyond its window",
            behind_post(many(200, frame(DATA, 0, 1, &[b'x'; 16_384]))),
            End::GoAway("FLOW_CONTROL_ERROR"),
        ),
        ("a head of 18 KB", continued(2, 9_000), End::Served(&[("431", 1)])),
        ("a head of 128 KB", continued(8, 16_000), CALM),
        ("a head of 16 MB in 4 KB", [head(&indexed, 1), head(&[0xbe; 4_000], 3)].concat(), CALM),
    ]
}

/// Name, frames, frames that follow again and again, whether what comes back is read, the end.
type Stayer = (&'static str, Vec<u8>, Option<Again>, bool, End);

/// Clients that would stay for ever.
fn stayers() -> Vec<Stayer> {
    let ping = frame(PING, 0, 0, b"12345678");
    let now = Duration::ZERO;
    let slowly = Duration::from_millis(100);
    let again = |frames: &[u8], every| Some(Again { frames: frames.to_vec(), every });
    let open_head = frame(HEADERS, END_STREAM, 1, &request("GET", "/health"));
    let shut = |count| [settings(&[NO_WINDOW]), odd(count).flat_map(get).collect()].concat();
    let window = |stream| frame(WINDOW_UPDATE, 0, stream, &[0, 0, 0, 1]);
    vec![
        ("PINGs without a request", vec![], again(&ping, slowly), true, End::Cut),
        ("PINGs behind a request", get(1), again(&ping, slowly), true, End::GoAway("NO_ERROR")),
        ("PINGs whose answers are not read", vec![], again(&many(1_000, ping), now), false, End::Closed),
        ("SETTINGS whose answers are not read", vec![], again(&many(1_000, settings(&[])), now), false, End::Closed),
        (
            "a head that goes on",
            open_head,
            again(&frame(CONTINUATION, 0, 1, &[]), slowly),
            true,
            End::GoAwayOrCut("ENHANCE_YOUR_CALM"),
        ),
        ("answers without a window", shut(100), None, true, End::Cut),
        // CVE-2019-9517.
        ("answers through windows of one byte", shut(1), again(&window(1), Duration::from_millis(500)), true, End::Cut),
        ("a window that opens, of no stream", shut(1), again(&window(0), slowly), true, End::Cut),
        ("a preface and nothing", vec![], None, true, End::Cut),
    ]
}

fn rows() -> Vec<Row> {
    let mut rows = Vec::new();
    for port in [Port::Gateway, Port::Admin] {
        let row = |name, sent: Vec<u8>, again, reads, end| {
            let sent = [PREFACE, &settings(&[NO_TABLE]), &sent].concat();
            Row { name, port, sent, again, reads, end }
        };
        rows.extend(stayers().into_iter().map(|(name, sent, again, reads, end)| row(name, sent, again, reads, end)));
        rows.extend(floods(port).into_iter().map(|(name, sent, end)| row(name, sent, None, true, end)));
    }
    rows
}

/// True when the server ended it.
fn write_on(mut tcp: TcpStream, row: &Row) -> bool {
    let until = Instant::now() + PATIENCE;
    tcp.set_write_timeout(Some(PATIENCE)).unwrap();
    let mut written = tcp.write_all(&row.sent);
    while let (Ok(()), Some(Again { frames, every })) = (&written, &row.again)
        && Instant::now() < until
    {
        std::thread::sleep(*every);
        written = tcp.write_all(frames);
    }
    written.is_err_and(|error| !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut))
}

/// How each stream ended, but the probe's; and the connection.
fn ends(came: &[Frame]) -> (BTreeMap<String, usize>, Option<String>) {
    let (mut ends, mut go_away) = (BTreeMap::new(), None);
    for frame in came.iter().filter(|frame| frame.stream != PROBE_STREAM) {
        match frame.kind {
            HEADERS => *ends.entry(status(&frame.payload).to_string()).or_default() += 1,
            RST_STREAM if code(&frame.payload) != "NO_ERROR" => *ends.entry(code(&frame.payload)).or_default() += 1,
            GO_AWAY => go_away = Some(code(&frame.payload[4..8])),
            _ => {}
        }
    }
    (ends, go_away)
}

fn judge(row: &Row, server: &Server) -> Result<(), String> {
    let (mut line, started) = (Line::to(row.port.address(server)), Instant::now());
    let writer = line.tcp.try_clone().unwrap();
    let probed = |came: &[u8]| {
        let came = frames(came);
        came.iter().any(|frame| frame.kind == HEADERS && frame.stream == PROBE_STREAM && status(&frame.payload) == 200)
    };
    std::thread::scope(|scope| {
        let writing = scope.spawn(|| write_on(writer, row));
        match &row.end {
            End::Served(expected) => {
                writing.join().unwrap();
                let _ = line.tcp.write_all(&get(PROBE_STREAM));
                let count: usize = expected.iter().map(|(_, count)| count).sum();
                line.read_until(|came| probed(came) && ends(&frames(came)).0.values().sum::<usize>() >= count);
            }
            _ if row.reads => line.read_to_end(),
            // Nothing is read until the server has cut: writing fails then.
            _ => line.ended = writing.join().unwrap(),
        }
    });
    let took = started.elapsed();
    let (found, go_away) = ends(&frames(&line.came));
    let Row { name, port, .. } = row;
    let is_cut = line.ended && go_away.is_none() && took + Duration::from_millis(100) >= TIMEOUT;
    let is_right = match &row.end {
        End::GoAway(code) => line.ended && go_away.as_deref() == Some(code),
        End::GoAwayOrCut(code) => is_cut || line.ended && go_away.as_deref() == Some(code),
        End::Served(expected) => {
            let expected: BTreeMap<_, _> = expected.iter().map(|(end, count)| ((*end).to_owned(), *count)).collect();
            probed(&line.came) && go_away.is_none() && found == expected
        }
        End::Closed => line.ended,
        End::Cut => is_cut,
    };
    let stays = if line.ended { "" } else { ", and stays" };
    if is_right {
        Ok(())
    } else {
        Err(format!("{name} ({port:?}) after {took:?}: {found:?}, GOAWAY {go_away:?}{stays}"))
    }
}

#[test]
fn floods_end_and_leave_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let server = process::start(dir.path(), &TIMEOUTS);
    let before = Standing::warm(&server);
    let rows = rows();
    for _ in 0..rounds() {
        each(&rows, |row| judge(row, &server));
    }
    println!("{} rows, {} times", rows.len(), rounds());
    before.is_regained_by(&server);
    // Whoever floods a process does not flood its log.
    server.expect_quiet_log(&[]);
}
