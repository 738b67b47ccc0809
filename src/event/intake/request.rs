//! Request bodies: one event or a batch, in proto3 JSON or binary.
//!
//! Invariant: a body that can be read as a whole gives every event its own verdict; one bad
//! event does not touch the others. JSON goes straight to the bytes that are stored, without a
//! message in between.

use std::borrow::Cow;
use std::ops::Range;

use prost::Message as _;

use super::admit::{Arrival, admit, check_size};
use super::binary::{check_counts, note_faults};
use super::field_error::{Errors, FieldError, Path};
use super::json_reader::{DUPLICATE, JsonReader, UNKNOWN};
use super::validate::{MALFORMED, REQUIRED, Unchecked};
use crate::event::codec::json_text::{Malformed, Token};
use crate::event::codec::wire::{DecodeError, Reader, put_bytes};
use crate::event::model::event_ref::EventRef;
use crate::event::proto::EventEnvelope;
use crate::event::schema::tables::EVENT_ENVELOPE;

/// A body that is refused as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    pub detail: String,
    pub errors: Vec<FieldError>,
}

impl Refused {
    /// What is wrong, each with its place: the whole body's where nothing of it is named.
    pub fn field_errors(&self) -> Cow<'_, [FieldError]> {
        match self.errors.is_empty() {
            true => vec![FieldError::new("", self.detail.clone())].into(),
            false => self.errors.as_slice().into(),
        }
    }
}

/// Events that passed, encoded as they are to be stored, and what is wrong with those that did not.
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

    /// The encoded events together.
    pub fn bytes_len(&self) -> usize {
        self.bytes.len()
    }

    /// Adds an event that came in a body of another form: checked and filled, or with what is wrong with it.
    pub fn add(&mut self, event: &EventEnvelope, arrival: &Arrival<'_>) {
        let start = self.bytes.len();
        // Encoding to a vector does not run out of room.
        let _ = event.encode(&mut self.bytes);
        self.admit_last(start, Unchecked::All, arrival, |_| {});
    }

    /// The same of an event that this program has encoded, with one payload and all of its text in UTF-8; `rename` says
    /// what the form calls a thing that is wrong.
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

    /// Adds the event that a line of JSON is.
    pub fn add_json_line(&mut self, line: &[u8], arrival: &Arrival<'_>) {
        let item = json_line(line, &mut self.bytes, arrival);
        self.items.push(item);
    }

    /// Adds the place of an event that could not be made of what came.
    pub fn add_refused(&mut self, errors: Vec<FieldError>) {
        self.items.push(Err(errors.into()));
    }

    /// Takes back the last event if it was refused; what is wrong with it.
    pub fn take_refused(&mut self) -> Option<Vec<FieldError>> {
        match self.items.pop()? {
            Err(rejected) => Some(rejected.errors),
            valid => {
                self.items.push(valid);
                None
            }
        }
    }

    /// Says where in the body the last event stands, if it was refused.
    pub(crate) fn set_source(&mut self, source: impl FnOnce() -> Range<usize>) {
        if let Some(Err(rejected)) = self.items.last_mut() {
            rejected.source = source();
        }
    }

    /// What was refused, and where in the body it stands; of what is not known to stand there an empty range.
    pub fn refused(&self) -> impl Iterator<Item = (&[FieldError], Range<usize>)> {
        self.items.iter().filter_map(|item| item.as_ref().err()).map(|it| (it.errors.as_slice(), it.source.clone()))
    }

    /// Of the events that were given `assigned` for an id, those after the first get `id_of` their place instead.
    pub fn assign_distinct_ids(&mut self, assigned: &str, id_of: impl Fn(usize) -> String) {
        let bytes = std::mem::take(&mut self.bytes);
        for (place, item) in self.items.iter_mut().enumerate() {
            let Ok(range) = item else { continue };
            let event = &bytes[range.clone()];
            let start = self.bytes.len();
            self.bytes.extend_from_slice(event);
            if place > 0 && EventRef::read(event).is_ok_and(|event| event.id == assigned) {
                // Of two fields the last one counts.
                put_bytes(&mut self.bytes, 1, id_of(place).as_bytes());
            }
            *range = start..self.bytes.len();
        }
    }

    /// Adds all events of another body.
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

    /// The events of a request that is refused as a whole for an event that is not valid.
    pub fn or_refused(mut self) -> Result<Self, Refused> {
        match self.items.iter().position(Result::is_err).map(|position| self.items.swap_remove(position)) {
            Some(Err(rejected)) => Err(Refused::invalid_event(rejected.errors)),
            _ => Ok(self),
        }
    }

    /// Gives the event of a single request the idempotency key that came beside it. One that has another of its own
    /// is refused.
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

    /// In the order of the body. The errors' pointers are relative to their event.
    pub fn iter(&self) -> impl Iterator<Item = Result<EventRef<'_>, &[FieldError]>> {
        self.items.iter().map(|item| match item {
            // What was admitted was read to its last byte before: decoding does not fail.
            Ok(range) => EventRef::read(&self.bytes[range.clone()]).map_err(|_| [].as_slice()),
            Err(rejected) => Err(rejected.errors.as_slice()),
        })
    }
}

/// `{"event": {...}}`, checked and filled.
pub fn accept_json_single(body: &[u8], arrival: &Arrival<'_>) -> Result<Accepted, Refused> {
    let mut reader = json_body(body, "event", |reader| Ok(reader.message(&EVENT_ENVELOPE, &EVENT)?))?;
    if reader.errors.is_empty() {
        admit(&mut reader.out, 0, Unchecked::All, arrival, &EVENT, &mut reader.errors);
    }
    reader.errors.into_result().map_err(Refused::invalid_event)?;
    Ok(Accepted { items: vec![Ok(0..reader.out.len())], bytes: reader.out })
}

