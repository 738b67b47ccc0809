//! `POST /apply` stores a whole set of documents or none of it, and reports everything that is wrong with any of them.
//!
//! The first two segments of a pointer name the document: `/rules/3/conditions/0/path`.

use std::collections::HashSet;
use std::sync::Arc;

use axum::Json;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;

use crate::admin::audited_store::AuditedStore;
use crate::admin::input::body::{parse_json, read_text};
use crate::admin::input::query::Params;
use crate::admin::problem::{invalid, set_errors, store_problem};
use crate::admin::resource::{Resource, validate};
use crate::admin::state::{Checks, Shared};
use crate::base::json_pointer::escaped;
use crate::base::nearest::nearest;
use crate::event::FieldError;
use crate::http::Problem;
use crate::store::{
    Applied, AppliedSet, ApplyOutcome, Document as _, DocumentSet, NewAnomalyConfig, NewRule, NewWebhook, SetFault,
    StoreErrorKind,
};

/// The largest set, in bytes.
const SET_BYTES_MAX: usize = 16 << 20;
const SET_DOCUMENTS_MAX: usize = 10_000;
/// JSON values in a set. In the worst case, when every second value is an object, a set takes about ten times the
/// memory of its text.
const SET_VALUES_MAX: usize = 500_000;
/// Errors that one response lists.
const ERRORS_MAX: usize = 1_000;

/// The outcome of one document; of a dry run, the outcome it would have.
#[derive(Serialize, JsonSchema)]
pub(in crate::admin) struct AppliedItem {
    kind: &'static str,
    name: String,
    outcome: ApplyOutcome,
    before: Option<Value>,
    after: Value,
}

#[derive(Serialize, JsonSchema)]
pub(in crate::admin) struct AppliedItems {
    items: Vec<AppliedItem>,
}

pub(in crate::admin) async fn apply(
    State(shared): State<Arc<Shared>>,
    AuditedStore(store): AuditedStore,
    mut params: Params,
    request: Request,
) -> Result<Json<AppliedItems>, Problem> {
    let rehearsal = params.flag("dry_run")?;
    params.no_more()?;
    let body = read_text(request, SET_BYTES_MAX).await?;
    // Sets are read one at a time: each takes many times the memory of its text.
    let _applying = shared.applying.lock().await;
    let checks = shared.state.checks;
    // Compiling thousands of rules takes a while, so it runs on a blocking thread.
    let read = tokio::task::spawn_blocking(move || {
        let document = parse_json(&body, SET_VALUES_MAX)?;
        drop(body);
        Ok::<_, Problem>(SetReader::of(document, &checks))
    });
    let unread = |_| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "The documents could not be checked.");
    let mut reader = read.await.map_err(unread)??;
    let _patching = shared.patching.lock().await;
    // The readable part of a faulty set is applied as a dry run, so that the response also has the errors that only the
    // store can find.
    let is_faulty = !reader.errors.is_empty();
    let set = if is_faulty { reader.set.clone() } else { std::mem::take(&mut reader.set) };
    let applied = store.apply(set, rehearsal || is_faulty).await;
    match applied {
        Err(error) => match error.kind {
            StoreErrorKind::Set(faults) => reader.add_faults(&faults),
            _ => return Err(store_problem(error)),
        },
        Ok(applied) if reader.errors.is_empty() => return Ok(Json(AppliedItems { items: items(applied)? })),
        Ok(_) => {}
    }
    reader.errors.truncate(ERRORS_MAX);
    Err(invalid(reader.errors))
}

/// The readable part of a set, and its errors.
#[derive(Default)]
struct SetReader {
    set: DocumentSet,
    /// The index of each document of the set in the list that was sent.
    places: [Vec<usize>; 3],
    count: usize,
    /// The names of the webhooks that were sent, readable or not.
    webhooks: HashSet<String>,
    errors: Vec<FieldError>,
}

impl SetReader {
    fn of(document: Value, checks: &Checks) -> Self {
        let mut reader = Self::default();
        let Value::Object(lists) = document else {
            reader.errors.push(FieldError::new("", "must be an object"));
            return reader;
        };
        for (list, items) in lists {
            let items = match (list.as_str(), items) {
                (NewWebhook::PLURAL | NewRule::PLURAL | NewAnomalyConfig::PLURAL, Value::Array(items)) => items,
                (NewWebhook::PLURAL | NewRule::PLURAL | NewAnomalyConfig::PLURAL, Value::Null) => continue,
                (known, _) => {
                    reader.errors.push(not_a_list(known));
                    continue;
                }
            };
            match list.as_str() {
                NewWebhook::PLURAL => {
                    let names = items.iter().filter_map(|item| item["name"].as_str());
                    reader.webhooks = names.map(str::to_owned).collect();
                    (reader.set.webhooks, reader.places[0]) = reader.list(items, checks);
                }
                NewRule::PLURAL => (reader.set.rules, reader.places[1]) = reader.list(items, checks),
                _ => (reader.set.anomalies, reader.places[2]) = reader.list(items, checks),
            }
        }
        if reader.count > SET_DOCUMENTS_MAX {
            let detail = format!("must have at most {SET_DOCUMENTS_MAX} documents; the others were not looked at");
            reader.errors.insert(0, FieldError::new("", detail));
        }
        reader
    }

