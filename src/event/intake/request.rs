//! Request bodies: one event or a batch, in proto3 JSON or binary.
//!
//! Invariant: when a body can be read as a whole, every event gets its own outcome, and an invalid event does not
//! affect the others. JSON is converted to the stored bytes directly, without building a message.

use std::borrow::Cow;
use std::ops::Range;

use prost::Message as _;

use super::admit::{Arrival, admit, admit_json, check_size};
use super::binary::{check_counts, report_faults};
use super::field_error::{Errors, FieldError, Path};
use super::json_reader::{DUPLICATE, JsonReader, UNKNOWN};
use super::validate::{MALFORMED, REQUIRED, Unchecked};
use crate::event::codec::json_text::{Malformed, Token};
use crate::event::codec::wire::{DecodeError, Reader, put_bytes};
use crate::event::model::event_ref::EventRef;
use crate::event::proto::EventEnvelope;

/// A body that is refused as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    pub detail: String,
    pub errors: Vec<FieldError>,
}

impl Refused {
    /// The errors with their pointers. A single error about the whole body if there are none.
    pub fn field_errors(&self) -> Cow<'_, [FieldError]> {
        match self.errors.is_empty() {
            true => vec![FieldError::new("", self.detail.clone())].into(),
            false => self.errors.as_slice().into(),
        }
    }
}

/// The valid events, encoded for storage, and the errors of the others.
#[derive(Debug, Default)]
pub struct Accepted {
    bytes: Vec<u8>,
    items: Vec<Item>,
}

impl Accepted {
    pub fn len(&self) -> usize {
        self.items.len()
    }

    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Total bytes of the encoded events.
    pub fn bytes_len(&self) -> usize {
        self.bytes.len()
    }

    /// Adds an event from a body in another format: validated and filled in, or with its errors.
    pub fn add(&mut self, event: &EventEnvelope, arrival: &Arrival<'_>) {
        let start = self.bytes.len();
        // Encoding to a vector does not run out of room.
        let _ = event.encode(&mut self.bytes);
        self.admit_last(start, Unchecked::All, arrival, |_| {});
    }

