//! Rows in order, however many they are: sorted in memory, and by way of scratch files when they are more than that takes.
//!
//! Bounds: [`ROWS_BYTES_MAX`] for the rows that are sorted at once; [`RUNS_TOGETHER`] runs that are merged at once, each
//! with one block of about [`BLOCK_BYTES`], and that compressed.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::collections::binary_heap::PeekMut;
use std::fs::File;
use std::io::{BufWriter, Read, Seek, Write};

use super::record::{self, Key};
use super::scratch::Scratch;
use crate::warehouse::WarehouseError;
use crate::warehouse::error::WarehouseErrorKind;
use crate::warehouse::rows::StoredRow;

/// Rows that are sorted at once, with what is known of each.
pub(super) const ROWS_BYTES_MAX: usize = 64 << 20;
/// Sorted runs that are merged at once.
const RUNS_TOGETHER: usize = 400;
const BLOCK_BYTES: usize = 64 << 10;
/// Memory is taken in pieces of this size: what grows by doubling would need twice its bound.
const PIECE_BYTES: usize = 1 << 20;

/// One row that waits in memory.
#[derive(Clone, Copy)]
struct Place {
    key: Key,
    piece: u32,
    start: u32,
    end: u32,
}

/// Rows that wait to be sorted.
#[derive(Default)]
struct Rows {
    pieces: Vec<Vec<u8>>,
    places: Vec<Place>,
    bytes: usize,
}

impl Rows {
    fn push(&mut self, row: &StoredRow<'_>) {
        let full = |piece: &Vec<u8>| piece.len() > PIECE_BYTES - PIECE_BYTES / 8;
        if self.pieces.last().is_none_or(full) {
            self.pieces.push(Vec::with_capacity(PIECE_BYTES));
            self.bytes += PIECE_BYTES;
        }
        let piece_index = self.pieces.len() - 1;
        let piece = &mut self.pieces[piece_index];
        let (start, before) = (piece.len(), piece.capacity());
        record::put(piece, row);
        self.bytes += piece.capacity() - before + size_of::<Place>();
        let place =
            Place { key: Key::of(row), piece: piece_index as u32, start: start as u32, end: piece.len() as u32 };
        self.places.push(place);
    }

    fn record(&self, place: &Place) -> &[u8] {
        &self.pieces[place.piece as usize][place.start as usize..place.end as usize]
    }

    fn sort(&mut self) {
        let mut places = std::mem::take(&mut self.places);
        places.sort_unstable_by(|one, other| {
            one.key.cmp(&other.key).then_with(|| record::compare(self.record(one), self.record(other)))
        });
        self.places = places;
    }

    fn each<E>(&self, mut each: impl FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
        self.places.iter().try_for_each(|place| each(self.record(place)))
    }
}

/// Takes rows in any order and gives them back in theirs.
pub(super) struct Sorter<'a> {
    rows: Rows,
    rows_bytes_max: usize,
    runs: Vec<File>,
    scratch: &'a Scratch,
}

impl<'a> Sorter<'a> {
    pub(super) fn new(scratch: &'a Scratch, rows_bytes_max: usize) -> Self {
        Self { rows: Rows::default(), rows_bytes_max, runs: Vec::new(), scratch }
    }

    pub(super) fn push(&mut self, row: &StoredRow<'_>) -> Result<(), WarehouseError> {
        self.rows.push(row);
        if self.rows.bytes < self.rows_bytes_max {
            return Ok(());
        }
        let mut rows = std::mem::take(&mut self.rows);
        rows.sort();
        let mut run = RunWriter::new(self.scratch)?;
        rows.each(|record| run.push(record))?;
        self.runs.push(run.finish()?);
        Ok(())
    }

    /// Calls `each` with every record in order.
    pub(super) fn finish<E: From<WarehouseError>>(
        mut self,
        mut each: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        self.rows.sort();
        if self.runs.is_empty() {
            return self.rows.each(each);
        }
        let mut run = RunWriter::new(self.scratch)?;
        self.rows.each(|record| run.push(record))?;
        self.runs.push(run.finish()?);
        self.rows = Rows::default();
        while self.runs.len() > RUNS_TOGETHER {
            let together: Vec<File> = self.runs.drain(..RUNS_TOGETHER).collect();
            let mut run = RunWriter::new(self.scratch)?;
            merge(together, |record| run.push(record))?;
            self.runs.push(run.finish()?);
        }
        merge(self.runs, &mut each)
    }
}

/// The next record of a run. Ordered the other way round, for a heap whose greatest comes first.
struct Head {
    key: Key,
    run: Run,
}

impl Ord for Head {
    fn cmp(&self, other: &Self) -> Ordering {
        let order = self.key.cmp(&other.key).then_with(|| record::compare(self.run.record(), other.run.record()));
        order.reverse()
    }
}

