//! Bodies that burst: in each coding, by ratio and by size, over HTTP/1.1 and HTTP/2, on each route that inflates and on
//! those that do not. None of them is inflated beyond its limit, and the memory is afterwards what it was.

use std::io::Write;

use flate2::Compression;
use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};

use super::http1::Port;
use super::process::{self, Standing};
use super::upload::upload;
use super::wire::{Line, Sent};
use super::{AT_ONCE, each, rounds};
use crate::harness::Server;

const BOMB_BYTES: usize = 64 << 20;
/// Far less than a body may have: only the ratio tells.
const SMALL_BOMB_BYTES: usize = 1 << 20;
/// Just more than a body may have, of a ratio that is allowed: only the size tells.
const LARGE_BYTES: usize = 6 << 20;

/// Routes that take bodies.
const ROUTES: [Route; 13] = [
    Route::new("/v1/events/ingest", "application/json"),
    Route::new("/v1/events/batch", "application/json"),
    // A line that cannot be read is refused alone.
    Route { garbage: 200, ..Route::new("/v1/events/batch", "application/x-ndjson") },
    Route::new("/v1/events/ingest", "application/x-protobuf"),
    Route::new("/v1/events/batch", "application/x-protobuf"),
    Route::new("/v1/events/ingest", "application/cloudevents+json"),
    Route::new("/v1/events/batch", "application/cloudevents-batch+json"),
    Route::of_segment("/v1/track"),
    Route::of_segment("/v1/batch"),
    Route::new("/v1/logs", "application/x-protobuf"),
    Route::new("/v1/logs", "application/json"),
    Route::of_admin("/api/admin/webhooks"),
    Route::of_admin("/api/admin/apply"),
];

struct Route {
    port: Port,
    path: &'static str,
    media_type: &'static str,
    /// Of what can be inflated, and is nothing.
    garbage: u16,
    is_segment: bool,
}

impl Route {
    const fn new(path: &'static str, media_type: &'static str) -> Self {
        Self { port: Port::Gateway, path, media_type, garbage: 400, is_segment: false }
    }

    const fn of_segment(path: &'static str) -> Self {
        Self { is_segment: true, ..Self::new(path, "application/json") }
    }

    const fn of_admin(path: &'static str) -> Self {
        Self { port: Port::Admin, ..Self::new(path, "application/json") }
    }

    /// The status of a bomb, and what the answer says.
    fn answer(&self, end: End) -> (u16, &'static str) {
        match end {
            _ if self.port == Port::Admin => (415, "The admin API takes bodies without Content-Encoding."),
            // Segment has a status and limits of its own.
            End::TooMuch | End::TooLarge if self.is_segment => (400, "A message has at most"),
            End::TooMuch => (413, "The body inflates to more than 250 times its size."),
            End::TooLarge => (413, "The body is too large once it is inflated."),
            End::Garbage => (self.garbage, ""),
            End::NotItsCoding => (400, "The body is not what Content-Encoding says, or it ends early."),
            End::UnknownCoding => (415, "Content-Encoding must "),
        }
    }
}

#[derive(Clone, Copy)]
enum End {
    /// By its ratio.
    TooMuch,
    /// By its size.
    TooLarge,
    Garbage,
    /// Not what its coding says.
    NotItsCoding,
    UnknownCoding,
}

struct Bomb {
    name: String,
    coding: &'static str,
    body: Vec<u8>,
    end: End,
}

fn written<W: Write>(mut writer: W, bytes: usize) -> W {
    let zeros = vec![0; 1 << 20];
    (0..bytes.div_ceil(zeros.len())).for_each(|_| writer.write_all(&zeros).unwrap());
    writer
}

/// A thousand zeros for each random number: some 50 times as large as it is coded.
fn written_mildly<W: Write>(mut writer: W, bytes: usize) -> W {
    let mut random = 1_u64;
    for _ in 0..bytes / 1_024 {
        let mut block = [0; 1_024];
        for number in block[..16].chunks_mut(8) {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            number.copy_from_slice(&random.to_be_bytes());
        }
        writer.write_all(&block).unwrap();
    }
    writer
}

