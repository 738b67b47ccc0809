//! Decoders that share no code with the gateway's: miniz_oxide beside zlib-rs, Google's C library beside
//! brotli-decompressor, ruzstd beside the C library of zstd. A body is decoded whole, and to its last byte.

use brotlic::decode::DecoderInfo;
use causality::http::Coding;
use miniz_oxide::DataFormat;
use miniz_oxide::inflate::TINFLStatus;
use miniz_oxide::inflate::core::inflate_flags::{
    TINFL_FLAG_COMPUTE_ADLER32, TINFL_FLAG_PARSE_ZLIB_HEADER, TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF,
};
use miniz_oxide::inflate::core::{DecompressorOxide, decompress};

/// What is coded, when it is no more than this many bytes.
pub(super) fn decode(coding: Coding, coded: &[u8], bytes_max: usize) -> Result<Vec<u8>, String> {
    match coding {
        Coding::Identity => Ok(coded.to_vec()),
        Coding::Gzip => gzip(coded, bytes_max),
        Coding::Deflate => deflate(coded, bytes_max),
        Coding::Brotli => brotli(coded, bytes_max),
        Coding::Zstd => zstd(coded, bytes_max),
    }
}

/// Whether it takes bodies that the gateway rightly refuses: ruzstd takes larger windows, and does not look at
/// checksums. Of gzip's header it passes over a checksum and the reserved flags.
pub(super) fn takes_more(coding: Coding, coded: &[u8]) -> bool {
    coding == Coding::Zstd || (coding == Coding::Gzip && coded.get(3).is_some_and(|flags| flags & 0xe2 != 0))
}

fn gzip(mut coded: &[u8], bytes_max: usize) -> Result<Vec<u8>, String> {
    let mut out = Vec::new();
    loop {
        let data = after_header(coded).ok_or("no header of gzip")?;
        let (plain, read) = inflated(DataFormat::Raw, data, bytes_max - out.len())?;
        let (trailer, rest) = data[read..].split_first_chunk::<8>().ok_or("no trailer")?;
        let (crc, length) = (crc32fast::hash(&plain), plain.len() as u32);
        if [crc.to_le_bytes(), length.to_le_bytes()].concat() != trailer {
            return Err("the trailer is of something else".into());
        }
        out.extend(plain);
        coded = rest;
        if coded.is_empty() {
            return Ok(out);
        }
    }
}

fn after_header(member: &[u8]) -> Option<&[u8]> {
    let (head, mut rest) = member.split_first_chunk::<10>()?;
    let [0x1f, 0x8b, 8, flags, ..] = *head else { return None };
    if flags & 0x04 != 0 {
        let (length, after) = rest.split_first_chunk::<2>()?;
        rest = after.get(usize::from(u16::from_le_bytes(*length))..)?;
    }
    for flag in [0x08, 0x10] {
        if flags & flag != 0 {
            let end = rest.iter().position(|byte| *byte == 0)?;
            rest = &rest[end + 1..];
        }
    }
    if flags & 0x02 != 0 { rest.get(2..) } else { Some(rest) }
}

/// RFC 9110 means zlib; raw deflate is what its first two bytes do not let be zlib.
fn deflate(coded: &[u8], bytes_max: usize) -> Result<Vec<u8>, String> {
    let [method, flags, ..] = *coded else { return Err("too short".into()) };
    let is_zlib = method & 0x0f == 8 && u16::from_be_bytes([method, flags]).is_multiple_of(31);
    let format = if is_zlib { DataFormat::Zlib } else { DataFormat::Raw };
    let (plain, read) = inflated(format, coded, bytes_max)?;
    // It lets some wrong checksums pass.
    if is_zlib && coded[..read].last_chunk() != Some(&adler32(&plain).to_be_bytes()) {
        return Err("wrong checksum".into());
    }
    if read == coded.len() { Ok(plain) } else { Err("something follows".into()) }
}

/// RFC 1950 §9.
fn adler32(bytes: &[u8]) -> u32 {
    let (mut sum, mut sums) = (1, 0);
    for byte in bytes {
        sum = (sum + u32::from(*byte)) % 65_521;
        sums = (sums + sum) % 65_521;
    }
    sums << 16 | sum
}

/// What is inflated, and the bytes that were read of it.
fn inflated(format: DataFormat, coded: &[u8], bytes_max: usize) -> Result<(Vec<u8>, usize), String> {
    // In one buffer: in one that wraps, it would take distances that go back to before the first byte.
    let zlib = TINFL_FLAG_PARSE_ZLIB_HEADER | TINFL_FLAG_COMPUTE_ADLER32;
    let flags = TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF | if format == DataFormat::Zlib { zlib } else { 0 };
    let mut plain = vec![0; bytes_max + 1];
    let (status, read, written) = decompress(&mut DecompressorOxide::new(), coded, &mut plain, 0, flags);
    plain.truncate(written);
    match status {
        TINFLStatus::Done if written <= bytes_max => Ok((plain, read)),
        status => Err(format!("{status:?} after {written} bytes")),
    }
}

fn brotli(coded: &[u8], bytes_max: usize) -> Result<Vec<u8>, String> {
    let mut decoder = brotlic::BrotliDecoder::new();
    let (mut plain, mut read, mut buffer) = (Vec::new(), 0, vec![0; 4_096]);
    loop {
        let step = decoder.decompress(&coded[read..], &mut buffer).map_err(|error| error.to_string())?;
        read += step.bytes_read;
        plain.extend_from_slice(&buffer[..step.bytes_written]);
        match step.info {
            _ if plain.len() > bytes_max => return Err("too much".into()),
            DecoderInfo::Finished if read == coded.len() => return Ok(plain),
            DecoderInfo::Finished => return Err("something follows".into()),
            DecoderInfo::NeedsMoreInput => return Err("it ends early".into()),
            DecoderInfo::NeedsMoreOutput => {}
        }
    }
}

fn zstd(coded: &[u8], bytes_max: usize) -> Result<Vec<u8>, String> {
    let mut plain = vec![0; bytes_max + 1];
    let length =
        ruzstd::decoding::FrameDecoder::new().decode_all(coded, &mut plain).map_err(|error| error.to_string())?;
    plain.truncate(length);
    if length > bytes_max { Err("too much".into()) } else { Ok(plain) }
}
