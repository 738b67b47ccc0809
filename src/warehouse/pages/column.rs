//! The columns of an open row group: each takes values and closes into a column chunk.
//!
//! Values are appended in the encoding of the page, so that closing a page only has to
//! compress it. Invariant: a column accepts every value; when a dictionary
//! grows too large, the column switches to plain values.

use bytes::Bytes;
use hashbrown::HashTable;
use parquet::basic::{Encoding, Type as Physical};
use parquet::column::page::{CompressedPage, Page};

use super::bloom::Hashes;
use super::chunk::{Bounds, Chunk, PageStats, Pages};
use super::compression::Compressor;
use super::encodings::{bit_width, put_booleans, put_deltas, put_hybrid};
use super::short_text::{hash, same};
use crate::warehouse::error::WarehouseError;

/// Bytes of values at which a text page closes: two of snappy's blocks, so that the
/// page is still in the CPU cache when it is compressed.
pub(crate) const TEXT_PAGE_BYTES: usize = 128 * 1024;
/// A dictionary that exceeds either limit gains nothing over plain values.
const DICTIONARY_BYTES_MAX: usize = 256 * 1024;
const DICTIONARY_ENTRIES_MAX: usize = 1 << 15;
/// Rows at which a page closes, however short its values.
pub(crate) const PAGE_ROWS_MAX: usize = 20_000;

/// The length prefix of a PLAIN byte array.
const LENGTH_BYTES: usize = 4;

/// A required text column with mostly distinct values; PLAIN.
pub(crate) struct TextColumn {
    page: Vec<u8>,
    page_rows: usize,
    bounds: Bounds,
    pages: Pages,
    /// For the Bloom filter, if the column has one.
    hashes: Option<Hashes>,
}

impl TextColumn {
    /// `searched` columns get bounds; `bloom` ones also get a Bloom filter.
    pub(crate) fn new(searched: bool, bloom: bool) -> Self {
        let bounds = if searched { Bounds::default() } else { Bounds::unknown() };
        Self { page: Vec::new(), page_rows: 0, bounds, pages: Pages::default(), hashes: bloom.then(Hashes::default) }
    }

    pub(crate) fn push(&mut self, value: &str, compressor: &mut Compressor) -> Result<(), WarehouseError> {
        put_text(&mut self.page, value.as_bytes());
        self.bounds.include(value.as_bytes());
        if let Some(hashes) = &mut self.hashes {
            hashes.push(value.as_bytes());
        }
        self.row_done(compressor)
    }

    /// Adds a value that `write` appends to the page directly. Only for columns without bounds and filter.
    pub(crate) fn push_with(
        &mut self,
        write: impl FnOnce(&mut Vec<u8>),
        compressor: &mut Compressor,
    ) -> Result<(), WarehouseError> {
        let at = self.page.len();
        self.page.extend_from_slice(&[0; 4]);
        write(&mut self.page);
        let length = (self.page.len() - at - 4) as u32;
        self.page[at..at + 4].copy_from_slice(&length.to_le_bytes());
        self.row_done(compressor)
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        self.page.capacity() + self.pages.bytes() + self.hashes.as_ref().map_or(0, Hashes::memory_bytes)
    }

    /// The bytes that the column adds to the file, counting its open page uncompressed.
    pub(crate) fn encoded_bytes(&self) -> usize {
        self.pages.bytes() + self.page.len()
    }

    pub(crate) fn close(mut self, compressor: &mut Compressor) -> Result<Chunk, WarehouseError> {
        self.close_page(compressor)?;
        let filter = self.hashes.as_ref().map(Hashes::filter);
        Ok(Chunk { pages: self.pages, dictionary: None, filter })
    }

    fn row_done(&mut self, compressor: &mut Compressor) -> Result<(), WarehouseError> {
        self.page_rows += 1;
        if self.page.len() >= TEXT_PAGE_BYTES || self.page_rows == PAGE_ROWS_MAX {
            self.close_page(compressor)?;
        }
        Ok(())
    }

