//! Unsigned LEB128 varints and length-prefixed strings.

/// Appends an unsigned LEB128 varint.
pub fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Takes a length-prefixed string from the front of `bytes`; `None` if there is no valid one.
pub fn take_text<'a>(bytes: &mut &'a [u8]) -> Option<&'a str> {
    // Most strings are shorter than 128 bytes.
    let length = match bytes.split_first() {
        Some((first, rest)) if *first < 0x80 => {
            *bytes = rest;
            usize::from(*first)
        }
        _ => usize::try_from(take_varint(bytes)?).ok()?,
    };
    let (text, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    std::str::from_utf8(text).ok()
}

/// Takes a varint from the front of `bytes`; `None` if there is no valid one.
pub fn take_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        let bits = u64::from(byte & 0x7f);
        if bits << shift >> shift != bits {
            return None;
        }
        value |= bits << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}
