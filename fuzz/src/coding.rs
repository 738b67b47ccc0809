//! Bodies in each content coding. What comes out is within its limits, is the same however the body comes in parts, and
//! is what an independent decoder makes of the same bytes.
//!
//! The first bytes of an input are a plan: whether the rest is a coded body as it stands, or a plain one to be coded
//! first, and then damaged or not. Coded data that mutates is nearly always broken at once; so the fuzzer also comes
//! to bodies that are whole.

mod encode;
mod independent;

use bytes::Bytes;
use causality::http::Coding;
use causality::http::fuzzing::{BodyError, RATIO_FREE_BYTES, RATIO_MAX, inflate};

use super::metered::within;

/// What a decoder holds beside its output: the largest window of brotli, and its tables.
const DECODER_BYTES_MAX: usize = 24 << 20;
const MEMORY: usize = 1 << 20;

pub fn gzip(input: &[u8]) {
    run(Coding::Gzip, input);
}

pub fn deflate(input: &[u8]) {
    run(Coding::Deflate, input);
}

pub fn brotli(input: &[u8]) {
    run(Coding::Brotli, input);
}

pub fn zstd(input: &[u8]) {
    run(Coding::Zstd, input);
}

/// What the first bytes of an input say.
struct Plan {
    /// How the rest becomes a body.
    kind: Kind,
    /// For the encoder.
    options: u8,
    /// Bytes of each part that the body comes in.
    part: usize,
    bytes_max: usize,
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    /// It is one.
    Coded,
    /// It is encoded.
    Whole,
    /// It is encoded, and one byte of that is changed.
    Damaged,
    /// It is repeated, then encoded.
    Repeated,
    /// It is encoded, and some of it is left out or comes twice.
    Spliced,
}

impl Plan {
    fn read(input: &[u8]) -> Option<(Self, &[u8])> {
        let (&[kind, options, part, limit], rest) = input.split_first_chunk()?;
        let kind = match kind % 8 {
            0 | 1 => Kind::Damaged,
            2 => Kind::Repeated,
            3 => Kind::Spliced,
            4 => Kind::Whole,
            _ => Kind::Coded,
        };
        let part = [usize::MAX, 1, 2, 3, 7, 64, 1_000, 4_096][usize::from(part % 8)];
        let bytes_max = [MEMORY, 100, 4_096, 70_000, 300_000][usize::from(limit % 5)];
        Some((Self { kind, options, part, bytes_max }, rest))
    }
}

fn run(coding: Coding, input: &[u8]) {
    let Some((plan, rest)) = Plan::read(input) else { return };
    if plan.kind == Kind::Coded {
        let _ = check(coding, rest, &plan);
        return;
    }
    let (at, byte, plain) = match rest {
        [high, low, byte, plain @ ..] if plan.kind != Kind::Whole => {
            (usize::from(u16::from_be_bytes([*high, *low])), *byte, plain)
        }
        plain => (0, 0, plain),
    };
    let mut plain = plain.to_vec();
    if plan.kind == Kind::Repeated {
        plain = plain.repeat(1 + at % 1_024);
        plain.truncate(2 * MEMORY);
    }
    let mut coded = encode::encode(coding, &plain, plan.options);
    match plan.kind {
        Kind::Whole | Kind::Repeated => {
            let inflated = check(coding, &coded, &plan);
            let is_small = plain.len() <= plan.bytes_max.min(RATIO_FREE_BYTES) && coded.len() <= plan.bytes_max;
            match inflated {
                Ok(inflated) => assert_eq!(inflated, plain),
                Err(error) => assert!(!is_small, "{error:?} of a whole body"),
            }
            return;
        }
        Kind::Damaged if !coded.is_empty() => {
            let at = at % coded.len();
            coded[at] ^= byte;
        }
        Kind::Spliced => {
            let at = at % (coded.len() + 1);
            let length = usize::from(byte & 0x7f).min(coded.len() - at);
            if byte < 0x80 {
                coded.drain(at..at + length);
            } else {
                coded.extend_from_within(at..at + length);
            }
        }
        _ => {}
    }
    let _ = check(coding, &coded, &plan);
}

/// Inflates whole and in parts, and holds the outcome against the limits and the independent decoder.
fn check(coding: Coding, coded: &[u8], plan: &Plan) -> Result<Bytes, BodyError> {
    let bytes_max = plan.bytes_max;
    let inflated_in = |part: usize| {
        let held_max = DECODER_BYTES_MAX + 4 * bytes_max + coded.len();
        let (result, taken) = within(held_max, || inflate(coding, coded.chunks(part), bytes_max, MEMORY));
        assert!(taken <= bytes_max, "{taken} bytes of memory were taken for at most {bytes_max}");
        if let Ok(inflated) = &result {
            assert_eq!(inflated.len(), taken, "memory is taken of each byte once");
            let within_ratio = inflated.len() <= RATIO_FREE_BYTES || inflated.len() / RATIO_MAX <= coded.len();
            assert!(within_ratio, "{} of {}", inflated.len(), coded.len());
        }
        result
    };
    let whole = inflated_in(usize::MAX);
    let in_parts = inflated_in(plan.part);
    match (&whole, &in_parts) {
        (Ok(whole), Ok(in_parts)) => assert_eq!(whole, in_parts),
        // The ratio is looked at while a body comes, so that of a part may be too high.
        (Ok(whole), Err(error)) => {
            assert!(*error == BodyError::InflatesTooMuch && whole.len() > RATIO_FREE_BYTES, "{error:?}");
        }
        (Err(error), Ok(_)) => panic!("whole {error:?}, in parts accepted"),
        (Err(_), Err(_)) => {}
    }
    let theirs = independent::decode(coding, coded, bytes_max);
    match (&whole, theirs) {
        (Ok(ours), Ok(theirs)) => assert!(*ours == theirs, "the independent decoder reads something else"),
        (Ok(ours), Err(error)) => panic!("{} bytes that the independent decoder refuses: {error}", ours.len()),
        (Err(error), Ok(theirs)) => {
            let too_large = theirs.len() > RATIO_FREE_BYTES || coded.len() > bytes_max;
            assert!(too_large || independent::takes_more(coding, coded), "{error:?} of {} bytes", theirs.len());
        }
        (Err(_), Err(_)) => {}
    }
    whole
}
