//! The anomalies that were detected.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;

use super::deliveries::id_or;
use crate::admin::input::query::Params;
use crate::admin::problem::store_problem;
use crate::admin::state::Shared;
use crate::http::Problem;
use crate::store::{AnomalyEvent, NewAnomalyConfig, Page};

pub(in crate::admin) async fn list(
    State(shared): State<Arc<Shared>>,
    mut params: Params,
) -> Result<Json<Page<AnomalyEvent>>, Problem> {
    let store = &shared.state.store;
    let config = match params.text("anomaly_config_id") {
        None => None,
        Some(key) => {
            let found = store.find::<NewAnomalyConfig>(&key).await.map_err(store_problem)?.map(|config| config.id);
            Some(id_or(&key, "anomaly_config_id", found)?)
        }
    };
    let (app_id, since) = (params.text("app_id"), params.time_ms("since")?);
    store.anomaly_events(config, app_id.as_deref(), since, params.page()?).await.map(Json).map_err(store_problem)
}
