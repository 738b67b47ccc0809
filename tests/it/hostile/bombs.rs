//! Bodies that burst: in each coding, on each route that inflates, and many at once. None of them is inflated beyond its
//! limit, and the memory is afterwards what it was.

use std::io::Write;

use flate2::Compression;
use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};

use super::http1::Port;
use super::process::{self, Standing};
use super::wire::{Line, Sent};
use super::{each, rounds};
use crate::harness::Server;

const BOMB_BYTES: usize = 64 << 20;
/// 64 MiB of zeros, as Node's `zlib.brotliCompressSync` has them: there is no compressor here.
const BROTLI: &str = "cbffff3ff82700e2b14020f7fe8fffff7ff04f00c4611180eefd1fffffffe09f0088c30200ddfb3ffeffffc13f01108\
                      70500baf77ffcffff837f02200e0b0074effff8ffff07ff04401c1600e8defff1ffff0ffe0980382c00d0bdffcbffff\
                      3ffc1300715800a07bff07";
/// Routes of the gateway that take bodies.
const ROUTES: [Route; 6] = [
    Route::new("/v1/events/ingest", "application/json"),
    // A line that cannot be read is refused alone.
    Route { garbage: 200, ..Route::new("/v1/events/batch", "application/x-ndjson") },
    Route::new("/v1/events/ingest", "application/x-protobuf"),
    Route::new("/v1/events/batch", "application/cloudevents-batch+json"),
    // Segment says 400 of what is too large.
    Route { too_large: 400, ..Route::new("/v1/batch", "application/json") },
    Route::new("/v1/logs", "application/x-protobuf"),
];

struct Route {
    path: &'static str,
    media_type: &'static str,
    too_large: u16,
    /// Of what can be inflated, and is nothing.
    garbage: u16,
}

impl Route {
    const fn new(path: &'static str, media_type: &'static str) -> Self {
        Self { path, media_type, too_large: 413, garbage: 400 }
    }
}

#[derive(Clone, Copy)]
enum End {
    TooLarge,
    Garbage,
    /// Not what its coding says.
    NotItsCoding,
    UnknownCoding,
}

struct Bomb {
    name: &'static str,
    coding: &'static str,
    body: Vec<u8>,
    end: End,
}

fn written<W: Write>(mut writer: W, bytes: usize) -> W {
    let zeros = vec![0; 1 << 20];
    (0..bytes.div_ceil(zeros.len())).for_each(|_| writer.write_all(&zeros).unwrap());
    writer
}

fn gzip(bytes: usize) -> Vec<u8> {
    written(GzEncoder::new(Vec::new(), Compression::best()), bytes).finish().unwrap()
}

fn zstd(bytes: usize, window_log: u32) -> Vec<u8> {
    let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 19).unwrap();
    encoder.window_log(window_log).unwrap();
    written(encoder, bytes).finish().unwrap()
}

fn unhex(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> =
        hex.bytes().filter_map(|byte| char::from(byte).to_digit(16)).map(|digit| digit as u8).collect();
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
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
    let bomb = |name, coding, body: &[u8], end| Bomb { name, coding, body: body.to_vec(), end };
    vec![
        bomb("gzip", "gzip", &gzipped, End::TooLarge),
        bomb("gzip, many members", "gzip", &members, End::TooLarge),
        bomb("gzip under its old name", "x-gzip", &gzipped, End::TooLarge),
        bomb("zlib", "deflate", &zlib, End::TooLarge),
        bomb("raw deflate", "deflate", &deflate, End::TooLarge),
        bomb("brotli", "br", &unhex(BROTLI), End::TooLarge),
        bomb("zstd", "zstd", &zstd(BOMB_BYTES, 20), End::TooLarge),
        bomb("zstd, the largest window", "zstd", &zstd(BOMB_BYTES, 23), End::TooLarge),
        bomb("zstd, many frames", "zstd", &frames, End::TooLarge),
        bomb("zstd, a window of 2 GiB", "zstd", &window, End::NotItsCoding),
        bomb("zstd, 4 EiB promised", "zstd", &promise, End::NotItsCoding),
        bomb("gzip within gzip, named once", "gzip", &twice.finish().unwrap(), End::Garbage),
        bomb("gzip within gzip, named twice", "gzip, gzip", &gzipped, End::UnknownCoding),
        bomb("gzip within zstd", "gzip, zstd", &gzipped, End::UnknownCoding),
        bomb("gzip, cut short", "gzip", &gzipped[..60], End::NotItsCoding),
        bomb("gzip that says deflate", "deflate", &gzipped, End::NotItsCoding),
        bomb("a coding that nobody knows", "lzma", &gzipped, End::UnknownCoding),
        bomb("compress", "compress", &gzipped, End::UnknownCoding),
    ]
}

/// The status, the only answer, and whether the connection ended with it where it has to.
fn judge(bomb: &Bomb, route: &Route, address: &str) -> Result<(), String> {
    let (Bomb { name, coding, body, end }, Route { path, media_type, too_large, garbage }) = (bomb, route);
    let status = match end {
        End::TooLarge => *too_large,
        End::Garbage => *garbage,
        End::NotItsCoding => 400,
        End::UnknownCoding => 415,
    };
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {media_type}\r\nContent-Encoding: {coding}\r\n\
         Connection: close\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    let mut line = Line::to(address);
    line.send(&Sent { bytes: [head.as_bytes(), body].concat(), eof: false }, usize::MAX);
    line.read_to_end();
    let answer = String::from_utf8_lossy(&line.came);
    let is_right = answer.starts_with(&format!("HTTP/1.1 {status} ")) && line.ended;
    if is_right { Ok(()) } else { Err(format!("{name} to {path} as {media_type}: {answer:.300}, not {status}")) }
}

fn on_every_route(bombs: &[Bomb], server: &Server) {
    let address = Port::Gateway.address(server);
    let rows: Vec<_> = ROUTES.iter().flat_map(|route| bombs.iter().map(move |bomb| (bomb, route))).collect();
    for _ in 0..rounds() {
        each(&rows, |(bomb, route)| judge(bomb, route, address));
    }
    println!("{} bombs on {} routes, {} times", bombs.len(), ROUTES.len(), rounds());
}

#[test]
fn bombs_are_told_from_bodies_and_leave_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let server = process::start(dir.path(), &[]);
    let bombs = bombs();
    let before = Standing::warm(&server);
    on_every_route(&bombs, &server);
    before.is_regained_by(&server);
    assert_eq!(process::arrived(&server), Vec::<String>::new());
}
