//! The table of HTTP/2: malformed requests and broken frames, over prior knowledge.

use std::collections::BTreeMap;

use super::frames::{
    DATA, END_STREAM, GO_AWAY, HEADERS, PREFACE, RST_STREAM, code, field, frame, frames, get, settings, status,
};
use super::http1::{Port, named, path};
use super::wire::{Line, Sent, resolved};
use super::{each, process, table};
use crate::harness::Server;

const ROWS: &str = "http2.rows";
/// Opened behind a row whose connection stays.
const PROBE_STREAM: u32 = 1001;

struct Row {
    name: &'static str,
    port: Port,
    sent: Vec<u8>,
    /// What each stream ends with, and 0 the connection.
    answers: BTreeMap<u32, String>,
    taken: usize,
}

/// The bytes of one frame of the table.
fn written(text: &str, port: Port, id: &str) -> Vec<u8> {
    let named = |name: &str| named(port, id, name);
    let (kind, rest) = text.split_at(1);
    if let Some(raw) = text.strip_prefix("RAW ") {
        return resolved(raw, &named);
    }
    if kind == "X" {
        let words: Vec<_> = rest.trim_start().splitn(4, ' ').collect();
        let number = |word: usize| words[word].parse::<u32>().unwrap();
        let payload = words.get(3).map_or_else(Vec::new, |payload| resolved(payload, &named));
        return frame(number(0) as u8, number(1) as u8, number(2), &payload);
    }
    let (stream, rest) = rest.split_once(' ').unwrap();
    let (flags, rest) = rest.split_once(' ').unwrap_or((rest, ""));
    let flags = flags.chars().map(|flag| match flag {
        'E' => 4,
        'S' => 1,
        _ => 0,
    });
    let (kind, payload) = match kind {
        "D" => (DATA, resolved(rest, &named)),
        "H" => (HEADERS, fields(rest, port, id)),
        "C" => (9, fields(rest, port, id)),
        other => panic!("what is {other}?"),
    };
    frame(kind, flags.sum(), stream.parse().unwrap(), &payload)
}

fn fields(text: &str, port: Port, id: &str) -> Vec<u8> {
    let get = ":method=GET :scheme=http :path=/health";
    let post = format!(":method=POST :scheme=http :path={} :to content-type=application/json", path(port));
    let mut block = Vec::new();
    // Pseudo-header fields come first.
    let text = text.replace(":post :to", &post).replace(":get", get).replace(":to", ":authority=localhost");
    for word in text.split_whitespace() {
        let (name, value) = match word.strip_prefix('=') {
            Some(value) => ("", value),
            None => word.split_once('=').unwrap_or_else(|| panic!("no field: {word}")),
        };
        let named = |name: &str| named(port, id, name);
        let part = |text: &str| resolved(&text.replace("\\s", "\\x20"), &named);
        block.extend(field(&part(name), &part(value)));
    }
    block
}

fn rows() -> Vec<Row> {
    let mut rows = Vec::new();
    for (number, [name, _, text, answers]) in table::<4>(ROWS).into_iter().enumerate() {
        for port in [Port::Gateway, Port::Admin] {
            let id = format!("h2-{number}");
            let mut sent = [PREFACE, &settings(&[(1, 0)])].concat();
            text.split(" ; ").for_each(|frame| sent.extend(written(frame, port, &id)));
            let (mut expected, mut taken) = (BTreeMap::new(), 0);
            for answer in answers.split(' ').filter(|answer| *answer != "none") {
                let (stream, end) = answer.split_once('=').unwrap();
                taken += usize::from(end == "ok");
                let end = if end == "ok" { port.taken().to_string() } else { end.to_owned() };
                expected.insert(stream.parse().unwrap_or(0), end);
            }
            rows.push(Row { name, port, sent, answers: expected, taken });
        }
    }
    rows
}

/// What each stream has ended with so far.
fn answers(came: &[u8]) -> BTreeMap<u32, String> {
    let mut answers = BTreeMap::<u32, String>::new();
    for frame in frames(came) {
        match frame.kind {
            HEADERS => {
                answers.insert(frame.stream, status(&frame.payload).to_string());
            }
            // What is left of a request whose answer is complete (RFC 9113, 8.1).
            RST_STREAM if code(&frame.payload[..4]) == "NO_ERROR" => {}
            RST_STREAM => {
                answers.insert(frame.stream, code(&frame.payload[..4]));
            }
            GO_AWAY => {
                answers.insert(0, code(&frame.payload[4..8]));
            }
            _ => {}
        }
    }
    answers
}

fn judge(row: &Row, server: &Server) -> Result<(), String> {
    let mut line = Line::to(row.port.address(server));
    line.send(&Sent { bytes: row.sent.clone(), eof: false }, usize::MAX);
    let mut expected = row.answers.clone();
    if expected.contains_key(&0) {
        line.read_to_end();
    } else {
        line.read_until(|came| expected.keys().all(|stream| answers(came).contains_key(stream)));
        line.send(&Sent { bytes: get(PROBE_STREAM), eof: false }, usize::MAX);
        expected.insert(PROBE_STREAM, "200".to_owned());
        let ends = |frame: &super::frames::Frame| frame.stream == PROBE_STREAM && frame.flags & END_STREAM != 0;
        line.read_until(|came| frames(came).iter().any(ends));
    }
    let found = answers(&line.came);
    let ended = line.ended == row.answers.contains_key(&0);
    if found == expected && ended {
        return Ok(());
    }
    let Row { name, port, .. } = row;
    Err(format!("{name} ({port:?}): {found:?}, ended {}; expected {expected:?}", line.ended))
}

#[test]
fn malformed_requests_and_frames_are_refused_each_in_its_place() {
    let dir = tempfile::tempdir().unwrap();
    let server = process::start(dir.path(), &[]);
    let (rows, names) = (rows(), table::<4>(ROWS).len());
    each(&rows, |row| judge(row, &server));
    server.wait_drained();
    let taken = |port: Port| rows.iter().filter(move |row| row.port == port).map(|row| row.taken).sum::<usize>();
    let arrived = process::arrived(&server);
    assert_eq!(arrived.len(), taken(Port::Gateway), "{arrived:?}");
    let webhooks = process::webhooks(&server);
    assert_eq!(webhooks.len(), 1 + taken(Port::Admin), "{webhooks:?}");
    assert!(arrived.iter().chain(&webhooks).all(|document| !document.starts_with("smuggled")));
    println!("{names} rows on two ports; {} documents arrived", arrived.len() + webhooks.len() - 1);
}
