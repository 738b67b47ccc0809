//! The messages of an export, found by their field numbers.

use crate::event::codec::wire::{DecodeError, Reader, Value};

pub(super) const EXPORT_RESOURCE_LOGS: u32 = 1;
pub(super) const RESOURCE_LOGS_SCOPE_LOGS: u32 = 2;
pub(super) const SCOPE_LOGS_RECORD: u32 = 2;

/// The next field with this number that is a message.
pub(super) fn next_of<'a>(reader: &mut Reader<'a>, wanted: u32) -> Option<&'a [u8]> {
    while let Ok(Some((number, value))) = reader.next() {
        if let (true, Value::Bytes(bytes)) = (number == wanted, value) {
            return Some(bytes);
        }
    }
    None
}

/// Counts the records, checking each one to its end.
pub(super) fn count(body: &[u8]) -> Result<usize, DecodeError> {
    let mut records = 0;
    let mut resources = Reader::new(body);
    while let Some(resource_logs) = next_message(&mut resources, EXPORT_RESOURCE_LOGS)? {
        let mut scopes = Reader::new(resource_logs);
        while let Some(scope_logs) = next_message(&mut scopes, RESOURCE_LOGS_SCOPE_LOGS)? {
            let mut in_scope = Reader::new(scope_logs);
            while let Some(record) = next_message(&mut in_scope, SCOPE_LOGS_RECORD)? {
                let mut fields = Reader::new(record);
                while fields.next()?.is_some() {}
                records += 1;
            }
        }
    }
    Ok(records)
}

/// The next field with this number. Fails if it is not a message.
fn next_message<'a>(reader: &mut Reader<'a>, wanted: u32) -> Result<Option<&'a [u8]>, DecodeError> {
    while let Some((number, value)) = reader.next()? {
        if number == wanted {
            return value.bytes().map(Some);
        }
    }
    Ok(None)
}
