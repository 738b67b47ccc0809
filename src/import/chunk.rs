//! The events of a chunk, by partition and time, as files.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use anyhow::{Result, anyhow};
use ring::digest::{SHA256, digest};
use uuid::Builder;

use super::Settings;
use super::identities::Identities;
use super::judge::Judged;
use crate::event::EventRef;
use crate::warehouse::{Encoder, ImportedFile, Origin, Partition, Warehouse};

/// Rows of one file, so that several cores have something to do where a chunk has one partition.
const FILE_ROWS_MAX: usize = 200_000;

/// Where the files of a chunk go.
pub(super) struct Writing<'a> {
    pub(super) warehouse: &'a Warehouse,
    pub(super) settings: &'a Settings,
    pub(super) import: &'a str,
    pub(super) first_row: u64,
}

/// A row of a chunk: its block and its place there.
type Place = (u32, u32);

/// The rows that are to be written.
#[derive(Default)]
pub(super) struct Fresh {
    files: Vec<(Partition, Vec<Place>)>,
    pub(super) duplicates: u64,
}

impl Fresh {
    pub(super) fn rows(&self) -> usize {
        self.files.iter().map(|(_, rows)| rows.len()).sum()
    }
}

impl Writing<'_> {
    /// Leaves out what the table has, and what came before.
    pub(super) fn choose(&self, judged: &Judged, identities: &mut Identities) -> Result<Fresh> {
        let mut by_partition: HashMap<(&str, i64), Vec<(i64, Place)>> = HashMap::new();
        for (b, block) in judged.blocks.iter().enumerate() {
            let mut last: Option<(_, &mut Vec<(i64, Place)>)> = None;
            for (r, row) in block.rows.iter().enumerate() {
                let place = (row.timestamp_ms, (b as u32, r as u32));
                match &mut last {
                    Some((partition, rows)) if *partition == (row.app, row.hour) => rows.push(place),
                    _ => {
                        // Borrowed anew: the one before is done with.
                        let _ = last.take();
                        let rows = by_partition.entry((&block.apps[row.app as usize], row.hour)).or_default();
                        rows.push(place);
                        last = Some(((row.app, row.hour), rows));
                    }
                }
            }
        }
        identities.relieve();
        let mut fresh = Fresh::default();
        let mut partitions: Vec<_> = by_partition.into_iter().collect();
        partitions.sort_by_key(|(partition, _)| *partition);
        for ((app, hour), mut rows) in partitions {
            let partition = Partition { app_id: app.to_owned(), hour };
            let known = identities.of(self.warehouse, &partition)?;
            let before = rows.len();
            rows.retain(|(_, (b, r))| {
                let row = &judged.blocks[*b as usize].rows[*r as usize];
                let is_known = known.contains(&row.id) || row.key.is_some_and(|key| known.contains(&key));
                if !is_known {
                    known.insert(row.id);
                    known.extend(row.key);
                }
                !is_known
            });
            fresh.duplicates += (before - rows.len()) as u64;
            rows.sort_unstable();
            let files = rows.chunks(FILE_ROWS_MAX).map(|rows| rows.iter().map(|(_, place)| *place).collect());
            fresh.files.extend(files.map(|rows| (partition.clone(), rows)));
        }
        Ok(fresh)
    }

    /// Stores the files.
    pub(super) fn write(&self, judged: &Judged, fresh: &Fresh) -> Result<Vec<ImportedFile>> {
        let next = AtomicUsize::new(0);
        let stored: Mutex<Result<Vec<ImportedFile>>> = Mutex::new(Ok(Vec::new()));
        thread::scope(|scope| {
            for _ in 0..self.settings.threads.clamp(1, fresh.files.len().max(1)) {
                scope.spawn(|| {
                    let done = self.write_some(judged, fresh, &next);
                    let mut stored = stored.lock().unwrap_or_else(PoisonError::into_inner);
                    match (&mut *stored, done) {
                        (Ok(all), Ok(done)) => all.extend(done),
                        (Ok(_), Err(error)) => *stored = Err(error),
                        (Err(_), _) => {}
                    }
                });
            }
        });
        stored.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_some(&self, judged: &Judged, fresh: &Fresh, next: &AtomicUsize) -> Result<Vec<ImportedFile>> {
        let mut encoder = Encoder::new(self.settings.encode.clone())?.promoting(self.warehouse.promoted());
        let received_at_ms = super::now_ms();
        let mut stored = Vec::new();
        loop {
            let n = next.fetch_add(1, Ordering::Relaxed);
            let Some((partition, rows)) = fresh.files.get(n) else { return Ok(stored) };
            let mut file = encoder.open(&partition.app_id);
            for (b, r) in rows {
                let block = &judged.blocks[*b as usize];
                let event = block.event(&block.rows[*r as usize]);
                let event = EventRef::decode_admitted(event)
                    .map_err(|error| anyhow!("an event that was admitted cannot be read: {error}"))?;
                encoder.push(&mut file, &event, Origin { sequence: 0, received_at_ms })?;
            }
            let bytes = encoder.finish(file, std::iter::empty())?;
            stored.push(self.warehouse.store_imported(partition, &self.name(n), &bytes)?);
        }
    }

    /// The same when the chunk is imported again after a crash: what was stored is replaced, and no reader of the
    /// directory sees rows twice.
    fn name(&self, n: usize) -> String {
        let digest = digest(&SHA256, format!("{} {} {n}", self.import, self.first_row).as_bytes());
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&digest.as_ref()[..16]);
        format!("events_{}.parquet", Builder::from_custom_bytes(bytes).into_uuid())
    }
}
