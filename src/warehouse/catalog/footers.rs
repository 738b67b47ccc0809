//! The footers of a partition's files, and the sequences that they list.
//!
//! Used only for possibly redelivered messages, so in normal operation no footers are read. After a crash, each
//! footer is read once, and a message costs a search in memory. Invariants: a result
//! is never older than the directory listing that the caller requested; clocks play
//! no part. A file whose size or time has changed was replaced, and is read again.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use parking_lot::Mutex;

use super::damaged::Damaged;
use crate::warehouse::error::{WarehouseError, WarehouseErrorKind};
use crate::warehouse::file::{footer, scan};
use crate::warehouse::layout::{Partition, is_compacted, is_data_file};
use crate::warehouse::sequence_set::SequenceSet;
use crate::warehouse::storage::{Listed, Objects, Source};

/// Memory of cached footers, over all partitions.
const FOOTER_BYTES_MAX: usize = 64 << 20;
/// Roughly the memory of a footer with one range.
const FOOTER_BYTES: usize = 256;
/// Memory of cached ids. The ids of one file are cached even if they exceed it.
const IDS_BYTES_MAX: usize = 8 << 20;
/// Roughly the memory of one id in a hash set.
const ID_BYTES: usize = 2 * size_of::<u128>();
/// Files that are opened together, and the prefetch at their ends. A file with a long sequence set takes another
/// request.
const FOOTERS_TOGETHER: usize = 64;
const FOOTER_READ_BYTES: usize = 64 << 10;
/// The same for reading ids: most files are smaller than this and take a single request.
const IDS_TOGETHER: usize = 8;
const IDS_READ_BYTES: usize = 1 << 20;

/// The identity of a row: the sequence of its message and the id of its event.
#[derive(Clone, Debug)]
pub struct RowId {
    pub sequence: u64,
    pub id: String,
}

/// The footer of one file.
#[derive(Debug)]
struct Footer {
    file: Listed,
    /// Empty for an unreadable file.
    sequences: SequenceSet,
    /// Set for a compacted file.
    replaces: Option<footer::Replaces>,
}

impl Footer {
    fn memory_bytes(&self) -> usize {
        FOOTER_BYTES + self.sequences.memory_bytes() + self.replaces.as_ref().map_or(0, footer::Replaces::memory_bytes)
    }
}

/// The files of a partition as of one listing.
#[derive(Clone, Debug)]
pub struct PartitionFooters {
    directory: String,
    files: Vec<Arc<Footer>>,
}

impl PartitionFooters {
    /// Whether some file may hold the message, because its sequence set contains it.
    pub fn may_hold(&self, sequence: u64) -> bool {
        self.files.iter().any(|file| file.sequences.contains(sequence))
    }

    /// Drops the files without sequences from `first` to `last`: for a backlog, nearly all of them.
    pub fn reaching(mut self, first: u64, last: u64) -> Self {
        self.files.retain(|file| file.sequences.span().is_some_and(|(from, to)| from <= last && first <= to));
        self
    }

    pub(crate) fn directory(&self) -> &str {
        &self.directory
    }

    /// The name of the file, unless it is a compacted one or was replaced by one.
    pub(crate) fn original(&self, place: usize) -> Option<&str> {
        let name = self.files.get(place)?.file.name.as_str();
        let is_replaced = self.files.iter().filter_map(|file| file.replaces.as_ref()).any(|by| by.has_file(name));
        (!is_compacted(name) && !is_replaced).then_some(name)
    }

    /// The names of the compacted files.
    pub(crate) fn compacted(&self) -> Vec<&str> {
        self.files.iter().map(|file| file.file.name.as_str()).filter(|name| is_compacted(name)).collect()
    }

    /// The listing entry of a file, if it exists.
    pub(crate) fn listed(&self, name: &str) -> Option<&Listed> {
        self.files.iter().map(|file| &file.file).find(|file| file.name == name)
    }

    /// Only the files whose names are `wanted`.
    pub(crate) fn only(&self, wanted: impl Fn(&str) -> bool) -> Self {
        let files = self.files.iter().filter(|file| wanted(&file.file.name)).cloned().collect();
        Self { directory: self.directory.clone(), files }
    }
}

/// The ids of one file, as keyed 128-bit hashes: 16 bytes each, and clients cannot
/// make two of them collide.
#[derive(Debug)]
struct IdSet {
    directory: String,
    file: Listed,
    ids: HashSet<u128>,
}

