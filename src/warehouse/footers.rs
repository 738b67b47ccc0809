//! What the footers of a partition's files say about the sequences that they hold.
//!
//! Asked only about suspects, so a running process reads no footers; after a crash each
//! file's footer is read once and a message costs a search in memory. Invariant: an answer
//! is never older than the listing of the directory that the caller asked for. A file whose size or
//! time is another was replaced, and is read again.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, PoisonError};

use parquet::file::metadata::ParquetMetaData;
use parquet::file::reader::{FileReader, SerializedFileReader};

use super::error::WarehouseErrorKind;
use super::layout::Partition;
use super::objects::{Listed, Objects};
use super::ranges::SequenceRanges;
use super::{WarehouseError, is_data_file, scan};

/// The footer entries that this product writes.
const SEQUENCES_KEY: &str = "causality.sequences";
pub(super) const STREAM_KEY: &str = "causality.stream";
const FORMAT_KEY: &str = "causality.format";
const FORMAT: &str = "1";

/// How much a file may seem older than a message that it holds: the clocks of the bus and
/// of the file store differ.
const CLOCK_SKEW_MAX_MS: i64 = 60_000;
/// Footers remembered over all partitions.
const FOOTERS_MAX: usize = 50_000;
/// Files whose ids are remembered.
const ID_SETS_MAX: usize = 8;

/// The entries for a file's footer.
pub(super) fn entries(ranges: &SequenceRanges, stream: &str) -> [(&'static str, String); 3] {
    [(FORMAT_KEY, FORMAT.to_owned()), (STREAM_KEY, stream.to_owned()), (SEQUENCES_KEY, ranges.encode())]
}

/// One entry of a file's footer.
pub(super) fn entry<'a>(metadata: &'a ParquetMetaData, key: &str) -> Option<&'a str> {
    let entries = metadata.file_metadata().key_value_metadata()?;
    entries.iter().find(|entry| entry.key == key)?.value.as_deref()
}

/// The footer of one file.
#[derive(Debug)]
struct Footer {
    file: Listed,
    ranges: SequenceRanges,
}

/// The files of one partition as of one listing.
#[derive(Clone, Debug)]
pub struct PartitionFooters {
    directory: String,
    files: Vec<Arc<Footer>>,
}

impl PartitionFooters {
    /// True when some file may hold the message: its range does, and it is not older.
    pub fn may_hold(&self, sequence: u64, published_at_ms: i64) -> bool {
        self.candidates(sequence, published_at_ms).next().is_some()
    }

    /// Without the files that hold nothing from `first` to `last`: of a backlog mostly all of them.
    pub fn reaching(mut self, first: u64, last: u64) -> Self {
        self.files.retain(|file| file.ranges.span().is_some_and(|(from, to)| from <= last && first <= to));
        self
    }

    /// The size of one file, if it is there.
    pub(super) fn bytes_of(&self, name: &str) -> Option<u64> {
        self.files.iter().find(|file| file.file.name == name).map(|file| file.file.bytes)
    }

    /// The same with those files only whose names are `wanted`.
    pub(super) fn only(&self, wanted: impl Fn(&str) -> bool) -> Self {
        let files = self.files.iter().filter(|file| wanted(&file.file.name)).cloned().collect();
        Self { directory: self.directory.clone(), files }
    }

    fn candidates(&self, sequence: u64, published_at_ms: i64) -> impl Iterator<Item = &Arc<Footer>> {
        let young =
            move |file: &&Arc<Footer>| file.file.modified_ms.saturating_add(CLOCK_SKEW_MAX_MS) >= published_at_ms;
        self.files.iter().filter(young).filter(move |file| file.ranges.contains(sequence))
    }
}

/// The ids of one file, as keyed 128-bit hashes: 16 bytes each, and nobody outside can
/// make two of them meet.
#[derive(Debug)]
struct IdSet {
    directory: String,
    file: Listed,
    ids: HashSet<u128>,
}

/// Remembers footers and, of the files that suspects fell into, the ids.
#[derive(Default)]
pub(super) struct FooterCache {
    state: Mutex<State>,
    keys: (RandomState, RandomState),
}

#[derive(Default)]
struct State {
    partitions: HashMap<Partition, Vec<Arc<Footer>>>,
    footers: usize,
    /// The one used last comes last.
    ids: Vec<Arc<IdSet>>,
}

