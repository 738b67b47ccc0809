//! Replays refused input.

use std::borrow::Cow;
use std::fmt::Write as _;

use ring::digest::{SHA256, digest};
use uuid::Uuid;

use super::input::{Input, InputFormat};
use crate::bus::{Batch, Bus, BusError, DeadLetter};
use crate::event::otlp::{self, Export};
use crate::event::request::{self, Accepted, Refused};
use crate::event::segment::{BatchFields, Body, Call};
use crate::event::{Arrival, EVENT_BYTES_MAX, FieldError, Reason, cloud_event, subject};

/// The configurable limits that apply to a replay.
#[derive(Clone, Copy, Debug)]
pub struct ReadSettings {
    pub batch_events_max: usize,
    pub event_bytes_max: usize,
}

impl Default for ReadSettings {
    fn default() -> Self {
        Self { batch_events_max: 1_000, event_bytes_max: EVENT_BYTES_MAX }
    }
}

/// The outcome of a replay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReplayOutcome {
    /// The whole input is valid and published. `duplicates` of its events were there already.
    Accepted { events: usize, duplicates: usize },
    /// It stays, with its current errors.
    StillInvalid { detail: String, errors: Vec<FieldError> },
    /// It does not parse in its stored format.
    Unreadable,
    /// The dead letter no longer exists.
    NotFound,
}

/// Parses the input of a dead letter again. Input that is valid as a whole is published and the letter deleted;
/// otherwise nothing of it is. Repeated after an interruption, it stores nothing twice within the bus's deduplication
/// window.
pub async fn replay(bus: &Bus, letter: &DeadLetter, settings: ReadSettings) -> Result<ReplayOutcome, BusError> {
    let Some(mut input) = Input::read(&letter.payload) else { return Ok(ReplayOutcome::Unreadable) };
    let refused = match parse_again(&input, settings) {
        Ok(accepted) => {
            let batch = pack(&accepted);
            let Some(answers) = bus.resubmit_input(letter.id, batch).await? else { return Ok(ReplayOutcome::NotFound) };
            let duplicates = answers.iter().flatten().filter(|published| published.duplicate).count();
            return Ok(ReplayOutcome::Accepted { events: answers.len(), duplicates });
        }
        Err(refused) => refused,
    };
    let before = input.clone();
    input.set_errors(Reason::of_body(&refused), &refused.field_errors());
    if input != before {
        // It fitted before; only texts have changed.
        let Some(amended) = input.into_refused() else { return Ok(ReplayOutcome::Unreadable) };
        if !bus.amend_input(letter.id, amended).await? {
            return Ok(ReplayOutcome::NotFound);
        }
    }
    Ok(ReplayOutcome::StillInvalid { detail: refused.detail, errors: refused.errors })
}

/// The events of an input, if all of them are valid.
fn parse_again(input: &Input, settings: ReadSettings) -> Result<Accepted, Refused> {
    let arrival = Arrival {
        received_at_ms: input.received_at_ms,
        key_app: input.key_app.as_deref(),
        event_bytes_max: settings.event_bytes_max,
        assigned_id: Uuid::parse_str(&input.id).ok(),
    };
    let (data, events_max) = (&*input.data, settings.batch_events_max);
    let Some(format) = InputFormat::named(&input.format) else { return Err(Refused::new("The form is not known.")) };
    let mut accepted = match format {
        InputFormat::Json => request::accept_json_single(data, &arrival),
        InputFormat::JsonBatch => request::accept_json_batch(data, events_max, &arrival),
        InputFormat::JsonEvent => request::accept_json_event(data, &arrival),
        InputFormat::JsonLines => request::accept_json_lines(data, events_max, &arrival),
        InputFormat::Protobuf => request::accept_binary_single(data, &arrival),
        InputFormat::ProtobufBatch => request::accept_binary_batch(data, events_max, &arrival),
        InputFormat::ProtobufEvent => request::accept_binary_event(data, &arrival),
        InputFormat::CloudEvent => cloud_event::accept_structured(data, &arrival),
        InputFormat::CloudEventBatch => cloud_event::accept_batched(data, events_max, &arrival),
        InputFormat::CloudEventBinary => {
            let attributes = input.attributes.iter().filter_map(|attribute| {
                Some((attribute.name.strip_prefix("ce-")?, Cow::Borrowed(attribute.value.as_str())))
            });
            cloud_event::accept_binary(attributes, input.attribute("content-type"), data, &arrival)
        }
        InputFormat::SegmentMessage | InputFormat::SegmentBatch => segment(format, input, &arrival),
        InputFormat::Otlp => logs(data, input, &arrival),
        InputFormat::OtlpJson => otlp::from_json(data).and_then(|protobuf| logs(&protobuf, input, &arrival)),
    }?
    .or_refused()?;
    if let (InputFormat::Json | InputFormat::Protobuf, Some(key)) = (format, input.attribute("idempotency-key")) {
        accepted.set_idempotency_key(key, &arrival)?;
    }
    accepted.assign_distinct_ids(&input.id, |place| derived_id(&input.id, place));
    Ok(accepted)
}

