//! Dead letters of the bus: list, show with the payload, replay, and delete one or all. They hold the messages that a
//! consumer dead-lettered and the input that the gateway refused.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::audit::recorded;
use crate::admin::audited_store::AuditedStore;
use crate::admin::input::query::{Params, PathKey};
use crate::admin::problem::{bad_query, bus_problem, not_found};
use crate::admin::state::Shared;
use crate::bus::{Bus, DeadLetter};
use crate::event::{EventRef, Reason, subject};
use crate::http::Problem;
use crate::quarantine::{self, Input, ReplayOutcome};
use crate::store::{AuditKind, AuditOutcome, Change, Page};

/// The kind of these changes in the audit log.
const KIND: AuditKind = AuditKind::DeadLetter;

/// Dead letters that are scanned for one page of a filtered list.
const SCAN_LETTERS_MAX: usize = 10_000;
/// Dead letters that are read from the bus in one batch.
const SCAN_BATCH: usize = 100;
/// Pairs of app and reason that are counted; beyond that, only `more` is reported.
const COUNTS_MAX: usize = 1_000;

#[derive(Serialize, JsonSchema)]
pub(in crate::admin) struct DeadLetterView {
    #[serde(flatten)]
    letter: DeadLetter,
    kind: LetterKind,
    app_id: Option<String>,
    /// Of refused input: the reason as one of a few words.
    reason_code: Option<String>,
    published_at: Option<Timestamp>,
    dead_at: Option<Timestamp>,
    #[serde(flatten)]
    payload: Option<Payload>,
}