impl PartialOrd for Head {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Head {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Head {}

fn merge<E: From<WarehouseError>>(runs: Vec<File>, mut each: impl FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
    let mut heads = BinaryHeap::with_capacity(runs.len());
    for file in runs {
        let mut run = Run::open(file)?;
        if run.advance()? {
            heads.push(Head { key: run.key()?, run });
        }
    }
    while let Some(mut head) = heads.peek_mut() {
        each(head.run.record())?;
        if head.run.advance()? {
            head.key = head.run.key()?;
        } else {
            PeekMut::pop(head);
        }
    }
    Ok(())
}

/// Writes sorted records: blocks of a checksum, two lengths and snappy's bytes, each record with its length before it.
struct RunWriter {
    file: BufWriter<File>,
    block: Vec<u8>,
    packed: Vec<u8>,
    encoder: snap::raw::Encoder,
}

const BLOCK_HEAD_BYTES: usize = 12;
const LENGTH_BYTES: usize = 4;

impl RunWriter {
    fn new(scratch: &Scratch) -> Result<Self, WarehouseError> {
        let file = BufWriter::with_capacity(4 * BLOCK_BYTES, scratch.run()?);
        Ok(Self { file, block: Vec::new(), packed: Vec::new(), encoder: snap::raw::Encoder::new() })
    }

    fn push(&mut self, record: &[u8]) -> Result<(), WarehouseError> {
        self.block.extend_from_slice(&(record.len() as u32).to_le_bytes());
        self.block.extend_from_slice(record);
        if self.block.len() >= BLOCK_BYTES { self.write_block() } else { Ok(()) }
    }

    fn write_block(&mut self) -> Result<(), WarehouseError> {
        if self.block.is_empty() {
            return Ok(());
        }
        self.packed.resize(BLOCK_HEAD_BYTES + snap::raw::max_compress_len(self.block.len()), 0);
        let (head, packed) = self.packed.split_at_mut(BLOCK_HEAD_BYTES);
        let length = self.encoder.compress(&self.block, packed).map_err(damaged)?;
        head[..4].copy_from_slice(&crc32fast::hash(&packed[..length]).to_le_bytes());
        head[4..8].copy_from_slice(&(length as u32).to_le_bytes());
        head[8..].copy_from_slice(&(self.block.len() as u32).to_le_bytes());
        self.block.clear();
        self.file.write_all(&self.packed[..BLOCK_HEAD_BYTES + length]).map_err(failed)
    }

    fn finish(mut self) -> Result<File, WarehouseError> {
        self.write_block()?;
        let mut file = self.file.into_inner().map_err(|error| failed(error.into_error()))?;
        file.rewind().map_err(failed)?;
        Ok(file)
    }
}

/// Reads one run.
struct Run {
    file: File,
    left: u64,
    packed: Vec<u8>,
    block: Vec<u8>,
    /// The record that comes now.
    start: usize,
    end: usize,
}

impl Run {
    fn open(file: File) -> Result<Self, WarehouseError> {
        let left = file.metadata().map_err(failed)?.len();
        Ok(Self { file, left, packed: Vec::new(), block: Vec::new(), start: 0, end: 0 })
    }

    fn record(&self) -> &[u8] {
        &self.block[self.start..self.end]
    }

    fn key(&self) -> Result<Key, WarehouseError> {
        Key::of_record(self.record()).ok_or_else(|| damaged("a record is shorter than its head"))
    }

    /// False at the end.
    fn advance(&mut self) -> Result<bool, WarehouseError> {
        if self.end == self.block.len() && !self.read_block()? {
            return Ok(false);
        }
        let length = self.block.get(self.end..self.end + LENGTH_BYTES).and_then(|bytes| bytes.try_into().ok());
        let length = length.map(u32::from_le_bytes).ok_or_else(|| damaged("a block ends within a length"))?;
        self.start = self.end + LENGTH_BYTES;
        self.end = self.start + length as usize;
        if self.end > self.block.len() { Err(damaged("a block ends within a record")) } else { Ok(true) }
    }

    fn read_block(&mut self) -> Result<bool, WarehouseError> {
        if self.left == 0 {
            return Ok(false);
        }
        let mut head = [0; BLOCK_HEAD_BYTES];
        self.file.read_exact(&mut head).map_err(failed)?;
        let number = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let (checksum, packed, raw) = (number(0), u64::from(number(4)), number(8) as usize);
        let left = self.left.checked_sub(BLOCK_HEAD_BYTES as u64 + packed);
        self.left = left.ok_or_else(|| damaged("a block is longer than its file"))?;
        self.packed.resize(packed as usize, 0);
        self.file.read_exact(&mut self.packed).map_err(failed)?;
        if crc32fast::hash(&self.packed) != checksum {
            return Err(damaged("a block does not match its checksum"));
        }
        self.block.resize(raw, 0);
        let length = snap::raw::Decoder::new().decompress(&self.packed, &mut self.block).map_err(damaged)?;
        self.block.truncate(length);
        (self.start, self.end) = (0, 0);
        Ok(true)
    }
}

fn failed(error: std::io::Error) -> WarehouseError {
    WarehouseError::io("sort rows by way of scratch files", error, false)
}

/// Of a file of ours that nobody else reads: not a stored one.
fn damaged(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> WarehouseError {
    WarehouseError::caused(WarehouseErrorKind::Unavailable, "read scratch file", error)
}
