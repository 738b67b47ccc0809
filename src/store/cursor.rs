//! Cursors: opaque to callers; to the engine, the last key of a page.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::error::{StoreError, StoreErrorKind};
use super::page::{Page, PageRequest};

/// The sort key of a list, from which the next page continues.
pub(super) trait CursorKey: Sized {
    fn write(&self) -> Vec<u8>;
    fn read(bytes: &[u8]) -> Option<Self>;
}

impl CursorKey for [u8; 16] {
    fn write(&self) -> Vec<u8> {
        self.to_vec()
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok()
    }
}

impl CursorKey for i64 {
    fn write(&self) -> Vec<u8> {
        self.to_be_bytes().to_vec()
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(i64::from_be_bytes)
    }
}

/// Decodes the request's cursor. `list` is a byte that no other list uses.
pub(super) fn after<K: CursorKey>(list: u8, request: &PageRequest) -> Result<Option<K>, StoreError> {
    let Some(text) = &request.cursor else { return Ok(None) };
    let bytes = URL_SAFE_NO_PAD.decode(text).ok();
    let key = bytes.as_deref().and_then(|bytes| match bytes.split_first() {
        Some((first, key)) if *first == list => K::read(key),
        _ => None,
    });
    key.map(Some).ok_or_else(|| StoreError::new(StoreErrorKind::InvalidCursor, "read cursor"))
}

/// Turns rows, read with one more than the limit, into a page.
pub(super) fn page<K: CursorKey, T>(list: u8, request: &PageRequest, mut rows: Vec<(K, T)>) -> Page<T> {
    let more = rows.len() > request.limit;
    rows.truncate(request.limit);
    let next = rows.last().filter(|_| more).map(|(key, _)| {
        let mut bytes = vec![list];
        bytes.extend(key.write());
        URL_SAFE_NO_PAD.encode(bytes)
    });
    Page { items: rows.into_iter().map(|(_, item)| item).collect(), next }
}
