//! Anomaly events, and the state of the windows that find them.

use tokio_postgres::Row;
use tokio_postgres::types::ToSql;
use uuid::Uuid;

use super::client::Client;
use super::deliveries;
use super::engine::Engine;
use super::error::{damaged, failed};
use super::row::{is_storable, json_text};
use super::statement::run;
use crate::store::cursor;
use crate::store::documents::{AnomalyEvent, AnomalyState, EVENT_AHEAD_MS_MAX, EVENT_RETENTION_MS};
use crate::store::error::StoreError;
use crate::store::page::{Page, PageRequest};

const LIST: u8 = b'e';
/// Anomaly events deleted in one statement.
const DELETE_ROWS_MAX: i64 = 1_000;
const STATE_COLUMNS: &str =
    r#"s.config_id, s.app_id, s.group_value, s.version, s."window", s.cooldown_until_ms, s.updated_at_ms"#;

impl Engine {
    pub(in crate::store) async fn anomaly_states(&self, configs: &[Uuid]) -> Result<Vec<AnomalyState>, StoreError> {
        let context = "read anomaly states";
        self.run(context, async |client| {
            let sql = format!(
                "SELECT {STATE_COLUMNS} FROM anomaly_states s WHERE config_id = ANY($1)
                 ORDER BY config_id, app_id, group_value"
            );
            let rows = client.query(&sql, &[&configs]).await.map_err(failed(context))?;
            rows.iter().map(state).collect()
        })
        .await
    }

    /// The stored states with the keys of `written`, in their order.
    pub(super) async fn find_states(&self, written: &[AnomalyState]) -> Result<Vec<AnomalyState>, StoreError> {
        let context = "read anomaly states";
        if written.is_empty() {
            return Ok(Vec::new());
        }
        let configs: Vec<Uuid> = written.iter().map(|state| state.config_id).collect();
        let apps: Vec<&str> = written.iter().map(|state| state.app_id.as_str()).collect();
        let groups: Vec<&str> = written.iter().map(|state| state.group.as_str()).collect();
        self.run(context, async |client| {
            let sql = format!(
                "SELECT {STATE_COLUMNS} FROM unnest($1::uuid[], $2::text[], $3::text[])
                     WITH ORDINALITY AS k (config_id, app_id, group_value, place)
                 JOIN anomaly_states s USING (config_id, app_id, group_value) ORDER BY k.place"
            );
            let rows = client.query(&sql, &[&configs, &apps, &groups]).await.map_err(failed(context))?;
            rows.iter().map(state).collect()
        })
        .await
    }

    pub(in crate::store) async fn delete_expired(&self, before_ms: i64) -> Result<u64, StoreError> {
        let context = "forget stale state";
        let states = "DELETE FROM anomaly_states WHERE (config_id, app_id, group_value) IN
            (SELECT config_id, app_id, group_value FROM anomaly_states WHERE updated_at_ms < $1
             LIMIT $2 FOR UPDATE SKIP LOCKED)";
        let events = "DELETE FROM anomaly_events WHERE detected_at < causality_now_ms() - $1 AND seq IN
            (SELECT seq FROM anomaly_events ORDER BY seq LIMIT $2 FOR UPDATE SKIP LOCKED)";
        // Events from a clock that was far ahead would block the deletion of all behind them.
        let ahead = "UPDATE anomaly_events SET detected_at = causality_now_ms()
            WHERE detected_at > causality_now_ms() + $1 AND seq IN
            (SELECT seq FROM anomaly_events ORDER BY seq LIMIT $2 FOR UPDATE SKIP LOCKED)";
        let mut deleted = 0;
        self.run(context, async |client| {
            client.execute(ahead, &[&EVENT_AHEAD_MS_MAX, &DELETE_ROWS_MAX]).await.map_err(failed(context))?;
            Ok(())
        })
        .await?;
        for (sql, limit) in [(states, before_ms), (events, EVENT_RETENTION_MS)] {
            loop {
                let count = self
                    .run(context, async |client| {
                        let count = client.execute(sql, &[&limit, &DELETE_ROWS_MAX]).await.map_err(failed(context))?;
                        Ok(count)
                    })
                    .await?;
                deleted += count;
                if count == 0 {
                    break;
                }
            }
        }
        Ok(deleted + deliveries::delete_expired_deliveries(self).await?)
    }

    pub(in crate::store) async fn anomaly_events(
        &self,
        config: Option<Uuid>,
        app_id: Option<&str>,
        since_ms: Option<i64>,
        page: PageRequest,
    ) -> Result<Page<AnomalyEvent>, StoreError> {
        let context = "list anomaly events";
        let before = cursor::after::<i64>(LIST, &page)?;
        if !app_id.is_none_or(is_storable) {
            return Ok(cursor::page(LIST, &page, Vec::<(i64, AnomalyEvent)>::new()));
        }
        self.run(context, async |client| {
            let sql = "SELECT seq, document FROM anomaly_events
                       WHERE ($1::uuid IS NULL OR config_id = $1) AND ($2::text IS NULL OR app_id = $2)
                           AND ($3::bigint IS NULL OR detected_at >= $3) AND ($4::bigint IS NULL OR seq < $4)
                       ORDER BY seq DESC LIMIT $5";
            let limit = page.limit as i64 + 1;
            let rows = client.query(sql, &[&config, &app_id, &since_ms, &before, &limit]).await;
            let rows = rows.map_err(failed(context))?;
            let event = |row: &Row| {
                let document = serde_json::from_str(row.get(1)).map_err(|error| damaged(context, error))?;
                Ok((row.get::<_, i64>(0), document))
            };
            let rows: Result<Vec<_>, StoreError> = rows.iter().map(event).collect();
            Ok(cursor::page(LIST, &page, rows?))
        })
        .await
    }
}

