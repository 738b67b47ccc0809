//! Lists the audit log, and records changes that the store does not make itself.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde_json::Value;

use crate::admin::input::query::Params;
use crate::admin::problem::store_problem;
use crate::admin::state::Shared;
use crate::http::Problem;
use crate::store::{AuditFilter, AuditOutcome, AuditRecord, Change, Page, Store};

pub(in crate::admin) async fn list(
    State(shared): State<Arc<Shared>>,
    mut params: Params,
) -> Result<Json<Page<AuditRecord>>, Problem> {
    let filter =
        AuditFilter { actor: params.text("actor"), kind: params.word("kind")?, since_ms: params.time_ms("since")? };
    let page = params.page()?;
    shared.state.access.write_refusals().await;
    shared.state.store.audit(filter, page).await.map(Json).map_err(store_problem)
}

/// Makes a change of the bus. Its audit record is written first; without it, the change is not made. `outcome`
/// describes the result.
pub(in crate::admin) async fn recorded<T>(
    store: &Store,
    change: Change,
    made: impl Future<Output = Result<T, Problem>>,
    outcome: impl FnOnce(&T) -> (AuditOutcome, Value),
) -> Result<T, Problem> {
    let record = store.begin_audit(change).await.map_err(store_problem)?;
    let done = made.await;
    let (outcome, after) = match &done {
        Ok(value) => {
            let (outcome, after) = outcome(value);
            (outcome, Some(after))
        }
        Err(_) => (AuditOutcome::Failed, None),
    };
    if let Err(error) = store.finish_audit(record, outcome, after).await {
        tracing::warn!(%error, "the outcome of a change is not in the audit log");
    }
    done
}
