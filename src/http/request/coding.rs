//! Content codings of request bodies (RFC 9110 §8.4): decompressed while they arrive, within a size, a ratio and the
//! memory of the request.
//!
//! Invariants: memory is taken before a byte is decompressed; a body that ends early, or continues after the end of its
//! coded data, is refused. A decoder's window lies within its output, so it touches no more than that.

use std::error::Error;
use std::io::{self, Write};
use std::pin::pin;
use std::time::Duration;

use brotli_decompressor::DecompressorWriter;
use bytes::{Bytes, BytesMut};
use flate2::write::{DeflateDecoder, MultiGzDecoder, ZlibDecoder};
use http::header::{ACCEPT_ENCODING, CONTENT_ENCODING};
use http::{HeaderMap, HeaderValue, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Body;

use super::body::{Inbound, fault};
use super::body_error::{BodyError, RATIO_MAX};
use super::head::header_values;
use super::zstd_frames::ZstdFrames;
use crate::http::reply::problem::Problem;

/// The supported codings, as a value of `Accept-Encoding`.
const ACCEPTED: &str = "gzip, deflate, br, zstd";
/// The ratio is not checked up to this size.
pub(crate) const RATIO_FREE_BYTES: usize = 64 * 1024;
/// Coded bytes between two memory checks, and the buffer size of the brotli decoder.
const STEP_BYTES: usize = 4 * 1024;

/// The content coding of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coding {
    Identity,
    Gzip,
    Deflate,
    Brotli,
    Zstd,
}

impl Coding {
    /// The coding that `Content-Encoding` names; 415 if there are several, or an unknown one.
    pub fn of(headers: &HeaderMap) -> Result<Self, Problem> {
        let mut coding = Self::Identity;
        let values = header_values(headers, CONTENT_ENCODING);
        for name in values.flat_map(|value| value.as_bytes().split(|byte| *byte == b',')) {
            let known = Self::named(name.trim_ascii())
                .ok_or_else(|| unsupported("Content-Encoding must be gzip, deflate, br, zstd or identity."))?;
            if known == Self::Identity {
                continue;
            }
            if coding != Self::Identity {
                return Err(unsupported("Content-Encoding must name one coding: bodies are not inflated twice."));
            }
            coding = known;
        }
        Ok(coding)
    }

    fn named(name: &[u8]) -> Option<Self> {
        // `x-gzip` means gzip (RFC 9110 §8.4.1.3). Empty list elements are ignored.
        [
            ("", Self::Identity),
            ("identity", Self::Identity),
            ("gzip", Self::Gzip),
            ("x-gzip", Self::Gzip),
            ("deflate", Self::Deflate),
            ("br", Self::Brotli),
            ("zstd", Self::Zstd),
        ]
        .into_iter()
        .find_map(|(known, coding)| name.eq_ignore_ascii_case(known.as_bytes()).then_some(coding))
    }
}

fn unsupported(detail: &'static str) -> Problem {
    Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, detail)
        .with_header(ACCEPT_ENCODING, HeaderValue::from_static(ACCEPTED))
}

/// Reads a coded body to its end and decompresses it. `bytes_max` limits both the coded and the decompressed size;
/// `timeout` runs from the headers to the last byte.
pub async fn read_coded(
    body: &mut Inbound,
    coding: Coding,
    bytes_max: usize,
    timeout: Duration,
) -> Result<Bytes, BodyError> {
    let memory = body.memory();
    let inflated = inflate(body, coding, bytes_max, move |bytes| memory.received(bytes).is_ok());
    tokio::time::timeout(timeout, inflated).await.map_err(|_| BodyError::Timeout)?
}

/// `take` takes memory for a number of bytes; `false` means there is none.
pub(crate) async fn inflate<B>(
    body: B,
    coding: Coding,
    bytes_max: usize,
    take: impl FnMut(usize) -> bool + Send + 'static,
) -> Result<Bytes, BodyError>
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let mut decoder = Decoder::new(coding, Output::new(bytes_max, take))?;
    let (mut body, mut sent) = (pin!(body), 0);
    while let Some(frame) = body.frame().await {
        // Trailers are skipped.
        let Ok(data) = frame.map_err(|error| fault(error.into()))?.into_data() else { continue };
        sent += data.len();
        if sent > bytes_max {
            return Err(BodyError::TooLarge);
        }
        decoder.feed(&data)?;
    }
    decoder.finish()
}

type Take = Box<dyn FnMut(usize) -> bool + Send>;

/// The decompressed bytes.
struct Output {
    bytes: BytesMut,
    bytes_max: usize,
    coded: usize,
    take: Take,
    /// Why it accepts no more bytes.
    full: Option<BodyError>,
}

