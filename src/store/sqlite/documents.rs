//! Documents: webhooks, rules and anomaly configs, which call webhooks.
//!
//! Invariants: `webhook_uses` holds exactly the webhooks that stored documents name, by id; secrets are sealed in the
//! file.

use jiff::Timestamp;
use rusqlite::types::{ToSqlOutput, Value, ValueRef};
use rusqlite::{Connection, ToSql, params, params_from_iter};
use uuid::Uuid;

use super::clock::now_ms;
use super::deliveries;
use super::engine::{Engine, Wake};
use super::error::{damaged, failed};
use super::names::{find, refuse_taken};
use super::row::{timestamp, uuid};
use crate::store::audit::Change;
use crate::store::cursor;
use crate::store::documents::{self, Cell, Document, DocumentFaults, Faults, NewWebhook, Row};
use crate::store::error::{StoreError, StoreErrorKind};
use crate::store::page::{Page, PageRequest};
use crate::store::secrets::Sealer;

impl Engine {
    pub(in crate::store) async fn create<D: Document>(&self, new: D) -> Result<D::Stored, StoreError> {
        let (sealer, auditor) = (self.0.sealer.clone(), self.auditor());
        self.write(Wake::Changes, "create document", move |connection| {
            let stored = create(connection, &sealer, new)?;
            auditor.record(connection, || Change::created(&stored))?;
            Ok(stored)
        })
        .await
    }

    pub(in crate::store) async fn find<D: Document>(&self, key: &str) -> Result<Option<D::Stored>, StoreError> {
        let (key, sealer) = (key.to_owned(), self.0.sealer.clone());
        self.read("read document", move |connection| match find(connection, D::TABLE, &key)? {
            Some(id) => get::<D>(connection, &sealer, id),
            None => Ok(None),
        })
        .await
    }

    pub(in crate::store) async fn list<D: Document>(&self, page: PageRequest) -> Result<Page<D::Stored>, StoreError> {
        let after = cursor::after::<[u8; 16]>(D::LIST, &page)?;
        let sealer = self.0.sealer.clone();
        self.read("list documents", move |connection| {
            let first = after.as_ref().map_or(&[][..], |id| &id[..]);
            let rest = "WHERE d.id > ?1 ORDER BY d.id LIMIT ?2";
            let rows = rows::<D>(connection, rest, params![first, page.limit as i64 + 1])?;
            let read = |row: Row| Ok((row.id.into_bytes(), D::read(&row, Some(&sealer))?));
            let documents = rows.into_iter().map(read).collect::<Result<Vec<_>, StoreError>>()?;
            Ok(cursor::page(D::LIST, &page, documents))
        })
        .await
    }

    pub(in crate::store) async fn replace<D: Document>(
        &self,
        key: &str,
        new: D,
        as_of: Option<Timestamp>,
    ) -> Result<D::Stored, StoreError> {
        let (key, sealer, auditor) = (key.to_owned(), self.0.sealer.clone(), self.auditor());
        let wake = if D::HOLDS_DELIVERIES { Wake::Both } else { Wake::Changes };
        self.write(wake, "replace document", move |connection| {
            let before = auditor.before(|| match find(connection, D::TABLE, &key)? {
                Some(id) => readable(get::<D>(connection, &sealer, id)),
                None => Ok(None),
            })?;
            let stored = replace(connection, &sealer, &key, new, as_of)?;
            auditor.record(connection, || Change::replaced(before.as_ref(), &stored))?;
            Ok(stored)
        })
        .await
    }

    pub(in crate::store) async fn delete<D: Document>(&self, key: &str) -> Result<bool, StoreError> {
        let (key, sealer, auditor) = (key.to_owned(), self.0.sealer.clone(), self.auditor());
        let context = "delete document";
        self.write(Wake::Changes, context, move |connection| {
            let Some(id) = find(connection, D::TABLE, &key)? else { return Ok(false) };
            let callers = callers(connection, id).map_err(failed(context))?;
            if !callers.is_empty() {
                return Err(StoreError::new(StoreErrorKind::InUse(callers), context));
            }
            let before = auditor.before(|| readable(get::<D>(connection, &sealer, id)))?;
            deliveries::cancel_open_deliveries(connection, id, now_ms()).map_err(failed(context))?;
            for sql in D::delete() {
                connection.execute(&sql, [id.into_bytes()]).map_err(failed(context))?;
            }
            auditor.record(connection, || Change::deleted(id, before.as_ref()))?;
            Ok(true)
        })
        .await
    }