impl IdSet {
    fn memory_bytes(&self) -> usize {
        self.ids.len() * ID_BYTES
    }
}

/// Caches footers, and the ids of files that had to be searched.
#[derive(Default)]
pub(crate) struct FooterCache {
    state: Mutex<State>,
    /// Held while files of a directory are read, so that concurrent callers wait instead of reading them twice.
    reading: Mutex<HashMap<String, Arc<Mutex<()>>>>,
    keys: (RandomState, RandomState),
    pub(crate) damaged: Damaged,
}

#[derive(Default)]
struct State {
    partitions: HashMap<Partition, Vec<Arc<Footer>>>,
    bytes: usize,
    /// The most recently used set is last.
    ids: Vec<Arc<IdSet>>,
}

impl FooterCache {
    /// Lists the partition and reads the footers that are not cached.
    pub(crate) fn list(&self, objects: &Objects, partition: &Partition) -> Result<PartitionFooters, WarehouseError> {
        let directory = objects.directory(partition);
        let mut listed = objects.list(&directory)?;
        listed.retain(|file| is_data_file(&file.name));
        self.damaged.keep(&directory, &listed);
        self.exclusively(&directory, || self.footers_of(objects, partition, listed))
    }

    fn footers_of(
        &self,
        objects: &Objects,
        partition: &Partition,
        listed: Vec<Listed>,
    ) -> Result<PartitionFooters, WarehouseError> {
        let directory = objects.directory(partition);
        let known: HashMap<String, Arc<Footer>> = {
            let state = self.state.lock();
            let files = state.partitions.get(partition).map(Vec::as_slice).unwrap_or_default();
            files.iter().map(|file| (file.file.name.clone(), file.clone())).collect()
        };
        let (mut files, mut unknown) = (Vec::with_capacity(listed.len()), Vec::new());
        for file in listed {
            match known.get(&file.name).filter(|footer| footer.file == file) {
                Some(footer) => files.push(footer.clone()),
                None => unknown.push(file),
            }
        }
        let read = self.read_footers(objects, &directory, unknown, &mut files);
        // Cache what was read even if the store failed midway.
        self.remember(partition, files.clone());
        read?;
        Ok(PartitionFooters { directory, files })
    }

    /// Runs `read` while no other thread reads files of the directory.
    fn exclusively<T>(&self, directory: &str, read: impl FnOnce() -> T) -> T {
        let turn = self.reading.lock().entry(directory.to_owned()).or_default().clone();
        let reading = turn.lock();
        let done = read();
        drop(reading);
        // No clone is made while the map is locked: a count of two is the map's and this one.
        let mut all = self.reading.lock();
        if Arc::strong_count(&turn) == 2 {
            all.remove(directory);
        }
        done
    }

    /// Adds the footers to `files`, including those read before a failure.
    fn read_footers(
        &self,
        objects: &Objects,
        directory: &str,
        mut unknown: Vec<Listed>,
        files: &mut Vec<Arc<Footer>>,
    ) -> Result<(), WarehouseError> {
        while !unknown.is_empty() {
            let together = unknown.split_off(unknown.len().saturating_sub(FOOTERS_TOGETHER));
            let sources = objects.open_together(directory, &together, FOOTER_READ_BYTES);
            for (file, source) in together.into_iter().zip(sources) {
                let read = |source: Source| {
                    let metadata = footer::read(&source)?;
                    Ok((footer::sequences(&metadata)?, footer::Replaces::read(&metadata)?))
                };
                let (sequences, replaces) = self.unless_damaged(directory, &file, source, read)?.unwrap_or_default();
                files.push(Arc::new(Footer { file, sequences, replaces }));
            }
        }
        Ok(())
    }

    /// The result of `read`; `None` if the file is damaged.
    fn unless_damaged<T>(
        &self,
        directory: &str,
        file: &Listed,
        source: Result<Source, WarehouseError>,
        read: impl FnOnce(Source) -> Result<T, WarehouseError>,
    ) -> Result<Option<T>, WarehouseError> {
        match source.and_then(|source| source.read_with(read)) {
            Ok(read) => Ok(Some(read)),
            Err(error) if error.kind == WarehouseErrorKind::Corrupt => {
                self.damaged.note(directory, file, &error);
                Ok(None)
            }
            Err(error) => Err(error.at(format!("{directory}/{}", file.name))),
        }
    }

