//! Imports historical events from files directly into the table. They bypass the bus, so they trigger no rules.
//!
//! ```text
//!  file ─► source ─► chunks of JSON lines ─► validate (all cores) ─► dedup ─► encode (all cores) ─► one commit per
//!           │ CSV and Parquet rows as JSON     │ invalid rows: rejects                              chunk, with its rows
//! ```
//!
//! Invariants: a commit holds all files of a chunk and the number of rows done, so resuming after a crash neither
//! duplicates nor loses rows; a row whose id or idempotency key is already in the table's partition, or occurred earlier
//! in the import, is not written again; at most two chunks are in memory, whatever the file's size.

mod settings;

mod bytes_read;
mod chunk;
mod format;
mod source;
mod table;

mod identities;
mod rejects;
mod validate;
mod write;

use std::path::{Path, PathBuf};
use std::sync::mpsc::{channel, sync_channel};
use std::thread;

use anyhow::Result;

use crate::base::clock::unix_ms;
use crate::warehouse::Warehouse;

use identities::KnownIdentities;
use rejects::Rejects;
use source::Source;
use validate::Validator;
use write::ChunkWriter;

pub use format::Format;
pub use settings::{Settings, column};

/// Progress of an import.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Bytes read of the file as stored, before decompression.
    pub bytes: u64,
    pub bytes_total: u64,
    /// Rows done by an earlier import of the same file.
    pub done_before: u64,
    pub imported: u64,
    pub duplicates: u64,
    pub rejected: u64,
    /// Where the rejected rows are.
    pub rejects: Option<PathBuf>,
}

/// Imports one file; `-` reads from standard input. Blocks. Calls `report` after each chunk.
pub fn import(
    warehouse: &Warehouse,
    path: &Path,
    settings: &Settings,
    report: &mut dyn FnMut(&Progress),
) -> Result<Progress> {
    let mut source = Source::open(path, settings)?;
    let import = source.identity().to_owned();
    let position = if settings.dry_run || source.is_stream() { None } else { warehouse.import_position(&import)? };
    let done_before = position.unwrap_or(0);
    let mut rejects = Rejects::open(path, settings, done_before)?;
    let mut progress = Progress { done_before, bytes_total: source.bytes_total(), rejected: 0, ..Progress::default() };
    source.skip(done_before)?;
    let bytes_read = source.bytes_read();
    let mut identities = KnownIdentities::default();
    let validator = Validator {
        app: settings.app.as_deref().or(source.app()).map(str::to_owned),
        format: source.format(),
        event_bytes_max: settings.event_bytes_max,
        now_ms: unix_ms(),
        import: import.clone(),
        threads: settings.threads.max(1),
        hasher: identities.hasher(),
    };
    let (sender, chunks) = sync_channel(0);
    // Reusing a buffer is cheaper than allocating a new one.
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
            let validated = validator.validate(chunk);
            let writer = ChunkWriter { warehouse, settings, import: &import, first_row, received_at_ms: unix_ms() };
            let fresh = writer.deduplicate(&validated, &mut identities)?;
            rejects.add(&validated)?;
            if !settings.dry_run {
                let files = writer.write(&validated, &fresh)?;
                rejects.sync()?;
                warehouse.commit_import(files, &import, first_row + rows)?;
            }
            progress.imported += fresh.rows() as u64;
            progress.duplicates += fresh.duplicates;
            progress.rejected = rejects.rows();
            progress.bytes = bytes_read.get();
            report(&progress);
            // The reader has ended after the last chunk.
            let _ = used.send(validated.into_text());
        }
        Ok::<(), anyhow::Error>(())
    })?;
    progress.rejected = rejects.rows();
    progress.rejects = rejects.finish()?;
    Ok(progress)
}
