//! Events from files, past the bus, straight into the table: history that is not to set off rules.
//!
//! ```text
//!  file ─► source ─► chunks of JSON lines ─► judge (all cores) ─► dedup ─► encode (all cores) ─► one commit a chunk
//!           │ CSV and Parquet rows as JSON     │ what fails: rejects                              │ with the rows done
//! ```
//!
//! Invariants: a commit holds all files of a chunk and how many rows are done, so that whoever goes on after a crash
//! doubles and loses nothing; a row whose id or idempotency key is in the table's partition, or was in the import, is not
//! written again; two chunks are in memory, whatever the file's size.

mod chunk;
mod identities;
mod judge;
mod rejects;
mod source;
mod table;

use std::path::{Path, PathBuf};
use std::sync::mpsc::{channel, sync_channel};
use std::thread;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Result, bail};

use crate::warehouse::{EncodeSettings, Warehouse};

use chunk::Writing;
use identities::Identities;
use judge::Judging;
use rejects::Rejects;
use source::Source;

pub use source::Format;

/// How files are imported.
#[derive(Clone, Debug)]
pub struct Settings {
    /// None: by the file's name.
    pub format: Option<Format>,
    /// Of rows that name none.
    pub app: Option<String>,
    /// The field of a column, by its name; none for a column that is left out. Of CSV and Parquet.
    pub columns: Vec<(String, Option<String>)>,
    /// None: beside the file.
    pub rejects: Option<PathBuf>,
    /// Judges and writes nothing.
    pub dry_run: bool,
    pub event_bytes_max: usize,
    /// Of text, that is judged and committed at a time. Files are made of it: less makes smaller files.
    pub chunk_bytes: usize,
    pub encode: EncodeSettings,
    pub threads: usize,
}

/// How far an import is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Of the file, compressed as it is.
    pub bytes: u64,
    pub bytes_total: u64,
    /// Done with by an earlier import of the file.
    pub done_before: u64,
    pub imported: u64,
    pub duplicates: u64,
    pub rejected: u64,
    /// Where the rejected rows are.
    pub rejects: Option<PathBuf>,
}

/// Imports one file, `-` for what comes in on the standard input. Blocks; `tell` is told after each chunk.
pub fn import(
    warehouse: &Warehouse,
    path: &Path,
    settings: &Settings,
    tell: &mut dyn FnMut(&Progress),
) -> Result<Progress> {
    let mut source = Source::open(path, settings)?;
    let import = source.identity().to_owned();
    let position = if settings.dry_run || source.is_stream() { None } else { warehouse.import_position(&import)? };
    let done_before = position.unwrap_or(0);
    let mut rejects = Rejects::open(path, settings, done_before)?;
    let mut progress = Progress { done_before, bytes_total: source.bytes_total(), rejected: 0, ..Progress::default() };
    source.skip(done_before)?;
    let bytes_read = source.bytes_read();
    let mut identities = Identities::default();
    let judging = Judging {
        app: settings.app.as_deref().or(source.app()).map(str::to_owned),
        format: source.format(),
        event_bytes_max: settings.event_bytes_max,
        now_ms: now_ms(),
        import: import.clone(),
        threads: settings.threads.max(1),
        keys: identities.keys(),
    };
    let (sender, chunks) = sync_channel(0);
    // Memory that is new costs more than memory that is used again.
    let (used, used_texts) = channel();
    thread::scope(|scope| {
        scope.spawn(move || {
            loop {
                let next = source.next_chunk(used_texts.try_recv().unwrap_or_default());
                let is_last = !matches!(next, Ok(Some(_)));
                if sender.send(next).is_err() || is_last {
                    return;
                }
            }
        });
        while let Some(chunk) = chunks.recv()?? {
            let (first_row, rows) = (chunk.first_row, chunk.rows);
            let judged = judging.judge(chunk);
            let writing = Writing { warehouse, settings, import: &import, first_row };
            let fresh = writing.choose(&judged, &mut identities)?;
            rejects.add(&judged)?;
            if !settings.dry_run {
                let files = writing.write(&judged, &fresh)?;
                rejects.sync()?;
                warehouse.commit_import(files, &import, first_row + rows)?;
            }
            progress.imported += fresh.rows() as u64;
            progress.duplicates += fresh.duplicates;
            progress.rejected = rejects.rows();
            progress.bytes = bytes_read.get();
            tell(&progress);
            // At the end nobody wants it.
            let _ = used.send(judged.into_text());
        }
        Ok::<(), anyhow::Error>(())
    })?;
    progress.rejected = rejects.rows();
    progress.rejects = rejects.finish()?;
    Ok(progress)
}

/// A column's field, as a person writes it: `COLUMN=FIELD`, or `COLUMN=` to leave it out.
pub fn column(text: &str) -> Result<(String, Option<String>)> {
    let Some((column, field)) = text.rsplit_once('=').filter(|(column, _)| !column.is_empty()) else {
        bail!("`{text}` is not COLUMN=FIELD, such as sku=customEvent.properties.sku, nor COLUMN= to leave it out");
    };
    Ok((column.to_owned(), (!field.is_empty()).then(|| field.to_owned())))
}

fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
