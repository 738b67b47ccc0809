//! Recognizable ids: every event of a run has its number in its UUIDv7.
//!
//! Layout: 48 bits of milliseconds, the version, 12 bits of the run, the variant, 22 bits of the run, 40 bits of the
//! event's number. So a run of up to 2^40 events recognizes its own events by id, without storing ids.

use super::patch::write_hex;
use super::random::SplitMix64;

/// Characters of a UUID.
pub(super) const ID_LEN: usize = 36;
/// The milliseconds: 8 hex digits, a dash, 4 hex digits.
const TIME_HIGH: std::ops::Range<usize> = 0..8;
const TIME_LOW: std::ops::Range<usize> = 9..13;
/// The number: 10 hex digits.
const NUMBER: std::ops::Range<usize> = 26..36;
const NUMBER_BITS: u32 = 40;

/// The common part of the ids of one run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RunTag {
    /// 34 bits.
    bits: u64,
}

impl RunTag {
    /// The seed makes runs reproducible. The start time distinguishes two runs with the same seed.
    pub(super) fn new(seed: u64, started_ns: u64) -> Self {
        Self { bits: SplitMix64::new(seed ^ started_ns.rotate_left(32)).next() >> 30 }
    }

    /// The id of event 0 at the epoch, to be patched in place.
    pub(super) fn blank_id(self) -> String {
        let high = 0x7000 | self.bits >> 22;
        let middle = 0x8000 | self.bits >> 8 & 0x3fff;
        format!("00000000-0000-{high:04x}-{middle:04x}-{:02x}0000000000", self.bits & 0xff)
    }

    /// The number of the event with this id. `None` if it is not of this run.
    pub(super) fn number(self, id: &str) -> Option<u64> {
        let id = uuid::Uuid::try_parse(id).ok()?.as_u128();
        let run = (id >> 64 & 0xfff) << 22 | (id >> NUMBER_BITS & 0x3f_ffff);
        (run == u128::from(self.bits) && id >> 76 & 0xf == 7).then_some(id as u64 & ((1 << NUMBER_BITS) - 1))
    }

    /// A short name for things that belong to the run.
    pub(super) fn name(self) -> String {
        format!("bench-{:09x}", self.bits)
    }
}

/// Milliseconds as in an id, formatted once for many events.
pub(super) struct IdTime([u8; 12]);

impl IdTime {
    pub(super) fn new(ms: u64) -> Self {
        let mut digits = [0; 12];
        write_hex(&mut digits, ms);
        Self(digits)
    }
}

/// Patches a blank id to that of event `number` at `time`.
pub(super) fn patch_id(id: &mut [u8], time: &IdTime, number: u64) {
    id[TIME_HIGH].copy_from_slice(&time.0[..8]);
    id[TIME_LOW].copy_from_slice(&time.0[8..]);
    write_hex(&mut id[NUMBER], number);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_a_uuid_v7_with_its_number() {
        let run = RunTag::new(1, 1_700_000_000_123_456_789);
        for number in [0, 1, 99, 123_456_789, (1 << 40) - 1] {
            let mut id = run.blank_id().into_bytes();
            assert_eq!(id.len(), ID_LEN);
            patch_id(&mut id, &IdTime::new(1_760_000_000_123), number);
            let id = String::from_utf8(id).unwrap();
            let uuid = uuid::Uuid::parse_str(&id).unwrap();
            assert_eq!((uuid.get_version_num(), uuid.get_variant()), (7, uuid::Variant::RFC4122));
            let (seconds, nanos) = uuid.get_timestamp().unwrap().to_unix();
            assert_eq!((seconds, nanos), (1_760_000_000, 123_000_000));
            assert_eq!(run.number(&id), Some(number));
            assert_eq!(RunTag::new(1, 1_700_000_000_123_456_790).number(&id), None);
        }
        assert_eq!(run.number(&uuid::Uuid::now_v7().to_string()), None);
        assert_eq!(run.number("no id"), None);
    }
}