impl Output {
    fn new(bytes_max: usize, take: impl FnMut(usize) -> bool + Send + 'static) -> Self {
        Self { bytes: BytesMut::new(), bytes_max, coded: 0, take: Box::new(take), full: None }
    }

    fn check(&mut self, more: usize) -> Result<(), BodyError> {
        let total = self.bytes.len() + more;
        if total > self.bytes_max {
            return Err(BodyError::InflatesTooLarge);
        }
        if total > RATIO_FREE_BYTES && total / RATIO_MAX > self.coded {
            return Err(BodyError::InflatesTooMuch);
        }
        if (self.take)(more) { Ok(()) } else { Err(BodyError::Busy) }
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let Err(full) = self.check(bytes.len()) {
            self.full = Some(full);
            return Err(io::Error::other("no more is taken"));
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

enum Decoder {
    /// The first two bytes decide whether `deflate` means zlib, as the standard says, or raw deflate, as some clients
    /// send.
    Undecided {
        first: Option<u8>,
        output: Output,
    },
    Gzip(MultiGzDecoder<Output>),
    Zlib(ZlibDecoder<Output>),
    Deflate(DeflateDecoder<Output>),
    Brotli(Box<DecompressorWriter<Output>>),
    Zstd(Box<ZstdFrames<Output>>),
}

impl Decoder {
    fn new(coding: Coding, output: Output) -> Result<Self, BodyError> {
        Ok(match coding {
            Coding::Identity | Coding::Deflate => Self::Undecided { first: None, output },
            Coding::Gzip => Self::Gzip(MultiGzDecoder::new(output)),
            Coding::Brotli => Self::Brotli(Box::new(DecompressorWriter::new(output, STEP_BYTES))),
            Coding::Zstd => Self::Zstd(Box::new(ZstdFrames::new(output).map_err(|_| BodyError::Busy)?)),
        })
    }

    fn feed(&mut self, data: &[u8]) -> Result<(), BodyError> {
        for step in data.chunks(STEP_BYTES) {
            self.output().coded += step.len();
            self.decide(step)?;
        }
        Ok(())
    }

    fn decide(&mut self, step: &[u8]) -> Result<(), BodyError> {
        if let Self::Undecided { first, output } = self {
            let held = *first;
            let head = match (held, step) {
                (None, [byte]) => {
                    *first = Some(*byte);
                    return Ok(());
                }
                (None, [one, two, ..]) => [*one, *two],
                (Some(one), [two, ..]) => [one, *two],
                (_, []) => return Ok(()),
            };
            let output = std::mem::replace(output, Output::new(0, |_| false));
            *self = match is_zlib(head) {
                true => Self::Zlib(ZlibDecoder::new(output)),
                false => Self::Deflate(DeflateDecoder::new(output)),
            };
            if let Some(held) = held {
                self.write(&[held])?;
            }
        }
        self.write(step)
    }

    fn write(&mut self, step: &[u8]) -> Result<(), BodyError> {
        let written = match self {
            Self::Undecided { .. } => Ok(()),
            Self::Gzip(decoder) => decoder.write_all(step),
            Self::Zlib(decoder) => decoder.write_all(step),
            Self::Deflate(decoder) => decoder.write_all(step),
            Self::Brotli(decoder) => decoder.write_all(step),
            Self::Zstd(decoder) => decoder.write_all(step),
        };
        written.map_err(|_| self.fault())
    }

    fn finish(mut self) -> Result<Bytes, BodyError> {
        let finished = match &mut self {
            Self::Undecided { .. } => Err(io::ErrorKind::UnexpectedEof.into()),
            Self::Gzip(decoder) => decoder.try_finish(),
            Self::Zlib(decoder) => decoder.try_finish(),
            Self::Deflate(decoder) => decoder.try_finish(),
            Self::Brotli(decoder) => decoder.close(),
            Self::Zstd(decoder) => decoder.finish(),
        };
        match finished {
            Ok(()) => Ok(std::mem::take(&mut self.output().bytes).freeze()),
            Err(_) => Err(self.fault()),
        }
    }

    /// Why the decoder failed: its output was full, or the input is invalid.
    fn fault(&mut self) -> BodyError {
        self.output().full.unwrap_or(BodyError::NotItsCoding)
    }

    fn output(&mut self) -> &mut Output {
        match self {
            Self::Undecided { output, .. } => output,
            Self::Gzip(decoder) => decoder.get_mut(),
            Self::Zlib(decoder) => decoder.get_mut(),
            Self::Deflate(decoder) => decoder.get_mut(),
            Self::Brotli(decoder) => decoder.get_mut(),
            Self::Zstd(decoder) => decoder.get_mut(),
        }
    }
}

/// RFC 1950 §2.2: the method is 8, and the two bytes as a big-endian number are a multiple of 31.
fn is_zlib([method, flags]: [u8; 2]) -> bool {
    method & 0x0f == 8 && u16::from_be_bytes([method, flags]).is_multiple_of(31)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use flate2::Compression;
    use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};

    use super::super::zstd_frames::WINDOW_LOG_MAX;
    use super::*;

    const BYTES_MAX: usize = 1 << 20;
    /// [`text`], and 64 MiB of zeros, compressed with Node's `zlib.brotliCompressSync`.
    const TEXT_BROTLI: &str = "1b6107001c076e2ccd4663b87b8c50e9a5b097223a6e3a368cd55da007a9be3f30a0edb1ffc03ce509e0115c7c5d2c\
                               0ee65feb7d0de3342feb66bbfb61fa85482c6aeceef101128b1abb7b7a80c4a2c6ee9e1f20b1a8b1bb9707482c6aece\
                               ef501128b1abb7bf30089458dddbd7d80c4a2c6eede3d40625163777f788f10532eb569dde1859872a94deb8e2fc494\
                               4b6d5a777a21a65c6ad3baf30b31e5529bd65d5e882997dab4eefa424cb9d4a675372fc4944b6d5a77fb424cb9d4a67\
                               5772fc4944b6dec671d";
    const ZEROS_BROTLI: &str = "cbffff3ff82700e2b14020f7fe8fffff7ff04f00c4611180eefd1fffffffe09f0088c30200ddfb3ffeffffc13f01108\
                                70500baf77ffcffff837f02200e0b0074effff8ffff07ff04401c1600e8defff1ffff0ffe0980382c00d0bdffcbffff\
                                3ffc1300715800a07bff07";

    fn text() -> Vec<u8> {
        lines(200)
    }

    fn lines(count: usize) -> Vec<u8> {
        (0..count).map(|n| format!("{{\"n\":{n}}}\n")).collect::<String>().into_bytes()
    }

    fn unhex(hex: &str) -> Vec<u8> {
        hex.as_bytes()
            .chunks(2)
            .map(|digits| u8::from_str_radix(std::str::from_utf8(digits).unwrap(), 16).unwrap())
            .collect()
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn zlib(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn deflate(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = DeflateEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn zstd(bytes: &[u8], window_log: u32) -> Vec<u8> {
        let mut encoder = ::zstd::stream::write::Encoder::new(Vec::new(), 3).unwrap();
        encoder.window_log(window_log).unwrap();
        encoder.include_checksum(true).unwrap();
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    /// [`text`] in each coding.
    fn coded() -> Vec<(&'static str, Coding, Vec<u8>)> {
        let text = text();
        vec![
            ("gzip", Coding::Gzip, gzip(&text)),
            ("zlib", Coding::Deflate, zlib(&text)),
            ("raw deflate", Coding::Deflate, deflate(&text)),
            ("brotli", Coding::Brotli, unhex(TEXT_BROTLI)),
            ("zstd", Coding::Zstd, zstd(&text, 20)),
        ]
    }

    /// Decompresses a body in parts of the given size, within a memory limit. Also returns the memory taken.
    fn inflated(coding: Coding, sent: &[u8], part: usize, memory: usize) -> (Result<Bytes, BodyError>, usize) {
        let taken = Arc::new(AtomicUsize::new(0));
        let take = {
            let taken = taken.clone();
            move |bytes| taken.fetch_add(bytes, Ordering::Relaxed) + bytes <= memory
        };
        let mut decoder = Decoder::new(coding, Output::new(BYTES_MAX, take)).unwrap();
        let fed = sent.chunks(part).try_for_each(|part| decoder.feed(part));
        (fed.and_then(|()| decoder.finish()), taken.load(Ordering::Relaxed))
    }

    fn whole(coding: Coding, sent: &[u8]) -> Result<Bytes, BodyError> {
        inflated(coding, sent, usize::MAX, usize::MAX).0
    }

    #[test]
    fn codings_are_decompressed_in_any_chunking() {
        for (name, coding, sent) in coded() {
            for part in [1, 2, 7, 100, 1 << 20] {
                let (result, taken) = inflated(coding, &sent, part, usize::MAX);
                assert_eq!(result.as_deref(), Ok(text().as_slice()), "{name} in parts of {part}");
                assert_eq!(taken, text().len(), "{name}: memory is taken of each byte once");
            }
        }
        let members = [gzip(b"one "), gzip(b""), gzip(b"two")].concat();
        assert_eq!(whole(Coding::Gzip, &members).as_deref(), Ok(b"one two".as_slice()), "RFC 1952 §2.2");
        let frames = [zstd(b"one ", 20), zstd(b"two", 20)].concat();
        assert_eq!(whole(Coding::Zstd, &frames).as_deref(), Ok(b"one two".as_slice()), "RFC 8878 §3.1");
    }

    #[test]
    fn truncated_and_overlong_bodies_are_refused() {
        for (name, coding, sent) in coded() {
            for end in 0..sent.len() {
                assert_eq!(whole(coding, &sent[..end]), Err(BodyError::NotItsCoding), "{name} cut at {end}");
            }
            for more in [b"x".as_slice(), b"\0\0\0\0\0\0\0\0", b"{\"events\":[]}"] {
                let more = [&sent, more].concat();
                assert_eq!(whole(coding, &more), Err(BodyError::NotItsCoding), "{name} with more behind it");
            }
            assert_eq!(whole(coding, b"{\"events\":[]}"), Err(BodyError::NotItsCoding), "plain JSON as {name}");
        }
    }

    #[test]
    fn corruption_is_detected_by_codings_with_checksums() {
        for (name, coding, sent) in coded().into_iter().filter(|(name, ..)| ["gzip", "zlib", "zstd"].contains(name)) {
            // Some header fields of gzip (time, system) do not affect the content.
            for at in 10..sent.len() {
                let mut broken = sent.clone();
                broken[at] ^= 0x10;
                match whole(coding, &broken) {
                    // Padding bits have no meaning.
                    Ok(inflated) => assert_eq!(inflated, text(), "{name} changed at {at}"),
                    Err(error) => assert_eq!(error, BodyError::NotItsCoding, "{name} changed at {at}"),
                }
            }
        }
    }

    #[test]
    fn decompression_bombs_stop_before_taking_memory() {
        let zeros = vec![0; 64 << 20];
        for (name, coding, sent) in [
            ("gzip", Coding::Gzip, gzip(&zeros)),
            ("zlib", Coding::Deflate, zlib(&zeros)),
            ("raw deflate", Coding::Deflate, deflate(&zeros)),
            ("brotli", Coding::Brotli, unhex(ZEROS_BROTLI)),
            ("zstd", Coding::Zstd, zstd(&zeros, 20)),
        ] {
            let (result, taken) = inflated(coding, &sent, usize::MAX, usize::MAX);
            assert_eq!(result, Err(BodyError::InflatesTooMuch), "{name}");
            assert!(taken <= BYTES_MAX, "{name}: {taken}");
        }
        // Noise does not compress, so only its size is limited.
        let mut state = 1u64;
        let noise = std::iter::repeat_with(|| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 56) as u8
        });
        let noise: Vec<u8> = noise.take(BYTES_MAX + 1).collect();
        for (coding, sent) in [(Coding::Gzip, gzip(&noise)), (Coding::Zstd, zstd(&noise, 20))] {
            assert_eq!(whole(coding, &sent), Err(BodyError::InflatesTooLarge), "{coding:?}");
        }
        assert_eq!(whole(Coding::Gzip, &gzip(&noise[1..])).map(|bytes| bytes.len()), Ok(BYTES_MAX));
    }

    #[test]
    fn lack_of_memory_and_large_windows_are_refused() {
        for (name, coding, sent) in coded() {
            let (result, taken) = inflated(coding, &sent, 64, 1_000);
            assert_eq!(result, Err(BodyError::Busy), "{name}, {taken}");
        }
        let long = lines(60_000);
        assert!(whole(Coding::Zstd, &zstd(&long, WINDOW_LOG_MAX)).is_ok());
        assert_eq!(whole(Coding::Zstd, &zstd(&long, 27)), Err(BodyError::NotItsCoding));
    }

    #[test]
    fn headers_name_one_coding() {
        let of = |values: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(CONTENT_ENCODING, HeaderValue::from_static(value));
            }
            Coding::of(&headers).map_err(|problem| problem.status().as_u16())
        };
        assert_eq!(of(&[]), Ok(Coding::Identity));
        for (value, coding) in [
            ("gzip", Coding::Gzip),
            ("X-GZIP", Coding::Gzip),
            (" deflate ", Coding::Deflate),
            ("Br", Coding::Brotli),
            ("zstd", Coding::Zstd),
            ("identity", Coding::Identity),
            ("identity, gzip", Coding::Gzip),
            ("", Coding::Identity),
        ] {
            assert_eq!(of(&[value]), Ok(coding), "{value}");
        }
        for values in [&["compress"][..], &["gzip, gzip"], &["gzip", "br"], &["gzip;q=1"], &["aws-chunked"]] {
            assert_eq!(of(values), Err(415), "{values:?}");
        }
    }
}
