//! Bodies compressed before the run: compressing one takes longer than the server needs for it, and both share the
//! processor.
//!
//! Invariant: a body equals that of the pool, in an encoding that the gateway accepts.

use std::io::{self, Write};

use flate2::Compression;
use flate2::write::{GzEncoder, ZlibEncoder};

use super::pool::Pool;
use crate::base::clock::unix_ms;

/// Events prepared in memory, about 100 bytes each.
pub(super) const PREPARED_EVENTS_MAX: u64 = 20_000_000;
/// Common defaults: those of zlib and zstd, and brotli's for dynamic content.
const DEFLATE_LEVEL: u32 = 6;
const ZSTD_LEVEL: i32 = 3;
const BROTLI_QUALITY: u32 = 5;
const BROTLI_WINDOW_LOG: u32 = 22;

/// A coding, by its name in `Content-Encoding`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Encoding {
    Gzip,
    Deflate,
    Br,
    Zstd,
}

impl Encoding {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Deflate => "deflate",
            Self::Br => "br",
            Self::Zstd => "zstd",
        }
    }

    fn encode(self, body: &[u8]) -> io::Result<Vec<u8>> {
        let level = Compression::new(DEFLATE_LEVEL);
        match self {
            Self::Gzip => {
                let mut encoder = GzEncoder::new(Vec::new(), level);
                encoder.write_all(body)?;
                encoder.finish()
            }
            Self::Deflate => {
                let mut encoder = ZlibEncoder::new(Vec::new(), level);
                encoder.write_all(body)?;
                encoder.finish()
            }
            Self::Br => {
                let mut encoder =
                    brotli::CompressorWriter::new(Vec::new(), body.len(), BROTLI_QUALITY, BROTLI_WINDOW_LOG);
                encoder.write_all(body)?;
                Ok(encoder.into_inner())
            }
            Self::Zstd => zstd::bulk::compress(body, ZSTD_LEVEL),
        }
    }
}

pub(super) struct PreparedBodies {
    pub(super) encoding: Encoding,
    batch_events: usize,
    bodies: Vec<Vec<u8>>,
}

impl PreparedBodies {
    /// Prepares the bodies of `count` events on all processors. Blocks.
    pub(super) fn prepare(
        pool: &Pool,
        encoding: Encoding,
        (count, batch_events): (u64, usize),
        single: bool,
    ) -> io::Result<Self> {
        let requests = count.div_ceil(batch_events as u64);
        let threads = std::thread::available_parallelism().map_or(1, |threads| threads.get() as u64);
        let body = |request: u64, plain: &mut Vec<u8>| {
            let first = request * batch_events as u64;
            plain.clear();
            pool.write_body(plain, first, batch_events.min((count - first) as usize), unix_ms().unsigned_abs(), single);
            encoding.encode(plain)
        };
        let share = requests.div_ceil(threads).max(1);
        let parts = std::thread::scope(|scope| {
            let parts: Vec<_> = (0..threads)
                .map(|thread| {
                    scope.spawn(move || {
                        let mut plain = Vec::new();
                        let requests = thread * share..requests.min((thread + 1) * share);
                        requests.map(|request| body(request, &mut plain)).collect::<io::Result<Vec<_>>>()
                    })
                })
                .collect();
            let join = |part: std::thread::ScopedJoinHandle<'_, io::Result<Vec<_>>>| {
                part.join().unwrap_or_else(|_| Err(io::Error::other("a thread that compresses ended early")))
            };
            parts.into_iter().map(join).collect::<io::Result<Vec<_>>>()
        });
        Ok(Self { encoding, batch_events, bodies: parts?.concat() })
    }

    /// The body of the request that starts with this event.
    pub(super) fn body(&self, first: u64) -> &[u8] {
        self.bodies.get(first as usize / self.batch_events).map(Vec::as_slice).unwrap_or_default()
    }

    pub(super) fn bytes(&self) -> usize {
        self.bodies.iter().map(Vec::len).sum()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;
    use crate::cli::bench::pool::{BodyFormat, PoolOptions};
    use crate::cli::bench::run_ids::RunTag;

    #[test]
    fn bodies_decompress_to_those_of_the_pool() {
        let options =
            PoolOptions { format: BodyFormat::Json, seed: 1, app_ids: vec!["shop".into()], idempotency_keys: false };
        let run = RunTag::new(1, 1);
        let pool = Pool::render(&options, run).unwrap();
        for encoding in [Encoding::Gzip, Encoding::Deflate, Encoding::Br, Encoding::Zstd] {
            let prepared = PreparedBodies::prepare(&pool, encoding, (2_345, 100), false).unwrap();
            assert_eq!((prepared.bodies.len(), prepared.body(2_400)), (24, [].as_slice()));
            let (coded, mut plain) = (prepared.body(2_300), Vec::new());
            match encoding {
                Encoding::Gzip => flate2::read::GzDecoder::new(coded).read_to_end(&mut plain).unwrap(),
                Encoding::Deflate => flate2::read::ZlibDecoder::new(coded).read_to_end(&mut plain).unwrap(),
                Encoding::Br => brotli_decompressor::Decompressor::new(coded, 4_096).read_to_end(&mut plain).unwrap(),
                Encoding::Zstd => zstd::Decoder::new(coded).unwrap().read_to_end(&mut plain).unwrap(),
            };
            let plain: serde_json::Value = serde_json::from_slice(&plain).unwrap();
            let events = plain["events"].as_array().unwrap();
            assert_eq!(events.len(), 45);
            assert_eq!(run.number(events[44]["id"].as_str().unwrap()), Some(2_344));
            assert!(prepared.bytes() < 2_345 * 300, "{encoding:?}: {}", prepared.bytes());
        }
    }
}
