//! Surveys the lake partition by partition: which partitions are due for compaction, and figures for operators.

use std::time::Duration;

use crate::warehouse::delta::FileState;
use crate::warehouse::handle::Shared;
use crate::warehouse::layout::{Partition, is_compacted};
use crate::warehouse::maintenance::{CompactionSettings, PartitionFilter, data_files, each_partition, is_orphan};
use crate::warehouse::storage::Listed;
use crate::warehouse::{Warehouse, WarehouseError};

/// Candidates per survey. The next survey returns further ones, once these are done.
const CANDIDATES_MAX: usize = 10_000;

/// A partition that is due for compaction or cleanup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    pub partition: Partition,
    /// Small files, or 0 if only cleanup is due.
    pub files: u64,
    pub bytes: u64,
}

/// Figures of the whole lake, or of the selected partitions.
#[derive(Clone, Debug, Default)]
pub struct LakeStatus {
    pub partitions: u64,
    /// Files of the table.
    pub files: u64,
    pub bytes: u64,
    pub small_files: u64,
    pub small_bytes: u64,
    pub compacted_files: u64,
    /// Files that are no longer in the table. A vacuum removes them.
    pub replaced_files: u64,
    pub replaced_bytes: u64,
    /// Outputs of interrupted compactions.
    pub orphans: u64,
    /// Stored files that are not (yet) in the table.
    pub unnamed_files: u64,
    /// Files of other programs in partitions. They are never touched.
    pub foreign_files: u64,
    /// Oldest first.
    pub candidates: Vec<Candidate>,
}

impl LakeStatus {
    /// The number of candidates due for compaction.
    pub fn due_partitions(&self) -> usize {
        self.candidates.iter().filter(|candidate| candidate.files > 0).count()
    }

    /// The oldest partition due for compaction.
    pub fn oldest(&self) -> Option<&Partition> {
        self.candidates.iter().filter(|candidate| candidate.files > 0).map(|c| &c.partition).min_by_key(|p| p.hour)
    }
}

impl Warehouse {
    /// Walks the lake while `go_on` returns true.
    pub async fn survey(
        &self,
        settings: &CompactionSettings,
        filter: &PartitionFilter,
        go_on: impl Fn(&LakeStatus) -> bool + Send + 'static,
    ) -> Result<LakeStatus, WarehouseError> {
        let (settings, filter) = (settings.clone(), filter.clone());
        self.in_background(move |shared| survey(shared, &settings, &filter, &go_on)).await
    }
}

pub(super) fn is_small(file: &Listed, target_bytes: u64) -> bool {
    file.bytes < target_bytes / 2
}

/// Whether no sink has stored a file here recently, by the clock of the store, which also set the modification times.
pub(super) fn is_cold(listed: &[Listed], now_ms: i64, age_min: Duration) -> bool {
    let stored = listed.iter().filter(|file| !is_compacted(&file.name)).map(|file| file.modified_ms).max();
    let age_min = i64::try_from(age_min.as_millis()).unwrap_or(i64::MAX);
    stored.is_none_or(|stored| now_ms.saturating_sub(stored) >= age_min)
}

fn survey(
    shared: &Shared,
    settings: &CompactionSettings,
    filter: &PartitionFilter,
    go_on: &dyn Fn(&LakeStatus) -> bool,
) -> Result<LakeStatus, WarehouseError> {
    let (objects, delta) = (&shared.objects, shared.delta.get());
    if let Some(delta) = delta {
        delta.read_all(objects)?;
    }
    let now_ms = objects.now_ms()?;
    let mut status = LakeStatus::default();
    each_partition(objects, filter, &mut |partition, listed| {
        let state_of = |partition: &Partition, name: &str| {
            delta.map_or(Some(FileState::InTable), |delta| delta.cached_state(objects, partition, name))
        };
        tally(&mut status, &state_of, settings, now_ms, partition, listed);
        Ok(go_on(&status))
    })?;
    status.candidates.sort_by(|one, other| {
        let key = |candidate: &Candidate| (candidate.partition.hour, candidate.partition.app_id.clone());
        key(one).cmp(&key(other))
    });
    Ok(status)
}

fn tally(
    status: &mut LakeStatus,
    state_of: &dyn Fn(&Partition, &str) -> Option<FileState>,
    settings: &CompactionSettings,
    now_ms: i64,
    partition: Partition,
    listed: Vec<Listed>,
) {
    let all = listed.len();
    let files = data_files(listed);
    status.partitions += 1;
    status.foreign_files += (all - files.len()) as u64;
    let (mut small, mut small_bytes, mut leftovers) = (0, 0, 0);
    for file in &files {
        match state_of(&partition, &file.name) {
            Some(FileState::Removed) => {
                status.replaced_files += 1;
                status.replaced_bytes += file.bytes;
                leftovers += u64::from(!settings.keep_replaced);
            }
            Some(state) if is_orphan(&file.name, state) => {
                status.orphans += 1;
                leftovers += 1;
            }
            Some(FileState::Unlogged) => status.unnamed_files += 1,
            Some(FileState::InTable) | None => {
                status.files += 1;
                status.bytes += file.bytes;
                status.compacted_files += u64::from(is_compacted(&file.name));
                if is_small(file, settings.target_bytes) {
                    small += 1;
                    small_bytes += file.bytes;
                }
            }
        }
    }
    status.small_files += small;
    status.small_bytes += small_bytes;
    let is_due = small as usize >= settings.files_min.max(2) && is_cold(&files, now_ms, settings.age_min);
    if (is_due || leftovers > 0) && status.candidates.len() < CANDIDATES_MAX {
        let (files, bytes) = if is_due { (small, small_bytes) } else { (0, 0) };
        status.candidates.push(Candidate { partition, files, bytes });
    }
}