/// The same content in each coding.
fn in_each_coding(content: &[u8]) -> [(&'static str, &'static str, Vec<u8>); 5] {
    let (mut gzip, mut zlib) =
        (GzEncoder::new(Vec::new(), Compression::best()), ZlibEncoder::new(Vec::new(), Compression::best()));
    let mut deflate = DeflateEncoder::new(Vec::new(), Compression::best());
    gzip.write_all(content).unwrap();
    zlib.write_all(content).unwrap();
    deflate.write_all(content).unwrap();
    [
        ("gzip", "gzip", gzip.finish().unwrap()),
        ("zlib", "deflate", zlib.finish().unwrap()),
        ("raw deflate", "deflate", deflate.finish().unwrap()),
        ("brotli", "br", brotli_coded(content)),
        ("zstd", "zstd", zstd::bulk::compress(content, 3).unwrap()),
    ]
}

fn brotli_coded(content: &[u8]) -> Vec<u8> {
    let mut encoder = brotli::CompressorWriter::new(Vec::new(), 1 << 16, 5, 22);
    encoder.write_all(content).unwrap();
    encoder.into_inner()
}

fn gzip(bytes: usize) -> Vec<u8> {
    written(GzEncoder::new(Vec::new(), Compression::best()), bytes).finish().unwrap()
}

fn zstd(bytes: usize, window_log: u32) -> Vec<u8> {
    let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 19).unwrap();
    encoder.window_log(window_log).unwrap();
    written(encoder, bytes).finish().unwrap()
}

fn bombs() -> Vec<Bomb> {
    let zlib = written(ZlibEncoder::new(Vec::new(), Compression::best()), BOMB_BYTES).finish().unwrap();
    let deflate = written(DeflateEncoder::new(Vec::new(), Compression::best()), BOMB_BYTES).finish().unwrap();
    let gzipped = gzip(BOMB_BYTES);
    let mut twice = GzEncoder::new(Vec::new(), Compression::best());
    twice.write_all(&gzipped).unwrap();
    // Members that are small each, and many (RFC 1952, 2.2).
    let members = gzip(1 << 20).repeat(64);
    let frames = zstd(1 << 20, 20).repeat(64);
    // A frame whose window is 2 GiB (RFC 9659 allows 8 MiB), and one that promises 2^62 bytes.
    let window = [0x28, 0xb5, 0x2f, 0xfd, 0x00, 0xa8, 0x01, 0x00, 0x00];
    let promise = [0x28, 0xb5, 0x2f, 0xfd, 0xe0, 0, 0, 0, 0, 0, 0, 0, 0x40, 0x01, 0x00, 0x00];
    let bomb = |name: &str, coding, body: &[u8], end| Bomb { name: name.to_owned(), coding, body: body.to_vec(), end };
    let mut bombs = vec![
        bomb("gzip", "gzip", &gzipped, End::TooMuch),
        bomb("gzip, many members", "gzip", &members, End::TooMuch),
        bomb("gzip under its old name", "x-gzip", &gzipped, End::TooMuch),
        bomb("zlib", "deflate", &zlib, End::TooMuch),
        bomb("raw deflate", "deflate", &deflate, End::TooMuch),
        bomb("brotli", "br", &brotli_coded(&vec![0; BOMB_BYTES]), End::TooMuch),
        bomb("zstd", "zstd", &zstd(BOMB_BYTES, 20), End::TooMuch),
        bomb("zstd, the largest window", "zstd", &zstd(BOMB_BYTES, 23), End::TooMuch),
        bomb("zstd, many frames", "zstd", &frames, End::TooMuch),
        bomb("zstd, a window of 2 GiB", "zstd", &window, End::NotItsCoding),
        bomb("zstd, 4 EiB promised", "zstd", &promise, End::NotItsCoding),
        bomb("gzip within gzip, named once", "gzip", &twice.finish().unwrap(), End::Garbage),
        bomb("gzip within gzip, named twice", "gzip, gzip", &gzipped, End::UnknownCoding),
        bomb("gzip within zstd", "gzip, zstd", &gzipped, End::UnknownCoding),
        bomb("gzip, cut short", "gzip", &gzipped[..40], End::NotItsCoding),
        bomb("gzip that says deflate", "deflate", &gzipped, End::NotItsCoding),
        bomb("a coding that nobody knows", "lzma", &gzipped, End::UnknownCoding),
        bomb("compress", "compress", &gzipped, End::UnknownCoding),
    ];
    for (name, coding, body) in in_each_coding(&vec![0; SMALL_BOMB_BYTES]) {
        bombs.push(bomb(&format!("{name}, small"), coding, &body, End::TooMuch));
    }
    for (name, coding, body) in in_each_coding(&written_mildly(Vec::new(), LARGE_BYTES)) {
        assert!(body.len() * 200 > LARGE_BYTES, "{name}: its ratio is too large");
        bombs.push(bomb(&format!("{name}, by size alone"), coding, &body, End::TooLarge));
    }
    bombs
}

