//! How a group's bytes lie in the file: compressed, when that makes them fewer.
//!
//! The events of one group repeat each other in names, devices and apps: at the fastest settings they shrink to
//! a third, which takes less time than writing the rest to the log and from there to the file would. Knows
//! bytes, nothing of what they mean.

use std::borrow::Cow;
use std::io;

use zstd::bulk::Compressor;
use zstd::zstd_safe::CParameter;

/// Between the fastest and the best value for its time, by measurement on groups of mixed events.
const LEVEL: i32 = -3;
/// In place of the level's own. The window takes in the largest group, with twice the level's table to find in it:
/// where nothing repeats farther than the level's half a megabyte this takes the same time and leaves a twentieth less,
/// where devices and users come again in the same group it takes two thirds of the time and leaves half. The longest
/// least match keeps short ones, which cost more than they save, out.
const PARAMETERS: [CParameter; 4] =
    [CParameter::WindowLog(21), CParameter::HashLog(14), CParameter::MinMatch(7), CParameter::TargetLength(5)];
/// Groups below this are left as they are: single events have little to repeat.
const PACKED_BYTES_MIN: usize = 4 << 10;
/// More than any group has.
const RAW_BYTES_MAX: usize = 256 << 20;

/// The writer's tables, kept from group to group.
pub(crate) struct Packer {
    compressor: Compressor<'static>,
    packed: Vec<u8>,
}

/// A group's bytes as they are stored.
#[derive(Clone, Copy)]
pub(crate) struct Packed<'a> {
    /// What they were before; 0 when they were left as they are.
    pub(super) raw_bytes: usize,
    pub(super) data: &'a [u8],
}

impl Packer {
    pub(super) fn new() -> io::Result<Self> {
        let mut compressor = Compressor::new(LEVEL)?;
        for parameter in PARAMETERS {
            compressor.set_parameter(parameter)?;
        }
        Ok(Self { compressor, packed: Vec::new() })
    }

    pub(super) fn pack<'a>(&'a mut self, raw: &'a [u8]) -> Packed<'a> {
        let plain = Packed { raw_bytes: 0, data: raw };
        if raw.len() < PACKED_BYTES_MIN {
            return plain;
        }
        self.packed.clear();
        self.packed.reserve(zstd::zstd_safe::compress_bound(raw.len()));
        match self.compressor.compress_to_buffer(raw, &mut self.packed) {
            Ok(bytes) if bytes < raw.len() => Packed { raw_bytes: raw.len(), data: &self.packed },
            // What cannot be compressed is stored all the same.
            _ => plain,
        }
    }
}

/// The bytes that were packed; none when they cannot have been.
pub(super) fn unpack(raw_bytes: usize, data: &[u8]) -> Option<Cow<'_, [u8]>> {
    if raw_bytes == 0 {
        return Some(Cow::Borrowed(data));
    }
    let raw = (raw_bytes <= RAW_BYTES_MAX).then(|| zstd::bulk::decompress(data, raw_bytes).ok())??;
    (raw.len() == raw_bytes).then_some(Cow::Owned(raw))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What the first version of this format wrote for a thousand times "event ": it must stay readable.
    const FIXTURE_V1: &[u8] = include_bytes!("../../../tests/it/fixtures/bus_group.zst");

    #[test]
    fn the_first_version_is_still_read() {
        assert_eq!(unpack(6_000, FIXTURE_V1).unwrap(), "event ".repeat(1_000).as_bytes());
    }

    #[test]
    fn what_repeats_shrinks_and_what_is_short_stays() {
        let mut packer = Packer::new().unwrap();
        let raw = "event ".repeat(1_000);
        let packed = packer.pack(raw.as_bytes());
        assert!(packed.raw_bytes == 6_000 && packed.data.len() < 600, "{} bytes", packed.data.len());
        let packed = packer.pack(b"short");
        assert_eq!((packed.raw_bytes, packed.data), (0, &b"short"[..]));
    }

    #[test]
    fn damage_is_seen() {
        assert!(unpack(5_999, FIXTURE_V1).is_none(), "too long for what was said");
        assert!(unpack(6_001, FIXTURE_V1).is_none());
        assert!(unpack(6_000, &FIXTURE_V1[1..]).is_none());
        assert!(unpack(usize::MAX, FIXTURE_V1).is_none());
    }

    proptest! {
        #[test]
        fn what_was_packed_comes_back(raw in prop::collection::vec(0u8..4, 0..20_000)) {
            let mut packer = Packer::new().unwrap();
            let packed = packer.pack(&raw);
            let back = unpack(packed.raw_bytes, packed.data).unwrap();
            prop_assert_eq!(back.as_ref(), raw.as_slice());
        }
    }
}
