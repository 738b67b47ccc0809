//! Single records of an export, each as a complete export.

use std::ops::Range;

use super::messages::{EXPORT_RESOURCE_LOGS, RESOURCE_LOGS_SCOPE_LOGS, SCOPE_LOGS_RECORD, next_of};
use crate::event::codec::wire::{Reader, Value, put_bytes, put_fixed32, put_fixed64, put_number};
use crate::event::intake::request::place_in;

/// Extracts the records at these ranges of an export, in order, each with its resource and scope. Makes one pass, and
/// reads what records share once. Stops when `each` returns `false`.
pub fn parts(body: &[u8], places: impl IntoIterator<Item = Range<usize>>, mut each: impl FnMut(Vec<u8>) -> bool) {
    let mut places = places.into_iter().peekable();
    let mut resources = Reader::new(body);
    while let Some(resource_logs) = next_of(&mut resources, EXPORT_RESOURCE_LOGS) {
        let mut scopes = Reader::new(resource_logs);
        while let Some(scope_logs) = next_of(&mut scopes, RESOURCE_LOGS_SCOPE_LOGS) {
            let scope_place = place_in(body, scope_logs);
            // Built only for the first requested record of this scope.
            let mut around: Option<(Vec<u8>, Vec<u8>)> = None;
            while let Some(place) =
                places.next_if(|place| scope_place.start <= place.start && place.end <= scope_place.end)
            {
                let (resource, scope) = around.get_or_insert_with(|| {
                    (without(resource_logs, RESOURCE_LOGS_SCOPE_LOGS), without(scope_logs, SCOPE_LOGS_RECORD))
                });
                if !each(part(resource, scope, &body[place])) {
                    return;
                }
            }
        }
    }
}

fn part(resource: &[u8], scope: &[u8], record: &[u8]) -> Vec<u8> {
    let mut scope_logs = scope.to_vec();
    put_bytes(&mut scope_logs, SCOPE_LOGS_RECORD, record);
    let mut resource_logs = resource.to_vec();
    put_bytes(&mut resource_logs, RESOURCE_LOGS_SCOPE_LOGS, &scope_logs);
    let mut export = Vec::with_capacity(resource_logs.len() + 8);
    put_bytes(&mut export, EXPORT_RESOURCE_LOGS, &resource_logs);
    export
}

/// All fields except those with this number.
fn without(message: &[u8], left_out: u32) -> Vec<u8> {
    let mut out = Vec::new();
    let mut reader = Reader::new(message);
    while let Ok(Some((number, value))) = reader.next() {
        match value {
            _ if number == left_out => {}
            Value::Varint(value) => put_number(&mut out, number, value),
            Value::Fixed64(value) => put_fixed64(&mut out, number, value),
            Value::Fixed32(value) => put_fixed32(&mut out, number, value),
            Value::Bytes(bytes) => put_bytes(&mut out, number, bytes),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::otlp::Export;
    use crate::event::{Arrival, EVENT_BYTES_MAX};

    fn message(fields: &[(u32, &[u8])]) -> Vec<u8> {
        let mut out = Vec::new();
        fields.iter().for_each(|(number, bytes)| put_bytes(&mut out, *number, bytes));
        out
    }

    #[test]
    fn a_part_has_its_record_resource_and_scope() {
        // A long severity is refused.
        let severity = |name: &str| if name.len() > 1 { b"\xff" as &[u8] } else { b"INFO" };
        let record = |name: &str| message(&[(3, severity(name)), (12, name.as_bytes())]);
        let scope = |version: &str, names: &[&str]| {
            let mut out = message(&[(1, &message(&[(1, b"lib"), (2, version.as_bytes())])), (3, b"https://schema")]);
            names.iter().for_each(|name| put_bytes(&mut out, 2, &record(name)));
            out
        };
        let attribute = message(&[(1, b"service.name"), (2, &message(&[(1, b"shop")]))]);
        let resource = message(&[(1, &message(&[(1, &attribute)]))]);
        let resource_logs = |scopes: &[Vec<u8>]| {
            let mut out = resource.clone();
            scopes.iter().for_each(|scope| put_bytes(&mut out, 2, scope));
            out
        };
        let long = "n".repeat(300);
        let body = message(&[
            (1, &resource_logs(&[scope("1", &["a", &long]), scope("2", &["b"])])),
            (1, &resource_logs(&[scope("3", &[&long, &long])])),
        ]);
        let arrival = Arrival { received_at_ms: 1, key_app: None, event_bytes_max: EVENT_BYTES_MAX, assigned_id: None };
        let accepted = Export::open(&body).unwrap().next(10, &arrival).unwrap();
        let places: Vec<_> = accepted.refused().map(|(_, place)| place).collect();
        assert_eq!(places.len(), 3);
        let mut found = Vec::new();
        parts(&body, places, |part| {
            found.push(part);
            true
        });
        let alone = |version: &str| message(&[(1, &resource_logs(&[scope(version, &[&long])]))]);
        assert_eq!(found, [alone("1"), alone("3"), alone("3")]);
    }
}
