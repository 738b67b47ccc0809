//! Documents: webhooks, rules and anomaly configs, which call webhooks.
//!
//! Invariants: `webhook_uses` holds exactly the webhooks that stored documents name, by id; secrets are sealed in the
//! database.

use std::error::Error;

use jiff::Timestamp;
use tokio_postgres::types::private::BytesMut;
use tokio_postgres::types::{FromSql, IsNull, ToSql, Type, to_sql_checked};
use uuid::Uuid;

use super::client::Client;
use super::engine::Ending::{Commit, Rollback};
use super::engine::Engine;
use super::error::failed;
use super::names::{find, name_taken, refuse_taken};
use super::row::timestamp;
use super::wake::Wake;
use crate::store::audit::Change;
use crate::store::cursor;
use crate::store::documents::{self, Cell, Document, DocumentFaults, Faults, NewWebhook, Row};
use crate::store::error::{StoreError, StoreErrorKind};
use crate::store::page::{Page, PageRequest};

impl Engine {
    pub(in crate::store) async fn create<D: Document>(&self, new: D) -> Result<D::Stored, StoreError> {
        self.transact("create document", async |tx| {
            let stored = self.create_on(&tx, new.clone()).await?;
            self.record_change(&tx, || Change::created(&stored)).await?;
            Ok(Commit(stored, Wake::Changes))
        })
        .await
    }

    pub(in crate::store) async fn find<D: Document>(&self, key: &str) -> Result<Option<D::Stored>, StoreError> {
        self.run("read document", async |client| match find(&client, D::TABLE, key, "").await? {
            Some(id) => self.get_on::<D>(&client, id).await,
            None => Ok(None),
        })
        .await
    }

