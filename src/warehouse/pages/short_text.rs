//! Hashing and comparing short texts, for dictionaries.

/// Equality of mostly short texts, without a call to `memcmp` for up to sixteen bytes.
#[inline]
pub(super) fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len()
        && match a.len() {
            0..=3 => a.iter().zip(b).all(|(a, b)| a == b),
            4..=7 => a.first_chunk::<4>() == b.first_chunk::<4>() && a.last_chunk::<4>() == b.last_chunk::<4>(),
            8..=16 => a.first_chunk::<8>() == b.first_chunk::<8>() && a.last_chunk::<8>() == b.last_chunk::<8>(),
            _ => a == b,
        }
}

/// Hashes eight bytes at a time by a folded 64×64→128 multiplication. Seeded, so that clients
/// cannot choose colliding values.
pub(crate) fn hash(value: &[u8], seed: u64) -> u64 {
    const K: u64 = 0x9E37_79B9_7F4A_7C15;
    let fold = |a: u64, b: u64| {
        let product = u128::from(a) * u128::from(b);
        product as u64 ^ (product >> 64) as u64
    };
    let mut state = seed ^ value.len() as u64;
    let mut words = value.chunks_exact(8);
    for word in &mut words {
        state = fold(state ^ u64::from_le_bytes(word.try_into().expect("eight bytes")), K);
    }
    let mut tail = [0; 8];
    tail[..words.remainder().len()].copy_from_slice(words.remainder());
    fold(state ^ u64::from_le_bytes(tail), seed | 1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn short_texts_are_the_same_only_when_they_are_equal(a in "[ab]{0,20}", at in 0usize..20, flip: bool) {
            let mut b = a.clone().into_bytes();
            if flip && let Some(byte) = b.get_mut(at) {
                *byte ^= 1;
            }
            prop_assert_eq!(same(a.as_bytes(), &b), a.as_bytes() == b.as_slice());
            prop_assert_eq!(same(a.as_bytes(), &b[..b.len().min(at)]), a.as_bytes() == &b[..b.len().min(at)]);
        }
    }
}
