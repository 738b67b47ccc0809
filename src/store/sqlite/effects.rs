//! The effects of a batch of events, committed with the messages that it consumed.

use std::collections::HashMap;

use rusqlite::{Connection, OptionalExtension, ToSql, params};
use uuid::Uuid;

use super::clock::now_ms;
use super::engine::{Engine, Wake};
use super::error::failed;
use super::row::uuid;
use super::{anomalies, deliveries};
use crate::metrics;
use crate::store::delivery::NewDelivery;
use crate::store::effects::{Cause, Effects, OutboxMessage, RecordOutcome};
use crate::store::error::StoreError;

impl Engine {
    pub(in crate::store) async fn consumed(&self, consumer: &str, causes: &[Cause]) -> Result<Vec<Cause>, StoreError> {
        let mut sorted = causes.to_vec();
        sorted.sort_unstable();
        sorted.dedup();
        if sorted.is_empty() {
            return Ok(sorted);
        }
        let consumer = consumer.to_owned();
        self.read("read consumed sequences", move |connection| {
            consumed(connection, &consumer, &sorted).map_err(failed("read consumed sequences"))
        })
        .await
    }

    pub(in crate::store) async fn record_effects(&self, effects: Effects) -> Result<RecordOutcome, StoreError> {
        let due = !effects.deliveries.is_empty() || !effects.outbox.is_empty();
        let wake = if due { Wake::Work } else { Wake::None };
        let (recorded, abandoned) = self
            .write(wake, "record effects", move |connection| {
                match conflict(connection, &effects).map_err(failed("record effects"))? {
                    Some(refused) => Ok((refused, 0)),
                    None => {
                        let abandoned = record(connection, &effects).map_err(failed("record effects"))?;
                        Ok((RecordOutcome::Committed, abandoned))
                    }
                }
            })
            .await?;
        metrics::store_given_up(abandoned);
        Ok(recorded)
    }

    pub(in crate::store) async fn outbox(&self, limit: usize) -> Result<Vec<OutboxMessage>, StoreError> {
        self.read("read outbox", move |connection| {
            let mut statement = connection
                .prepare_cached("SELECT id, subject, payload FROM outbox ORDER BY seq LIMIT ?1")
                .map_err(failed("read outbox"))?;
            let rows = statement.query_map([limit as i64], |row| {
                Ok(OutboxMessage { id: uuid(row.get(0)?), subject: row.get(1)?, payload: row.get(2)? })
            });
            rows.and_then(Iterator::collect).map_err(failed("read outbox"))
        })
        .await
    }

    pub(in crate::store) async fn remove_from_outbox(&self, ids: &[Uuid]) -> Result<(), StoreError> {
        let ids = ids.to_vec();
        self.write(Wake::None, "forget outbox", move |connection| {
            let mut statement =
                connection.prepare_cached("DELETE FROM outbox WHERE id = ?1").map_err(failed("forget outbox"))?;
            for id in ids {
                statement.execute([id.into_bytes()]).map_err(failed("forget outbox"))?;
            }
            Ok(())
        })
        .await
    }
}

/// Why the effects cannot be written, if so. There is one writer, so the answer holds until they are.
fn conflict(connection: &Connection, effects: &Effects) -> rusqlite::Result<Option<RecordOutcome>> {
    let consumed = consumed(connection, &effects.consumer, &effects.causes)?;
    let mut states = Vec::new();
    let mut moved = false;
    for written in &effects.anomaly_states {
        let stored = anomalies::find_state(connection, written)?;
        moved |= stored.as_ref().map_or(0, |stored| stored.version) != written.version;
        states.extend(stored);
    }
    Ok((moved || !consumed.is_empty()).then_some(RecordOutcome::Conflict { consumed, states }))
}

/// The causes whose effects are committed.
fn consumed(connection: &Connection, consumer: &str, causes: &[Cause]) -> rusqlite::Result<Vec<Cause>> {
    let mut entries = connection.prepare_cached(
        "SELECT sequence, published_at_ms FROM consumed_up_to WHERE consumer = ?1
         UNION ALL SELECT floor, 9223372036854775807 FROM consumer_floors WHERE consumer = ?1",
    )?;
    let entries = entries.query_map([consumer], |row| Ok((row.get::<_, i64>(0)? as u64, row.get::<_, i64>(1)?)))?;
    let entries: Vec<(u64, i64)> = entries.collect::<Result<_, _>>()?;
    let mut find = connection.prepare_cached(
        "SELECT 1 FROM consumed WHERE consumer = ?1 AND sequence = ?2 AND published_at_ms IN (?3, -1)",
    )?;
    let mut found = Vec::new();
    for cause in causes {
        let covered = |(to, at): &(u64, i64)| cause.sequence <= *to && cause.published_at_ms <= *at;
        if entries.iter().any(covered)
            || find.exists(params![consumer, cause.sequence as i64, cause.published_at_ms])?
        {
            found.push(*cause);
        }
    }
    Ok(found)
}

