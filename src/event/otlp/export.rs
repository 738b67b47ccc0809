//! The log records of one request, as events, a portion at a time.

use super::messages::{EXPORT_RESOURCE_LOGS, RESOURCE_LOGS_SCOPE_LOGS, SCOPE_LOGS_RECORD, count, next_of};
use super::record::{self, Resource, Scope, Seen};
use crate::event::codec::wire::Reader;
use crate::event::intake::admit::Arrival;
use crate::event::intake::field_error::FieldError;
use crate::event::intake::request::{Accepted, Refused, place_in};

/// Log records of one request that are read. Batches of the OpenTelemetry Collector have 8,192 by default, and more
/// where nothing splits them.
pub const RECORDS_MAX: usize = 100_000;
/// What the events of one request may have together: each repeats its resource and its scope. Never held at once.
const EVENTS_BYTES_MAX: usize = 256 << 20;
/// What the events that are held at once have together, but for the last of them: as much as the body, within these.
const PORTION_BYTES_MIN: usize = 256 << 10;
const PORTION_BYTES_MAX: usize = 2 << 20;

/// What is said of the records that come once [`EVENTS_BYTES_MAX`] is used up.
const TOO_MUCH: &str =
    "must have at most 256 MiB together with the records before it, each with its resource and its scope";

/// The log records of one request, in the protobuf form.
#[derive(Debug)]
pub struct Export<'a> {
    body: &'a [u8],
    records: usize,
    /// Records that were not read yet, and what their events may have together.
    records_left: usize,
    bytes_left: usize,
    /// The resource and scope of what is read next.
    resources: Reader<'a>,
    scopes: Reader<'a>,
    in_scope: Reader<'a>,
    resource: Resource<'a>,
    scope: Scope,
    /// How often a record came before in this request.
    seen: Seen,
}

/// The app of the first record of an export, where no API key says which.
pub fn app_of(body: &[u8]) -> Option<String> {
    let resource_logs = next_of(&mut Reader::new(body), EXPORT_RESOURCE_LOGS)?;
    Resource::of(resource_logs).app()
}

impl<'a> Export<'a> {
    /// Reads the body to its last record, and makes nothing of it yet.
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
            seen: Seen::default(),
        })
    }

    /// Of records that came in a request in which so many that say the same came before each of them.
    pub fn after(mut self, before: u32) -> Self {
        self.seen.before = before;
        self
    }

    /// All records of the request.
    pub fn len(&self) -> usize {
        self.records
    }

    pub fn is_empty(&self) -> bool {
        self.records == 0
    }

    /// How many records come after the last one that is read: they have no verdict.
    pub fn unread_records(&self) -> usize {
        self.records.saturating_sub(RECORDS_MAX)
    }

    /// What is held of all records at once, to tell them apart.
    pub fn seen_bytes(&self) -> usize {
        self.records.min(RECORDS_MAX) * Seen::BYTES
    }

    /// The next events, at most so many, each with its verdict; nothing after the last. Together they are not much
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

    /// Judges a record. What must be refused for what is around it is not put together first: it would cost as much as
    /// what is stored.
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

    /// The body was read to its end before: what cannot be read does not come here.
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