    pub(in crate::store) async fn add_faults(&self, faults: Vec<DocumentFaults>) -> Result<(), StoreError> {
        let context = "add faults";
        self.write(Wake::None, context, move |connection| {
            let mut statement = connection.prepare_cached(&documents::add_faults()).map_err(failed(context))?;
            for DocumentFaults { id, as_of, faults } in &faults {
                let last_at = faults.last_at.map(Timestamp::as_millisecond);
                let row =
                    params![id.into_bytes(), faults.count as i64, last_at, faults.last_error, as_of.as_millisecond()];
                statement.execute(row).map_err(failed(context))?;
            }
            Ok(())
        })
        .await
    }
}

fn delete_faults(connection: &Connection, document: Uuid) -> rusqlite::Result<()> {
    connection.execute("DELETE FROM faults WHERE document_id = ?1", [document.into_bytes()]).map(|_| ())
}

/// The documents that call a webhook.
fn callers(connection: &Connection, webhook: Uuid) -> rusqlite::Result<Vec<String>> {
    let mut statement = connection.prepare_cached(&documents::select_callers())?;
    statement.query_map([webhook.into_bytes()], |row| row.get(0))?.collect()
}

/// A document sealed with a lost key can still be overwritten and deleted.
pub(super) fn readable<T>(read: Result<Option<T>, StoreError>) -> Result<Option<T>, StoreError> {
    match read {
        Err(error) if error.kind == StoreErrorKind::Corrupt => Ok(None),
        read => read,
    }
}

pub(super) fn create<D: Document>(
    connection: &Connection,
    sealer: &Sealer,
    mut new: D,
) -> Result<D::Stored, StoreError> {
    let context = "create document";
    refuse_taken(connection, D::TABLE, new.name(), None)?;
    new.restore_masked_secrets(None)?;
    let webhooks = resolve(connection, &mut new)?;
    let row = Row::new(Uuid::now_v7(), new.name(), timestamp(now_ms()).map_err(failed(context))?);
    let stored = new.stored(&row)?;
    put::<D>(connection, sealer, &row, &stored)?;
    use_webhooks(connection, row.id, &webhooks).map_err(failed(context))?;
    Ok(stored)
}

pub(super) fn get<D: Document>(
    connection: &Connection,
    sealer: &Sealer,
    id: Uuid,
) -> Result<Option<D::Stored>, StoreError> {
    row::<D>(connection, id)?.map(|row| D::read(&row, Some(sealer))).transpose()
}

pub(super) fn replace<D: Document>(
    connection: &Connection,
    sealer: &Sealer,
    key: &str,
    mut new: D,
    as_of: Option<Timestamp>,
) -> Result<D::Stored, StoreError> {
    let context = "replace document";
    let not_found = || StoreError::new(StoreErrorKind::NotFound, context);
    let id = find(connection, D::TABLE, key)?.ok_or_else(not_found)?;
    refuse_taken(connection, D::TABLE, new.name(), Some(id))?;
    let row = row::<D>(connection, id)?.ok_or_else(not_found)?;
    // A document sealed with a lost key can still be overwritten as a whole.
    if new.has_masked_secrets() {
        new.restore_masked_secrets(Some(D::written(&D::read(&row, Some(sealer))?)))?;
    }
    let webhooks = resolve(connection, &mut new)?;
    if as_of.is_some_and(|as_of| as_of.as_millisecond() != row.updated_at.as_millisecond()) {
        return Err(StoreError::new(StoreErrorKind::Changed, context));
    }
    let row = row.next(now_ms())?;
    let stored = new.stored(&row)?;
    put::<D>(connection, sealer, &row, &stored)?;
    use_webhooks(connection, id, &webhooks).and_then(|()| delete_faults(connection, id)).map_err(failed(context))?;
    Ok(stored)
}