/// `{"events": [...]}`, each event checked and filled or with what is wrong with it.
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

/// One event a line, each checked and filled or with what is wrong with it. A line that cannot be read touches no other;
/// empty lines are none.
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

/// One event of a batch in JSON, checked and filled.
pub fn accept_json_event(event: &[u8], arrival: &Arrival<'_>) -> Result<Accepted, Refused> {
    let mut accepted = Accepted::default();
    let item = json_line(event, &mut accepted.bytes, arrival);
    accepted.items.push(item);
    accepted.or_refused()
}

/// One encoded event of a batch, checked and filled.
pub fn accept_binary_event(event: &[u8], arrival: &Arrival<'_>) -> Result<Accepted, Refused> {
    let mut accepted = Accepted::default();
    let item = binary_item(event, &mut accepted.bytes, arrival, &Path::Root, Errors::into_item_result);
    accepted.items.push(item);
    accepted.or_refused()
}

/// An encoded `IngestEventRequest`, checked and filled.
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

/// An encoded `IngestEventBatchRequest`, each event checked and filled or with what is wrong with it.
pub fn accept_binary_batch(body: &[u8], events_max: usize, arrival: &Arrival<'_>) -> Result<Accepted, Refused> {
    let mut accepted = Accepted { bytes: Vec::with_capacity(body.len()), items: Vec::new() };
    // The request by hand, since one event that is not valid must not spoil the others.
    let mut reader = Reader::new(body);
    while let Some((number, value)) = reader.next().map_err(Refused::not_protobuf)? {
        if number == 1 {
            check_count(accepted.items.len() + 1, events_max)?;
            let verdict = match value.bytes() {
                Ok(event) => binary_item(event, &mut accepted.bytes, arrival, &Path::Root, Errors::into_item_result)
                    .map_err(|rejected| rejected.at(place_in(body, event))),
                Err(_) => Err(vec![FieldError::new("", MALFORMED)].into()),
            };
            accepted.items.push(verdict);
        }
    }
    check_count(accepted.items.len(), events_max)?;
    Ok(accepted)
}

/// The event of an encoded `IngestEventRequest`. Makes no message of it: it may be one that must not be made.
pub fn event_of(request: &[u8]) -> Option<&[u8]> {
    let mut reader = Reader::new(request);
    while let Ok(Some((number, value))) = reader.next() {
        if number == 1 {
            return value.bytes().ok();
        }
    }
    None
}

/// The app that an encoded event says it belongs to, as far as it can be read.
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

/// Where the event of a single request stands.
const EVENT: Path<'static> = Path::Field(&Path::Root, "event");

type Item = Result<Range<usize>, Rejected>;

/// What is wrong with an event, and where in the body it stands.
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

/// Where a part of a body stands in it.
pub(crate) fn place_in(body: &[u8], part: &[u8]) -> Range<usize> {
    let start = (part.as_ptr() as usize).wrapping_sub(body.as_ptr() as usize);
    let range = start..start.saturating_add(part.len());
    if range.end <= body.len() { range } else { 0..0 }
}

fn json_item(reader: &mut JsonReader<'_>, arrival: &Arrival<'_>) -> Result<Item, Malformed> {
    let start = reader.out.len();
    reader.json.peek()?;
    let from = reader.json.position();
    reader.message(&EVENT_ENVELOPE, &Path::Root)?;
    if reader.errors.is_empty() {
        admit(&mut reader.out, start, Unchecked::All, arrival, &Path::Root, &mut reader.errors);
    }
    let verdict = std::mem::take(&mut reader.errors).into_item_result();
    if verdict.is_err() {
        reader.out.truncate(start);
    }
    let rejected = |errors: Vec<FieldError>| Rejected::from(errors).at(from..reader.json.position());
    Ok(verdict.map_err(rejected).map(|()| start..reader.out.len()))
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
    told: fn(Errors) -> Result<(), Vec<FieldError>>,
) -> Item {
    let start = out.len();
    let mut errors = Errors::default();
    // Before anything is made of the bytes.
    check_counts(bytes, at, &mut errors);
    if errors.is_empty() {
        match EventEnvelope::decode(bytes) {
            Ok(event) => {
                // Encoding to a vector does not run out of room.
                let _ = event.encode(out);
                admit(out, start, Unchecked::All, arrival, at, &mut errors);
            }
            Err(_) => note_faults(bytes, at, &mut errors),
        }
    }
    let verdict = told(errors);
    if verdict.is_err() {
        out.truncate(start);
    }
    verdict.map(|()| start..out.len()).map_err(Rejected::from)
}

fn check_count(count: usize, events_max: usize) -> Result<(), Refused> {
    if (1..=events_max).contains(&count) {
        return Ok(());
    }
    Err(Refused::invalid(FieldError::new("/events", format!("must have 1 to {events_max} events"))))
}

/// JSON is UTF-8 (RFC 8259 §8.1).
pub(crate) fn json_text(body: &[u8]) -> Result<&str, Refused> {
    check_width(body)?;
    std::str::from_utf8(body)
        .map_err(|error| Refused::new(format!("The body is not UTF-8 at byte {}.", error.valid_up_to())))
}

/// Says what is wrong with text of wider units, which would only be called broken UTF-8.
fn check_width(body: &[u8]) -> Result<(), Refused> {
    match body {
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] | [0, _, ..] | [_, 0, ..] => {
            Err(Refused::new("The body is UTF-16 or UTF-32: JSON must be UTF-8."))
        }
        _ => Ok(()),
    }
}

/// Reads an object whose only member is `member`; `value` reads that, unless it is null, which stands for missing.
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
