//! Which files of a partition are no part of a table that is made of what is stored: those whose rows a compacted file
//! holds as well.
//!
//! The log says so as long as it is there and remembers what it removed; after that the compacted files' footers do.

use crate::warehouse::file::footer;
use crate::warehouse::file::footer::Replaces;
use crate::warehouse::layout::Partition;
use crate::warehouse::layout::is_compacted;
use crate::warehouse::storage::{Listed, Objects};
use crate::warehouse::{WarehouseError, WarehouseErrorKind};

const FOOTER_READ_BYTES: usize = 64 << 10;

/// Of one partition.
#[derive(Default)]
pub(in crate::warehouse) struct Hidden {
    replaces: Vec<Replaces>,
    compacted: bool,
}

impl Hidden {
    /// `is_new`: the log was begun on files that were there, so that it cannot tell which compactions were completed.
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
                // Whoever adds it tells of it.
                Err(error) if error.kind == WarehouseErrorKind::Corrupt => {}
                Err(error) => return Err(error.at(directory)),
            }
        }
        Ok(hidden)
    }

    /// Of a file that the log does not name.
    pub(in crate::warehouse) fn has(&self, name: &str) -> bool {
        // In a log that has all files, a compacted one that it does not name was never committed.
        if is_compacted(name) { self.compacted } else { self.replaces.iter().any(|replaces| replaces.has_file(name)) }
    }
}
