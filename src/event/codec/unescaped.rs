//! Finds the part of a string that needs no escape in JSON.
//!
//! Events have many short strings, so this is the largest part of the cost of reading and writing JSON.

/// The number of bytes before the first quote, backslash or control character.
#[inline]
pub(crate) fn unescaped_len(bytes: &[u8]) -> usize {
    let mut rest = bytes;
    while let Some((word, after)) = rest.split_first_chunk() {
        if let Some(position) = first_special(u64::from_le_bytes(*word)) {
            return bytes.len() - rest.len() + position;
        }
        rest = after;
    }
    // The tail is covered by the last eight bytes, or by two overlapping words of four. Bytes that are looked at twice
    // are known to be unescaped.
    if let (false, Some(last)) = (rest.is_empty(), bytes.last_chunk()) {
        let at = bytes.len() - size_of::<u64>();
        return first_special(u64::from_le_bytes(*last)).map_or(bytes.len(), |position| at + position);
    }
    if let (Some(first), Some(last)) = (rest.first_chunk(), rest.last_chunk()) {
        let word = u64::from(u32::from_le_bytes(*first)) | u64::from(u32::from_le_bytes(*last)) << 32;
        let place = |position: usize| if position < 4 { position } else { bytes.len() + position - 8 };
        return first_special(word).map_or(bytes.len(), place);
    }
    let is_special = |byte: &u8| *byte < 0x20 || matches!(byte, b'"' | b'\\');
    bytes.len() - rest.len() + rest.iter().position(is_special).unwrap_or(rest.len())
}

/// The index of the first quote, backslash or control character among eight bytes, the lowest byte first.
#[inline]
fn first_special(word: u64) -> Option<usize> {
    // `found` has the high bit of each matching byte set. A borrow may also set bits of later bytes, so only the first
    // counts.
    let below_space = word.wrapping_sub(EACH * 0x20) & !word;
    let quote = zero_bytes(word ^ (EACH * u64::from(b'"')));
    let backslash = zero_bytes(word ^ (EACH * u64::from(b'\\')));
    let found = (below_space | quote | backslash) & (EACH * 0x80);
    (found != 0).then(|| (found.trailing_zeros() / 8) as usize)
}

const EACH: u64 = 0x0101_0101_0101_0101;

#[inline]
fn zero_bytes(word: u64) -> u64 {
    word.wrapping_sub(EACH) & !word
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_ends_at_the_first_special_byte_at_every_position() {
        let plain = "plain é ~\u{7f}\u{80}\u{2028}".bytes().cycle();
        for length in 0..70 {
            let text: Vec<u8> = plain.clone().take(length).collect();
            assert_eq!(unescaped_len(&text), length);
            for special in [b'"', b'\\', 0, b'\n', 0x1f] {
                for at in 0..length {
                    let mut text = text.clone();
                    text[at] = special;
                    // Of several the first counts.
                    for later in [at, length - 1] {
                        text[later] = special;
                        assert_eq!(unescaped_len(&text), at, "{special} at {at} of {length}");
                    }
                }
            }
        }
    }
}