    fn close_page(&mut self, compressor: &mut Compressor) -> Result<(), WarehouseError> {
        if self.page_rows > 0 {
            let text_bytes = self.page.len() - LENGTH_BYTES * self.page_rows;
            let bounds = self.bounds.take();
            let stats = PageStats { rows: self.page_rows, nulls: 0, bounds, text_bytes: Some(text_bytes) };
            self.pages.add(&self.page, Encoding::PLAIN, stats, compressor)?;
            self.page.clear();
            self.page_rows = 0;
        }
        Ok(())
    }
}

/// A text column with few distinct values; RLE_DICTIONARY.
pub(crate) struct DictionaryColumn {
    keys: Vec<u16>,
    /// The distinct values, as in the dictionary page.
    dictionary: Vec<u8>,
    /// The end of each value in `dictionary`.
    ends: Vec<u32>,
    index: HashTable<u16>,
    last: u16,
    /// Plain values, used once the dictionary has grown too large.
    plain: Option<PlainTexts>,
    pages: Pages,
}

#[derive(Default)]
struct PlainTexts {
    bytes: Vec<u8>,
    count: usize,
    bounds: Bounds,
}

impl DictionaryColumn {
    pub(crate) fn new() -> Self {
        Self {
            keys: Vec::new(),
            dictionary: Vec::new(),
            ends: Vec::new(),
            index: HashTable::new(),
            last: 0,
            plain: None,
            pages: Pages::default(),
        }
    }

    pub(crate) fn push(&mut self, value: &str, seed: u64) {
        if let Some(plain) = &mut self.plain {
            put_text(&mut plain.bytes, value.as_bytes());
            plain.count += 1;
            plain.bounds.include(value.as_bytes());
            return;
        }
        let key = self.key_of(value, seed);
        self.keys.push(key);
    }

    /// The value's key, for [`DictionaryColumn::push_keys`]. Requires that the column still has a dictionary.
    pub(crate) fn key_of(&mut self, value: &str, seed: u64) -> u16 {
        if self.ends.is_empty() || !same(self.entry(self.last), value.as_bytes()) {
            self.last = self.intern(value.as_bytes(), seed);
        }
        self.last
    }

    /// Adds values by the keys that [`DictionaryColumn::key_of`] returned.
    pub(crate) fn push_keys(&mut self, keys: impl IntoIterator<Item = u16>) {
        self.keys.extend(keys);
    }

    /// True once the dictionary has grown too large and the column has switched to plain values.
    pub(crate) fn is_plain(&self) -> bool {
        self.plain.is_some()
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        let plain = self.plain.as_ref().map_or(0, |plain| plain.bytes.capacity());
        self.keys.capacity() * 2
            + self.dictionary.capacity()
            + self.ends.capacity() * 4
            + self.index.allocation_size()
            + plain
            + self.pages.bytes()
    }

    pub(crate) fn encoded_bytes(&self) -> usize {
        self.pages.bytes() + self.dictionary.len() + self.keys.len()
    }

    /// True if the open page should close early because its values are unusually long.
    pub(crate) fn is_heavy(&self) -> bool {
        let plain = self.plain.as_ref().map_or(0, |plain| plain.bytes.len());
        plain > DICTIONARY_BYTES_MAX || (self.plain.is_none() && self.dictionary.len() > DICTIONARY_BYTES_MAX)
    }

    /// Closes the page of `rows` rows with these definition levels (empty for a required column).
    pub(crate) fn close_page(
        &mut self,
        levels: &[u8],
        rows: usize,
        compressor: &mut Compressor,
    ) -> Result<(), WarehouseError> {
        let mut raw = levels.to_vec();
        if let Some(plain) = &mut self.plain {
            raw.extend_from_slice(&plain.bytes);
            let text_bytes = Some(plain.bytes.len() - LENGTH_BYTES * plain.count);
            plain.bytes.clear();
            let nulls = rows - std::mem::take(&mut plain.count);
            let bounds = plain.bounds.take();
            let stats = PageStats { rows, nulls, bounds, text_bytes };
            return self.pages.add(&raw, Encoding::PLAIN, stats, compressor);
        }
        let nulls = rows - self.keys.len();
        // Width 0 is allowed for a single value, but not every reader supports it.
        let width = bit_width(self.ends.len().saturating_sub(1) as u64).max(1);
        raw.push(width);
        put_hybrid(&mut raw, &self.keys, width);
        let (bounds, text_bytes) = self.page_texts();
        self.keys.clear();
        let stats = PageStats { rows, nulls, bounds, text_bytes: Some(text_bytes) };
        self.pages.add(&raw, Encoding::RLE_DICTIONARY, stats, compressor)?;
        if self.dictionary.len() > DICTIONARY_BYTES_MAX || self.ends.len() > DICTIONARY_ENTRIES_MAX {
            self.index = HashTable::new();
            self.plain = Some(PlainTexts::default());
        }
        Ok(())
    }

