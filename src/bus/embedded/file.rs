//! The file `bus.db`: its schema, its lock, the checks on opening, and reading groups.
//!
//! Invariant: a group is returned only if its checksum matches. Knows nothing of who reads or writes when.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rusqlite::blob::ZeroBlob;
use rusqlite::{Connection, MAIN_DB, OptionalExtension, Row, ToSql, params};
use uuid::Uuid;

use super::consumer::position::Position;
use super::group::{self, Draft, Group};
use super::pack::{self, Packed, Packer};
use crate::base::sqlite::{self, DirectoryLock, Fault, FileError};
use crate::bus::{BusError, BusErrorKind};

const FILE_NAME: &str = "bus.db";
const LOCK_NAME: &str = "bus.lock";
/// Large pages suit rows of many kilobytes: fewer overflow pages, fewer frames in the log.
const PAGE_BYTES: u32 = 16 << 10;
/// Identifies the file as ours (`cbus`).
const APPLICATION_ID: i64 = 0x6362_7573;
const SCHEMA_VERSION: i64 = 2;
/// The version whose groups were never compressed.
const SCHEMA_VERSION_PLAIN: i64 = 1;
/// Bytes of the newest groups whose checksums are verified on opening.
const VERIFIED_BYTES_MAX: usize = 16 << 20;
/// Larger groups are written directly into the pages of their row.
const STREAMED_BYTES_MIN: usize = 64 << 10;