    pub(in crate::store) async fn list<D: Document>(&self, page: PageRequest) -> Result<Page<D::Stored>, StoreError> {
        let after = cursor::after::<[u8; 16]>(D::LIST, &page)?.map(Uuid::from_bytes);
        self.run("list documents", async |client| {
            let rest = "WHERE $1::uuid IS NULL OR d.id > $1 ORDER BY d.id LIMIT $2";
            let rows = rows::<D>(&client, rest, &[&after, &(page.limit as i64 + 1)]).await?;
            let read = |row: Row| Ok((row.id.into_bytes(), self.read_row::<D>(&row)?));
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
        self.transact("replace document", async |tx| {
            let before = match find(&tx, D::TABLE, key, "FOR UPDATE").await? {
                Some(id) => self.audited_before::<D>(&tx, id).await?,
                None => None,
            };
            let stored = self.replace_on(&tx, key, new.clone(), as_of).await?;
            self.record_change(&tx, || Change::replaced(before.as_ref(), &stored)).await?;
            Ok(Commit(stored, if D::HOLDS_DELIVERIES { Wake::Both } else { Wake::Changes }))
        })
        .await
    }

    pub(in crate::store) async fn delete<D: Document>(&self, key: &str) -> Result<bool, StoreError> {
        let context = "delete document";
        self.transact(context, async |tx| {
            // Waits for transactions that are about to insert a delivery to a webhook or to use it.
            let Some(id) = find(&tx, D::TABLE, key, "FOR UPDATE").await? else { return Ok(Rollback(false)) };
            let callers = tx.query(&documents::select_callers(), &[&id]).await.map_err(failed(context))?;
            if !callers.is_empty() {
                let callers = callers.iter().map(|row| row.get(0)).collect();
                return Err(StoreError::new(StoreErrorKind::InUse(callers), context));
            }
            let before = self.audited_before::<D>(&tx, id).await?;
            self.record_change(&tx, || Change::deleted(id, before.as_ref())).await?;
            let cancel = "UPDATE deliveries SET status = 'cancelled', due_at = NULL, finished_at = causality_now_ms(),
                              last_error = 'webhook was deleted'
                          WHERE webhook_id = $1 AND due_at IS NOT NULL";
            for sql in [cancel.to_owned()].into_iter().chain(D::delete()) {
                tx.execute(&sql, &[&id]).await.map_err(failed(context))?;
            }
            Ok(Commit(true, Wake::Changes))
        })
        .await
    }

    pub(in crate::store) async fn add_faults(&self, faults: Vec<DocumentFaults>) -> Result<(), StoreError> {
        let context = "add faults";
        let mut faults = faults;
        // Always in the same order, so that two processes do not deadlock.
        faults.sort_by_key(|of| of.id);
        let faults = &faults;
        self.transact(context, async |tx| {
            let sql = documents::add_faults();
            for DocumentFaults { id, as_of, faults } in faults {
                let last_at = faults.last_at.map(Timestamp::as_millisecond);
                let (count, as_of) = (faults.count as i64, as_of.as_millisecond());
                tx.execute(&sql, &[id, &count, &last_at, &faults.last_error, &as_of]).await.map_err(failed(context))?;
            }
            Ok(Commit((), Wake::None))
        })
        .await
    }

    pub(super) async fn create_on<D: Document>(&self, client: &Client, mut new: D) -> Result<D::Stored, StoreError> {
        refuse_taken(client, D::TABLE, new.name(), None).await?;
        new.restore_masked_secrets(None)?;
        let webhooks = resolve(client, &mut new).await?;
        let row = Row::new(Uuid::now_v7(), new.name(), timestamp(now(client).await?)?);
        let stored = new.stored(&row)?;
        self.put::<D>(client, &row, &stored).await?;
        use_webhooks(client, row.id, &webhooks).await?;
        Ok(stored)
    }

    pub(super) async fn get_on<D: Document>(&self, client: &Client, id: Uuid) -> Result<Option<D::Stored>, StoreError> {
        row::<D>(client, id).await?.map(|row| self.read_row::<D>(&row)).transpose()
    }

    pub(super) fn read_row<D: Document>(&self, row: &Row) -> Result<D::Stored, StoreError> {
        D::read(row, self.0.sealer.as_ref())
    }

    /// The previous version for the audit record; `None` if changes are not recorded.
    async fn audited_before<D: Document>(&self, client: &Client, id: Uuid) -> Result<Option<D::Stored>, StoreError> {
        if !self.is_audited() {
            return Ok(None);
        }
        readable(self.get_on::<D>(client, id).await)
    }

    pub(super) async fn replace_on<D: Document>(
        &self,
        client: &Client,
        key: &str,
        mut new: D,
        as_of: Option<Timestamp>,
    ) -> Result<D::Stored, StoreError> {
        let context = "replace document";
        let not_found = || StoreError::new(StoreErrorKind::NotFound, context);
        let id = find(client, D::TABLE, key, "FOR UPDATE").await?.ok_or_else(not_found)?;
        refuse_taken(client, D::TABLE, new.name(), Some(id)).await?;
        let row = row::<D>(client, id).await?.ok_or_else(not_found)?;
        // A document sealed with a lost key can still be overwritten as a whole.
        if new.has_masked_secrets() {
            new.restore_masked_secrets(Some(D::written(&self.read_row::<D>(&row)?)))?;
        }
        let webhooks = resolve(client, &mut new).await?;
        if as_of.is_some_and(|as_of| as_of.as_millisecond() != row.updated_at.as_millisecond()) {
            return Err(StoreError::new(StoreErrorKind::Changed, context));
        }
        let row = row.next(now(client).await?)?;
        let stored = new.stored(&row)?;
        self.put::<D>(client, &row, &stored).await?;
        use_webhooks(client, id, &webhooks).await?;
        delete_faults(client, id).await?;
        Ok(stored)
    }

    /// Writes a new document, or a new version of one.
    pub(super) async fn put<D: Document>(
        &self,
        client: &Client,
        row: &Row,
        stored: &D::Stored,
    ) -> Result<(), StoreError> {
        let name = D::written(stored).name();
        let (created, updated) = (row.created_at.as_millisecond(), row.updated_at.as_millisecond());
        let cells = D::cells(stored, self.0.sealer.as_ref())?;
        let mut values: Vec<&(dyn ToSql + Sync)> = vec![&row.id, &name, &created, &updated];
        values.extend(cells.iter().map(|cell| cell as &(dyn ToSql + Sync)));
        client.execute(&D::upsert(), &values).await.map(drop).map_err(name_taken("write document"))
    }
}

async fn delete_faults(client: &Client, document: Uuid) -> Result<(), StoreError> {
    let sql = "DELETE FROM faults WHERE document_id = $1";
    client.execute(sql, &[&document]).await.map(|_| ()).map_err(failed("forget faults"))
}

/// A document sealed with a lost key can still be overwritten and deleted.
pub(super) fn readable<T>(read: Result<Option<T>, StoreError>) -> Result<Option<T>, StoreError> {
    match read {
        Err(error) if matches!(error.kind, StoreErrorKind::Corrupt | StoreErrorKind::Refused) => Ok(None),
        read => read,
    }
}

async fn row<D: Document>(client: &Client, id: Uuid) -> Result<Option<Row>, StoreError> {
    Ok(rows::<D>(client, "WHERE d.id = $1", &[&id]).await?.pop())
}

/// Reads the rows that the rest of the statement selects.
pub(super) async fn rows<D: Document>(
    client: &Client,
    rest: &str,
    values: &[&(dyn ToSql + Sync)],
) -> Result<Vec<Row>, StoreError> {
    let read = |row: &tokio_postgres::Row| {
        let faults = Faults {
            count: row.get::<_, Option<i64>>(4).unwrap_or(0) as u64,
            last_at: row.get::<_, Option<i64>>(5).map(timestamp).transpose()?,
            last_error: row.get(6),
        };
        let (created_at, updated_at) = (timestamp(row.get(2))?, timestamp(row.get(3))?);
        let cells = (7..7 + D::COLUMNS.len()).map(|place| row.get(place)).collect();
        Ok(Row { id: row.get(0), name: row.get(1), created_at, updated_at, faults, columns: D::COLUMNS, cells })
    };
    let rows = client.query(&format!("{} {rest}", D::select()), values).await.map_err(failed("read document"))?;
    rows.iter().map(read).collect()
}

async fn now(client: &Client) -> Result<i64, StoreError> {
    let row = client.query_one("SELECT causality_now_ms()", &[]).await.map_err(failed("read clock"))?;
    Ok(row.get(0))
}

type Conversion<T> = Result<T, Box<dyn Error + Sync + Send>>;

fn is_cell(column: &Type) -> bool {
    [Type::BOOL, Type::INT8, Type::TEXT, Type::BYTEA].contains(column)
}

impl ToSql for Cell {
    fn to_sql(&self, column: &Type, out: &mut BytesMut) -> Conversion<IsNull> {
        match self {
            Self::Null => Ok(IsNull::Yes),
            Self::Bool(bool) => bool.to_sql(column, out),
            Self::Integer(integer) => integer.to_sql(column, out),
            Self::Text(text) => text.to_sql(column, out),
            Self::Bytes(bytes) => bytes.to_sql(column, out),
        }
    }

    fn accepts(column: &Type) -> bool {
        is_cell(column)
    }

    to_sql_checked!();
}

impl<'a> FromSql<'a> for Cell {
    fn from_sql(column: &Type, raw: &'a [u8]) -> Conversion<Self> {
        match *column {
            Type::BOOL => bool::from_sql(column, raw).map(Self::Bool),
            Type::INT8 => i64::from_sql(column, raw).map(Self::Integer),
            Type::TEXT => String::from_sql(column, raw).map(Self::Text),
            _ => Vec::from_sql(column, raw).map(Self::Bytes),
        }
    }

    fn from_sql_null(_: &Type) -> Conversion<Self> {
        Ok(Self::Null)
    }

    fn accepts(column: &Type) -> bool {
        is_cell(column)
    }
}

/// Replaces names by ids in place and removes duplicates. The webhooks are locked until the commit.
async fn resolve<D: Document>(client: &Client, new: &mut D) -> Result<Vec<Uuid>, StoreError> {
    let Some(actions) = new.actions_mut() else { return Ok(Vec::new()) };
    let (mut ids, mut unknown) = (Vec::with_capacity(actions.webhooks.len()), Vec::new());
    for (index, key) in actions.webhooks.iter().enumerate() {
        match find(client, NewWebhook::TABLE, key, "FOR KEY SHARE").await? {
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

async fn use_webhooks(client: &Client, user: Uuid, webhooks: &[Uuid]) -> Result<(), StoreError> {
    let context = "note used webhooks";
    client.execute("DELETE FROM webhook_uses WHERE user_id = $1", &[&user]).await.map_err(failed(context))?;
    if !webhooks.is_empty() {
        let sql = "INSERT INTO webhook_uses (webhook_id, user_id) SELECT unnest($1::uuid[]), $2";
        client.execute(sql, &[&webhooks, &user]).await.map_err(failed(context))?;
    }
    Ok(())
}
