//! Anomaly events, and the state of the windows that find them.

use rusqlite::types::ToSql;
use rusqlite::{Connection, OptionalExtension, Row, params};
use uuid::Uuid;

use super::clock::now_ms;
use super::engine::{Engine, Wake};
use super::error::{damaged, failed};
use super::row::{query_newest, uuid};
use crate::store::cursor;
use crate::store::documents::{AnomalyEvent, AnomalyState, EVENT_AHEAD_MS_MAX, EVENT_RETENTION_MS};
use crate::store::error::StoreError;
use crate::store::page::{Page, PageRequest};

const LIST: u8 = b'e';
/// Anomaly events deleted in one transaction.
const DELETE_ROWS_MAX: i64 = 1_000;

impl Engine {
    pub(in crate::store) async fn anomaly_states(&self, configs: &[Uuid]) -> Result<Vec<AnomalyState>, StoreError> {
        let configs = configs.to_vec();
        let context = "read anomaly states";
        self.read(context, move |connection| {
            let mut statement = connection
                .prepare_cached(
                    "SELECT config_id, app_id, group_value, version, window, cooldown_until_ms, updated_at_ms
                     FROM anomaly_states WHERE config_id = ?1",
                )
                .map_err(failed(context))?;
            let mut states = Vec::new();
            for config in configs {
                let rows = statement.query_map([config.into_bytes()], state).map_err(failed(context))?;
                for row in rows {
                    states.push(row.map_err(failed(context))?);
                }
            }
            Ok(states)
        })
        .await
    }

    pub(in crate::store) async fn delete_expired(&self, before_ms: i64) -> Result<u64, StoreError> {
        let context = "forget stale state";
        let states = self
            .write(Wake::None, context, move |connection| {
                connection
                    .execute("DELETE FROM anomaly_states WHERE updated_at_ms < ?1", [before_ms])
                    .map_err(failed(context))
            })
            .await?;
        let deliveries = self.delete_expired_deliveries().await?;
        let mut events = 0;
        loop {
            let deleted = self
                .write(Wake::None, context, move |connection| {
                    let now = now_ms();
                    // Events from a clock that was far ahead would block the deletion of all behind them.
                    let ahead = "UPDATE anomaly_events SET detected_at = ?1 WHERE detected_at > ?1 + ?2 AND seq IN
                                     (SELECT seq FROM anomaly_events ORDER BY seq LIMIT ?3)";
                    // Only the oldest: they were recorded roughly in order of detection.
                    let old = "DELETE FROM anomaly_events WHERE detected_at < ?1 AND seq IN
                                   (SELECT seq FROM anomaly_events ORDER BY seq LIMIT ?2)";
                    connection
                        .execute(ahead, [now, EVENT_AHEAD_MS_MAX, DELETE_ROWS_MAX])
                        .and_then(|_| connection.execute(old, [now - EVENT_RETENTION_MS, DELETE_ROWS_MAX]))
                        .map_err(failed(context))
                })
                .await?;
            events += deleted as u64;
            if deleted == 0 {
                return Ok(states as u64 + deliveries + events);
            }
        }
    }

    pub(in crate::store) async fn anomaly_events(
        &self,
        config: Option<Uuid>,
        app_id: Option<&str>,
        since_ms: Option<i64>,
        page: PageRequest,
    ) -> Result<Page<AnomalyEvent>, StoreError> {
        let before = cursor::after::<i64>(LIST, &page)?;
        let mut wheres: Vec<(&str, Box<dyn ToSql + Send>)> = Vec::new();
        if let Some(config) = config {
            wheres.push(("config_id = ?", Box::new(config.into_bytes())));
        }
        if let Some(app_id) = app_id {
            wheres.push(("app_id = ?", Box::new(app_id.to_owned())));
        }
        if let Some(since_ms) = since_ms {
            wheres.push(("detected_at >= ?", Box::new(since_ms)));
        }
        if let Some(before) = before {
            wheres.push(("seq < ?", Box::new(before)));
        }
        self.read("list anomaly events", move |connection| {
            let wheres = wheres.into_iter().map(|(sql, value)| (sql, value as Box<dyn ToSql>)).collect();
            let select = "SELECT seq, document FROM anomaly_events";
            let rows = query_newest(connection, select, wheres, page.limit + 1, event);
            Ok(cursor::page(LIST, &page, rows.map_err(failed("list anomaly events"))?))
        })
        .await
    }
}

pub(super) fn insert_event(connection: &Connection, event: &AnomalyEvent) -> rusqlite::Result<()> {
    let mut statement = connection.prepare_cached(
        "INSERT INTO anomaly_events (config_id, app_id, detected_at, document) VALUES (?1, ?2, ?3, ?4)",
    )?;
    statement.execute(params![
        event.anomaly_config_id.into_bytes(),
        event.app_id,
        event.detected_at.as_millisecond(),
        serde_json::to_string(event).map_err(damaged)?,
    ])?;
    Ok(())
}

/// Writes over the version that `state` names; the caller has checked that it is the stored one.
pub(super) fn put_state(connection: &Connection, state: &AnomalyState) -> rusqlite::Result<()> {
    let mut statement = connection.prepare_cached(
        "INSERT INTO anomaly_states (config_id, app_id, group_value, version, window, cooldown_until_ms, updated_at_ms)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
         ON CONFLICT (config_id, app_id, group_value) DO UPDATE SET version = excluded.version,
             window = excluded.window, cooldown_until_ms = excluded.cooldown_until_ms,
             updated_at_ms = excluded.updated_at_ms",
    )?;
    statement.execute(params![
        state.config_id.into_bytes(),
        state.app_id,
        state.group,
        state.version as i64 + 1,
        serde_json::to_string(&state.window).map_err(damaged)?,
        state.cooldown_until_ms,
        state.updated_at_ms,
    ])?;
    Ok(())
}

/// The stored state with the key of `written`.
pub(super) fn find_state(connection: &Connection, written: &AnomalyState) -> rusqlite::Result<Option<AnomalyState>> {
    let mut statement = connection.prepare_cached(
        "SELECT config_id, app_id, group_value, version, window, cooldown_until_ms, updated_at_ms
         FROM anomaly_states WHERE config_id = ?1 AND app_id = ?2 AND group_value = ?3",
    )?;
    statement.query_row(params![written.config_id.into_bytes(), written.app_id, written.group], state).optional()
}

fn state(row: &Row<'_>) -> rusqlite::Result<AnomalyState> {
    Ok(AnomalyState {
        config_id: uuid(row.get(0)?),
        app_id: row.get(1)?,
        group: row.get(2)?,
        version: row.get::<_, i64>(3)? as u64,
        window: serde_json::from_str(row.get_ref(4)?.as_str().map_err(damaged)?).map_err(damaged)?,
        cooldown_until_ms: row.get(5)?,
        updated_at_ms: row.get(6)?,
    })
}

fn event(row: &Row<'_>) -> rusqlite::Result<(i64, AnomalyEvent)> {
    let document = serde_json::from_str(row.get_ref(1)?.as_str().map_err(damaged)?).map_err(damaged)?;
    Ok((row.get(0)?, document))
}
