//! Parquet encodings of the values of a page, as pure functions from values to bytes.
//!
//! They follow the Parquet format specification, "Encodings": RLE / bit-packing hybrid (3),
//! DELTA_BINARY_PACKED (5), PLAIN booleans (0). Tests read the result back with the `parquet`
//! crate, whose own encoders are private and hash every value again.

use crate::base::varint::put_varint;

/// Length from which a run of equal values is shorter than packed bits.
const RUN_MIN: usize = 16;
/// Values in a block of deltas, and in one of its four miniblocks.
const DELTA_BLOCK: usize = 128;
const DELTA_MINIBLOCK: usize = 32;

/// The number of bits for values up to `max`.
pub(crate) fn bit_width(max: u64) -> u8 {
    (u64::BITS - max.leading_zeros()) as u8
}

/// Appends `values`, each below `2^width`, as runs and groups of eight packed values. `width` is 1 to 16.
pub(crate) fn put_hybrid(out: &mut Vec<u8>, values: &[u16], width: u8) {
    let (mut packed_from, mut at) = (0, 0);
    while at < values.len() {
        let value = values[at];
        let run = values[at..].iter().take_while(|v| **v == value).count();
        // Packed values come in whole groups, so the start of a run fills up the group before it.
        let fill = (packed_from..at).len().next_multiple_of(8) - (at - packed_from);
        if run >= RUN_MIN + fill {
            put_packed_groups(out, &values[packed_from..at + fill], width);
            put_varint(out, ((run - fill) as u64) << 1);
            out.extend_from_slice(&value.to_le_bytes()[..usize::from(width.div_ceil(8))]);
            packed_from = at + run;
        }
        at += run;
    }
    put_packed_groups(out, &values[packed_from..], width);
}

fn put_packed_groups(out: &mut Vec<u8>, values: &[u16], width: u8) {
    if values.is_empty() {
        return;
    }
    put_varint(out, ((values.len().div_ceil(8) as u64) << 1) | 1);
    for group in values.chunks(8) {
        let mut bits = 0u128;
        for (i, value) in group.iter().enumerate() {
            bits |= u128::from(*value) << (i * usize::from(width));
        }
        out.extend_from_slice(&bits.to_le_bytes()[..usize::from(width)]);
    }
}

/// Appends booleans as bits, least significant first.
pub(crate) fn put_booleans(out: &mut Vec<u8>, values: &[bool]) {
    for group in values.chunks(8) {
        out.push(group.iter().enumerate().fold(0, |byte, (i, value)| byte | (u8::from(*value) << i)));
    }
}

/// Appends integers as deltas. `narrow` is for 32-bit columns, whose deltas wrap at 32 bits.
pub(crate) fn put_deltas(out: &mut Vec<u8>, values: &[i64], narrow: bool) {
    put_varint(out, DELTA_BLOCK as u64);
    put_varint(out, (DELTA_BLOCK / DELTA_MINIBLOCK) as u64);
    put_varint(out, values.len() as u64);
    put_varint(out, zigzag(values.first().copied().unwrap_or(0)));
    let mut previous = values.first().copied().unwrap_or(0);
    for block in values.get(1..).unwrap_or_default().chunks(DELTA_BLOCK) {
        let mut deltas = [0i64; DELTA_BLOCK];
        for (delta, value) in deltas.iter_mut().zip(block) {
            *delta = wrapped(value.wrapping_sub(previous), narrow);
            previous = *value;
        }
        put_delta_block(out, &deltas[..block.len()], narrow);
    }
}

fn put_delta_block(out: &mut Vec<u8>, deltas: &[i64], narrow: bool) {
    let min = deltas.iter().copied().min().unwrap_or(0);
    put_varint(out, zigzag(min));
    let mut rest = [0u64; DELTA_BLOCK];
    for (rest, delta) in rest.iter_mut().zip(deltas) {
        let above = delta.wrapping_sub(min) as u64;
        *rest = if narrow { above & u64::from(u32::MAX) } else { above };
    }
    let widths_at = out.len();
    out.extend_from_slice(&[0; DELTA_BLOCK / DELTA_MINIBLOCK]);
    for (i, miniblock) in rest.chunks(DELTA_MINIBLOCK).enumerate() {
        // Miniblocks past the last value have no bytes.
        if i * DELTA_MINIBLOCK < deltas.len() {
            let width = bit_width(miniblock.iter().fold(0, |all, v| all | v));
            out[widths_at + i] = width;
            put_packed(out, miniblock, width);
        }
    }
}

/// Appends 32 values of `width` bits each, least significant first.
fn put_packed(out: &mut Vec<u8>, values: &[u64], width: u8) {
    let (mut bits, mut filled) = (0u128, 0u32);
    for value in values {
        bits |= u128::from(*value) << filled;
        filled += u32::from(width);
        if filled >= 64 {
            out.extend_from_slice(&(bits as u64).to_le_bytes());
            bits >>= 64;
            filled -= 64;
        }
    }
    // 32 values of any width end on a whole byte.
    out.extend_from_slice(&(bits as u64).to_le_bytes()[..(filled / 8) as usize]);
}

fn wrapped(delta: i64, narrow: bool) -> i64 {
    if narrow { i64::from(delta as i32) } else { delta }
}

fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)) as u64
}

/// The encoded definition levels of a page: their length in bytes, then the levels.
pub(crate) fn definition_levels(present: &[u16]) -> Vec<u8> {
    let mut levels = vec![0; 4];
    put_hybrid(&mut levels, present, 1);
    let length = (levels.len() - 4) as u32;
    levels[..4].copy_from_slice(&length.to_le_bytes());
    levels
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The examples of the format specification, byte for byte.
    #[test]
    fn the_examples_of_the_specification_are_reproduced() {
        let mut out = Vec::new();
        put_hybrid(&mut out, &[0, 1, 2, 3, 4, 5, 6, 7], 3);
        assert_eq!(out, [3, 0b1000_1000, 0b1100_0110, 0b1111_1010]);

        out.clear();
        put_deltas(&mut out, &[1, 2, 3, 4, 5], false);
        assert_eq!(out, [0x80, 1, 4, 5, 2, 2, 0, 0, 0, 0]);

        out.clear();
        put_deltas(&mut out, &[7, 5, 3, 1, 2, 3, 4, 5], false);
        assert_eq!(out[..10], [0x80, 1, 4, 8, 14, 3, 2, 0, 0, 0]);
        assert_eq!(out[10..], [0b1100_0000, 0b0011_1111, 0, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn a_run_after_a_partial_group_fills_the_group_first() {
        let mut values = vec![1, 0, 1];
        values.extend([1; 40]);
        let mut out = Vec::new();
        put_hybrid(&mut out, &values, 1);
        assert_eq!(out, [3, 0b1111_1101, 35 << 1, 1]);
    }

    #[test]
    fn widths_are_the_bits_of_the_largest_value() {
        assert_eq!([0, 1, 2, 255, 256, u64::MAX].map(bit_width), [0, 1, 2, 8, 9, 64]);
    }
}