fn segment(format: InputFormat, input: &Input, arrival: &Arrival<'_>) -> Result<Accepted, Refused> {
    let mut body = match format {
        InputFormat::SegmentBatch => Body::of_batch(&input.data)?,
        _ => Body::of_message(&input.data)?,
    };
    if format == InputFormat::SegmentMessage {
        let mut around = input.attribute("around").map(BatchFields::read).unwrap_or_default();
        // An earlier version stored them like this.
        for name in ["context", "integrations", "sentAt"] {
            input.attribute(name).into_iter().for_each(|text| around.add(name, text));
        }
        body = body.with_batch_fields(around);
    }
    let call = input.attribute("call").and_then(Call::named);
    let app = if arrival.key_app.is_some() { "" } else { input.app.as_str() };
    let mut accepted = Accepted::default();
    while !body.is_empty() {
        accepted.append(body.next(usize::MAX, &input.data, call, app, arrival));
        check_replayed(&accepted)?;
    }
    Ok(accepted)
}

/// The most bytes that the events of one input may have together: they are all held in memory.
const REPLAYED_BYTES_MAX: usize = 64 << 20;

fn check_replayed(accepted: &Accepted) -> Result<(), Refused> {
    match accepted.bytes_len() <= REPLAYED_BYTES_MAX {
        true => Ok(()),
        false => Err(Refused::new("Its events are too large together to be read again at once.")),
    }
}

/// All records of an export, or one of several identical ones, which is identified by how many came before it.
fn logs(data: &[u8], input: &Input, arrival: &Arrival<'_>) -> Result<Accepted, Refused> {
    let before = input.attribute("before").and_then(|count| count.parse().ok()).unwrap_or(0);
    let mut export = Export::open(data)?.after(before);
    let mut accepted = Accepted::default();
    while let Some(more) = export.next(usize::MAX, arrival) {
        accepted.append(more);
        check_replayed(&accepted)?;
    }
    match export.unread_records() {
        0 => Ok(accepted),
        _ => Err(Refused::new(format!("It has more than {} log records.", otlp::RECORDS_MAX))),
    }
}

/// The same for the same place of the same input, and different for any other.
fn derived_id(id: &str, place: usize) -> String {
    let digest = digest(&SHA256, format!("{id}/{place}").as_bytes());
    let bytes = digest.as_ref().first_chunk().copied().unwrap_or_default();
    uuid::Builder::from_custom_bytes(bytes).into_uuid().to_string()
}

fn pack(accepted: &Accepted) -> Batch {
    let mut batch = Batch::with_capacity(accepted.len(), accepted.bytes_len());
    let mut message_id = String::new();
    for event in accepted.iter().flatten() {
        let mut subject = String::new();
        subject::write_event_subject(&mut subject, event.app_id, event.category(), &event.event_type());
        message_id.clear();
        // Events with a key get the gateway's message id, so that a manual resend is recognized. App names are not
        // empty, so the other ids never collide with these.
        let _ = match event.idempotency_key {
            "" => write!(message_id, "/replayed/{}", event.id),
            key => write!(message_id, "{}/{key}", event.app_id),
        };
        batch.push(&subject, Some(&message_id), |out| out.extend_from_slice(event.bytes));
    }
    batch
}
