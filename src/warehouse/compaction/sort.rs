//! External sort: sorts any number of rows in bounded memory, spilling sorted runs to scratch files.
//!
//! When the buffer is full, a background thread sorts and spills it while new rows arrive. Another thread merges the runs
//! while the caller consumes the result.
//!
//! Bounds: twice [`ROWS_BYTES_MAX`] for buffered rows; at most [`RUNS_TOGETHER`] runs per merge, each with one block of
//! about [`BLOCK_BYTES`] plus the same block compressed; [`AHEAD_BLOCKS`] merged blocks of [`AHEAD_BYTES`] ahead of the
//! consumer.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::collections::binary_heap::PeekMut;
use std::fs::File;
use std::io::{BufWriter, Read, Seek, Write};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{Builder, JoinHandle};

use super::record::{self, RowKey};
use crate::warehouse::WarehouseError;
use crate::warehouse::columns::row::StoredRow;
use crate::warehouse::error::WarehouseErrorKind;
use crate::warehouse::maintenance::{Scratch, THREAD, lower_priority};

/// Bytes of rows sorted in memory, including their index.
pub(super) const ROWS_BYTES_MAX: usize = 64 << 20;
/// Sorted runs per merge.
const RUNS_TOGETHER: usize = 400;
const BLOCK_BYTES: usize = 64 << 10;
/// Size of a block of merged records.
const AHEAD_BYTES: usize = 256 << 10;
/// Blocks merged ahead of the consumer.
const AHEAD_BLOCKS: usize = 4;
/// Rows are buffered in pieces of this size: a vector that grows by doubling could need twice the bound.
const PIECE_BYTES: usize = 1 << 20;

/// The location of a buffered row.
#[derive(Clone, Copy)]
struct RowIndex {
    key: RowKey,
    piece: u32,
    start: u32,
    end: u32,
}

/// Buffered rows.
#[derive(Default)]
struct RowBuffer {
    pieces: Vec<Vec<u8>>,
    indexes: Vec<RowIndex>,
    bytes: usize,
}

impl RowBuffer {
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
        self.bytes += piece.capacity() - before + size_of::<RowIndex>();
        let index =
            RowIndex { key: RowKey::of(row), piece: piece_index as u32, start: start as u32, end: piece.len() as u32 };
        self.indexes.push(index);
    }

    fn record(&self, index: &RowIndex) -> &[u8] {
        &self.pieces[index.piece as usize][index.start as usize..index.end as usize]
    }

    fn sort(&mut self) {
        let mut indexes = std::mem::take(&mut self.indexes);
        indexes.sort_unstable_by(|one, other| {
            one.key.cmp(&other.key).then_with(|| record::compare(self.record(one), self.record(other)))
        });
        self.indexes = indexes;
    }

    fn each<E>(&self, mut each: impl FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
        self.indexes.iter().try_for_each(|index| each(self.record(index)))
    }

    /// Sorts the rows and writes them to disk as a run.
    fn write(mut self, mut run: RunWriter) -> Result<File, WarehouseError> {
        self.sort();
        self.each(|record| run.push(record))?;
        run.finish()
    }
}

/// Takes rows in any order and returns them sorted.
pub(super) struct Sorter<'a> {
    rows: RowBuffer,
    rows_bytes_max: usize,
    /// The thread that is writing a run.
    writing: Option<JoinHandle<Result<File, WarehouseError>>>,
    runs: Vec<File>,
    scratch: &'a Scratch,
}

impl<'a> Sorter<'a> {
    pub(super) fn new(scratch: &'a Scratch, rows_bytes_max: usize) -> Self {
        Self { rows: RowBuffer::default(), rows_bytes_max, writing: None, runs: Vec::new(), scratch }
    }

    pub(super) fn push(&mut self, row: &StoredRow<'_>) -> Result<(), WarehouseError> {
        self.rows.push(row);
        if self.rows.bytes < self.rows_bytes_max { Ok(()) } else { self.write_run() }
    }

    /// Starts to write the buffer as a run, after the previous run is complete.
    fn write_run(&mut self) -> Result<(), WarehouseError> {
        self.finish_run()?;
        let (rows, run) = (std::mem::take(&mut self.rows), RunWriter::new(self.scratch)?);
        let write = move || {
            lower_priority();
            rows.write(run)
        };
        self.writing = Some(Builder::new().name(THREAD.to_owned()).spawn(write).map_err(failed)?);
        Ok(())
    }