/// Returns how many deliveries were abandoned for the new ones.
fn record(connection: &Connection, effects: &Effects) -> rusqlite::Result<u64> {
    let mut mark =
        connection.prepare_cached("INSERT INTO consumed (consumer, sequence, published_at_ms) VALUES (?1, ?2, ?3)")?;
    for cause in &effects.causes {
        mark.execute(params![effects.consumer, cause.sequence as i64, cause.published_at_ms])?;
    }
    if let Some(acknowledged) = effects.acknowledged {
        merge_consumed(connection, &effects.consumer, acknowledged)?;
    }
    let now = now_ms();
    let mut known: HashMap<Uuid, Option<bool>> = HashMap::new();
    for delivery in &effects.deliveries {
        let enabled = match known.get(&delivery.webhook_id) {
            Some(enabled) => *enabled,
            None => *known.entry(delivery.webhook_id).or_insert(webhook_enabled(connection, delivery.webhook_id)?),
        };
        insert_delivery(connection, delivery, enabled.is_some(), now)?;
    }
    let mut abandoned = 0;
    if let Some(backlog_max) = effects.backlog_max {
        for (webhook, _) in known.iter().filter(|(_, enabled)| **enabled == Some(false)) {
            abandoned += deliveries::delete_beyond_limit(connection, *webhook, backlog_max)?;
        }
    }
    for event in &effects.anomaly_events {
        anomalies::insert_event(connection, event)?;
    }
    for state in &effects.anomaly_states {
        anomalies::put_state(connection, state)?;
    }
    let mut owe = connection.prepare_cached("INSERT INTO outbox (id, subject, payload) VALUES (?1, ?2, ?3)")?;
    for message in &effects.outbox {
        owe.execute(params![message.id.into_bytes(), message.subject, message.payload])?;
    }
    Ok(abandoned)
}

/// Merges acknowledged records into one. A record further ahead stays: it covers messages that the stream has since
/// lost, and whose sequences it reuses.
fn merge_consumed(connection: &Connection, consumer: &str, acknowledged: Cause) -> rusqlite::Result<()> {
    let (floor, known_ms) = (acknowledged.sequence as i64, acknowledged.published_at_ms);
    let run = |sql, values: &[&dyn ToSql]| connection.prepare_cached(sql)?.execute(values);
    let mut latest = connection.prepare_cached(
        "SELECT max(published_at_ms) FROM consumed WHERE consumer = ?1 AND sequence <= ?2 AND published_at_ms <= ?3",
    )?;
    let latest: Option<i64> = latest.query_row(params![consumer, floor, known_ms], |row| row.get(0))?;
    let Some(latest) = latest else { return Ok(()) };
    if latest < 0 {
        // An earlier version recorded them.
        let raise = "INSERT INTO consumer_floors (consumer, floor) VALUES (?1, ?2)
                     ON CONFLICT (consumer) DO UPDATE SET floor = max(floor, excluded.floor)";
        run(raise, &[&consumer, &floor])?;
    } else {
        run("DELETE FROM consumer_floors WHERE consumer = ?1 AND floor <= ?2", &[&consumer, &floor])?;
        let passed = "DELETE FROM consumed_up_to WHERE consumer = ?1 AND sequence <= ?2 AND published_at_ms <= ?3";
        run(passed, &[&consumer, &floor, &latest])?;
        let enter = "INSERT INTO consumed_up_to (consumer, sequence, published_at_ms) SELECT ?1, ?2, ?3 WHERE NOT EXISTS (
                         SELECT 1 FROM consumed_up_to WHERE consumer = ?1 AND sequence >= ?2 AND published_at_ms >= ?3)";
        run(enter, &[&consumer, &floor, &latest])?;
    }
    let delete = "DELETE FROM consumed WHERE consumer = ?1 AND sequence <= ?2 AND published_at_ms <= ?3";
    run(delete, &[&consumer, &floor, &latest]).map(drop)
}

/// `None` if there is no such webhook.
fn webhook_enabled(connection: &Connection, id: Uuid) -> rusqlite::Result<Option<bool>> {
    let mut statement = connection.prepare_cached("SELECT enabled FROM webhooks WHERE id = ?1")?;
    statement.query_row([id.into_bytes()], |row| row.get(0)).optional()
}

/// If a webhook was deleted since its rule was compiled, the delivery is cancelled instead of waiting forever.
fn insert_delivery(connection: &Connection, new: &NewDelivery, webhook: bool, now: i64) -> rusqlite::Result<()> {
    let mut statement = connection.prepare_cached(
        "INSERT INTO deliveries (id, webhook_id, rule_id, anomaly_config_id, event_id, payload, status, attempts,
             max_attempts, due_at, last_error, created_at, finished_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, 0, ?8, ?9, ?10, ?11, ?12)",
    )?;
    statement.execute(params![
        new.id.into_bytes(),
        new.webhook_id.into_bytes(),
        new.rule_id.map(Uuid::into_bytes),
        new.anomaly_config_id.map(Uuid::into_bytes),
        new.event_id,
        new.payload.get(),
        if webhook { "pending" } else { "cancelled" },
        new.max_attempts,
        webhook.then_some(now),
        (!webhook).then_some("webhook was deleted"),
        now,
        (!webhook).then_some(now),
    ])?;
    Ok(())
}