pub(super) async fn insert_events(tx: &Client, events: &[AnomalyEvent]) -> Result<(), StoreError> {
    let context = "record anomaly events";
    if events.is_empty() {
        return Ok(());
    }
    let configs: Vec<Uuid> = events.iter().map(|event| event.anomaly_config_id).collect();
    let apps: Vec<&str> = events.iter().map(|event| event.app_id.as_str()).collect();
    let detected: Vec<i64> = events.iter().map(|event| event.detected_at.as_millisecond()).collect();
    let documents: Vec<String> = events.iter().map(|event| json_text(event, context)).collect::<Result<_, _>>()?;
    let sql = "INSERT INTO anomaly_events (config_id, app_id, detected_at, document)
               SELECT config_id, app_id, detected_at, document
               FROM unnest($1::uuid[], $2::text[], $3::bigint[], $4::text[])
                   WITH ORDINALITY AS e (config_id, app_id, detected_at, document, place) ORDER BY place";
    run(tx, sql, &[&configs, &apps, &detected, &documents], context).await.map(|_| ())
}

/// Writes each state over the version that it names; returns how many had that version.
pub(super) async fn put_states(tx: &Client, states: &[AnomalyState]) -> Result<usize, StoreError> {
    let context = "write anomaly states";
    if states.is_empty() {
        return Ok(0);
    }
    // Always in the same order, so that two commits do not deadlock.
    let mut states: Vec<&AnomalyState> = states.iter().collect();
    states.sort_by(|one, other| {
        (&one.config_id, &one.app_id, &one.group).cmp(&(&other.config_id, &other.app_id, &other.group))
    });
    let (fresh, known): (Vec<&AnomalyState>, Vec<&AnomalyState>) =
        states.into_iter().partition(|state| state.version == 0);
    let insert = r#"
        INSERT INTO anomaly_states (config_id, app_id, group_value, version, "window", cooldown_until_ms, updated_at_ms)
        SELECT config_id, app_id, group_value, version + 1, "window", cooldown_until_ms, updated_at_ms
        FROM unnest($1::uuid[], $2::text[], $3::text[], $4::bigint[], $5::text[], $6::bigint[], $7::bigint[])
            AS n (config_id, app_id, group_value, version, "window", cooldown_until_ms, updated_at_ms)
        ON CONFLICT DO NOTHING"#;
    let update = r#"
        UPDATE anomaly_states s SET version = n.version + 1, "window" = n."window",
            cooldown_until_ms = n.cooldown_until_ms, updated_at_ms = n.updated_at_ms
        FROM unnest($1::uuid[], $2::text[], $3::text[], $4::bigint[], $5::text[], $6::bigint[], $7::bigint[])
            AS n (config_id, app_id, group_value, version, "window", cooldown_until_ms, updated_at_ms)
        WHERE s.config_id = n.config_id AND s.app_id = n.app_id AND s.group_value = n.group_value
            AND s.version = n.version"#;
    let mut written = 0;
    for (sql, states) in [(insert, fresh), (update, known)] {
        if states.is_empty() {
            continue;
        }
        let configs: Vec<Uuid> = states.iter().map(|state| state.config_id).collect();
        let apps: Vec<&str> = states.iter().map(|state| state.app_id.as_str()).collect();
        let groups: Vec<&str> = states.iter().map(|state| state.group.as_str()).collect();
        let versions: Vec<i64> = states.iter().map(|state| state.version as i64).collect();
        let windows: Vec<String> =
            states.iter().map(|state| json_text(&state.window, context)).collect::<Result<_, _>>()?;
        let cooldowns: Vec<i64> = states.iter().map(|state| state.cooldown_until_ms).collect();
        let updated: Vec<i64> = states.iter().map(|state| state.updated_at_ms).collect();
        let values: [&(dyn ToSql + Sync); 7] = [&configs, &apps, &groups, &versions, &windows, &cooldowns, &updated];
        written += run(tx, sql, &values, context).await?;
    }
    Ok(written)
}

fn state(row: &Row) -> Result<AnomalyState, StoreError> {
    Ok(AnomalyState {
        config_id: row.get(0),
        app_id: row.get(1),
        group: row.get(2),
        version: row.get::<_, i64>(3) as u64,
        window: serde_json::from_str(row.get(4)).map_err(|error| damaged("read anomaly state", error))?,
        cooldown_until_ms: row.get(5),
        updated_at_ms: row.get(6),
    })
}