    /// Like [`Self::add`], for an event that this program encoded, with one payload and all text in UTF-8. `rename`
    /// translates the pointers of errors to the names of the source format.
    pub fn add_encoded(
        &mut self,
        event: &[u8],
        unchecked: Unchecked,
        arrival: &Arrival<'_>,
        rename: impl Fn(&mut FieldError),
    ) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(event);
        self.admit_last(start, unchecked, arrival, rename);
    }

    /// Adds the event in a line of JSON.
    pub fn add_json_line(&mut self, line: &[u8], arrival: &Arrival<'_>) {
        let item = json_line(line, &mut self.bytes, arrival);
        self.items.push(item);
    }

    /// Adds the errors of input that could not be turned into an event.
    pub fn add_refused(&mut self, errors: Vec<FieldError>) {
        self.items.push(Err(errors.into()));
    }

    /// Removes the last event if it was refused, and returns its errors.
    pub fn take_refused(&mut self) -> Option<Vec<FieldError>> {
        match self.items.pop()? {
            Err(rejected) => Some(rejected.errors),
            valid => {
                self.items.push(valid);
                None
            }
        }
    }

    /// Sets where in the body the last event is, if it was refused.
    pub(crate) fn set_source(&mut self, source: impl FnOnce() -> Range<usize>) {
        if let Some(Err(rejected)) = self.items.last_mut() {
            rejected.source = source();
        }
    }

    /// Errors of the refused events, with their range in the body. The range is empty if unknown.
    pub fn refused(&self) -> impl Iterator<Item = (&[FieldError], Range<usize>)> {
        self.items.iter().filter_map(|item| item.as_ref().err()).map(|it| (it.errors.as_slice(), it.source.clone()))
    }

    /// Gives each event after the first whose id is `assigned` the id `id_of(position)` instead.
    pub fn assign_distinct_ids(&mut self, assigned: &str, id_of: impl Fn(usize) -> String) {
        let bytes = std::mem::take(&mut self.bytes);
        for (place, item) in self.items.iter_mut().enumerate() {
            let Ok(range) = item else { continue };
            let event = &bytes[range.clone()];
            let start = self.bytes.len();
            self.bytes.extend_from_slice(event);
            if place > 0 && EventRef::read(event).is_ok_and(|event| event.id == assigned) {
                // The last of two fields counts.
                put_bytes(&mut self.bytes, 1, id_of(place).as_bytes());
            }
            *range = start..self.bytes.len();
        }
    }

    /// Appends all events of another body.
    pub fn append(&mut self, other: Self) {
        let moved = self.bytes.len();
        self.bytes.extend_from_slice(&other.bytes);
        self.items.extend(other.items.into_iter().map(|item| item.map(|at| at.start + moved..at.end + moved)));
    }

    fn admit_last(
        &mut self,
        start: usize,
        unchecked: Unchecked,
        arrival: &Arrival<'_>,
        rename: impl Fn(&mut FieldError),
    ) {
        let mut errors = Errors::default();
        admit(&mut self.bytes, start, unchecked, arrival, &Path::Root, &mut errors);
        self.items.push(match errors.into_item_result() {
            Ok(()) => Ok(start..self.bytes.len()),
            Err(mut errors) => {
                self.bytes.truncate(start);
                errors.iter_mut().for_each(rename);
                Err(errors.into())
            }
        });
    }

    /// Fails if any event is invalid: for requests that are refused as a whole.
    pub fn or_refused(mut self) -> Result<Self, Refused> {
        match self.items.iter().position(Result::is_err).map(|position| self.items.swap_remove(position)) {
            Some(Err(rejected)) => Err(Refused::invalid_event(rejected.errors)),
            _ => Ok(self),
        }
    }

    /// Sets the idempotency key of a single request's event from the header. Fails if the event has a different key.
    pub fn set_idempotency_key(&mut self, key: &str, arrival: &Arrival<'_>) -> Result<(), Refused> {
        let [Ok(range)] = self.items.as_mut_slice() else { return Ok(()) };
        let own = EventRef::read(&self.bytes[range.clone()]).map(|event| event.idempotency_key).unwrap_or_default();
        if !own.is_empty() {
            let differs = "must be the same as the header Idempotency-Key";
            let error = || FieldError::new("/event/idempotencyKey", differs);
            return if own == key { Ok(()) } else { Err(Refused::invalid_event(vec![error()])) };
        }
        put_bytes(&mut self.bytes, 7, key.as_bytes());
        *range = range.start..self.bytes.len();
        check_size(range.len(), arrival)
            .map_err(|detail| Refused::invalid_event(vec![FieldError::new("/event", detail)]))
    }

    /// In body order. Error pointers are relative to the event.
    pub fn iter(&self) -> impl Iterator<Item = Result<EventRef<'_>, &[FieldError]>> {
        self.items.iter().map(|item| match item {
            // Admitted events were read to the last byte before, so decoding cannot fail.
            Ok(range) => EventRef::read(&self.bytes[range.clone()]).map_err(|_| [].as_slice()),
            Err(rejected) => Err(rejected.errors.as_slice()),
        })
    }
}

/// `{"event": {...}}`, validated and filled in.
pub fn accept_json_single(body: &[u8], arrival: &Arrival<'_>) -> Result<Accepted, Refused> {
    let reader = json_body(body, "event", |reader| Ok(admit_json(reader, arrival, &EVENT)?))?;
    reader.errors.into_result().map_err(Refused::invalid_event)?;
    Ok(Accepted { items: vec![Ok(0..reader.out.len())], bytes: reader.out })
}