    fn list<R: Resource>(&mut self, items: Vec<Value>, checks: &Checks) -> (Vec<R>, Vec<usize>) {
        let (mut documents, mut places) = (Vec::new(), Vec::new());
        let mut names = HashSet::new();
        let room = SET_DOCUMENTS_MAX.saturating_sub(self.count);
        self.count += items.len();
        for (index, item) in items.into_iter().take(room).enumerate() {
            if self.errors.len() >= ERRORS_MAX {
                break;
            }
            let (new, mut errors) = validate::<R>(item, None, checks).into_parts();
            let named = errors.iter().all(|error| !matches!(error.pointer.as_str(), "" | "/name"));
            if let Some(new) = new.filter(|_| named) {
                if !names.insert(new.name().to_owned()) {
                    errors.push(FieldError::new("/name", "is the name of another one of the set"));
                } else if errors.is_empty() || R::REHEARSED_IN_PARTS {
                    documents.push(new);
                    places.push(index);
                }
            }
            let prefix = format!("/{}/{index}", R::PLURAL);
            self.errors.extend(errors.into_iter().map(|error| error.under(&prefix)));
        }
        (documents, places)
    }

    /// Adds the store's errors, except those that follow from others.
    fn add_faults(&mut self, faults: &[SetFault]) {
        let listed: HashSet<String> = self.errors.iter().map(|error| error.pointer.clone()).collect();
        // Whether the error itself, or one of a parent, is already listed.
        let is_listed = |error: &FieldError| {
            let ends = error.pointer.match_indices('/').map(|(end, _)| end).chain([error.pointer.len()]);
            ends.skip(1).any(|end| listed.contains(&error.pointer[..end]))
        };
        for fault in faults {
            let places = match fault.list {
                NewWebhook::PLURAL => &self.places[0],
                NewRule::PLURAL => &self.places[1],
                _ => &self.places[2],
            };
            let Some(index) = places.get(fault.index).copied() else { continue };
            let named = self.webhooks_of(fault);
            let mut fault = SetFault { index, ..fault.clone() };
            if let StoreErrorKind::UnknownWebhooks { indexes } = &mut fault.kind {
                // Webhooks of the set report their own errors.
                indexes.retain(|action| named.get(*action).is_none_or(|name| !self.webhooks.contains(name)));
                if indexes.is_empty() {
                    continue;
                }
            }
            let found = set_errors(&fault);
            self.errors.extend(found.into_iter().filter(|error| !is_listed(error)));
        }
    }

    /// The webhooks that a document of the set refers to.
    fn webhooks_of(&self, fault: &SetFault) -> &[String] {
        let actions = match fault.list {
            NewRule::PLURAL => self.set.rules.get(fault.index).map(|rule| &rule.actions),
            NewAnomalyConfig::PLURAL => self.set.anomalies.get(fault.index).map(|config| &config.actions),
            _ => None,
        };
        actions.map_or(&[], |actions| actions.webhooks.as_slice())
    }
}

fn not_a_list(name: &str) -> FieldError {
    const LISTS: [&str; 3] = [NewWebhook::PLURAL, NewRule::PLURAL, NewAnomalyConfig::PLURAL];
    let pointer = format!("/{}", escaped(name));
    if LISTS.contains(&name) {
        return FieldError::new(pointer, "must be an array");
    }
    let near = nearest(name, &LISTS).map_or_else(String::new, |list| format!(" (did you mean `{list}`?)"));
    FieldError::new(pointer, format!("is not a known field{near}; the fields here are {}", LISTS.join(", ")))
}

fn items(applied: AppliedSet) -> Result<Vec<AppliedItem>, Problem> {
    let mut items = Vec::new();
    add(&mut items, "webhook", applied.webhooks)?;
    add(&mut items, "rule", applied.rules)?;
    add(&mut items, "anomaly", applied.anomalies)?;
    Ok(items)
}

fn add<T: Serialize>(
    items: &mut Vec<AppliedItem>,
    kind: &'static str,
    applied: Vec<Applied<T>>,
) -> Result<(), Problem> {
    let json_view = |document: &T| serde_json::to_value(document).map_err(|_| unwritable());
    for Applied { before, after, outcome } in applied {
        let after = json_view(&after)?;
        let name = after["name"].as_str().unwrap_or_default().to_owned();
        items.push(AppliedItem { kind, name, outcome, before: before.as_ref().map(json_view).transpose()?, after });
    }
    Ok(())
}

fn unwritable() -> Problem {
    Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "The stored document cannot be written.")
}
