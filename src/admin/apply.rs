//! A whole set of documents at once: `POST /apply` stores all of them or none, and answers whatever is wrong
//! with any of them.
//!
//! A pointer's first two parts say which document it is about: `/rules/3/conditions/0/path`.

use std::collections::HashSet;
use std::sync::Arc;

use axum::Json;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use serde::Serialize;
use serde_json::Value;

use super::document::{read_json_within, without_read_only};
use super::documents::{Resource, judge};
use super::query::Params;
use super::refusal::{of_set, of_store, wrong};
use super::{Checks, Shared};
use crate::event::FieldError;
use crate::http::Problem;
use crate::store::{
    Applied, AppliedSet, ApplyOutcome, DocumentSet, NewAnomalyConfig, NewRule, NewWebhook, SetFault, StoreErrorKind,
};

/// The largest set.
const SET_BYTES_MAX: usize = 16 << 20;
const SET_DOCUMENTS_MAX: usize = 10_000;
/// Errors that one set is answered with.
const ERRORS_MAX: usize = 1_000;

/// What became of one document; of a rehearsal, what would.
#[derive(Serialize)]
pub(super) struct Item {
    kind: &'static str,
    name: String,
    outcome: ApplyOutcome,
    before: Option<Value>,
    after: Value,
}

#[derive(Serialize)]
pub(super) struct Items {
    items: Vec<Item>,
}

pub(super) async fn apply(
    State(shared): State<Arc<Shared>>,
    mut params: Params,
    request: Request,
) -> Result<Json<Items>, Problem> {
    let rehearsal = params.flag("dry_run")?;
    params.no_more()?;
    let document = read_json_within(request, SET_BYTES_MAX).await?;
    let _applying = shared.applying.lock().await;
    let checks = shared.state.checks;
    // Compiling thousands of rules takes its time, on a thread that serves nobody.
    let read = tokio::task::spawn_blocking(move || Reading::of(&document, &checks).map(|reading| (reading, document)));
    let unread = |_| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "The documents could not be checked.");
    let (mut reading, document) = read.await.map_err(unread)??;
    let store = &shared.state.store;
    let _patching = shared.patching.lock().await;
    // What is readable of a faulty set is rehearsed, so that the answer has what only the store knows.
    let applied = store.apply(reading.set.clone(), rehearsal || !reading.errors.is_empty()).await;
    match applied {
        Err(error) => match error.kind {
            StoreErrorKind::Set(faults) => reading.note(&faults, &document),
            _ => return Err(of_store(error)),
        },
        Ok(applied) if reading.errors.is_empty() => return Ok(Json(Items { items: items(applied)? })),
        Ok(_) => {}
    }
    reading.errors.truncate(ERRORS_MAX);
    Err(wrong(reading.errors))
}

/// A set as far as it can be read, and what is wrong with the rest.
#[derive(Default)]
struct Reading {
    set: DocumentSet,
    /// Where each readable document stands in the list that was sent.
    places: [Vec<usize>; 3],
    errors: Vec<FieldError>,
}

impl Reading {
    fn of(document: &Value, checks: &Checks) -> Result<Self, Problem> {
        let invalid = |pointer: String, detail: &str| wrong(vec![FieldError::new(pointer, detail)]);
        let Some(lists) = document.as_object() else {
            return Err(invalid(String::new(), "must be an object"));
        };
        let mut reading = Self::default();
        let mut count = 0;
        for (list, items) in lists {
            let items = match items {
                Value::Array(items) => items,
                Value::Null => continue,
                _ => return Err(invalid(format!("/{list}"), "must be an array")),
            };
            count += items.len();
            if count > SET_DOCUMENTS_MAX {
                return Err(invalid(String::new(), "must have at most 10000 documents"));
            }
            match list.as_str() {
                NewWebhook::PATH => (reading.set.webhooks, reading.places[0]) = reading.list(items, checks),
                NewRule::PATH => (reading.set.rules, reading.places[1]) = reading.list(items, checks),
                NewAnomalyConfig::PATH => (reading.set.anomalies, reading.places[2]) = reading.list(items, checks),
                _ => {
                    let detail = "is not a known field; the fields here are webhooks, rules, anomalies";
                    return Err(invalid(format!("/{list}"), detail));
                }
            }
        }
        Ok(reading)
    }

    fn list<R: Resource>(&mut self, items: &[Value], checks: &Checks) -> (Vec<R>, Vec<usize>) {
        let (mut documents, mut places) = (Vec::with_capacity(items.len()), Vec::with_capacity(items.len()));
        let mut names = HashSet::new();
        for (index, item) in items.iter().enumerate() {
            let prefix = format!("/{}/{index}", R::PATH);
            let new = without_read_only(item.clone(), None)
                .map_err(|problem| problem.errors().to_vec())
                .and_then(|document| judge::<R>(document, checks));
            match new {
                Ok(new) if !names.insert(new.name().to_owned()) => {
                    self.errors
                        .push(FieldError::new(format!("{prefix}/name"), "is the name of another one of the set"));
                }
                Ok(new) => {
                    documents.push(new);
                    places.push(index);
                }
                Err(errors) => self.errors.extend(errors.into_iter().map(|error| error.under(&prefix))),
            }
        }
        (documents, places)
    }

    /// Adds what the store found, but for what follows from the other errors.
    fn note(&mut self, faults: &[SetFault], document: &Value) {
        let sent: HashSet<&str> =
            items_of(document, NewWebhook::PATH).filter_map(|item| item["name"].as_str()).collect();
        for fault in faults {
            let places = match fault.list {
                NewWebhook::PATH => &self.places[0],
                NewRule::PATH => &self.places[1],
                _ => &self.places[2],
            };
            let Some(index) = places.get(fault.index).copied() else { continue };
            if let StoreErrorKind::UnknownWebhook { index: action } = fault.kind
                && let Some(item) = items_of(document, fault.list).nth(index)
                && item["actions"]["webhooks"][action].as_str().is_some_and(|name| sent.contains(name))
            {
                // It is in the set, and has its own errors.
                continue;
            }
            self.errors.extend(of_set(&SetFault { index, ..fault.clone() }));
        }
    }
}

fn items_of<'d>(document: &'d Value, list: &str) -> impl Iterator<Item = &'d Value> {
    document[list].as_array().into_iter().flatten()
}

fn items(applied: AppliedSet) -> Result<Vec<Item>, Problem> {
    let mut items = Vec::new();
    add(&mut items, "webhook", applied.webhooks)?;
    add(&mut items, "rule", applied.rules)?;
    add(&mut items, "anomaly", applied.anomalies)?;
    Ok(items)
}

fn add<T: Serialize>(items: &mut Vec<Item>, kind: &'static str, applied: Vec<Applied<T>>) -> Result<(), Problem> {
    let shown = |document: &T| serde_json::to_value(document).map_err(|_| unwritable());
    for Applied { before, after, outcome } in applied {
        let after = shown(&after)?;
        let name = after["name"].as_str().unwrap_or_default().to_owned();
        items.push(Item { kind, name, outcome, before: before.as_ref().map(shown).transpose()?, after });
    }
    Ok(())
}

fn unwritable() -> Problem {
    Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "The stored document cannot be written.")
}