const SCHEMA: &str = "
CREATE TABLE stream(id TEXT NOT NULL) STRICT;
CREATE TABLE groups(
    first_sequence INTEGER PRIMARY KEY,
    count INTEGER NOT NULL,
    published_at_ms INTEGER NOT NULL,
    checksum INTEGER NOT NULL,
    keys BLOB NOT NULL,
    raw_bytes INTEGER NOT NULL,
    data BLOB NOT NULL
) STRICT;
CREATE TABLE consumers(
    name TEXT PRIMARY KEY,
    filter TEXT NOT NULL,
    ack_floor INTEGER NOT NULL,
    high INTEGER NOT NULL,
    settled BLOB NOT NULL,
    counts BLOB NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE dead_letters(
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    consumer TEXT NOT NULL,
    subject TEXT NOT NULL,
    sequence INTEGER NOT NULL,
    reason TEXT NOT NULL,
    delivery_count INTEGER NOT NULL,
    published_at_ms INTEGER NOT NULL,
    dead_at_ms INTEGER NOT NULL,
    payload BLOB NOT NULL
) STRICT;
CREATE INDEX dead_letters_by_age ON dead_letters(dead_at_ms);
CREATE TABLE dedup_runs(
    run INTEGER PRIMARY KEY,
    newest_s INTEGER NOT NULL,
    last_sequence INTEGER NOT NULL,
    fences BLOB NOT NULL,
    filter BLOB NOT NULL
) STRICT;
CREATE TABLE dedup_blocks(id INTEGER PRIMARY KEY, keys BLOB NOT NULL) STRICT;
";

const GROUP_COLUMNS: &str = "first_sequence, count, published_at_ms, checksum, keys, raw_bytes, data";

pub(super) fn path(dir: &Path) -> PathBuf {
    dir.join(FILE_NAME)
}

pub(super) fn lock_path(dir: &Path) -> PathBuf {
    dir.join(LOCK_NAME)
}

/// Takes the directory for this process, and creates it if it is missing.
pub(super) fn lock(dir: &Path) -> Result<DirectoryLock, BusError> {
    let in_use = format!("{} is in use by another process of this product", dir.display());
    DirectoryLock::take(dir, LOCK_NAME, in_use)
        .map_err(|text| BusError::caused(BusErrorKind::Unavailable, "lock bus directory", text))
}

/// Opens the file for the writer, creates it if necessary, and verifies its end.
pub(super) fn open(path: &Path) -> Result<Connection, BusError> {
    let error = |context, error| failure(path, context, error);
    let connection = sqlite::open_writer_with_pages(path, PAGE_BYTES).map_err(|cause| error("open bus file", cause))?;
    let prepared = prepare(&connection).map_err(|cause| error("prepare bus file", cause))?;
    if let Err(found) = prepared {
        return Err(BusError::caused(BusErrorKind::Invalid, "open bus file", format!("{}: {found}", path.display())));
    }
    verify_end(&connection, path)?;
    Ok(connection)
}

/// Whether deleted data is overwritten everywhere, or only where that is free.
pub(super) fn erasing(connection: &Connection, everywhere: bool) -> rusqlite::Result<()> {
    let sql = if everywhere { "PRAGMA secure_delete = ON" } else { "PRAGMA secure_delete = FAST" };
    connection.query_row(sql, [], |_| Ok(()))
}

fn prepare(connection: &Connection) -> rusqlite::Result<Result<(), String>> {
    // The checkpointer runs checkpoints: one in the middle of a commit would block publishers.
    connection.pragma_update(None, "wal_autocheckpoint", 0)?;
    // A group is written in its commit, and none of its pages twice.
    connection.pragma_update(None, "cache_spill", false)?;
    // Deleted data is overwritten where its page is written anyway.
    erasing(connection, false)?;
    let pragma = |name| connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
    let (application, version) = (pragma("application_id")?, pragma("user_version")?);
    if application == APPLICATION_ID && version == SCHEMA_VERSION {
        return Ok(Ok(()));
    }
    if application == APPLICATION_ID && version == SCHEMA_VERSION_PLAIN {
        connection.execute_batch(&format!(
            "BEGIN IMMEDIATE; ALTER TABLE groups ADD COLUMN raw_bytes INTEGER NOT NULL DEFAULT 0;
             PRAGMA user_version={SCHEMA_VERSION}; COMMIT"
        ))?;
        return Ok(Ok(()));
    }
    let tables: i64 = connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    if application != 0 || version != 0 || tables != 0 {
        return Ok(Err(format!(
            "not a bus file of version {SCHEMA_VERSION} (application {application:#x}, version {version})"
        )));
    }
    connection.execute_batch(&format!(
        "BEGIN IMMEDIATE; {SCHEMA} INSERT INTO stream VALUES ('{}'); PRAGMA application_id={APPLICATION_ID}; PRAGMA user_version={SCHEMA_VERSION}; COMMIT",
        Uuid::now_v7()
    ))?;
    Ok(Ok(()))
}

/// The stream id, assigned when the file was created.
pub(super) fn stream_id(connection: &Connection) -> rusqlite::Result<String> {
    connection.query_row("SELECT id FROM stream", [], |row| row.get(0))
}

/// Verifies the newest groups: a crash or a failing disk would have damaged those.
fn verify_end(connection: &Connection, path: &Path) -> Result<(), BusError> {
    let sql = format!("SELECT {GROUP_COLUMNS} FROM groups ORDER BY first_sequence DESC");
    let mut next: Option<u64> = None;
    let mut bytes = 0;
    let mut check = || -> rusqlite::Result<Result<(), BusError>> {
        let mut statement = connection.prepare(&sql)?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let group = match read_group(row)? {
                Ok(group) => group,
                Err(damage) => return Ok(Err(corrupt(path, "verify newest groups", damage))),
            };
            if next.is_some_and(|next| next != group.last_sequence() + 1) {
                let gap = format!("messages after sequence {} are missing", group.last_sequence());
                return Ok(Err(corrupt(path, "verify newest groups", gap)));
            }
            next = Some(group.first_sequence);
            bytes += group.bytes();
            if bytes >= VERIFIED_BYTES_MAX {
                break;
            }
        }
        Ok(Ok(()))
    };
    check().map_err(|error| failure(path, "verify newest groups", error))?
}

/// The first and the last stored sequence; `None` when nothing is stored.
pub(super) fn bounds(connection: &Connection) -> rusqlite::Result<Option<(u64, u64)>> {
    let first: Option<u64> = connection
        .prepare_cached("SELECT first_sequence FROM groups ORDER BY first_sequence LIMIT 1")?
        .query_row([], |row| row.get(0))
        .optional()?;
    let last = connection
        .prepare_cached("SELECT first_sequence + count - 1 FROM groups ORDER BY first_sequence DESC LIMIT 1")?
        .query_row([], |row| row.get(0))
        .optional()?;
    Ok(first.zip(last))
}