impl FooterCache {
    /// Lists the partition and reads the footers that are not yet known, of files that may
    /// hold a message as old as `oldest_published_at_ms`.
    pub(super) fn list(
        &self,
        objects: &Objects,
        partition: &Partition,
        oldest_published_at_ms: i64,
    ) -> Result<PartitionFooters, WarehouseError> {
        let directory = partition.path();
        let young = |file: &Listed| file.modified_ms.saturating_add(CLOCK_SKEW_MAX_MS) >= oldest_published_at_ms;
        let listed: Vec<Listed> =
            objects.list(&directory)?.into_iter().filter(|file| is_data_file(&file.name) && young(file)).collect();
        let mut known: HashMap<String, Arc<Footer>> = {
            let state = self.state();
            let files = state.partitions.get(partition).map(Vec::as_slice).unwrap_or_default();
            files.iter().map(|file| (file.file.name.clone(), file.clone())).collect()
        };
        let mut files = Vec::with_capacity(listed.len());
        for file in listed {
            let footer = match known.get(&file.name).filter(|footer| footer.file == file) {
                Some(footer) => footer.clone(),
                None => match read_footer(objects, &directory, file) {
                    Ok(footer) => Arc::new(footer),
                    Err(error) => {
                        // What was read is not read again when the store works again.
                        self.remember(partition, known.into_values().collect());
                        return Err(error);
                    }
                },
            };
            known.insert(footer.file.name.clone(), footer.clone());
            files.push(footer);
        }
        self.remember(partition, files.clone());
        Ok(PartitionFooters { directory, files })
    }

    fn remember(&self, partition: &Partition, files: Vec<Arc<Footer>>) {
        let mut state = self.state();
        let count = files.len();
        let before = state.partitions.insert(partition.clone(), files).map_or(0, |files| files.len());
        state.footers = state.footers + count - before;
        if state.footers > FOOTERS_MAX {
            state.partitions.clear();
            state.footers = 0;
        }
    }

    /// True when a file that may hold the message does hold its id.
    pub(super) fn holds(
        &self,
        objects: &Objects,
        footers: &PartitionFooters,
        sequence: u64,
        published_at_ms: i64,
        id: &str,
    ) -> Result<bool, WarehouseError> {
        let id = self.id_hash(id);
        for file in footers.candidates(sequence, published_at_ms) {
            if self.ids(objects, &footers.directory, &file.file)?.ids.contains(&id) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn ids(&self, objects: &Objects, directory: &str, file: &Listed) -> Result<Arc<IdSet>, WarehouseError> {
        {
            let mut state = self.state();
            if let Some(at) = state.ids.iter().position(|set| set.file == *file && set.directory == directory) {
                let set = state.ids.remove(at);
                state.ids.push(set.clone());
                return Ok(set);
            }
        }
        let mut ids = HashSet::new();
        let collect = |source| {
            scan::each_id(source, |id| {
                ids.insert(self.id_hash(id));
            })
        };
        objects
            .open(directory, file)?
            .read_with(collect)
            .map_err(|error| error.at(format!("{directory}/{}", file.name)))?;
        let set = Arc::new(IdSet { directory: directory.to_owned(), file: file.clone(), ids });
        let mut state = self.state();
        if state.ids.len() == ID_SETS_MAX {
            state.ids.remove(0);
        }
        state.ids.push(set.clone());
        Ok(set)
    }

    fn id_hash(&self, id: &str) -> u128 {
        u128::from(self.keys.0.hash_one(id)) << 64 | u128::from(self.keys.1.hash_one(id))
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn read_footer(objects: &Objects, directory: &str, file: Listed) -> Result<Footer, WarehouseError> {
    const CONTEXT: &str = "read file footer";
    let path = || format!("{directory}/{}", file.name);
    let open = |source| SerializedFileReader::new(source).map_err(|error| WarehouseError::parquet(CONTEXT, error));
    let reader = objects.open(directory, &file)?.read_with(open).map_err(|error| error.at(path()))?;
    let ranges = match entry(reader.metadata(), SEQUENCES_KEY) {
        Some(text) => SequenceRanges::decode(text)
            .map_err(|error| WarehouseError::caused(WarehouseErrorKind::Corrupt, CONTEXT, error).at(path()))?,
        // Somebody else's file: it holds no message of ours.
        None => SequenceRanges::default(),
    };
    Ok(Footer { file, ranges })
}
