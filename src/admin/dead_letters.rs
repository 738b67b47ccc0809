//! Dead letters of the bus: listed, shown with their payload, replayed, deleted one by one or all.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Value, json};

use super::Shared;
use super::access::Acting;
use super::audit::recorded;
use super::query::{Key, Params};
use super::refusal::{bad_query, not_found, of_bus};
use crate::bus::DeadLetter;
use crate::event::EventRef;
use crate::http::Problem;
use crate::store::{AuditOutcome, Change, Page};

/// In the audit log.
const KIND: &str = "dead_letter";

#[derive(Serialize, JsonSchema)]
pub(super) struct Shown {
    #[serde(flatten)]
    letter: DeadLetter,
    published_at: Option<Timestamp>,
    dead_at: Option<Timestamp>,
    #[serde(flatten)]
    payload: Option<Payload>,
}

/// The payload in the best form that it has.
#[derive(Serialize, JsonSchema)]
enum Payload {
    /// The rule view of an event, or the JSON that the message is.
    #[serde(rename = "payload")]
    Json(Value),
    #[serde(rename = "payload_base64")]
    Bytes(String),
}

pub(super) async fn list(State(shared): State<Arc<Shared>>, params: Params) -> Result<Json<Page<Shown>>, Problem> {
    let page = params.page()?;
    let before = match &page.cursor {
        None => None,
        Some(cursor) => Some(cursor.parse().map_err(|_| bad_query("cursor", "is not a cursor of this list"))?),
    };
    let mut letters = shared.state.bus.dead_letters(before, page.limit + 1).await.map_err(of_bus)?;
    let more = letters.len() > page.limit;
    letters.truncate(page.limit);
    let next = letters.last().filter(|_| more).map(|letter| letter.id.to_string());
    Ok(Json(Page { items: letters.into_iter().map(|letter| shown(letter, false)).collect(), next }))
}

pub(super) async fn show(State(shared): State<Arc<Shared>>, Key(key): Key) -> Result<Json<Shown>, Problem> {
    let letter = shared.state.bus.dead_letter(id(&key)?).await.map_err(of_bus)?.ok_or_else(not_found)?;
    Ok(Json(shown(letter, true)))
}

pub(super) async fn delete(
    State(shared): State<Arc<Shared>>,
    Acting(store): Acting,
    Key(key): Key,
) -> Result<StatusCode, Problem> {
    let id = id(&key)?;
    let delete = async { shared.state.bus.delete_dead_letter(id).await.map_err(of_bus) };
    done(recorded(&store, Change::of(KIND, "delete").with_id(id), delete, whether_found).await?)
}

#[derive(Serialize, JsonSchema)]
pub(super) struct Deleted {
    deleted: u64,
}

/// All of them, or with `before` those that died before then.
pub(super) async fn purge(
    State(shared): State<Arc<Shared>>,
    Acting(store): Acting,
    mut params: Params,
) -> Result<Json<Deleted>, Problem> {
    let before_ms = params.time_ms("before")?;
    params.no_more()?;
    let before = before_ms.and_then(|ms| Timestamp::from_millisecond(ms).ok());
    let change = Change::of(KIND, "purge").with_before(json!({"died_before": before}));
    let purge = async { shared.state.bus.purge_dead_letters(before_ms).await.map_err(of_bus) };
    let told = |deleted: &u64| (AuditOutcome::Done, json!({"deleted": deleted}));
    let deleted = recorded(&store, change, purge, told).await?;
    Ok(Json(Deleted { deleted }))
}

pub(super) async fn replay(
    State(shared): State<Arc<Shared>>,
    Acting(store): Acting,
    Key(key): Key,
) -> Result<StatusCode, Problem> {
    let id = id(&key)?;
    let replay = async { shared.state.bus.replay_dead_letter(id).await.map_err(of_bus) };
    done(recorded(&store, Change::of(KIND, "replay").with_id(id), replay, whether_found).await?)
}

fn whether_found(found: &bool) -> (AuditOutcome, Value) {
    (if *found { AuditOutcome::Done } else { AuditOutcome::Failed }, json!({"found": found}))
}

fn id(key: &str) -> Result<u64, Problem> {
    key.parse().map_err(|_| not_found())
}

fn done(found: bool) -> Result<StatusCode, Problem> {
    if found { Ok(StatusCode::NO_CONTENT) } else { Err(not_found()) }
}

fn shown(letter: DeadLetter, with_payload: bool) -> Shown {
    let payload = with_payload.then(|| payload(&letter));
    Shown {
        published_at: Timestamp::from_millisecond(letter.published_at_ms).ok(),
        dead_at: Timestamp::from_millisecond(letter.dead_at_ms).ok(),
        letter,
        payload,
    }
}

fn payload(letter: &DeadLetter) -> Payload {
    let view = if letter.subject.starts_with("events.") {
        EventRef::decode(&letter.payload).ok().map(|event| event.view())
    } else {
        serde_json::from_slice(&letter.payload).ok()
    };
    view.map_or_else(|| Payload::Bytes(STANDARD.encode(&letter.payload)), Payload::Json)
}
