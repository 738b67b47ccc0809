//! The footer of a file: our entries, and how it is read and verified.
//!
//! Parquet has checksums for pages but none for the footer, so ours carries its own: the entry
//! `causality.footer_crc32` is the CRC-32 (eight hex digits) of the footer's bytes, computed with these eight digits
//! set to zero. A footer without the entry, from an older version or another program, is read without that check.

use std::collections::HashSet;

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD as BASE64;
use bytes::Bytes;
use parquet::file::metadata::{ParquetMetaData, ParquetMetaDataReader};
use parquet::file::reader::ChunkReader;
use twox_hash::XxHash64;

use crate::warehouse::error::{WarehouseError, WarehouseErrorKind};
use crate::warehouse::sequence_set::SequenceSet;

const SEQUENCES_KEY: &str = "causality.sequences";
pub(crate) const APP_KEY: &str = "causality.app_id";
pub(crate) const STREAM_KEY: &str = "causality.stream";
const FORMAT_KEY: &str = "causality.format";
const FORMAT: &str = "1";
const REPLACES_KEY: &str = "causality.replaces";
const OUTPUTS_KEY: &str = "causality.outputs";
const CHECKSUM_KEY: &str = "causality.footer_crc32";
const NO_CHECKSUM: &str = "00000000";

/// The writer of a file. A program that rewrites our files may copy our entries, including the checksum, which is then
/// not that of the new file.
pub(crate) const CREATED_BY: &str = concat!("causality ", env!("CARGO_PKG_VERSION"));
const CREATED_BY_US: &[u8] = b"causality ";

const CONTEXT: &str = "read file footer";
const MAGIC: &[u8; 4] = b"PAR1";
/// The end of a file: the length of the footer and the magic bytes.
const TAIL_BYTES: usize = 8;

/// The entries for a file's footer; the last one is filled in by [`seal`].
pub(crate) fn entries(sequences: &SequenceSet, app_id: &str, stream: &str) -> [(&'static str, String); 5] {
    [
        (FORMAT_KEY, FORMAT.to_owned()),
        (APP_KEY, app_id.to_owned()),
        (STREAM_KEY, stream.to_owned()),
        (SEQUENCES_KEY, sequences.encode()),
        (CHECKSUM_KEY, NO_CHECKSUM.to_owned()),
    ]
}

/// The files that the outputs of a compaction replace; stored in the footer of the last output.
///
/// Names are stored as eight-byte hashes. This stays valid when the log is lost, or no longer lists the removed files.
#[derive(Debug, Default)]
pub(crate) struct Replaces {
    /// The files whose rows are in the outputs.
    files: Vec<u64>,
    /// The other outputs. Only together do the outputs hold all rows.
    outputs: Vec<u64>,
}

impl Replaces {
    pub(crate) fn of(files: &[&str], outputs: &[&str]) -> Self {
        let hashes = |names: &[&str]| {
            let mut hashes: Vec<u64> = names.iter().map(|name| name_hash(name)).collect();
            hashes.sort_unstable();
            hashes
        };
        Self { files: hashes(files), outputs: hashes(outputs) }
    }

    /// Reads the entry; `None` if the footer has none.
    pub(crate) fn read(metadata: &ParquetMetaData) -> Result<Option<Self>, WarehouseError> {
        let hashes = |key: &str| -> Result<Option<Vec<u64>>, WarehouseError> {
            let Some(text) = entry(metadata, key) else { return Ok(None) };
            let bytes = BASE64.decode(text).map_err(|error| corrupt(error.to_string()))?;
            Ok(Some(bytes.chunks_exact(8).filter_map(|hash| Some(u64::from_le_bytes(hash.try_into().ok()?))).collect()))
        };
        let Some(files) = hashes(REPLACES_KEY)? else { return Ok(None) };
        Ok(Some(Self { files, outputs: hashes(OUTPUTS_KEY)?.unwrap_or_default() }))
    }

    pub(crate) fn has_file(&self, name: &str) -> bool {
        self.files.binary_search(&name_hash(name)).is_ok()
    }

    /// Whether `names` contains all outputs.
    pub(crate) fn is_complete<'a>(&self, names: impl Iterator<Item = &'a str>) -> bool {
        let there: HashSet<u64> = names.map(name_hash).collect();
        self.outputs.iter().all(|output| there.contains(output))
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        (self.files.capacity() + self.outputs.capacity()) * size_of::<u64>()
    }
}

fn name_hash(name: &str) -> u64 {
    XxHash64::oneshot(0, name.as_bytes())
}