    pub(crate) fn close(self, compressor: &mut Compressor) -> Result<Chunk, WarehouseError> {
        let mut dictionary = None;
        if self.pages.uses(Encoding::RLE_DICTIONARY) {
            dictionary = Some(dictionary_page(&self.dictionary, self.ends.len(), compressor)?);
        }
        Ok(Chunk { pages: self.pages, dictionary, filter: None })
    }

    fn entry(&self, key: u16) -> &[u8] {
        text_of(&self.dictionary, &self.ends, key)
    }

    fn intern(&mut self, value: &[u8], seed: u64) -> u16 {
        let Self { dictionary, ends, index, .. } = self;
        let hash = hash(value, seed);
        let found = index.find(hash, |key| same(text_of(dictionary, ends, *key), value));
        if let Some(key) = found {
            return *key;
        }
        let key = ends.len() as u16;
        put_text(dictionary, value);
        ends.push(dictionary.len() as u32);
        index.insert_unique(hash, key, |key| self::hash(text_of(dictionary, ends, *key), seed));
        key
    }

    /// The bounds and the bytes of the open page's values.
    fn page_texts(&self) -> (Bounds, usize) {
        let mut counts = vec![0; self.ends.len()];
        self.keys.iter().for_each(|key| counts[usize::from(*key)] += 1);
        let (mut bounds, mut text_bytes) = (Bounds::default(), 0);
        for key in (0..counts.len()).filter(|key| counts[*key] > 0) {
            let text = self.entry(key as u16);
            bounds.include(text);
            text_bytes += text.len() * counts[key];
        }
        (bounds, text_bytes)
    }
}

/// A column of signed integers; DELTA_BINARY_PACKED.
pub(crate) struct IntegerColumn {
    values: Vec<i64>,
    physical: Physical,
    pages: Pages,
}

impl IntegerColumn {
    pub(crate) fn int64() -> Self {
        Self { values: Vec::new(), physical: Physical::INT64, pages: Pages::default() }
    }

    pub(crate) fn int32() -> Self {
        Self { values: Vec::new(), physical: Physical::INT32, pages: Pages::default() }
    }

    pub(crate) fn push(&mut self, value: i64) {
        self.values.push(value);
    }

    pub(crate) fn extend(&mut self, values: impl Iterator<Item = i64>) {
        self.values.extend(values);
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        self.values.capacity() * 8 + self.pages.bytes()
    }

    pub(crate) fn encoded_bytes(&self) -> usize {
        self.pages.bytes() + self.values.len() * 2
    }

    pub(crate) fn close_page(
        &mut self,
        levels: &[u8],
        rows: usize,
        compressor: &mut Compressor,
    ) -> Result<(), WarehouseError> {
        let mut raw = levels.to_vec();
        let narrow = self.physical == Physical::INT32;
        put_deltas(&mut raw, &self.values, narrow);
        let min_max = self.values.iter().copied().min().zip(self.values.iter().copied().max());
        let bounds = Bounds::of_numbers(min_max.map(|(min, max)| match narrow {
            true => ((min as i32).to_le_bytes().to_vec(), (max as i32).to_le_bytes().to_vec()),
            false => (min.to_le_bytes().to_vec(), max.to_le_bytes().to_vec()),
        }));
        let nulls = rows - self.values.len();
        self.values.clear();
        self.pages.add(
            &raw,
            Encoding::DELTA_BINARY_PACKED,
            PageStats { rows, nulls, bounds, text_bytes: None },
            compressor,
        )
    }

    pub(crate) fn close(self) -> Chunk {
        Chunk { pages: self.pages, dictionary: None, filter: None }
    }
}