    fn remember(&self, partition: &Partition, files: Vec<Arc<Footer>>) {
        let bytes = |files: &[Arc<Footer>]| files.iter().map(|file| file.memory_bytes()).sum::<usize>();
        let mut state = self.state.lock();
        let added = bytes(&files);
        let before = state.partitions.insert(partition.clone(), files).map_or(0, |files| bytes(&files));
        state.bytes = state.bytes + added - before;
        if state.bytes > FOOTER_BYTES_MAX {
            state.partitions.clear();
            state.bytes = 0;
        }
    }

    /// Whether each of the rows is in a file.
    pub(crate) fn holds(
        &self,
        objects: &Objects,
        footers: &PartitionFooters,
        messages: &[RowId],
    ) -> Result<Vec<bool>, WarehouseError> {
        Ok(self.holders(objects, footers, messages)?.iter().map(Option::is_some).collect())
    }

    /// The file that holds each of the rows, as an index into `footers`: its sequence set contains the sequence, and its
    /// rows the id.
    pub(crate) fn holders(
        &self,
        objects: &Objects,
        footers: &PartitionFooters,
        messages: &[RowId],
    ) -> Result<Vec<Option<usize>>, WarehouseError> {
        let hashes: Vec<u128> = messages.iter().map(|message| self.id_hash(&message.id)).collect();
        let mut found = vec![None; messages.len()];
        let within = |file: &Footer, found: &[Option<usize>]| -> Vec<usize> {
            let messages = messages.iter().enumerate().zip(found);
            let within =
                messages.filter(|((_, message), found)| found.is_none() && file.sequences.contains(message.sequence));
            within.map(|((place, _), _)| place).collect()
        };
        for (first, files) in (0..).step_by(IDS_TOGETHER).zip(footers.files.chunks(IDS_TOGETHER)) {
            let wanted: Vec<&Listed> =
                files.iter().filter(|file| !within(file, &found).is_empty()).map(|file| &file.file).collect();
            if wanted.is_empty() {
                continue;
            }
            let directory = &footers.directory;
            let sets = self.exclusively(directory, || self.id_sets(objects, directory, wanted))?;
            for (at, file) in files.iter().enumerate() {
                let Some(set) = sets.get(&file.file.name) else { continue };
                for place in within(file, &found) {
                    found[place] = set.ids.contains(&hashes[place]).then_some(first + at);
                }
            }
        }
        Ok(found)
    }

    /// The ids of some files by name, without the damaged ones.
    fn id_sets(
        &self,
        objects: &Objects,
        directory: &str,
        files: Vec<&Listed>,
    ) -> Result<HashMap<String, Arc<IdSet>>, WarehouseError> {
        let (mut sets, mut unknown) = (HashMap::new(), Vec::new());
        for file in files.into_iter().filter(|file| !self.damaged.has(directory, file)) {
            match self.known_ids(directory, file) {
                Some(set) => drop(sets.insert(file.name.clone(), set)),
                None => unknown.push(file.clone()),
            }
        }
        let sources = objects.open_together(directory, &unknown, IDS_READ_BYTES);
        for (file, source) in unknown.iter().zip(sources) {
            let Some(ids) = self.unless_damaged(directory, file, source, |source| self.ids(source))? else { continue };
            let set = Arc::new(IdSet { directory: directory.to_owned(), file: file.clone(), ids });
            self.remember_ids(set.clone());
            sets.insert(file.name.clone(), set);
        }
        Ok(sets)
    }

    fn remember_ids(&self, set: Arc<IdSet>) {
        let mut state = self.state.lock();
        state.ids.push(set);
        let mut bytes: usize = state.ids.iter().map(|set| set.memory_bytes()).sum();
        while bytes > IDS_BYTES_MAX && state.ids.len() > 1 {
            bytes -= state.ids.remove(0).memory_bytes();
        }
    }

    fn known_ids(&self, directory: &str, file: &Listed) -> Option<Arc<IdSet>> {
        let mut state = self.state.lock();
        let at = state.ids.iter().position(|set| set.file == *file && set.directory == directory)?;
        let set = state.ids.remove(at);
        state.ids.push(set.clone());
        Some(set)
    }

    fn ids(&self, source: Source) -> Result<HashSet<u128>, WarehouseError> {
        let mut ids = HashSet::new();
        scan::each_id(source, |id| {
            ids.insert(self.id_hash(id));
        })?;
        Ok(ids)
    }

    fn id_hash(&self, id: &str) -> u128 {
        u128::from(self.keys.0.hash_one(id)) << 64 | u128::from(self.keys.1.hash_one(id))
    }
}
