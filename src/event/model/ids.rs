//! The ids of events, devices, users and apps: which are valid, and new ones.

use std::cell::RefCell;

use data_encoding::HEXLOWER;
use ring::digest::{SHA256, digest};
use ring::rand::{SecureRandom, SystemRandom};
use uuid::Uuid;
use uuid::fmt::Hyphenated;

use super::event_ref::EventRef;
use crate::event::codec::wire::DecodeError;
use crate::event::schema::tables::{Rules, envelope_field};

thread_local! {
    /// Random bytes at hand, and how many of them are used up: one system call serves hundreds of ids.
    static RANDOM: RefCell<([u8; RANDOM_BYTES], usize)> = const { RefCell::new(([0; RANDOM_BYTES], RANDOM_BYTES)) };
}

const RANDOM_BYTES: usize = 2560;
const RANDOM_BYTES_OF_ID: usize = 10;

/// Why the gateway would not have taken an event whose bytes came to the bus by another way. Only of what the stores
/// keep as text of its own: one of them cannot hold every character, nor index every length.
pub fn check_names(event: &EventRef<'_>) -> Result<(), DecodeError> {
    if !is_app_id(event.app_id) {
        return Err(DecodeError::new("its app_id is not one of an app"));
    }
    if !is_id(event.id) {
        return Err(DecodeError::new("its id is too long or has control characters"));
    }
    Ok(())
}

/// Whether an event may have this for an id, of itself, a device, a user, a session, or as its idempotency key.
pub fn is_id(text: &str) -> bool {
    is_allowed(envelope_field(1).rules, text.as_bytes())
}

/// Stands for an id that an event cannot have.
pub(crate) fn hashed(id: &str) -> String {
    format!("sha256:{}", HEXLOWER.encode(digest(&SHA256, id.as_bytes()).as_ref()))
}

/// Whether an event may have happened at this time.
pub(crate) fn is_time(milliseconds: i64) -> bool {
    milliseconds > 0 && envelope_field(4).rules.max.is_none_or(|max| milliseconds <= max)
}

/// Whether events and keys may belong to an app of this name.
pub fn is_app_id(text: impl AsRef<[u8]>) -> bool {
    let text = text.as_ref();
    !text.is_empty() && is_allowed(envelope_field(2).rules, text)
}

fn is_allowed(rules: &Rules, text: &[u8]) -> bool {
    rules.bytes_max.is_none_or(|bytes_max| text.len() <= bytes_max)
        && rules.pattern.is_none_or(|pattern| pattern.allows(text))
}

/// A UUIDv7 of the given time.
pub fn new_id(now_ms: i64) -> Hyphenated {
    let id = match random() {
        Some(random) => uuid::Builder::from_unix_timestamp_millis(now_ms.max(0).cast_unsigned(), &random).into_uuid(),
        None => Uuid::now_v7(),
    };
    id.hyphenated()
}

fn random() -> Option<[u8; RANDOM_BYTES_OF_ID]> {
    RANDOM.with_borrow_mut(|(bytes, used)| {
        if *used + RANDOM_BYTES_OF_ID > RANDOM_BYTES {
            SystemRandom::new().fill(bytes).ok()?;
            *used = 0;
        }
        let taken = bytes[*used..].first_chunk().copied();
        *used += RANDOM_BYTES_OF_ID;
        taken
    })
}