/// Bytes of free pages.
pub(super) fn free_bytes(connection: &Connection) -> rusqlite::Result<u64> {
    let pages: u64 = connection.prepare_cached("PRAGMA freelist_count")?.query_row([], |row| row.get(0))?;
    Ok(pages * u64::from(PAGE_BYTES))
}

/// Bytes of pages in use; pages on the free list count as room.
pub(super) fn used_bytes(connection: &Connection) -> rusqlite::Result<u64> {
    let pragma = |sql| connection.prepare_cached(sql)?.query_row([], |row| row.get::<_, u64>(0));
    let pages = pragma("PRAGMA page_count")?.saturating_sub(pragma("PRAGMA freelist_count")?);
    Ok(pages * u64::from(PAGE_BYTES))
}

/// The group that contains `sequence`, or the first one after it, and those that follow, up to `bytes_max`.
pub(super) fn read_groups(
    connection: &Connection,
    path: &Path,
    sequence: u64,
    bytes_max: usize,
) -> Result<VecDeque<Arc<Group>>, BusError> {
    let sql = format!(
        "SELECT {GROUP_COLUMNS} FROM groups WHERE first_sequence >= coalesce(
            (SELECT max(first_sequence) FROM groups WHERE first_sequence <= ?1), 0) ORDER BY first_sequence"
    );
    let mut groups = VecDeque::new();
    let mut bytes = 0;
    let mut read = || -> rusqlite::Result<Result<(), String>> {
        let mut statement = connection.prepare_cached(&sql)?;
        let mut rows = statement.query([sequence])?;
        while let Some(row) = rows.next()? {
            match read_group(row)? {
                Ok(group) if group.last_sequence() < sequence => continue,
                Ok(group) => {
                    bytes += group.bytes();
                    groups.push_back(Arc::new(group));
                }
                Err(damage) => return Ok(Err(damage)),
            }
            if bytes >= bytes_max {
                break;
            }
        }
        Ok(Ok(()))
    };
    match read() {
        Ok(Ok(())) => Ok(groups),
        Ok(Err(damage)) => Err(corrupt(path, "read group", damage)),
        Err(error) => Err(failure(path, "read group", error)),
    }
}

/// The inner error describes the damage.
fn read_group(row: &Row<'_>) -> rusqlite::Result<Result<Group, String>> {
    let first_sequence: u64 = row.get(0)?;
    let count: u64 = row.get(1)?;
    let published_at_ms: i64 = row.get(2)?;
    let expected: u32 = row.get(3)?;
    let raw_bytes: u64 = row.get(5)?;
    let (keys, data) = (row.get_ref(4)?.as_blob()?, row.get_ref(6)?.as_blob()?);
    if group::checksum(first_sequence, count, published_at_ms, keys, data) != expected {
        return Ok(Err(format!("the checksum of the group at sequence {first_sequence} does not hold")));
    }
    let raw = pack::unpack(raw_bytes as usize, data);
    let group =
        raw.and_then(|raw| Group::from_stored(first_sequence, count as usize, published_at_ms, raw.into_owned()));
    Ok(group.ok_or_else(|| format!("the records of the group at sequence {first_sequence} do not fit it")))
}

/// When the message at `sequence` was stored; for a purged message, when the first stored one was.
pub(super) fn published_at_ms(connection: &Connection, sequence: u64) -> rusqlite::Result<Option<i64>> {
    connection
        .prepare_cached(
            "SELECT published_at_ms FROM groups WHERE first_sequence <= max(?1,
                (SELECT min(first_sequence) FROM groups)) ORDER BY first_sequence DESC LIMIT 1",
        )?
        .query_row([sequence], |row| row.get(0))
        .optional()
}

/// The stored consumers: name, filter and position.
pub(super) fn read_consumers(connection: &Connection) -> rusqlite::Result<Vec<(String, String, Position)>> {
    let mut statement = connection.prepare("SELECT name, filter, ack_floor, high, settled, counts FROM consumers")?;
    let rows = statement.query_map([], |row| {
        let position = Position { floor: row.get(2)?, high: row.get(3)?, resolved: row.get(4)?, counts: row.get(5)? };
        Ok((row.get(0)?, row.get(1)?, position))
    })?;
    rows.collect()
}

