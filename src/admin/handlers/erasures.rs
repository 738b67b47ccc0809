//! Erases the data of a person, one step per request: from the bus, the dead letters and the store.
//!
//! Invariants: a step is bounded and repeatable, so an interrupted erasure leaves no state behind; no record and no log
//! line holds the id. Does not know the lake, which receives the events that were in flight.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Json;
use axum::extract::{Request, State};
use data_encoding::HEXLOWER;
use jiff::Timestamp;
use ring::digest::{SHA256, digest};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::audit::recorded;
use crate::admin::audited_store::AuditedStore;
use crate::admin::input::body::read_json;
use crate::admin::input::decode::decode;
use crate::admin::problem::{bus_problem, invalid, store_problem};
use crate::admin::state::Shared;
use crate::bus::{DeadLetter, ErasePredicate, EraseSpan, acked_through};
use crate::event::{FieldError, Person, PersonId, is_app_id, is_id};
use crate::http::Problem;
use crate::quarantine::{Input, InputFormat};
use crate::store::{AuditKind, AuditOutcome, Change};

/// How long one step scans events of the bus, and how many.
const SCAN_TIME_MAX: Duration = Duration::from_secs(5);
const SCAN_MESSAGES_MAX: u64 = 5_000_000;
/// How long a step spends on each of these: the store, the dead letters, messages published since, and overwriting the
/// bus's file.
const REST_TIME_MAX: Duration = Duration::from_secs(5);
/// The prefix of event subjects.
const EVENTS: &[u8] = b"events.";

/// Needs exactly one of the ids.
#[derive(Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::admin) struct ErasureRequest {
    device_id: Option<String>,
    user_id: Option<String>,
    /// Only in this app; in all apps when absent.
    app_id: Option<String>,
    /// Events up to here have been scanned: `scanned_through` of the previous response.
    #[serde(default)]
    after_sequence: u64,
    /// Events up to here; up to the last event at this time when absent.
    through_sequence: Option<u64>,
    /// The result for the lake, for the audit record.
    lake: Option<LakeErasure>,
}

/// The result of `causality lake erase`.
#[derive(Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::admin) struct LakeErasure {
    rows_removed: u64,
    files_replaced: u64,
    /// Replaced files that are kept for readers of older versions of the table.
    files_waiting: u64,
    /// When the last of them may be removed.
    old_files_gone_by: Option<Timestamp>,
    /// Nothing remains that could not be erased.
    is_complete: bool,
}

#[derive(Serialize, JsonSchema)]
pub(in crate::admin) struct Erasure {
    scanned_through: u64,
    through_sequence: u64,
    /// Every event up to `through_sequence` was scanned, and so was everything derived from them.
    is_scanned: bool,
    /// No event up to `through_sequence` is still in flight to the lake or to deliveries.
    is_settled: bool,
    /// Messages of the bus that this step erased.
    events: u64,
    dead_letters: u64,
    deliveries: u64,
    anomaly_records: u64,
}

pub(in crate::admin) async fn erase(
    State(shared): State<Arc<Shared>>,
    AuditedStore(store): AuditedStore,
    request: Request,
) -> Result<Json<Erasure>, Problem> {
    let decoded = decode::<ErasureRequest>(read_json(request).await?).check(ErasureRequest::check);
    let request = decoded.into_result().map_err(invalid)?;
    let last = shared.state.bus.status().await.map_err(bus_problem)?.last_sequence;
    let through = request.through_sequence.unwrap_or(last);
    if through > last {
        let detail = format!("is behind the last event, {last}: begin anew");
        return Err(invalid(vec![FieldError::new("/through_sequence", detail)]));
    }
    if request.after_sequence > through {
        let detail = format!("is behind the last event, {last}: begin anew");
        return Err(invalid(vec![FieldError::new("/after_sequence", detail)]));
    }
    let Some(person) = request.person() else { return Err(invalid(request.check())) };
    let mut requested = json!({
        "id_kind": person.id.field(),
        "id_sha256": HEXLOWER.encode(digest(&SHA256, person.id.text().as_bytes()).as_ref()),
        "app_id": person.app_id,
        "after_sequence": request.after_sequence,
        "through_sequence": through,
    });
    if let Some(lake) = &request.lake {
        requested["lake"] = json!(lake);
    }
    let change = Change::of(AuditKind::Erasure, "erase").with_before(requested);
    let outcome = |erasure: &Erasure| (AuditOutcome::Done, serde_json::to_value(erasure).unwrap_or_default());
    // One at a time: each reads everything that is stored.
    let _turn = shared.erasing.lock().await;
    let step = step(&shared, &person, request.after_sequence, through);
    recorded(&store, change, step, outcome).await.map(Json)
}

impl ErasureRequest {
    fn check(&self) -> Vec<FieldError> {
        let mut errors = Vec::new();
        match (&self.device_id, &self.user_id) {
            (Some(_), Some(_)) => errors.push(FieldError::new("/user_id", "cannot be given together with `device_id`")),
            (None, None) => errors.push(FieldError::new("", "needs `device_id` or `user_id`")),
            _ => {}
        }
        for (pointer, id) in [("/device_id", &self.device_id), ("/user_id", &self.user_id)] {
            if id.as_ref().is_some_and(|id| id.is_empty() || !is_id(id)) {
                let detail = "must have from 1 to 256 bytes and no control characters, as ids of events have";
                errors.push(FieldError::new(pointer, detail));
            }
        }
        if self.app_id.as_ref().is_some_and(|app| !is_app_id(app)) {
            errors.push(FieldError::new("/app_id", "must match [A-Za-z0-9][A-Za-z0-9._-]{0,127}"));
        }
        if self.through_sequence.is_some_and(|through| through < self.after_sequence) {
            errors.push(FieldError::new("/through_sequence", "must not be below `after_sequence`"));
        }
        errors
    }

