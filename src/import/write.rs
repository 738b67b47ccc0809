//! Deduplicates the events of a chunk and writes them to files, by partition and time.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use anyhow::{Result, anyhow};
use parking_lot::Mutex;
use ring::digest::{SHA256, digest};
use uuid::Builder;

use super::identities::KnownIdentities;
use super::settings::Settings;
use super::validate::ValidatedChunk;
use crate::event::EventRef;
use crate::warehouse::{Encoder, ImportedFile, Origin, Partition, Warehouse};

/// Rows per file. Splitting keeps several cores busy when a chunk has a single partition.
const FILE_ROWS_MAX: usize = 200_000;

/// Writes the files of one chunk.
pub(super) struct ChunkWriter<'a> {
    pub(super) warehouse: &'a Warehouse,
    pub(super) settings: &'a Settings,
    pub(super) import: &'a str,
    pub(super) first_row: u64,
    pub(super) received_at_ms: i64,
}

/// A row of a chunk: the index of its block, and of the row in it.
type RowIndex = (u32, u32);

/// The rows to write, without duplicates.
#[derive(Default)]
pub(super) struct FreshRows {
    files: Vec<(Partition, Vec<RowIndex>)>,
    pub(super) duplicates: u64,
}

impl FreshRows {
    pub(super) fn rows(&self) -> usize {
        self.files.iter().map(|(_, rows)| rows.len()).sum()
    }
}

impl ChunkWriter<'_> {
    /// Drops rows that the table already has or that occurred earlier in the import.
    pub(super) fn deduplicate(
        &self,
        validated: &ValidatedChunk,
        identities: &mut KnownIdentities,
    ) -> Result<FreshRows> {
        let mut by_partition: HashMap<(&str, i64), Vec<(i64, RowIndex)>> = HashMap::new();
        for (b, block) in validated.blocks.iter().enumerate() {
            let mut last: Option<(_, &mut Vec<(i64, RowIndex)>)> = None;
            for (r, row) in block.rows.iter().enumerate() {
                let entry = (row.timestamp_ms, (b as u32, r as u32));
                match &mut last {
                    Some((partition, rows)) if *partition == (row.app, row.hour) => rows.push(entry),
                    _ => {
                        // Ends the borrow of the previous partition's rows.
                        let _ = last.take();
                        let rows = by_partition.entry((&block.apps[row.app as usize], row.hour)).or_default();
                        rows.push(entry);
                        last = Some(((row.app, row.hour), rows));
                    }
                }
            }
        }
        identities.evict();
        let mut fresh = FreshRows::default();
        let mut partitions: Vec<_> = by_partition.into_iter().collect();
        partitions.sort_by_key(|(partition, _)| *partition);
        for ((app, hour), mut rows) in partitions {
            let partition = Partition { app_id: app.to_owned(), hour };
            let known = identities.of_partition(self.warehouse, &partition)?;
            let before = rows.len();
            rows.retain(|(_, (b, r))| {
                let row = &validated.blocks[*b as usize].rows[*r as usize];
                let is_known = known.contains(&row.id) || row.key.is_some_and(|key| known.contains(&key));
                if !is_known {
                    known.insert(row.id);
                    known.extend(row.key);
                }
                !is_known
            });
            fresh.duplicates += (before - rows.len()) as u64;
            rows.sort_unstable();
            let files = rows.chunks(FILE_ROWS_MAX).map(|rows| rows.iter().map(|(_, index)| *index).collect());
            fresh.files.extend(files.map(|rows| (partition.clone(), rows)));
        }
        Ok(fresh)
    }

    /// Stores the files, in parallel.
    pub(super) fn write(&self, validated: &ValidatedChunk, fresh: &FreshRows) -> Result<Vec<ImportedFile>> {
        let next = AtomicUsize::new(0);
        let stored: Mutex<Result<Vec<ImportedFile>>> = Mutex::new(Ok(Vec::new()));
        thread::scope(|scope| {
            for _ in 0..self.settings.threads.clamp(1, fresh.files.len().max(1)) {
                scope.spawn(|| {
                    let done = self.write_some(validated, fresh, &next);
                    let mut stored = stored.lock();
                    match (&mut *stored, done) {
                        (Ok(all), Ok(done)) => all.extend(done),
                        (Ok(_), Err(error)) => *stored = Err(error),
                        (Err(_), _) => {}
                    }
                });
            }
        });
        stored.into_inner()
    }

    fn write_some(
        &self,
        validated: &ValidatedChunk,
        fresh: &FreshRows,
        next: &AtomicUsize,
    ) -> Result<Vec<ImportedFile>> {
        let mut encoder = Encoder::new(self.settings.encode.clone())?.promoting(self.warehouse.promoted());
        let mut stored = Vec::new();
        loop {
            let n = next.fetch_add(1, Ordering::Relaxed);
            let Some((partition, rows)) = fresh.files.get(n) else { return Ok(stored) };
            let mut file = encoder.open(&partition.app_id);
            for (b, r) in rows {
                let block = &validated.blocks[*b as usize];
                let event = block.event(&block.rows[*r as usize]);
                let event = EventRef::decode_admitted(event)
                    .map_err(|error| anyhow!("an event that was admitted cannot be read: {error}"))?;
                encoder.push(&mut file, &event, Origin { sequence: 0, received_at_ms: self.received_at_ms })?;
            }
            let bytes = encoder.finish(file, std::iter::empty())?;
            stored.push(self.warehouse.store_imported(partition, &self.file_name(n), &bytes)?);
        }
    }

    /// A deterministic name: when the chunk is imported again after a crash, its files are replaced, and no reader of the
    /// directory sees rows twice.
    fn file_name(&self, n: usize) -> String {
        let digest = digest(&SHA256, format!("{} {} {n}", self.import, self.first_row).as_bytes());
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&digest.as_ref()[..16]);
        format!("events_{}.parquet", Builder::from_custom_bytes(bytes).into_uuid())
    }
}