/// Adds a consumer unless it exists. Returns its ack floor.
pub(super) fn insert_consumer(connection: &Connection, name: &str, filter: &str, floor: u64) -> rusqlite::Result<u64> {
    connection.execute(
        "INSERT OR IGNORE INTO consumers(name, filter, ack_floor, high, settled, counts)
            VALUES (?1, ?2, ?3, ?3, x'', x'')",
        (name, filter, floor),
    )?;
    connection.query_row("SELECT ack_floor FROM consumers WHERE name = ?1", [name], |row| row.get(0))
}

pub(super) fn update_filter(connection: &Connection, name: &str, filter: &str) -> rusqlite::Result<()> {
    connection.execute("UPDATE consumers SET filter = ?2 WHERE name = ?1", (name, filter)).map(drop)
}

pub(super) fn update_position(connection: &Connection, name: &str, position: &Position) -> rusqlite::Result<()> {
    let mut update = connection
        .prepare_cached("UPDATE consumers SET ack_floor = ?2, high = ?3, settled = ?4, counts = ?5 WHERE name = ?1")?;
    update.execute((name, position.floor, position.high, &position.resolved, &position.counts)).map(drop)
}

/// Stores a group. Returns its stored bytes.
pub(super) fn insert_group(connection: &Connection, draft: &Draft, packer: &mut Packer) -> rusqlite::Result<usize> {
    let mut insert = connection.prepare_cached(
        "INSERT INTO groups(first_sequence, count, published_at_ms, checksum, keys, raw_bytes, data)
            VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
    )?;
    let Packed { raw_bytes, data } = packer.pack(&draft.data);
    let (first, count, at) = (draft.first_sequence, draft.len() as u64, draft.published_at_ms);
    let checksum = group::checksum(first, count, at, &draft.keys, data);
    let mut insert = |stored: &dyn ToSql| {
        insert.execute(params![first, count, at, checksum, draft.keys, raw_bytes as u64, stored]).map(drop)
    };
    if data.len() < STREAMED_BYTES_MIN {
        insert(&data)?;
    } else {
        // A bound value is copied twice on its way to the pages, each time into fresh memory.
        insert(&ZeroBlob(data.len() as u64))?;
        let mut blob = connection.blob_open(MAIN_DB, "groups", "data", first as i64, false)?;
        blob.write_all_at(data, 0)?;
        blob.close()?;
    }
    Ok(data.len() + draft.keys.len())
}

/// Replaces the bytes of a group; its sequences, its time and its keys stay.
pub(super) fn replace_group(
    connection: &Connection,
    group: &Group,
    raw: &[u8],
    packer: &mut Packer,
) -> rusqlite::Result<()> {
    let keys = connection
        .prepare_cached("SELECT keys FROM groups WHERE first_sequence = ?1")?
        .query_row([group.first_sequence], |row| row.get::<_, Vec<u8>>(0))?;
    let Packed { raw_bytes, data } = packer.pack(raw);
    let (first, count) = (group.first_sequence, group.last_sequence() + 1 - group.first_sequence);
    let checksum = group::checksum(first, count, group.published_at_ms, &keys, data);
    let sql = "UPDATE groups SET checksum = ?2, raw_bytes = ?3, data = ?4 WHERE first_sequence = ?1";
    connection.prepare_cached(sql)?.execute(params![first, checksum, raw_bytes as u64, data]).map(drop)
}

pub(super) fn corrupt(path: &Path, context: &'static str, damage: impl std::fmt::Display) -> BusError {
    BusError::caused(BusErrorKind::Corrupt, context, format!("{}: {damage}", path.display()))
}

/// An error of SQLite before the engine runs; afterwards, [`Shared::failure`](super::shared::Shared::failure).
pub(super) fn failure(path: &Path, context: &'static str, error: rusqlite::Error) -> BusError {
    file_error(context, FileError::of(&error).in_file(path))
}

pub(super) fn file_error(context: &'static str, error: FileError) -> BusError {
    let kind = match error.fault {
        Fault::Full => BusErrorKind::Full,
        Fault::Fsync => BusErrorKind::Fsync,
        Fault::Corrupt => BusErrorKind::Corrupt,
        Fault::Closed => return BusError::new(BusErrorKind::Closed, context),
        Fault::Malformed | Fault::Busy | Fault::Constraint | Fault::Other => BusErrorKind::Unavailable,
    };
    BusError::caused(kind, context, error)
}
