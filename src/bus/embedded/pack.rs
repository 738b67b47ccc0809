//! The compression of stored groups.
//!
//! The events of a group repeat names, devices and apps: at the fastest settings they shrink to a third, which takes
//! less time than writing the remaining bytes to the log and from there to the file. Knows bytes, nothing of their
//! meaning.

use std::borrow::Cow;
use std::io;

use zstd::bulk::Compressor;
use zstd::zstd_safe::CParameter;

/// Between the fastest level and the best trade-off, measured on groups of mixed events.
const LEVEL: i32 = -3;
/// Overrides of the level's parameters. The window covers the largest group, with a hash table twice as large as the
/// level's. Without repetitions beyond the level's half megabyte, this takes the same time and saves a twentieth; where
/// devices and users recur within a group, it takes two thirds of the time and halves the size. The largest minimum
/// match avoids short matches, which cost more than they save.
const PARAMETERS: [CParameter; 4] =
    [CParameter::WindowLog(21), CParameter::HashLog(14), CParameter::MinMatch(7), CParameter::TargetLength(5)];
/// Smaller groups are stored uncompressed: single events repeat little.
const PACKED_BYTES_MIN: usize = 4 << 10;
/// No group is larger.
const RAW_BYTES_MAX: usize = 256 << 20;

/// The writer's compressor, reused for every group.
pub(crate) struct Packer {
    compressor: Compressor<'static>,
    packed: Vec<u8>,
}

/// The stored bytes of a group.
#[derive(Clone, Copy)]
pub(crate) struct Packed<'a> {
    /// Their size before compression; 0 when they are stored uncompressed.
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
            // Incompressible data is stored as it is.
            _ => plain,
        }
    }
}

/// The original bytes; `None` when the data is damaged.
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

    /// "event " repeated a thousand times as written by the first version of this format; it must stay readable.
    const FIXTURE_V1: &[u8] = include_bytes!("../../../tests/it/fixtures/bus_group.zst");

    #[test]
    fn the_first_version_is_still_read() {
        assert_eq!(unpack(6_000, FIXTURE_V1).unwrap(), "event ".repeat(1_000).as_bytes());
    }

    #[test]
    fn repetitive_data_shrinks_and_short_data_stays() {
        let mut packer = Packer::new().unwrap();
        let raw = "event ".repeat(1_000);
        let packed = packer.pack(raw.as_bytes());
        assert!(packed.raw_bytes == 6_000 && packed.data.len() < 600, "{} bytes", packed.data.len());
        let packed = packer.pack(b"short");
        assert_eq!((packed.raw_bytes, packed.data), (0, &b"short"[..]));
    }

    #[test]
    fn damage_is_detected() {
        assert!(unpack(5_999, FIXTURE_V1).is_none(), "too long for what was said");
        assert!(unpack(6_001, FIXTURE_V1).is_none());
        assert!(unpack(6_000, &FIXTURE_V1[1..]).is_none());
        assert!(unpack(usize::MAX, FIXTURE_V1).is_none());
    }

    proptest! {
        #[test]
        fn packed_data_round_trips(raw in prop::collection::vec(0u8..4, 0..20_000)) {
            let mut packer = Packer::new().unwrap();
            let packed = packer.pack(&raw);
            let back = unpack(packed.raw_bytes, packed.data).unwrap();
            prop_assert_eq!(back.as_ref(), raw.as_slice());
        }
    }
}
