//! How the sink writes a finished file, plainly with an fsync, against a direct, aligned write past the page cache:
//! processor time of the whole path of an event (decode, columns, pages, file). Direct writes return if they win.
//!
//! `BENCH_DIR` is the directory of the files, or the system's temporary directory.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use causality::event::EventRef;
use causality::warehouse::{Compression, EncodeSettings, Encoder, Origin};
use prost::Message;

#[path = "plain/compare.rs"]
#[allow(dead_code, reason = "each user has its own part")]
mod compare;
mod shop;

/// As in the product.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const EVENTS: usize = 200_000;
const RUNS: usize = 9;
/// Memory, offsets and lengths of direct writes are multiples of this.
const ALIGNMENT: usize = 4096;

fn main() {
    let mut random = shop::Random(42);
    let events: Vec<Vec<u8>> = (0..EVENTS as u64).map(|n| shop::event(n, &mut random).encode_to_vec()).collect();
    let parent = std::env::var_os("BENCH_DIR").map_or_else(std::env::temp_dir, Into::into);
    let dir = tempfile::tempdir_in(parent).expect("a directory for the bench");
    let path = dir.path().join("file");
    let (mut plain, mut direct) = (Vec::new(), Vec::new());
    for _ in 0..RUNS {
        plain.push(run(&events, |bytes| write_plain(&path, bytes)));
        direct.push(run(&events, |bytes| write_direct(&path, bytes)));
    }
    let ratio = compare::ratio("ns an event", ("direct", &direct), ("plain, with fsync", &plain));
    compare::hold(ratio < compare::BAR, "plain writes");
}

/// Processor nanoseconds an event. The copy to aligned memory does not count: an encoder could write there.
fn run(events: &[Vec<u8>], write: impl FnOnce(&[u8]) -> std::io::Result<()>) -> f64 {
    let start = compare::thread_ns();
    let settings =
        EncodeSettings { compression: Compression::Snappy, row_group_rows_max: 1_000_000, stream: "EVENTS".into() };
    let mut encoder = Encoder::new(settings).expect("encoder");
    let mut file = encoder.open("shop");
    for (event, sequence) in events.iter().zip(1..) {
        let event = EventRef::decode(event).expect("decode");
        encoder.push(&mut file, &event, Origin { sequence, received_at_ms: 1_767_225_600_000 }).expect("push");
    }
    let bytes = encoder.finish(file, 1..=events.len() as u64).expect("finish");
    let encoded = compare::thread_ns() - start;
    let mut aligned: Vec<u8> = Vec::with_capacity(bytes.len() + ALIGNMENT);
    let at = aligned.as_ptr().align_offset(ALIGNMENT);
    aligned.resize(at, 0);
    aligned.extend_from_slice(&bytes);
    let start = compare::thread_ns();
    write(&aligned[at..]).expect("write");
    (encoded + compare::thread_ns() - start) / events.len() as f64
}

fn write_plain(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// All whole blocks directly, and the rest through the page cache.
fn write_direct(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let (blocks, rest) = bytes.split_at(bytes.len() - bytes.len() % ALIGNMENT);
    let mut options = File::options();
    options.write(true).create(true).truncate(true).custom_flags(libc::O_DIRECT).open(path)?.write_all(blocks)?;
    let mut file = File::options().append(true).open(path)?;
    file.write_all(rest)?;
    file.sync_all()
}
