//! Ids of events, devices, users and apps: which ones are valid, and new ones.

use std::cell::RefCell;

use data_encoding::HEXLOWER;
use ring::digest::{SHA256, digest};
use ring::rand::{SecureRandom, SystemRandom};
use uuid::Uuid;
use uuid::fmt::Hyphenated;

use super::event_ref::EventRef;
use crate::event::codec::wire::DecodeError;
use crate::event::schema::tables::envelope_field;

thread_local! {
    /// A buffer of random bytes and the number of those used: one system call serves hundreds of ids.
    static RANDOM: RefCell<([u8; RANDOM_BYTES], usize)> = const { RefCell::new(([0; RANDOM_BYTES], RANDOM_BYTES)) };
}

const RANDOM_BYTES: usize = 2560;
const RANDOM_BYTES_OF_ID: usize = 10;

/// Rejects an event that another publisher put on the bus and that the gateway would not have accepted. Checks only the
/// fields that the stores keep as text columns: one of them cannot store every character, nor index every length.
pub fn check_names(event: &EventRef<'_>) -> Result<(), DecodeError> {
    if !is_app_id(event.app_id) {
        return Err(DecodeError::new("its app_id is not one of an app"));
    }
    if !is_id(event.id) {
        return Err(DecodeError::new("its id is too long or has control characters"));
    }
    Ok(())
}

/// Whether this is valid as an id of an event, a device, a user or a session, or as an idempotency key.
pub fn is_id(text: &str) -> bool {
    envelope_field(1).rules.allow_text(text.as_bytes())
}

/// Replaces an id that an event cannot have.
pub(crate) fn hashed_id(id: &str) -> String {
    format!("sha256:{}", HEXLOWER.encode(digest(&SHA256, id.as_bytes()).as_ref()))
}

/// Whether this is a valid timestamp of an event.
pub(crate) fn is_timestamp(milliseconds: i64) -> bool {
    milliseconds > 0 && envelope_field(4).rules.allow_integer(milliseconds)
}

/// Whether this is a valid app id.
pub fn is_app_id(text: impl AsRef<[u8]>) -> bool {
    let text = text.as_ref();
    !text.is_empty() && envelope_field(2).rules.allow_text(text)
}

/// A new UUIDv7 with this time.
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