/// `{"events": [...]}`. Each event is validated and filled in, or has its errors.
pub fn accept_json_batch(body: &[u8], events_max: usize, arrival: &Arrival<'_>) -> Result<Accepted, Refused> {
    let mut items = Vec::new();
    let reader = json_body(body, "events", |reader| {
        if reader.json.peek()? != Token::Array {
            return Err(Refused::invalid(FieldError::new("/events", "must be an array")));
        }
        reader.json.enter();
        while reader.json.element(items.is_empty())? {
            check_count(items.len() + 1, events_max)?;
            items.push(json_item(reader, arrival)?);
        }
        check_count(items.len(), events_max)
    })?;
    Ok(Accepted { bytes: reader.out, items })
}

/// JSON lines: one event per line, each validated and filled in, or with its errors. An unreadable line does not affect
/// the others; empty lines are skipped.
pub fn accept_json_lines(body: &[u8], events_max: usize, arrival: &Arrival<'_>) -> Result<Accepted, Refused> {
    check_width(body)?;
    let mut accepted = Accepted { bytes: Vec::with_capacity(body.len()), items: Vec::new() };
    let whole = body;
    let body = body.strip_prefix(BYTE_ORDER_MARK).unwrap_or(body);
    for line in body.split(|byte| *byte == b'\n').filter(|line| !line.trim_ascii().is_empty()) {
        check_count(accepted.items.len() + 1, events_max)?;
        let Accepted { bytes, items } = &mut accepted;
        items.push(json_line(line, bytes, arrival).map_err(|rejected| rejected.at(place_in(whole, line))));
    }
    check_count(accepted.items.len(), events_max)?;
    Ok(accepted)
}

/// One JSON event of a batch, validated and filled in.
pub fn accept_json_event(event: &[u8], arrival: &Arrival<'_>) -> Result<Accepted, Refused> {
    let mut accepted = Accepted::default();
    let item = json_line(event, &mut accepted.bytes, arrival);
    accepted.items.push(item);
    accepted.or_refused()
}

/// One encoded event of a batch, validated and filled in.
pub fn accept_binary_event(event: &[u8], arrival: &Arrival<'_>) -> Result<Accepted, Refused> {
    let mut accepted = Accepted::default();
    let item = binary_item(event, &mut accepted.bytes, arrival, &Path::Root, Errors::into_item_result);
    accepted.items.push(item);
    accepted.or_refused()
}

/// An encoded `IngestEventRequest`, validated and filled in.
pub fn accept_binary_single(body: &[u8], arrival: &Arrival<'_>) -> Result<Accepted, Refused> {
    let mut event = None;
    let mut reader = Reader::new(body);
    while let Some((number, value)) = reader.next().map_err(Refused::not_protobuf)? {
        if number == 1 && event.replace(value.bytes().map_err(Refused::not_protobuf)?).is_some() {
            return Err(Refused::invalid(FieldError::new("/event", DUPLICATE)));
        }
    }
    let event = event.ok_or_else(|| Refused::invalid(FieldError::new("/event", REQUIRED)))?;
    let mut bytes = Vec::with_capacity(event.len());
    let range = binary_item(event, &mut bytes, arrival, &EVENT, Errors::into_result)
        .map_err(|rejected| Refused::invalid_event(rejected.errors))?;
    Ok(Accepted { items: vec![Ok(range)], bytes })
}

/// An encoded `IngestEventBatchRequest`. Each event is validated and filled in, or has its errors.
pub fn accept_binary_batch(body: &[u8], events_max: usize, arrival: &Arrival<'_>) -> Result<Accepted, Refused> {
    let mut accepted = Accepted { bytes: Vec::with_capacity(body.len()), items: Vec::new() };
    // Decoded by hand, since one invalid event must not affect the others.
    let mut reader = Reader::new(body);
    while let Some((number, value)) = reader.next().map_err(Refused::not_protobuf)? {
        if number == 1 {
            check_count(accepted.items.len() + 1, events_max)?;
            let outcome = match value.bytes() {
                Ok(event) => binary_item(event, &mut accepted.bytes, arrival, &Path::Root, Errors::into_item_result)
                    .map_err(|rejected| rejected.at(place_in(body, event))),
                Err(_) => Err(vec![FieldError::new("", MALFORMED)].into()),
            };
            accepted.items.push(outcome);
        }
    }
    check_count(accepted.items.len(), events_max)?;
    Ok(accepted)
}