#[derive(Clone, Copy, Debug)]
enum Protocol {
    Http1,
    Http2,
}

struct Row<'a> {
    bomb: &'a Bomb,
    route: &'a Route,
    protocol: Protocol,
}

impl Row<'_> {
    /// The status, what was said, and whether the connection is as it should be afterwards.
    fn send(&self, address: &str) -> (u16, String, bool) {
        let (Bomb { coding, body, .. }, Route { path, media_type, .. }) = (self.bomb, self.route);
        let mut line = Line::to(address);
        if let Protocol::Http2 = self.protocol {
            let fields = [("content-type", *media_type), ("content-encoding", *coding)];
            let answer = upload(&mut line, path, &fields, body);
            return (answer.status, String::from_utf8_lossy(&answer.body).into_owned(), answer.connection_stays);
        }
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {media_type}\r\nContent-Encoding: {coding}\r\n\
             Connection: close\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        line.send(&Sent { bytes: [head.as_bytes(), body].concat(), eof: false }, usize::MAX);
        line.read_to_end();
        let answer = String::from_utf8_lossy(&line.came).into_owned();
        let status = answer.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)?.parse().ok());
        (status.unwrap_or(0), answer, line.ended)
    }

    fn judge(&self, server: &Server) -> Result<(), String> {
        let (status, detail) = self.route.answer(self.bomb.end);
        let (found, said, connection_is_right) = self.send(self.route.port.address(server));
        if found == status && said.contains(detail) && connection_is_right {
            return Ok(());
        }
        let (Bomb { name, .. }, Route { path, media_type, .. }, protocol) = (self.bomb, self.route, self.protocol);
        Err(format!("{name} to {path} as {media_type} over {protocol:?}: {found} {said:.300}, not {status} {detail}"))
    }
}

fn on_every_route(bombs: &[Bomb], server: &Server, times: usize) {
    let mut rows = Vec::new();
    for route in &ROUTES {
        for bomb in bombs {
            rows.extend([Protocol::Http1, Protocol::Http2].map(|protocol| Row { bomb, route, protocol }));
        }
    }
    for _ in 0..times {
        each(&rows, |row| row.judge(server));
    }
    println!("{} bombs on {} routes, {} rows, {times} times", bombs.len(), ROUTES.len(), rows.len());
}

#[test]
fn bombs_are_told_from_bodies_and_leave_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let server = process::start(dir.path(), &[]);
    let bombs = bombs();
    // The buffers that the allocator keeps of large bodies are there after the first round: more rounds add nothing but
    // what differs by chance, as far as what is inflated at once.
    on_every_route(&bombs, &server, 1);
    let before = Standing::warm(&server).with_kb((AT_ONCE * LARGE_BYTES / 1024) as u64);
    on_every_route(&bombs, &server, rounds());
    before.is_regained_by(&server);
    assert_eq!(process::arrived(&server), Vec::<String>::new());
    assert_eq!(process::webhooks(&server), ["kept"]);
}