/// Writes a new document, or a new version of one.
pub(super) fn put<D: Document>(
    connection: &Connection,
    sealer: &Sealer,
    row: &Row,
    stored: &D::Stored,
) -> Result<(), StoreError> {
    let [created, updated] = [row.created_at, row.updated_at].map(|at| Cell::Integer(at.as_millisecond()));
    let name = Cell::Text(D::written(stored).name().to_owned());
    let values = [Cell::Bytes(row.id.into_bytes().to_vec()), name, created, updated].into_iter();
    let values = params_from_iter(values.chain(D::cells(stored, Some(sealer))?));
    connection.execute(&D::upsert(), values).map(drop).map_err(failed("write document"))
}

fn row<D: Document>(connection: &Connection, id: Uuid) -> Result<Option<Row>, StoreError> {
    Ok(rows::<D>(connection, "WHERE d.id = ?1", [id.into_bytes()])?.pop())
}

/// Reads the rows that the rest of the statement selects.
pub(super) fn rows<D: Document>(
    connection: &Connection,
    rest: &str,
    values: impl rusqlite::Params,
) -> Result<Vec<Row>, StoreError> {
    let read = |row: &rusqlite::Row<'_>| {
        let faults = Faults {
            count: row.get::<_, Option<i64>>(4)?.unwrap_or(0) as u64,
            last_at: row.get::<_, Option<i64>>(5)?.map(timestamp).transpose()?,
            last_error: row.get(6)?,
        };
        let (name, created_at, updated_at) = (row.get(1)?, timestamp(row.get(2)?)?, timestamp(row.get(3)?)?);
        let cells = (7..7 + D::COLUMNS.len()).map(|place| cell(row.get_ref(place)?)).collect::<Result<_, _>>()?;
        Ok(Row { id: uuid(row.get(0)?), name, created_at, updated_at, faults, columns: D::COLUMNS, cells })
    };
    let context = "read document";
    let mut statement = connection.prepare_cached(&format!("{} {rest}", D::select())).map_err(failed(context))?;
    statement.query_map(values, read).and_then(Iterator::collect).map_err(failed(context))
}

fn cell(value: ValueRef<'_>) -> rusqlite::Result<Cell> {
    Ok(match value {
        ValueRef::Null => Cell::Null,
        ValueRef::Integer(integer) => Cell::Integer(integer),
        ValueRef::Text(_) => Cell::Text(value.as_str().map_err(damaged)?.to_owned()),
        ValueRef::Blob(bytes) => Cell::Bytes(bytes.to_vec()),
        ValueRef::Real(_) => return Err(damaged("a document has no column of this type")),
    })
}

impl ToSql for Cell {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(match self {
            Self::Null => ToSqlOutput::Owned(Value::Null),
            Self::Bool(bool) => (*bool).into(),
            Self::Integer(integer) => (*integer).into(),
            Self::Text(text) => text.as_str().into(),
            Self::Bytes(bytes) => bytes.as_slice().into(),
        })
    }
}

/// Replaces names by ids in place and removes duplicates.
fn resolve<D: Document>(connection: &Connection, new: &mut D) -> Result<Vec<Uuid>, StoreError> {
    let Some(actions) = new.actions_mut() else { return Ok(Vec::new()) };
    let (mut ids, mut unknown) = (Vec::with_capacity(actions.webhooks.len()), Vec::new());
    for (index, key) in actions.webhooks.iter().enumerate() {
        match find(connection, NewWebhook::TABLE, key)? {
            None => unknown.push(index),
            Some(id) if ids.contains(&id) => {}
            Some(id) => ids.push(id),
        }
    }
    if !unknown.is_empty() {
        return Err(StoreError::new(StoreErrorKind::UnknownWebhooks { indexes: unknown }, "find webhook"));
    }
    actions.webhooks = ids.iter().map(Uuid::to_string).collect();
    Ok(ids)
}

fn use_webhooks(connection: &Connection, user: Uuid, webhooks: &[Uuid]) -> rusqlite::Result<()> {
    connection.execute("DELETE FROM webhook_uses WHERE user_id = ?1", [user.into_bytes()])?;
    for webhook in webhooks {
        connection.execute(
            "INSERT INTO webhook_uses (webhook_id, user_id) VALUES (?1, ?2)",
            [webhook.into_bytes(), user.into_bytes()],
        )?;
    }
    Ok(())
}