/// The event in an encoded `IngestEventRequest`, without decoding it: decoding may be unsafe for memory.
pub fn event_of(request: &[u8]) -> Option<&[u8]> {
    let mut reader = Reader::new(request);
    while let Ok(Some((number, value))) = reader.next() {
        if number == 1 {
            return value.bytes().ok();
        }
    }
    None
}

/// The app id in an encoded event, as far as it can be read.
pub fn app_of(event: &[u8]) -> Option<&str> {
    let mut app = None;
    let mut reader = Reader::new(event);
    while let Ok(Some((number, value))) = reader.next() {
        if number == 2 {
            app = value.text().ok();
        }
    }
    app
}

impl Refused {
    pub fn new(detail: impl Into<String>) -> Self {
        Self { detail: detail.into(), errors: Vec::new() }
    }

    pub(crate) fn invalid(error: FieldError) -> Self {
        Self { detail: "The request is not valid.".to_owned(), errors: vec![error] }
    }

    fn invalid_event(errors: Vec<FieldError>) -> Self {
        Self { detail: "The event is not valid.".to_owned(), errors }
    }

    fn not_protobuf(_: DecodeError) -> Self {
        Self::new("The body is not a well-formed protobuf message.")
    }
}

impl From<Malformed> for Refused {
    fn from(error: Malformed) -> Self {
        Self::new(error.to_string())
    }
}

/// U+FEFF in UTF-8.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// Pointer to the event of a single request.
const EVENT: Path<'static> = Path::Field(&Path::Root, "event");

type Item = Result<Range<usize>, Rejected>;

/// Errors of an event, and its range in the body.
#[derive(Debug)]
struct Rejected {
    errors: Vec<FieldError>,
    source: Range<usize>,
}

impl From<Vec<FieldError>> for Rejected {
    fn from(errors: Vec<FieldError>) -> Self {
        Self { errors, source: 0..0 }
    }
}

impl Rejected {
    fn at(mut self, source: Range<usize>) -> Self {
        self.source = source;
        self
    }
}

/// The range of `part` in `body`; empty if `part` is not in it.
pub(crate) fn place_in(body: &[u8], part: &[u8]) -> Range<usize> {
    let start = (part.as_ptr() as usize).wrapping_sub(body.as_ptr() as usize);
    let range = start..start.saturating_add(part.len());
    if range.end <= body.len() { range } else { 0..0 }
}

fn json_item(reader: &mut JsonReader<'_>, arrival: &Arrival<'_>) -> Result<Item, Malformed> {
    let start = reader.out.len();
    reader.json.peek()?;
    let from = reader.json.position();
    admit_json(reader, arrival, &Path::Root)?;
    let outcome = std::mem::take(&mut reader.errors).into_item_result();
    if outcome.is_err() {
        reader.out.truncate(start);
    }
    let rejected = |errors: Vec<FieldError>| Rejected::from(errors).at(from..reader.json.position());
    Ok(outcome.map_err(rejected).map(|()| start..reader.out.len()))
}

fn json_line(line: &[u8], out: &mut Vec<u8>, arrival: &Arrival<'_>) -> Item {
    let unreadable =
        |at: usize, what: &str| Err(vec![FieldError::new("", format!("{what} at byte {at} of its line"))].into());
    let text = match std::str::from_utf8(line) {
        Ok(text) => text,
        Err(error) => return unreadable(error.valid_up_to(), "is not UTF-8"),
    };
    let mut reader = JsonReader::onto(std::mem::take(out), text);
    let start = reader.out.len();
    let item = json_item(&mut reader, arrival).and_then(|item| reader.json.end().map(|()| item));
    *out = reader.out;
    item.unwrap_or_else(|malformed| {
        out.truncate(start);
        unreadable(malformed.at, "is not well-formed JSON")
    })
}