/// The payload in the most readable representation that it has.
#[derive(Serialize, JsonSchema)]
enum Payload {
    /// The rule view of an event, or the message's own JSON.
    #[serde(rename = "payload")]
    Json(Value),
    #[serde(rename = "payload_base64")]
    Bytes(String),
    #[serde(rename = "input")]
    Input(Box<InputView>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum LetterKind {
    /// A message that a consumer dead-lettered.
    Message,
    /// Input that the gateway refused.
    Input,
}

/// Refused input as it was received, with its metadata.
#[derive(Serialize, JsonSchema)]
struct InputView {
    form: String,
    content_type: String,
    request_id: String,
    correlation_id: String,
    errors: Vec<InputError>,
    attributes: BTreeMap<String, String>,
    #[serde(flatten)]
    data: Data,
}

/// What is wrong, and where.
#[derive(Serialize, JsonSchema)]
struct InputError {
    pointer: String,
    detail: String,
}

#[derive(Serialize, JsonSchema)]
enum Data {
    #[serde(rename = "text")]
    Text(String),
    #[serde(rename = "base64")]
    Bytes(String),
}

/// The filters of a list.
#[derive(Default)]
struct Filter {
    kind: Option<LetterKind>,
    consumer: Option<String>,
    app_id: Option<String>,
    reason_code: Option<String>,
}

impl Filter {
    fn of(params: &mut Params) -> Result<Self, Problem> {
        let reason_code = params.text("reason_code");
        if reason_code.as_deref().is_some_and(|code| Reason::named(code).is_none()) {
            let names: Vec<_> = Reason::ALL.iter().map(|reason| reason.name()).collect();
            return Err(bad_query("reason_code", format!("must be one of {}", names.join(", "))));
        }
        let (consumer, app_id) = (params.text("consumer"), params.text("app_id"));
        Ok(Self { kind: params.word("kind")?, consumer, app_id, reason_code })
    }

    fn is_empty(&self) -> bool {
        self.kind.is_none() && self.consumer.is_none() && self.app_id.is_none() && self.reason_code.is_none()
    }

    fn matches(&self, view: &DeadLetterView) -> bool {
        let is = |wanted: &Option<String>, found: Option<&str>| wanted.as_deref().is_none_or(|it| found == Some(it));
        self.kind.is_none_or(|kind| kind == view.kind)
            && is(&self.consumer, Some(&view.letter.consumer))
            && is(&self.app_id, view.app_id.as_deref())
            && is(&self.reason_code, view.reason_code.as_deref())
    }
}

pub(in crate::admin) async fn list(
    State(shared): State<Arc<Shared>>,
    mut params: Params,
) -> Result<Json<Page<DeadLetterView>>, Problem> {
    let filter = Filter::of(&mut params)?;
    let page = params.page()?;
    let before = match &page.cursor {
        None => None,
        Some(cursor) => Some(cursor.parse().map_err(|_| bad_query("cursor", "is not a cursor of this list"))?),
    };
    if !filter.is_empty() {
        return filtered(&shared.state.bus, &filter, before, page.limit).await.map(Json);
    }
    let mut letters = shared.state.bus.dead_letters(before, page.limit + 1).await.map_err(bus_problem)?;
    let more = letters.len() > page.limit;
    letters.truncate(page.limit);
    let next = letters.last().filter(|_| more).map(|letter| letter.id.to_string());
    Ok(Json(Page { items: letters.into_iter().map(|letter| view(letter, false)).collect(), next }))
}

/// Scans a bounded number of dead letters: a page may hold fewer than its limit, or none, without being the last.
async fn filtered(
    bus: &Bus,
    filter: &Filter,
    mut before: Option<u64>,
    limit: usize,
) -> Result<Page<DeadLetterView>, Problem> {
    let mut items = Vec::new();
    for _ in 0..SCAN_LETTERS_MAX / SCAN_BATCH {
        let letters = bus.dead_letters(before, SCAN_BATCH).await.map_err(bus_problem)?;
        let is_last = letters.len() < SCAN_BATCH;
        for letter in letters {
            let (id, item) = (letter.id, view(letter, false));
            if filter.matches(&item) {
                if items.len() == limit {
                    return Ok(Page { items, next: before.map(|id| id.to_string()) });
                }
                items.push(item);
            }
            before = Some(id);
        }
        if is_last {
            return Ok(Page { items, next: None });
        }
    }
    Ok(Page { items, next: before.map(|id| id.to_string()) })
}

#[derive(Serialize, JsonSchema)]
pub(in crate::admin) struct Counts {
    items: Vec<Count>,
    /// There are more pairs; those listed have the highest counts.
    more: bool,
}

#[derive(Serialize, JsonSchema)]
struct Count {
    app_id: String,
    reason_code: String,
    count: u64,
}

/// Counts the refused input per app and reason, highest count first.
pub(in crate::admin) async fn counts(
    State(shared): State<Arc<Shared>>,
    params: Params,
) -> Result<Json<Counts>, Problem> {
    params.no_more()?;
    let mut subjects = shared.state.bus.input_counts(COUNTS_MAX + 1).await.map_err(bus_problem)?;
    let more = subjects.len() > COUNTS_MAX;
    subjects.truncate(COUNTS_MAX);
    let count = |(subject, count): &(String, u64)| {
        let (app_id, reason_code) = subject::parse_refused_subject(subject)?;
        Some(Count { app_id: app_id.into_owned(), reason_code: reason_code.to_owned(), count: *count })
    };
    Ok(Json(Counts { items: subjects.iter().filter_map(count).collect(), more }))
}

pub(in crate::admin) async fn show(
    State(shared): State<Arc<Shared>>,
    PathKey(key): PathKey,
) -> Result<Json<DeadLetterView>, Problem> {
    let letter = shared.state.bus.dead_letter(id(&key)?).await.map_err(bus_problem)?.ok_or_else(not_found)?;
    Ok(Json(view(letter, true)))
}

pub(in crate::admin) async fn delete(
    State(shared): State<Arc<Shared>>,
    AuditedStore(store): AuditedStore,
    PathKey(key): PathKey,
) -> Result<StatusCode, Problem> {
    let id = id(&key)?;
    let delete = async { shared.state.bus.delete_dead_letter(id).await.map_err(bus_problem) };
    done(recorded(&store, Change::of(KIND, "delete").with_id(id), delete, found_outcome).await?)
}

#[derive(Serialize, JsonSchema)]
pub(in crate::admin) struct Deleted {
    deleted: u64,
}

/// Deletes all dead letters, or with `before` those that were dead-lettered before then.
pub(in crate::admin) async fn purge(
    State(shared): State<Arc<Shared>>,
    AuditedStore(store): AuditedStore,
    mut params: Params,
) -> Result<Json<Deleted>, Problem> {
    let before_ms = params.time_ms("before")?;
    params.no_more()?;
    let before = before_ms.and_then(|ms| Timestamp::from_millisecond(ms).ok());
    let change = Change::of(KIND, "purge").with_before(json!({"died_before": before}));
    let purge = async { shared.state.bus.purge_dead_letters(before_ms).await.map_err(bus_problem) };
    let outcome = |deleted: &u64| (AuditOutcome::Done, json!({"deleted": deleted}));
    let deleted = recorded(&store, change, purge, outcome).await?;
    Ok(Json(Deleted { deleted }))
}

pub(in crate::admin) async fn replay(
    State(shared): State<Arc<Shared>>,
    AuditedStore(store): AuditedStore,
    PathKey(key): PathKey,
) -> Result<StatusCode, Problem> {
    let id = id(&key)?;
    let (bus, settings) = (&shared.state.bus, shared.state.settings.replays);
    let replay = async {
        let found = bus.dead_letter(id).await.map_err(bus_problem)?;
        match found {
            None => Ok(ReplayOutcome::NotFound),
            Some(letter) if letter.is_input() => quarantine::replay(bus, &letter, settings).await.map_err(bus_problem),
            Some(_) => match bus.replay_dead_letter(id).await.map_err(bus_problem)? {
                true => Ok(ReplayOutcome::Accepted { events: 1, duplicates: 0 }),
                false => Ok(ReplayOutcome::NotFound),
            },
        }
    };
    match recorded(&store, Change::of(KIND, "replay").with_id(id), replay, replay_outcome).await? {
        ReplayOutcome::Accepted { .. } => Ok(StatusCode::NO_CONTENT),
        ReplayOutcome::NotFound => Err(not_found()),
        ReplayOutcome::StillInvalid { detail, errors } => {
            let detail = format!("It is still refused, and stays: {detail}");
            Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, detail).with_errors(errors))
        }
        ReplayOutcome::Unreadable => {
            let detail = "It cannot be read as what it was kept as, and stays.";
            Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, detail))
        }
    }
}

