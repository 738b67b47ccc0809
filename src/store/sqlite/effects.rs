//! What a batch of events caused, committed with the sequences that it consumed.

use std::collections::HashMap;

use rusqlite::{Connection, OptionalExtension, params};
use uuid::Uuid;

use super::{Engine, Wake, anomalies, deliveries, failed, now_ms, uuid};
use crate::metrics;
use crate::store::{Effects, NewDelivery, OutboxMessage, Recorded, StoreError};

impl Engine {
    pub(in crate::store) async fn consumed(&self, consumer: &str, sequences: &[u64]) -> Result<Vec<u64>, StoreError> {
        let mut asked = sequences.to_vec();
        asked.sort_unstable();
        let (Some(first), Some(last)) = (asked.first(), asked.last()) else { return Ok(Vec::new()) };
        let (consumer, first, last) = (consumer.to_owned(), *first as i64, *last as i64);
        let sql = "SELECT sequence FROM consumed WHERE consumer = ?1 AND sequence BETWEEN ?2 AND ?3 ORDER BY sequence";
        let (recorded, floor): (Vec<u64>, u64) = self
            .read("read consumed sequences", move |connection| {
                let mut statement = connection.prepare_cached(sql).map_err(failed("read consumed sequences"))?;
                let rows = statement.query_map(params![consumer, first, last], |row| row.get::<_, i64>(0));
                let rows: Result<Vec<u64>, _> =
                    rows.and_then(|rows| rows.map(|row| row.map(|sequence| sequence as u64)).collect());
                let floor = floor(connection, &consumer).map_err(failed("read consumed sequences"))?;
                Ok((rows.map_err(failed("read consumed sequences"))?, floor))
            })
            .await?;
        asked.retain(|sequence| *sequence <= floor || recorded.binary_search(sequence).is_ok());
        Ok(asked)
    }

    pub(in crate::store) async fn record_effects(&self, effects: Effects) -> Result<Recorded, StoreError> {
        let due = !effects.deliveries.is_empty() || !effects.outbox.is_empty();
        let wake = if due { Wake::Work } else { Wake::Nobody };
        let (recorded, given_up) = self
            .write(wake, "record effects", move |connection| {
                match refusal(connection, &effects).map_err(failed("record effects"))? {
                    Some(refused) => Ok((refused, 0)),
                    None => {
                        let given_up = record(connection, &effects).map_err(failed("record effects"))?;
                        Ok((Recorded::Committed, given_up))
                    }
                }
            })
            .await?;
        metrics::store_given_up(given_up);
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

    pub(in crate::store) async fn forget_outbox(&self, ids: &[Uuid]) -> Result<(), StoreError> {
        let ids = ids.to_vec();
        self.write(Wake::Nobody, "forget outbox", move |connection| {
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

/// Why the effects cannot be written, if so. There is one writer, so what is found here holds until they are.
fn refusal(connection: &Connection, effects: &Effects) -> rusqlite::Result<Option<Recorded>> {
    let mut find = connection.prepare_cached("SELECT 1 FROM consumed WHERE consumer = ?1 AND sequence = ?2")?;
    let mut consumed = Vec::new();
    let floor = floor(connection, &effects.consumer)?;
    for sequence in &effects.sequences {
        if *sequence <= floor || find.exists(params![effects.consumer, *sequence as i64])? {
            consumed.push(*sequence);
        }
    }
    let mut states = Vec::new();
    let mut moved = false;
    for written in &effects.anomaly_states {
        let stored = anomalies::find_state(connection, written)?;
        moved |= stored.as_ref().map_or(0, |stored| stored.version) != written.version;
        states.extend(stored);
    }
    Ok((moved || !consumed.is_empty()).then_some(Recorded::Refused { consumed, states }))
}

/// Up to here everything is consumed.
fn floor(connection: &Connection, consumer: &str) -> rusqlite::Result<u64> {
    let mut find = connection.prepare_cached("SELECT floor FROM consumer_floors WHERE consumer = ?1")?;
    let floor: Option<i64> = find.query_row([consumer], |row| row.get(0)).optional()?;
    Ok(floor.unwrap_or(0) as u64)
}

/// Answers how many deliveries were given up for the new ones.
fn record(connection: &Connection, effects: &Effects) -> rusqlite::Result<u64> {
    let mut mark = connection.prepare_cached("INSERT INTO consumed (consumer, sequence) VALUES (?1, ?2)")?;
    for sequence in &effects.sequences {
        mark.execute(params![effects.consumer, *sequence as i64])?;
    }
    let mut forget = connection.prepare_cached("DELETE FROM consumed WHERE consumer = ?1 AND sequence <= ?2")?;
    if effects.acknowledged_floor > 0 {
        forget.execute(params![effects.consumer, effects.acknowledged_floor as i64])?;
        let mut raise = connection.prepare_cached(
            "INSERT INTO consumer_floors (consumer, floor) VALUES (?1, ?2)
             ON CONFLICT (consumer) DO UPDATE SET floor = max(floor, excluded.floor)",
        )?;
        raise.execute(params![effects.consumer, effects.acknowledged_floor as i64])?;
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
    let mut given_up = 0;
    if let Some(owed_max) = effects.owed_max {
        for (webhook, _) in known.iter().filter(|(_, enabled)| **enabled == Some(false)) {
            given_up += deliveries::give_up_beyond(connection, *webhook, owed_max)?;
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
    Ok(given_up)
}

/// None when there is no such webhook.
fn webhook_enabled(connection: &Connection, id: Uuid) -> rusqlite::Result<Option<bool>> {
    let mut statement = connection.prepare_cached("SELECT enabled FROM webhooks WHERE id = ?1")?;
    statement.query_row([id.into_bytes()], |row| row.get(0)).optional()
}

/// A webhook that was deleted since its rule was compiled leaves a cancelled delivery behind, not one that waits forever.
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
