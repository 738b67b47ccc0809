//! Requests with bodies over HTTP/2, sent as fast as the server opens its windows; and that whoever is refused hears it.

use super::frames::{
    DATA, END_HEADERS, END_STREAM, GO_AWAY, HEADERS, PREFACE, RST_STREAM, SETTINGS, WINDOW_UPDATE, code, field, frame,
    frames, get, request, settings, status,
};
use super::http1::{Port, path};
use super::wire::{Line, Sent};
use super::{each, process};

const STREAM: u32 = 1;
const PROBE_STREAM: u32 = 3;
/// What a window is before anything is said of it (RFC 9113, 6.9.2).
const WINDOW_BYTES: usize = 65_535;
/// The largest frame that may be sent unasked (RFC 9113, 4.2).
const FRAME_BYTES: usize = 16_384;
const INITIAL_WINDOW_SIZE: u16 = 4;
const ACK: u8 = 1;

pub(super) struct Answer {
    /// 0 for none.
    pub(super) status: u16,
    pub(super) body: Vec<u8>,
    /// Of the body of the request.
    sent: usize,
    /// The code with which the stream was reset, if it was.
    reset: Option<String>,
    /// Another request on the connection is answered.
    pub(super) connection_stays: bool,
}

/// Sends a request and its body, as far as it is wanted, and reads the answer.
pub(super) fn upload(line: &mut Line, path: &str, fields: &[(&str, &str)], body: &[u8]) -> Answer {
    let mut head = request("POST", path);
    fields.iter().for_each(|(name, value)| head.extend(field(name.as_bytes(), value.as_bytes())));
    let opening = [
        PREFACE,
        &settings(&[(1, 0)]),
        // Of the settings that come first.
        &frame(SETTINGS, ACK, 0, &[]),
        &frame(HEADERS, END_HEADERS, STREAM, &head),
    ];
    send(line, opening.concat());
    let mut sent = 0;
    while sent < body.len() {
        if !line.read_until(|came| window(came) > sent || is_ended(came, STREAM)) || is_ended(&line.came, STREAM) {
            break;
        }
        let part = &body[sent..body.len().min(sent + FRAME_BYTES).min(window(&line.came))];
        sent += part.len();
        let flags = if sent == body.len() { END_STREAM } else { 0 };
        send(line, frame(DATA, flags, STREAM, part));
    }
    line.read_until(|came| is_ended(came, STREAM));
    send(line, get(PROBE_STREAM));
    let connection_stays = line.read_until(|came| is_ended(came, PROBE_STREAM)) && !is_closed(&line.came);
    let mut answer = Answer { status: 0, body: Vec::new(), sent, reset: None, connection_stays };
    for frame in frames(&line.came).into_iter().filter(|frame| frame.stream == STREAM) {
        match frame.kind {
            HEADERS => answer.status = status(&frame.payload),
            DATA => answer.body.extend(frame.payload),
            RST_STREAM => answer.reset = Some(code(&frame.payload)),
            _ => {}
        }
    }
    answer
}

fn send(line: &mut Line, bytes: Vec<u8>) {
    line.send(&Sent { bytes, eof: false }, usize::MAX);
}

/// How much of the body may have been sent.
fn window(came: &[u8]) -> usize {
    let (mut connection, mut stream) = (WINDOW_BYTES, WINDOW_BYTES);
    for frame in frames(came) {
        let number = |at: usize| frame.payload[at..at + 4].try_into().map_or(0, u32::from_be_bytes) as usize;
        match (frame.kind, frame.stream) {
            (WINDOW_UPDATE, 0) => connection += number(0),
            (WINDOW_UPDATE, STREAM) => stream += number(0),
            (SETTINGS, _) => {
                let initial = frame.payload.chunks(6).position(|one| one[..2] == INITIAL_WINDOW_SIZE.to_be_bytes());
                if let Some(at) = initial {
                    stream = stream + number(6 * at + 2) - WINDOW_BYTES;
                }
            }
            _ => {}
        }
    }
    connection.min(stream)
}

fn is_ended(came: &[u8], stream: u32) -> bool {
    let ends = |frame: &super::frames::Frame| {
        frame.stream == stream && (frame.kind == RST_STREAM || frame.flags & END_STREAM != 0)
    };
    is_closed(came) || frames(came).iter().any(|frame| matches!(frame.kind, HEADERS | DATA | RST_STREAM) && ends(frame))
}

fn is_closed(came: &[u8]) -> bool {
    frames(came).iter().any(|frame| frame.kind == GO_AWAY)
}

/// Name, port, path, fields, status.
type Row = (&'static str, Port, &'static str, &'static [(&'static str, &'static str)], u16);

const JSON: (&str, &str) = ("content-type", "application/json");
const ROWS: [Row; 9] = [
    ("too large", Port::Gateway, path(Port::Gateway), &[JSON], 413),
    ("too large", Port::Admin, path(Port::Admin), &[JSON], 413),
    ("nowhere", Port::Gateway, "/nowhere", &[JSON], 404),
    ("nowhere", Port::Admin, "/nowhere", &[JSON], 404),
    ("no such method", Port::Admin, "/api/admin/status", &[JSON], 405),
    ("no such coding", Port::Gateway, path(Port::Gateway), &[JSON, ("content-encoding", "x")], 415),
    ("no coding", Port::Admin, path(Port::Admin), &[JSON, ("content-encoding", "gzip")], 415),
    ("no such form", Port::Admin, path(Port::Admin), &[("content-type", "text/plain")], 415),
    ("of another page", Port::Admin, path(Port::Admin), &[JSON, ("origin", "https://evil.example")], 403),
];

#[test]
fn a_refused_upload_is_read_to_its_end() {
    let dir = tempfile::tempdir().unwrap();
    let server = process::start(dir.path(), &[]);
    let body = vec![b' '; 8 << 20];
    each(&ROWS, |(name, port, path, fields, status)| {
        let answer = upload(&mut Line::to(port.address(&server)), path, fields, &body);
        let Answer { status: found, sent, ref reset, connection_stays, .. } = answer;
        let is_right = found == *status && sent == body.len() && reset.is_none() && connection_stays;
        let told = format!("{found}, {sent} bytes sent, reset {reset:?}, connection stays: {connection_stays}");
        if is_right { Ok(()) } else { Err(format!("{name} ({port:?}): {told}; expected {status}")) }
    });
    println!("{} rows", ROWS.len());
}
