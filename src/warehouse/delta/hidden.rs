//! Finds the stored files that must not be adopted because a compacted file holds their rows as well.
//!
//! The log tells which, as long as it exists and remembers removed files. After that the footers of compacted files do.

use crate::warehouse::file::footer::{self, Replaces};
use crate::warehouse::layout::Partition;
use crate::warehouse::layout::is_compacted;
use crate::warehouse::storage::{Listed, Objects};
use crate::warehouse::{WarehouseError, WarehouseErrorKind};

const FOOTER_READ_BYTES: usize = 64 << 10;

/// The hidden files of one partition.
#[derive(Default)]
pub(in crate::warehouse) struct Hidden {
    replaces: Vec<Replaces>,
    compacted: bool,
}

impl Hidden {
    /// `is_new` means that the log was created over existing files, so that it cannot tell which compactions were
    /// completed.
    pub(in crate::warehouse) fn read(
        objects: &Objects,
        partition: &Partition,
        is_new: bool,
    ) -> Result<Self, WarehouseError> {
        let directory = objects.directory(partition);
        let mut compacted = objects.list(&directory)?;
        compacted.retain(|file| is_compacted(&file.name));
        let mut hidden = Self { compacted: !is_new, ..Self::default() };
        let names = || compacted.iter().map(|file: &Listed| file.name.as_str());
        for source in objects.open_together(&directory, &compacted, FOOTER_READ_BYTES) {
            let read = source.and_then(|source| source.read_with(|source| Replaces::read(&footer::read(&source)?)));
            match read {
                Ok(Some(replaces)) if replaces.is_complete(names()) => hidden.replaces.push(replaces),
                Ok(_) => {}
                // Adopting it reports the damage.
                Err(error) if error.kind == WarehouseErrorKind::Corrupt => {}
                Err(error) => return Err(error.at(directory)),
            }
        }
        Ok(hidden)
    }

    /// Whether a file that the log does not name is hidden.
    pub(in crate::warehouse) fn has(&self, name: &str) -> bool {
        // If the log has all files, a compacted file that it does not name was never committed.
        if is_compacted(name) { self.compacted } else { self.replaces.iter().any(|replaces| replaces.has_file(name)) }
    }
}