/// The entries for a compacted file's footer; the last one is filled in by [`seal`].
pub(crate) fn compacted_entries(
    sequences: &SequenceSet,
    app_id: &str,
    stream: &str,
    replaces: Option<&Replaces>,
) -> Vec<(&'static str, String)> {
    let mut entries = Vec::from(entries(sequences, app_id, stream));
    let encode = |hashes: &[u64]| {
        let bytes: Vec<u8> = hashes.iter().flat_map(|hash| hash.to_le_bytes()).collect();
        BASE64.encode(bytes)
    };
    if let Some(replaces) = replaces {
        let more = [(REPLACES_KEY, encode(&replaces.files)), (OUTPUTS_KEY, encode(&replaces.outputs))];
        entries.splice(0..0, more);
    }
    entries
}

/// One entry of a file's footer.
pub(crate) fn entry<'a>(metadata: &'a ParquetMetaData, key: &str) -> Option<&'a str> {
    let entries = metadata.file_metadata().key_value_metadata()?;
    entries.iter().find(|entry| entry.key == key)?.value.as_deref()
}

/// Writes the footer's checksum into an otherwise finished file.
pub(crate) fn seal(file: &mut [u8]) {
    let Some(footer) = footer_of(file) else { return };
    if let Some(digits) = digits_in(footer) {
        let checksum = format!("{:08x}", crc32fast::hash(footer));
        footer[digits..digits + NO_CHECKSUM.len()].copy_from_slice(checksum.as_bytes());
    }
}

fn footer_of(file: &mut [u8]) -> Option<&mut [u8]> {
    let end = file.len().checked_sub(TAIL_BYTES)?;
    let length = u32::from_le_bytes(file[end..end + 4].try_into().ok()?) as usize;
    file.get_mut(end.checked_sub(length)?..end)
}

/// The offset of the checksum's digits in a footer: after the entry's key come the header of the value and its length.
fn digits_in(footer: &[u8]) -> Option<usize> {
    let key = footer.windows(CHECKSUM_KEY.len()).rposition(|window| window == CHECKSUM_KEY.as_bytes())?;
    let digits = key + CHECKSUM_KEY.len() + 2;
    (digits + NO_CHECKSUM.len() <= footer.len()).then_some(digits)
}

/// The sequences of the file's rows; empty for a file of another program.
pub(crate) fn sequences(metadata: &ParquetMetaData) -> Result<SequenceSet, WarehouseError> {
    match entry(metadata, SEQUENCES_KEY) {
        Some(text) => SequenceSet::decode(text).map_err(|error| corrupt(error.to_string())),
        None if metadata.file_metadata().created_by().is_some_and(|by| by.as_bytes().starts_with(CREATED_BY_US)) => {
            Err(corrupt(format!("it has no {SEQUENCES_KEY}")))
        }
        None => Ok(SequenceSet::default()),
    }
}

/// Reads and verifies the footer. Every read of a stored file starts here.
pub(crate) fn read(file: &impl ChunkReader) -> Result<ParquetMetaData, WarehouseError> {
    let failed = |error| WarehouseError::parquet(CONTEXT, error);
    let bytes = file.len();
    let Some(end) = bytes.checked_sub(TAIL_BYTES as u64) else {
        return Err(corrupt(format!("it has {bytes} bytes")));
    };
    let tail = file.get_bytes(end, TAIL_BYTES).map_err(failed)?;
    let (length, magic) = tail.split_at(4);
    if magic != MAGIC {
        return Err(corrupt("it does not end as a Parquet file".to_owned()));
    }
    let length = u64::from(u32::from_le_bytes([length[0], length[1], length[2], length[3]]));
    let Some(start) = end.checked_sub(length) else {
        return Err(corrupt(format!("its footer of {length} bytes is longer than the file")));
    };
    let footer = file.get_bytes(start, length as usize).map_err(failed)?;
    verify(&footer)?;
    ParquetMetaDataReader::decode_metadata(&footer).map_err(failed)
}

fn verify(footer: &Bytes) -> Result<(), WarehouseError> {
    let ours = || footer.windows(CREATED_BY_US.len()).rev().any(|window| window == CREATED_BY_US);
    let Some(digits) = digits_in(footer).filter(|_| ours()) else { return Ok(()) };
    let (before, rest) = footer.split_at(digits);
    let (written, after) = rest.split_at(NO_CHECKSUM.len());
    let mut hasher = crc32fast::Hasher::new();
    for part in [before, NO_CHECKSUM.as_bytes(), after] {
        hasher.update(part);
    }
    if written != format!("{:08x}", hasher.finalize()).as_bytes() {
        return Err(corrupt("its footer does not match its checksum".to_owned()));
    }
    Ok(())
}

fn corrupt(what: String) -> WarehouseError {
    WarehouseError::caused(WarehouseErrorKind::Corrupt, CONTEXT, what)
}
