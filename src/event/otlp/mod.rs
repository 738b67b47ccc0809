//! Log records of OpenTelemetry (OTLP 1.x): each becomes a custom event. `docs/protocols.md` says what becomes of what.
//!
//! The protobuf form is read in place by the public field numbers of `opentelemetry/proto/logs/v1`, without messages in
//! between: two bytes of an empty record would take a hundred times as much as a message. The JSON form is turned into
//! it first. Unknown fields are passed over, as the protocol asks.
//!
//! Invariant: nothing of a record that is accepted is lost, and the same record of the same export has the same
//! idempotency key whenever it is sent.

mod json;
mod part;
mod record;
mod values;

use super::accept::Arrival;
use super::request::{Accepted, Refused, place_in};
use super::wire::{DecodeError, Reader, Value};
pub use part::parts;
use record::{Resource, Scope, Seen};

/// Log records of one request. The largest batches that the OpenTelemetry Collector makes by default have 8,192.
const RECORDS_MAX: usize = 10_000;
/// How many times the size of a body its events may have together: each record repeats its resource and its scope.
const GROWTH_MAX: usize = 16;
/// Bodies up to this size may grow by more.
const GROWTH_FREE_BYTES: usize = 256 * 1024;

/// The log records of one request, in the protobuf form.
#[derive(Debug)]
pub struct Export<'a> {
    body: &'a [u8],
    records: usize,
    /// The resource and scope of what is read next.
    resources: Reader<'a>,
    scopes: Reader<'a>,
    in_scope: Reader<'a>,
    resource: Resource<'a>,
    scope: Scope<'a>,
    /// How often a record came before in this request.
    seen: Seen,
}

/// The JSON form as the protobuf form.
pub fn from_json(body: &[u8]) -> Result<Vec<u8>, Refused> {
    json::export(body)
}

impl<'a> Export<'a> {
    /// Reads the body to its last record, and makes nothing of it yet.
    pub fn open(body: &'a [u8]) -> Result<Self, Refused> {
        let (mut records, mut bytes) = (0, 0);
        measure(body, |of_record| {
            records += 1;
            bytes += of_record;
        })
        .map_err(|_| Refused::new("The body is not a well-formed protobuf message."))?;
        if records > RECORDS_MAX {
            return Err(Refused::new(format!("The request has more than {RECORDS_MAX} log records.")));
        }
        if bytes > GROWTH_FREE_BYTES && bytes / GROWTH_MAX > body.len() {
            return Err(Refused::new("The resource and the scope are too large to be kept with so many log records."));
        }
        let empty = Reader::new(&[]);
        Ok(Self {
            body,
            records,
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

    /// The next events, at most so many, each with its verdict; nothing after the last. Together they are not much
    /// larger than the body.
    pub fn next(&mut self, events_max: usize, arrival: &Arrival<'_>) -> Option<Accepted> {
        let bytes_max = self.body.len().max(GROWTH_FREE_BYTES);
        let mut accepted = Accepted::default();
        while accepted.len() < events_max && accepted.bytes_len() < bytes_max {
            let Some(record) = self.next_record() else { break };
            record::add(&mut accepted, record, &self.resource, &self.scope, &mut self.seen, arrival);
            accepted.set_source(|| place_in(self.body, record));
        }
        (!accepted.is_empty()).then_some(accepted)
    }

    /// The body was read to its end before: what cannot be read does not come here.
    fn next_record(&mut self) -> Option<&'a [u8]> {
        loop {
            if let Some(record) = next_of(&mut self.in_scope, SCOPE_LOGS_RECORD) {
                return Some(record);
            }
            if let Some(scope_logs) = next_of(&mut self.scopes, RESOURCE_LOGS_SCOPE_LOGS) {
                self.scope = Scope::of(scope_logs);
                self.in_scope = Reader::new(scope_logs);
                continue;
            }
            let resource_logs = next_of(&mut self.resources, EXPORT_RESOURCE_LOGS)?;
            self.resource = Resource::of(resource_logs);
            self.scopes = Reader::new(resource_logs);
        }
    }
}

const EXPORT_RESOURCE_LOGS: u32 = 1;
const RESOURCE_LOGS_SCOPE_LOGS: u32 = 2;
const SCOPE_LOGS_RECORD: u32 = 2;

/// The next field of this number, a message.
fn next_of<'a>(reader: &mut Reader<'a>, wanted: u32) -> Option<&'a [u8]> {
    while let Ok(Some((number, value))) = reader.next() {
        if let (true, Value::Bytes(bytes)) = (number == wanted, value) {
            return Some(bytes);
        }
    }
    None
}

/// Calls `each` with about the size of the event of each record.
fn measure(body: &[u8], mut each: impl FnMut(usize)) -> Result<(), DecodeError> {
    let mut resources = Reader::new(body);
    while let Some((number, value)) = resources.next()? {
        if number != EXPORT_RESOURCE_LOGS {
            continue;
        }
        let resource_logs = value.bytes()?;
        // All that is there but the records, which is no less than the resource.
        let scopes_bytes = total(resource_logs, RESOURCE_LOGS_SCOPE_LOGS)?;
        let resource_bytes = resource_logs.len() - scopes_bytes;
        let mut scopes = Reader::new(resource_logs);
        while let Some((number, value)) = scopes.next()? {
            if number != RESOURCE_LOGS_SCOPE_LOGS {
                continue;
            }
            let scope_logs = value.bytes()?;
            let scope_bytes = scope_logs.len() - total(scope_logs, SCOPE_LOGS_RECORD)?;
            let mut records = Reader::new(scope_logs);
            while let Some((number, value)) = records.next()? {
                if number == SCOPE_LOGS_RECORD {
                    let record = value.bytes()?;
                    // To its end, so that what follows is known to be one.
                    let mut fields = Reader::new(record);
                    while fields.next()?.is_some() {}
                    each(resource_bytes + scope_bytes + record.len());
                }
            }
        }
    }
    Ok(())
}

/// The bytes in the fields of this number together.
fn total(message: &[u8], wanted: u32) -> Result<usize, DecodeError> {
    let mut bytes = 0;
    let mut reader = Reader::new(message);
    while let Some((number, value)) = reader.next()? {
        if number == wanted {
            bytes += value.bytes()?.len();
        }
    }
    Ok(bytes)
}