/// A column of floating-point numbers; PLAIN.
#[derive(Default)]
pub(crate) struct DoubleColumn {
    values: Vec<f64>,
    pages: Pages,
}

impl DoubleColumn {
    pub(crate) fn push(&mut self, value: f64) {
        self.values.push(value);
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        self.values.capacity() * 8 + self.pages.bytes()
    }

    pub(crate) fn encoded_bytes(&self) -> usize {
        self.pages.bytes() + self.values.len() * 8
    }

    /// JSON has no NaN, so minimum and maximum cover all values.
    pub(crate) fn close_page(
        &mut self,
        levels: &[u8],
        rows: usize,
        compressor: &mut Compressor,
    ) -> Result<(), WarehouseError> {
        let mut raw = levels.to_vec();
        self.values.iter().for_each(|value| raw.extend_from_slice(&value.to_le_bytes()));
        let min = self.values.iter().copied().reduce(f64::min);
        let max = self.values.iter().copied().reduce(f64::max);
        // The format requires -0.0 as the minimum and +0.0 as the maximum for zeros.
        let min = min.map(|min| if min == 0.0 { -0.0 } else { min }.to_le_bytes().to_vec());
        let max = max.map(|max| if max == 0.0 { 0.0 } else { max }.to_le_bytes().to_vec());
        let nulls = rows - self.values.len();
        self.values.clear();
        let stats = PageStats { rows, nulls, bounds: Bounds::of_numbers(min.zip(max)), text_bytes: None };
        self.pages.add(&raw, Encoding::PLAIN, stats, compressor)
    }

    pub(crate) fn close(self) -> Chunk {
        Chunk { pages: self.pages, dictionary: None, filter: None }
    }
}

/// A column of booleans; PLAIN, bit-packed.
#[derive(Default)]
pub(crate) struct BooleanColumn {
    values: Vec<bool>,
    pages: Pages,
}

impl BooleanColumn {
    pub(crate) fn extend(&mut self, values: impl Iterator<Item = bool>) {
        self.values.extend(values);
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        self.values.capacity() + self.pages.bytes()
    }

    pub(crate) fn encoded_bytes(&self) -> usize {
        self.pages.bytes() + self.values.len() / 8
    }

    pub(crate) fn close_page(
        &mut self,
        levels: &[u8],
        rows: usize,
        compressor: &mut Compressor,
    ) -> Result<(), WarehouseError> {
        let mut raw = levels.to_vec();
        put_booleans(&mut raw, &self.values);
        let min_max = (!self.values.is_empty()).then(|| {
            let (all, any) = self.values.iter().fold((true, false), |(all, any), v| (all & v, any | v));
            (vec![u8::from(all)], vec![u8::from(any)])
        });
        let nulls = rows - self.values.len();
        self.values.clear();
        let stats = PageStats { rows, nulls, bounds: Bounds::of_numbers(min_max), text_bytes: None };
        self.pages.add(&raw, Encoding::PLAIN, stats, compressor)
    }

    pub(crate) fn close(self) -> Chunk {
        Chunk { pages: self.pages, dictionary: None, filter: None }
    }
}

fn put_text(out: &mut Vec<u8>, value: &[u8]) {
    out.extend_from_slice(&(value.len() as u32).to_le_bytes());
    out.extend_from_slice(value);
}

fn text_of<'a>(dictionary: &'a [u8], ends: &[u32], key: u16) -> &'a [u8] {
    &slice_of(dictionary, ends, key)[LENGTH_BYTES..]
}

/// The entry at `position` of concatenated entries.
pub(crate) fn slice_of<'b>(bytes: &'b [u8], ends: &[u32], position: u16) -> &'b [u8] {
    let position = usize::from(position);
    let start = if position == 0 { 0 } else { ends[position - 1] };
    &bytes[start as usize..ends[position] as usize]
}

fn dictionary_page(raw: &[u8], entries: usize, compressor: &mut Compressor) -> Result<CompressedPage, WarehouseError> {
    let buf: Bytes = compressor.compress(raw)?;
    let page = Page::DictionaryPage { buf, num_values: entries as u32, encoding: Encoding::PLAIN, is_sorted: false };
    Ok(CompressedPage::new(page, raw.len()))
}
