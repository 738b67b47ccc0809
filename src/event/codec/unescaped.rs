//! How far a text goes on that stands for itself between the quotes of JSON.
//!
//! Strings are short and there are many of them: of what reading and writing JSON costs, this is the largest part.

/// How many bytes come before the first quote, backslash or control character.
#[inline]
pub(crate) fn plain_length(bytes: &[u8]) -> usize {
    let mut rest = bytes;
    while let Some((word, after)) = rest.split_first_chunk() {
        if let Some(position) = first_special(u64::from_le_bytes(*word)) {
            return bytes.len() - rest.len() + position;
        }
        rest = after;
    }
    // Of what is left the last eight bytes, or twice four, are looked at as one: those that come twice are plain.
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

/// Which of eight bytes is the first that is a quote, a backslash or a control character. The first byte is the lowest.
#[inline]
fn first_special(word: u64) -> Option<usize> {
    // A byte's high bit is set in `found` when it is such a one. Borrows may set it in later bytes too, so only the
    // first is looked at.
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
    fn it_ends_at_the_first_special_byte_wherever_that_is() {
        let plain = "plain é ~\u{7f}\u{80}\u{2028}".bytes().cycle();
        for length in 0..70 {
            let text: Vec<u8> = plain.clone().take(length).collect();
            assert_eq!(plain_length(&text), length);
            for special in [b'"', b'\\', 0, b'\n', 0x1f] {
                for at in 0..length {
                    let mut text = text.clone();
                    text[at] = special;
                    // Of several the first counts.
                    for later in [at, length - 1] {
                        text[later] = special;
                        assert_eq!(plain_length(&text), at, "{special} at {at} of {length}");
                    }
                }
            }
        }
    }
}