    /// `None` unless there is exactly one id.
    fn person(&self) -> Option<Person> {
        let id = match (&self.device_id, &self.user_id) {
            (Some(id), None) => PersonId::Device(id.clone()),
            (None, Some(id)) => PersonId::User(id.clone()),
            _ => return None,
        };
        Some(Person { id, app_id: self.app_id.clone() })
    }
}

async fn step(shared: &Shared, person: &Person, after: u64, through: u64) -> Result<Erasure, Problem> {
    let (bus, store) = (&shared.state.bus, &shared.state.store);
    let matches: ErasePredicate = {
        let person = person.clone();
        Arc::new(move |subject, payload| has_message(&person, subject, payload))
    };
    let span = EraseSpan { after, through, messages_max: SCAN_MESSAGES_MAX, time_max: SCAN_TIME_MAX };
    let began = Instant::now();
    let scanned = bus.erase(span, &matches).await.map_err(bus_problem)?;
    let mut erasure = Erasure {
        scanned_through: scanned.scanned_through,
        through_sequence: through,
        is_scanned: false,
        is_settled: false,
        events: scanned.messages,
        dead_letters: 0,
        deliveries: 0,
        anomaly_records: 0,
    };
    // Clients wait half a minute for a response: when scanning took long, the rest is left to the next step.
    let took_long = scanned.scanned_through >= through && began.elapsed() > SCAN_TIME_MAX / 2;
    if scanned.reached < through || took_long {
        return Ok(erasure);
    }
    // Checked first: what in-flight events lead to is stored before they are acknowledged.
    let status = bus.status().await.map_err(bus_problem)?;
    erasure.is_settled = scanned.scanned_through >= through && acked_through(&status, through);
    let records = store.erase_person(person, REST_TIME_MAX).await.map_err(store_problem)?;
    (erasure.deliveries, erasure.anomaly_records) = (records.deliveries, records.anomaly_records);
    let letters =
        bus.erase_dead_letters(&|letter| has_letter(person, letter), REST_TIME_MAX).await.map_err(bus_problem)?;
    erasure.dead_letters = letters.letters;
    if !records.is_complete || !letters.is_complete {
        erasure.is_settled = false;
        return Ok(erasure);
    }
    if erasure.is_settled {
        // Messages derived from in-flight events were published after them.
        let span = EraseSpan { after: through, through: status.last_sequence, time_max: REST_TIME_MAX, ..span };
        let derived = bus.erase(span, &derived(person)).await.map_err(bus_problem)?;
        erasure.events += derived.messages;
        erasure.is_settled = derived.scanned_through >= status.last_sequence;
    }
    let store_is_clean = store.wipe().await.map_err(store_problem)?;
    erasure.is_scanned = bus.wipe(Instant::now() + REST_TIME_MAX).await.map_err(bus_problem)? && store_is_clean;
    Ok(erasure)
}

/// Matches messages about the person's events, but not the events themselves.
fn derived(person: &Person) -> ErasePredicate {
    let person = person.clone();
    Arc::new(move |subject, payload| !subject.starts_with(EVENTS) && has_message(&person, subject, payload))
}

/// Whether a message of the bus is an event of the person, or is about one.
fn has_message(person: &Person, subject: &[u8], payload: &[u8]) -> bool {
    if !subject.starts_with(EVENTS) {
        return person.has_document(payload);
    }
    person.has_event(payload).unwrap_or_else(|| named_in(person, payload))
}

fn has_letter(person: &Person, letter: &DeadLetter) -> bool {
    if !letter.is_input() {
        return has_message(person, letter.subject.as_bytes(), &letter.payload) || named_in(person, &letter.payload);
    }
    let Some(input) = Input::read(&letter.payload) else { return named_in(person, &letter.payload) };
    if !input.app.is_empty() && !person.is_in_app(input.app.as_bytes()) {
        return false;
    }
    let attribute = |name: &str, value: &str| person.id.is_called(name) && value == person.id.text();
    if input.attributes.iter().any(|known| attribute(&known.name, &known.value)) {
        return true;
    }
    match InputFormat::named(&input.format) {
        Some(InputFormat::ProtobufEvent) => {
            person.has_event(&input.data).unwrap_or_else(|| person.is_in_message(&input.data))
        }
        Some(InputFormat::Protobuf | InputFormat::ProtobufBatch | InputFormat::Otlp) => {
            person.is_in_message(&input.data)
        }
        _ => named_in(person, &input.data),
    }
}

/// Whether JSON, or one of its lines, names the person.
fn named_in(person: &Person, data: &[u8]) -> bool {
    let named = |text: &[u8]| serde_json::from_slice::<Value>(text).is_ok_and(|value| person.is_named_in(&value));
    named(data) || data.split(|byte| *byte == b'\n').any(named)
}
