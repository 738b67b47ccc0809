//! Appends members of a `google.protobuf.Struct`, such as `properties`, in order, given their whole values.
//!
//! Enforces no limits: the event that the members belong to is validated as a whole.

use super::wire::{LENGTH_DELIMITED, put_bytes, put_double, put_key, put_number, put_varint};

pub(crate) fn put_text(out: &mut Vec<u8>, key: &str, text: &str) {
    begin(out, key, field_length(text.len()));
    put_bytes(out, 3, text.as_bytes());
}

pub(crate) fn put_float(out: &mut Vec<u8>, key: &str, number: f64) {
    begin(out, key, 1 + size_of::<f64>());
    put_double(out, 2, number);
}

pub(crate) fn put_bool(out: &mut Vec<u8>, key: &str, value: bool) {
    begin(out, key, 2);
    put_number(out, 4, u64::from(value));
}

/// An object, given its members.
pub(crate) fn put_object(out: &mut Vec<u8>, key: &str, members: &[u8]) {
    begin(out, key, field_length(members.len()));
    put_bytes(out, 5, members);
}

/// Any value, given the content of its `google.protobuf.Value`.
pub(crate) fn put_value(out: &mut Vec<u8>, key: &str, value: &[u8]) {
    begin(out, key, value.len());
    out.extend_from_slice(value);
}

/// Begins a member whose `Value` has this length in bytes.
fn begin(out: &mut Vec<u8>, key: &str, value_length: usize) {
    put_key(out, 1, LENGTH_DELIMITED);
    put_varint(out, (field_length(key.len()) + field_length(value_length)) as u64);
    put_bytes(out, 1, key.as_bytes());
    put_key(out, 2, LENGTH_DELIMITED);
    put_varint(out, value_length as u64);
}

/// The encoded length of a field with a number below 16 and this many bytes.
fn field_length(bytes: usize) -> usize {
    // A varint holds seven bits per byte; zero takes one byte.
    1 + (bytes | 1).ilog2() as usize / 7 + 1 + bytes
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;

    #[test]
    fn members_read_back_as_written() {
        for length in [0, 1, 127, 128, 16_383, 16_384, 300_000] {
            let long = "x".repeat(length);
            let mut members = Vec::new();
            put_text(&mut members, &long, &long);
            put_float(&mut members, "f", 1.5);
            put_bool(&mut members, "b", false);
            let mut out = Vec::new();
            put_object(&mut out, "o", &members);
            put_value(&mut out, "v", &[8, 0]);
            let read = pbjson_types::Struct::decode(&*out).unwrap();
            let expected = serde_json::json!({"o": {&long: long, "f": 1.5, "b": false}, "v": null});
            assert_eq!(serde_json::to_value(read).unwrap(), expected, "{length}");
        }
    }
}
