//! The log records of one request, as events, a portion at a time.

use super::messages::{EXPORT_RESOURCE_LOGS, RESOURCE_LOGS_SCOPE_LOGS, SCOPE_LOGS_RECORD, count, next_of};
use super::record::{self, Resource, Scope, SeenRecords};
use crate::event::codec::wire::Reader;
use crate::event::intake::admit::Arrival;
use crate::event::intake::field_error::FieldError;
use crate::event::intake::request::{Accepted, Refused, place_in};

/// Maximum log records read from one request. The OpenTelemetry Collector sends batches of 8,192 by default, and larger
/// ones if nothing splits them.
pub const RECORDS_MAX: usize = 100_000;
/// Total bytes of the events of one request, each of which repeats its resource and scope. They are never in memory
/// together.
const EVENTS_BYTES_MAX: usize = 256 << 20;
/// Bytes of the events in memory at a time, not counting the last one: the size of the body, within these bounds.
const PORTION_BYTES_MIN: usize = 256 << 10;
const PORTION_BYTES_MAX: usize = 2 << 20;

/// Error detail for the records after [`EVENTS_BYTES_MAX`] is used up.
const TOO_MUCH: &str =
    "must have at most 256 MiB together with the records before it, each with its resource and its scope";

/// The log records of one request in protobuf.
#[derive(Debug)]
pub struct Export<'a> {
    body: &'a [u8],
    records: usize,
    /// Records not read yet, and the bytes left for their events.
    records_left: usize,
    bytes_left: usize,
    /// Position in the body: the resource and scope of the next record.
    resources: Reader<'a>,
    scopes: Reader<'a>,
    in_scope: Reader<'a>,
    resource: Resource<'a>,
    scope: Scope,
    /// How often each record occurred earlier in this request.
    seen: SeenRecords,
}

/// The app of the first record of an export, for requests without an API key.
pub fn app_of(body: &[u8]) -> Option<String> {
    let resource_logs = next_of(&mut Reader::new(body), EXPORT_RESOURCE_LOGS)?;
    Resource::of(resource_logs).app()
}

impl<'a> Export<'a> {
    /// Checks the whole body and counts its records, without converting any.
    pub fn open(body: &'a [u8]) -> Result<Self, Refused> {
        let records = count(body).map_err(|_| Refused::new("The body is not a well-formed protobuf message."))?;
        let empty = Reader::new(&[]);
        Ok(Self {
            body,
            records,
            records_left: records.min(RECORDS_MAX),
            bytes_left: EVENTS_BYTES_MAX,
            resources: Reader::new(body),
            scopes: empty,
            in_scope: empty,
            resource: Resource::default(),
            scope: Scope::default(),
            seen: SeenRecords::default(),
        })
    }

    /// Continues a request in which each of these records was preceded by this many equal ones.
    pub fn after(mut self, before: u32) -> Self {
        self.seen.before = before;
        self
    }

    /// The number of records in the request.
    pub fn len(&self) -> usize {
        self.records
    }

    pub fn is_empty(&self) -> bool {
        self.records == 0
    }

    /// The number of records beyond [`RECORDS_MAX`]. They have no outcome.
    pub fn unread_records(&self) -> usize {
        self.records.saturating_sub(RECORDS_MAX)
    }

    /// Bytes of memory needed to tell all records apart.
    pub fn seen_bytes(&self) -> usize {
        self.records.min(RECORDS_MAX) * SeenRecords::BYTES
    }

    /// The next events, at most `events_max`, each with its outcome. `None` after the last. Together they are not much
    /// larger than the body.
    pub fn next(&mut self, events_max: usize, arrival: &Arrival<'_>) -> Option<Accepted> {
        let bytes_max = self.body.len().clamp(PORTION_BYTES_MIN, PORTION_BYTES_MAX);
        let mut accepted = Accepted::default();
        while accepted.len() < events_max && accepted.bytes_len() < bytes_max && self.records_left > 0 {
            let Some(record) = self.next_record() else { break };
            self.records_left -= 1;
            self.add(&mut accepted, record, arrival);
            accepted.set_source(|| place_in(self.body, record));
        }
        (!accepted.is_empty()).then_some(accepted)
    }

    /// Converts and validates a record. If its resource and scope alone are too large, it is refused before they are
    /// copied, which would cost as much as storing it.
    fn add(&mut self, accepted: &mut Accepted, record: &[u8], arrival: &Arrival<'_>) {
        let around = self.resource.bytes_len() + self.scope.bytes_len();
        if around > arrival.event_bytes_max {
            let detail = format!("must have at most {} bytes with its resource and its scope", arrival.event_bytes_max);
            return accepted.add_refused(vec![FieldError::new("", detail)]);
        }
        match self.bytes_left.checked_sub(around + record.len()) {
            Some(left) => self.bytes_left = left,
            None => return accepted.add_refused(vec![FieldError::new("", TOO_MUCH)]),
        }
        record::add(accepted, record, &self.resource, &self.scope, &mut self.seen, arrival);
    }

    /// The body was checked before, so nothing malformed gets here.
    fn next_record(&mut self) -> Option<&'a [u8]> {
        loop {
            if let Some(record) = next_of(&mut self.in_scope, SCOPE_LOGS_RECORD) {
                return Some(record);
            }
            if let Some(scope_logs) = next_of(&mut self.scopes, RESOURCE_LOGS_SCOPE_LOGS) {
                self.scope = Scope::of(scope_logs, &self.resource);
                self.in_scope = Reader::new(scope_logs);
                continue;
            }
            let resource_logs = next_of(&mut self.resources, EXPORT_RESOURCE_LOGS)?;
            self.resource = Resource::of(resource_logs);
            self.scopes = Reader::new(resource_logs);
        }
    }
}