fn replay_outcome(replayed: &ReplayOutcome) -> (AuditOutcome, Value) {
    match replayed {
        ReplayOutcome::Accepted { .. } => (AuditOutcome::Done, json!({"found": true})),
        ReplayOutcome::NotFound => (AuditOutcome::Failed, json!({"found": false})),
        ReplayOutcome::StillInvalid { .. } | ReplayOutcome::Unreadable => {
            (AuditOutcome::Failed, json!({"found": true, "valid": false}))
        }
    }
}

fn found_outcome(found: &bool) -> (AuditOutcome, Value) {
    (if *found { AuditOutcome::Done } else { AuditOutcome::Failed }, json!({"found": found}))
}

fn id(key: &str) -> Result<u64, Problem> {
    key.parse().map_err(|_| not_found())
}

fn done(found: bool) -> Result<StatusCode, Problem> {
    if found { Ok(StatusCode::NO_CONTENT) } else { Err(not_found()) }
}

fn view(letter: DeadLetter, with_payload: bool) -> DeadLetterView {
    let payload = with_payload.then(|| payload(&letter));
    let (app_id, reason_code) = match letter.is_input() {
        true => match subject::parse_refused_subject(&letter.subject) {
            Some((app, reason)) => (Some(app.into_owned()), Some(reason.to_owned())),
            None => (None, None),
        },
        false => (subject::parse_event_subject(&letter.subject).map(|subject| subject.app.into_owned()), None),
    };
    DeadLetterView {
        published_at: Timestamp::from_millisecond(letter.published_at_ms).ok(),
        dead_at: Timestamp::from_millisecond(letter.dead_at_ms).ok(),
        kind: if letter.is_input() { LetterKind::Input } else { LetterKind::Message },
        app_id: app_id.filter(|app| !app.is_empty()),
        reason_code,
        letter,
        payload,
    }
}

fn input(payload: &[u8]) -> Option<Payload> {
    let input = Input::read(payload)?;
    let errors = input.errors.into_iter().map(|fault| InputError { pointer: fault.pointer, detail: fault.detail });
    let attributes = input.attributes.into_iter().map(|attribute| (attribute.name, attribute.value));
    let data = match std::str::from_utf8(&input.data) {
        Ok(text) => Data::Text(text.to_owned()),
        Err(_) => Data::Bytes(STANDARD.encode(&input.data)),
    };
    Some(Payload::Input(Box::new(InputView {
        form: input.format,
        content_type: input.content_type,
        request_id: input.request_id,
        correlation_id: input.correlation_id,
        errors: errors.collect(),
        attributes: attributes.collect(),
        data,
    })))
}

fn payload(letter: &DeadLetter) -> Payload {
    if letter.is_input()
        && let Some(input) = input(&letter.payload)
    {
        return input;
    }
    let view = if letter.subject.starts_with("events.") {
        EventRef::decode(&letter.payload).ok().map(|event| event.view())
    } else {
        serde_json::from_slice(&letter.payload).ok()
    };
    view.map_or_else(|| Payload::Bytes(STANDARD.encode(&letter.payload)), Payload::Json)
}