    fn finish_run(&mut self) -> Result<(), WarehouseError> {
        if let Some(writing) = self.writing.take() {
            self.runs.push(writing.join().unwrap_or_else(|_| Err(damaged("the thread that wrote it has died")))?);
        }
        Ok(())
    }

    /// Calls `each` with every record in sorted order.
    pub(super) fn finish<E: From<WarehouseError>>(
        mut self,
        mut each: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        if self.writing.is_none() && self.runs.is_empty() {
            self.rows.sort();
            return self.rows.each(each);
        }
        self.write_run()?;
        self.finish_run()?;
        while self.runs.len() > RUNS_TOGETHER {
            let together: Vec<File> = self.runs.drain(..RUNS_TOGETHER).collect();
            let mut run = RunWriter::new(self.scratch)?;
            merge(together, |record| run.push(record))?;
            self.runs.push(run.finish()?);
        }
        let runs = self.runs;
        let (filled, blocks) = sync_channel(AHEAD_BLOCKS);
        std::thread::scope(|scope| {
            let merging = Builder::new().name(THREAD.to_owned()).spawn_scoped(scope, move || {
                lower_priority();
                merge_ahead(runs, &filled);
            });
            merging.map_err(failed)?;
            consume(blocks, &mut each)
        })
    }
}

/// Merges until the runs are exhausted, a read fails, or the consumer stops.
fn merge_ahead(runs: Vec<File>, filled: &SyncSender<Result<Vec<u8>, WarehouseError>>) {
    let mut block = Vec::with_capacity(AHEAD_BYTES + AHEAD_BYTES / 8);
    let stopped = || damaged("nobody takes the rows any more");
    let merged = merge(runs, |record| {
        put_record(&mut block, record);
        if block.len() < AHEAD_BYTES {
            return Ok(());
        }
        let full = std::mem::replace(&mut block, Vec::with_capacity(AHEAD_BYTES + AHEAD_BYTES / 8));
        filled.send(Ok(full)).map_err(|_| stopped())
    });
    // The consumer may have stopped early.
    let _ = filled.send(merged.map(|()| block));
}

fn consume<E: From<WarehouseError>>(
    blocks: Receiver<Result<Vec<u8>, WarehouseError>>,
    each: &mut impl FnMut(&[u8]) -> Result<(), E>,
) -> Result<(), E> {
    for block in blocks {
        let block = block?;
        let mut at = 0;
        while at < block.len() {
            let (start, end) = record_at(&block, at)?;
            each(&block[start..end])?;
            at = end;
        }
    }
    Ok(())
}

/// Appends a record, prefixed by its length.
fn put_record(block: &mut Vec<u8>, record: &[u8]) {
    block.extend_from_slice(&(record.len() as u32).to_le_bytes());
    block.extend_from_slice(record);
}

/// Returns the bounds of the record whose length prefix is at `at`.
fn record_at(block: &[u8], at: usize) -> Result<(usize, usize), WarehouseError> {
    let length = block.get(at..at + LENGTH_BYTES).and_then(|bytes| bytes.try_into().ok());
    let length = length.map(u32::from_le_bytes).ok_or_else(|| damaged("a block ends within a length"))?;
    let (start, end) = (at + LENGTH_BYTES, at + LENGTH_BYTES + length as usize);
    if end > block.len() { Err(damaged("a block ends within a record")) } else { Ok((start, end)) }
}

/// The next record of a run. The order is reversed, because the heap yields the greatest first.
struct Head {
    key: RowKey,
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

/// Writes sorted records in blocks: a checksum, two lengths and the snappy-compressed records, each prefixed by its
/// length.
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
        put_record(&mut self.block, record);
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

/// Reads a sorted run.
struct Run {
    file: File,
    left: u64,
    packed: Vec<u8>,
    block: Vec<u8>,
    /// The bounds of the current record in `block`.
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

    fn key(&self) -> Result<RowKey, WarehouseError> {
        RowKey::of_record(self.record()).ok_or_else(|| damaged("a record is shorter than its head"))
    }

    /// Moves to the next record. Returns false at the end.
    fn advance(&mut self) -> Result<bool, WarehouseError> {
        if self.end == self.block.len() && !self.read_block()? {
            return Ok(false);
        }
        (self.start, self.end) = record_at(&self.block, self.end)?;
        Ok(true)
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

/// An error in a scratch file, as opposed to a stored one.
fn damaged(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> WarehouseError {
    WarehouseError::caused(WarehouseErrorKind::Unavailable, "read scratch file", error)
}
