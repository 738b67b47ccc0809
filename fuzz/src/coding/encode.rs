//! Whole bodies in each coding, with what encoders may choose.

use std::io::Write;

use brotlic::{BrotliEncoderOptions, CompressorWriter, Quality, WindowSize};
use causality::http::Coding;
use miniz_oxide::deflate::{compress_to_vec, compress_to_vec_zlib};

pub(super) fn encode(coding: Coding, plain: &[u8], options: u8) -> Vec<u8> {
    let level = options % 10;
    match coding {
        Coding::Identity => plain.to_vec(),
        Coding::Deflate if options & 0x10 == 0 => compress_to_vec_zlib(plain, level),
        Coding::Deflate => compress_to_vec(plain, level),
        Coding::Gzip if options & 0x80 == 0 => member(plain, options),
        // RFC 1952 has a body of several members.
        Coding::Gzip => {
            let (one, other) = plain.split_at(plain.len() / 2);
            [member(one, options), member(other, options ^ 0x7f)].concat()
        }
        Coding::Brotli => brotli(plain, options),
        Coding::Zstd if options & 0x80 == 0 => frame(plain, options),
        Coding::Zstd => {
            let (one, other) = plain.split_at(plain.len() / 2);
            // RFC 8878 has a body of several frames, and some that are skipped.
            let skipped = b"\x50\x2a\x4d\x18\x03\0\0\0abc".to_vec();
            [frame(one, options), skipped, frame(other, options ^ 0x7f)].concat()
        }
    }
}

/// A member of gzip, with the optional parts of its header.
fn member(plain: &[u8], options: u8) -> Vec<u8> {
    let flags = (options >> 2) & 0x1d;
    let mut out = vec![0x1f, 0x8b, 8, flags, 1, 2, 3, 4, 0, 255];
    if flags & 0x04 != 0 {
        out.extend_from_slice(&[3, 0, 1, 2, 3]);
    }
    for flag in [0x08, 0x10] {
        if flags & flag != 0 {
            out.extend_from_slice(b"name\0");
        }
    }
    out.extend(compress_to_vec(plain, options % 10));
    out.extend(crc32fast::hash(plain).to_le_bytes());
    out.extend((plain.len() as u32).to_le_bytes());
    out
}

fn brotli(plain: &[u8], options: u8) -> Vec<u8> {
    let quality = Quality::new(options % 10).expect("a quality");
    // With the small ones the window goes round.
    let window = WindowSize::new(10 + (options >> 4)).unwrap_or(WindowSize::best());
    let mut encoder = BrotliEncoderOptions::new();
    let encoder = encoder.quality(quality).window_size(window).build().expect("an encoder");
    let mut writer = CompressorWriter::with_encoder(encoder, Vec::new());
    writer.write_all(plain).expect("a vector has room");
    writer.into_inner().expect("a vector has room")
}

fn frame(plain: &[u8], options: u8) -> Vec<u8> {
    let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), i32::from(options % 10)).expect("an encoder");
    encoder.include_checksum(options & 0x10 != 0).expect("a parameter");
    encoder.include_contentsize(options & 0x20 != 0).expect("a parameter");
    if options & 0x40 != 0 {
        encoder.window_log(10).expect("a parameter");
    }
    encoder.set_pledged_src_size(Some(plain.len() as u64)).expect("a parameter");
    encoder.write_all(plain).expect("a vector has room");
    encoder.finish().expect("a vector has room")
}