fn binary_item(
    bytes: &[u8],
    out: &mut Vec<u8>,
    arrival: &Arrival<'_>,
    at: &Path<'_>,
    into_result: fn(Errors) -> Result<(), Vec<FieldError>>,
) -> Item {
    let start = out.len();
    let mut errors = Errors::default();
    // Nearly every event is valid and as an encoder writes it, and is stored as it was sent.
    out.extend_from_slice(bytes);
    if !admit(out, start, Unchecked::All, arrival, at, &mut errors) || !errors.is_empty() {
        out.truncate(start);
        errors = Errors::default();
        // Before the bytes are decoded.
        check_counts(bytes, at, &mut errors);
        if errors.is_empty() {
            match EventEnvelope::decode(bytes) {
                Ok(event) => {
                    // Encoding to a vector does not run out of room.
                    let _ = event.encode(out);
                    admit(out, start, Unchecked::All, arrival, at, &mut errors);
                }
                Err(_) => report_faults(bytes, at, &mut errors),
            }
        }
    }
    let outcome = into_result(errors);
    if outcome.is_err() {
        out.truncate(start);
    }
    outcome.map(|()| start..out.len()).map_err(Rejected::from)
}

fn check_count(count: usize, events_max: usize) -> Result<(), Refused> {
    if (1..=events_max).contains(&count) {
        return Ok(());
    }
    Err(Refused::invalid(FieldError::new("/events", format!("must have 1 to {events_max} events"))))
}

/// The body as text. JSON is UTF-8 (RFC 8259 §8.1).
pub(crate) fn json_text(body: &[u8]) -> Result<&str, Refused> {
    check_width(body)?;
    std::str::from_utf8(body)
        .map_err(|error| Refused::new(format!("The body is not UTF-8 at byte {}.", error.valid_up_to())))
}

/// Names UTF-16 and UTF-32, which would otherwise be reported as broken UTF-8.
fn check_width(body: &[u8]) -> Result<(), Refused> {
    match body {
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] | [0, _, ..] | [_, 0, ..] => {
            Err(Refused::new("The body is UTF-16 or UTF-32: JSON must be UTF-8."))
        }
        _ => Ok(()),
    }
}

/// Reads an object whose only member is `member`. `value` reads it unless it is null, which counts as missing.
fn json_body<'a>(
    body: &'a [u8],
    member: &str,
    mut value: impl FnMut(&mut JsonReader<'a>) -> Result<(), Refused>,
) -> Result<JsonReader<'a>, Refused> {
    let mut reader = JsonReader::new(json_text(body)?);
    reader.json.skip_mark();
    if reader.json.end().is_ok() {
        return Err(Refused::new("The body is empty."));
    }
    if reader.json.peek()? != Token::Object {
        return Err(Refused::invalid(FieldError::new("", "must be an object")));
    }
    reader.json.enter();
    let (mut first, mut seen, mut found) = (true, false, false);
    while let Some(key) = reader.json.member(first)? {
        first = false;
        let at = Path::Field(&Path::Root, key.raw);
        if *key.plain() != *member.as_bytes() {
            return Err(Refused::invalid(FieldError::new(at.pointer(), format!("{UNKNOWN}: expected {member}"))));
        }
        if seen {
            return Err(Refused::invalid(FieldError::new(at.pointer(), DUPLICATE)));
        }
        seen = true;
        if reader.json.peek()? == Token::Null {
            reader.json.word(Token::Null)?;
        } else {
            found = true;
            value(&mut reader)?;
        }
    }
    reader.json.end()?;
    if !found {
        return Err(Refused::invalid(FieldError::new(format!("/{member}"), REQUIRED)));
    }
    Ok(reader)
}
