//! The table of HTTP/1.1: framing, lines, hosts, targets, bodies.

use super::wire::{Line, Sent, sent};
use super::{each, process, table};
use crate::harness::Server;

const ROWS: &str = "http1.rows";
/// Sent behind a row whose connection stays open; its answer ends the connection.
const PROBE: &[u8] = b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
/// Rows that are larger than this are not sent byte by byte.
const SINGLE_BYTES_MAX: usize = 4 * 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Port {
    Gateway,
    Admin,
}

impl Port {
    pub(super) fn address(self, server: &Server) -> &str {
        let base = if self == Self::Gateway { &server.http } else { &server.admin };
        base.trim_start_matches("http://")
    }

    /// The status of a document that was taken.
    pub(super) fn taken(self) -> u16 {
        if self == Self::Gateway { 200 } else { 201 }
    }
}

/// How a row is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cut {
    Whole,
    Bytes,
}

struct Row {
    name: &'static str,
    port: Port,
    cut: Cut,
    sent: Sent,
    answers: Vec<Answer>,
    stays_open: bool,
}

#[derive(Clone, Copy)]
struct Answer {
    status: u16,
    has_body: bool,
    may_be_missing: bool,
    /// It says that a document was taken.
    taken: bool,
}

impl Answer {
    fn of(word: &str, port: Port) -> Self {
        let (word, has_body) = word.strip_suffix('h').map_or((word, true), |word| (word, false));
        let (word, may_be_missing) = word.strip_suffix('?').map_or((word, false), |word| (word, true));
        let taken = word == "ok";
        let status = if taken { port.taken() } else { word.parse().unwrap() };
        Self { status, has_body, may_be_missing, taken }
    }
}

/// A document that the port's resource takes: an event, or a webhook.
fn document(port: Port, app: &str, id: &str) -> String {
    match port {
        Port::Gateway => format!(r#"{{"event":{{"appId":"{app}","deviceId":"{id}","userLogin":{{}}}}}}"#),
        Port::Admin => format!(r#"{{"name":"{app} {id}","url":"http://127.0.0.1:1/"}}"#),
    }
}

fn head(port: Port) -> String {
    let path = path(port);
    format!("POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n")
}

pub(super) const fn path(port: Port) -> &'static str {
    match port {
        Port::Gateway => "/v1/events/ingest",
        Port::Admin => "/api/admin/webhooks",
    }
}

fn whole(port: Port, app: &str, id: &str) -> String {
    let document = document(port, app, id);
    format!("{}Content-Length: {}\r\n\r\n{document}", head(port), document.len())
}

/// What the braces of the table hold.
pub(super) fn named(port: Port, id: &str, name: &str) -> Option<Vec<u8>> {
    let event = document(port, "first", id);
    let text = match name {
        "head" => head(port),
        "path" => path(port).to_owned(),
        "length" => event.len().to_string(),
        "hex" => format!("{:X}", event.len()),
        "event" => event,
        "second" => whole(port, "second", id),
        "smuggled" => whole(port, "smuggled", id),
        "smuggled length" => whole(port, "smuggled", id).len().to_string(),
        _ => return None,
    };
    Some(text.into_bytes())
}

fn rows() -> Vec<Row> {
    let mut rows = Vec::new();
    for (number, [name, _, ports, text, answers]) in table::<5>(ROWS).into_iter().enumerate() {
        for port in [Port::Gateway, Port::Admin] {
            let (ports, is_whole) = ports.strip_suffix(" whole").map_or((ports, false), |ports| (ports, true));
            if !matches!((ports, port), ("both", _) | ("gateway", Port::Gateway) | ("admin", Port::Admin)) {
                continue;
            }
            for cut in [Cut::Whole, Cut::Bytes] {
                let id = format!("{number}-{cut:?}");
                let sent = sent(text, &|name| named(port, &id, name));
                if cut == Cut::Bytes && (is_whole || sent.bytes.len() > SINGLE_BYTES_MAX) {
                    continue;
                }
                let (answers, end) = answers.rsplit_once(' ').unwrap_or(("", answers));
                assert!(matches!(end, "open" | "close"), "{name}: {end}");
                let answers = answers.split_whitespace().map(|word| Answer::of(word, port)).collect();
                rows.push(Row { name, port, cut, sent, answers, stays_open: end == "open" });
            }
        }
    }
    rows
}

/// The answers in what came, the first of them to requests as the row says; and what is no answer.
fn answers(came: &[u8], row: &Row) -> (Vec<u16>, usize) {
    let (mut statuses, mut rest) = (Vec::new(), came);
    while let Some(end) = rest.windows(4).position(|four| four == b"\r\n\r\n") {
        let head = String::from_utf8_lossy(&rest[..end]).to_lowercase();
        let Some(status) = head.strip_prefix("http/1.1 ").or(head.strip_prefix("http/1.0 ")) else { break };
        let status: u16 = status[..3].parse().unwrap();
        let has_body = row.answers.get(statuses.len()).is_none_or(|answer| answer.has_body);
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
        let length: usize = if has_body { length.unwrap_or(0) } else { 0 };
        let Some(after) = rest.get(end + 4 + length..) else { break };
        rest = after;
        if status != 100 {
            statuses.push(status);
        }
    }
    (statuses, rest.len())
}

fn judge(row: &Row, server: &Server) -> Result<(), String> {
    let mut line = Line::to(row.port.address(server));
    line.send(&row.sent, if row.cut == Cut::Whole { usize::MAX } else { 1 });
    let mut expected: Vec<_> = row.answers.iter().map(|answer| answer.status).collect();
    if row.stays_open {
        let count = expected.len();
        line.read_until(|came| answers(came, row).0.len() >= count);
        line.send(&Sent { bytes: PROBE.to_vec(), eof: false }, usize::MAX);
        expected.push(200);
    }
    line.read_to_end();
    let (found, rest) = answers(&line.came, row);
    if row.answers.last().is_some_and(|answer| answer.may_be_missing) && found.len() < expected.len() {
        expected.pop();
    }
    if found == expected && rest == 0 && line.ended {
        return Ok(());
    }
    let Row { name, port, cut, .. } = row;
    let stays = if line.ended { "" } else { ", and stays open" };
    Err(format!("{name} ({port:?}, {cut:?}): {found:?}{stays}, {rest} bytes more; expected {expected:?}"))
}

#[test]
fn every_request_has_one_reading() {
    let dir = tempfile::tempdir().unwrap();
    let server = process::start(dir.path(), &[]);
    let rows = rows();
    let names = table::<5>(ROWS).len();
    assert!(names >= 120, "{names} rows");
    each(&rows, |row| judge(row, &server));
    // What was taken has arrived, and nothing else: no document of a request that was read in a second way.
    server.wait_drained();
    let taken = |port: Port| rows.iter().filter(move |row| row.port == port);
    let taken =
        |port: Port| taken(port).map(|row| row.answers.iter().filter(|answer| answer.taken).count()).sum::<usize>();
    let arrived = process::arrived(&server);
    assert!(!arrived.iter().any(|event| event.starts_with("smuggled")), "{arrived:?}");
    assert_eq!(arrived.len(), taken(Port::Gateway), "{arrived:?}");
    let webhooks = process::webhooks(&server);
    assert!(!webhooks.iter().any(|name| name.starts_with("smuggled")), "{webhooks:?}");
    assert_eq!(webhooks.len(), 1 + taken(Port::Admin), "{webhooks:?}");
    println!("{names} rows, sent {} times; {} documents arrived", rows.len(), arrived.len() + webhooks.len() - 1);
}
