//! Walks the partitions of the lake, and sorts their files.

use super::lease;
use crate::warehouse::WarehouseError;
use crate::warehouse::delta::FileState;
use crate::warehouse::layout::{Partition, is_compacted, is_data_file};
use crate::warehouse::storage::{Listed, Objects, Walked};

/// Selects partitions.
#[derive(Clone, Debug, Default)]
pub struct PartitionFilter {
    pub app_id: Option<String>,
    /// In hours since the Unix epoch.
    pub from_hour: Option<i64>,
    /// Exclusive.
    pub to_hour: Option<i64>,
}

impl PartitionFilter {
    fn takes(&self, partition: &Partition) -> bool {
        self.app_id.as_ref().is_none_or(|app_id| *app_id == partition.app_id)
            && self.from_hour.is_none_or(|from| partition.hour >= from)
            && self.to_hour.is_none_or(|to| partition.hour < to)
    }
}

/// Calls `each` with every selected partition and its files, until it returns `false`.
pub(in crate::warehouse) fn each_partition(
    objects: &Objects,
    filter: &PartitionFilter,
    each: &mut dyn FnMut(Partition, Vec<Listed>) -> Result<bool, WarehouseError>,
) -> Result<(), WarehouseError> {
    let mut open: Option<(String, Vec<Listed>)> = None;
    let mut close = |open: Option<(String, Vec<Listed>)>| match open {
        Some((directory, files)) if !directory.starts_with(lease::DIRECTORY) => match objects.partition(&directory) {
            Some(partition) if filter.takes(&partition) => each(partition, files),
            _ => Ok(true),
        },
        _ => Ok(true),
    };
    // The walk yields files directory by directory.
    objects.walk(&mut |walked: &Walked| match &mut open {
        Some((directory, files)) if *directory == walked.directory => {
            files.push(walked.file.clone());
            Ok(true)
        }
        _ => {
            let before = open.replace((walked.directory.clone(), vec![walked.file.clone()]));
            close(before)
        }
    })?;
    close(open).map(drop)
}

/// Keeps our data files of a listing.
pub(in crate::warehouse) fn data_files(mut listed: Vec<Listed>) -> Vec<Listed> {
    listed.retain(|file| is_data_file(&file.name));
    listed
}

/// Whether a file is an output that was never committed.
pub(in crate::warehouse) fn is_orphan(name: &str, state: FileState) -> bool {
    is_compacted(name) && state == FileState::Unlogged
}
