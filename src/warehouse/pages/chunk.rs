//! Finished pages, their bounds, and the column chunk that they form in a file.

use std::io::Write;

use bytes::Bytes;
use parquet::basic::{BoundaryOrder, Encoding, Type as Physical};
use parquet::bloom_filter::Sbbf;
use parquet::column::page::{CompressedPage, Page, PageWriteSpec};
use parquet::column::writer::ColumnCloseResult;
use parquet::data_type::ByteArray;
use parquet::errors::ParquetError;
use parquet::file::metadata::{ColumnChunkMetaData, ColumnIndexBuilder, OffsetIndexBuilder, PageEncodingStats};
use parquet::file::reader::{ChunkReader, Length};
use parquet::file::statistics::{Statistics, ValueStatistics};
use parquet::file::writer::SerializedRowGroupWriter;
use parquet::schema::types::ColumnDescPtr;

use super::compression::{Compression, Compressor};
use super::page_header::write_page;
use crate::warehouse::error::WarehouseError;

/// Pages with a longer value get no bounds: they would cost more than they save.
const BOUND_BYTES_MAX: usize = 256;

/// The smallest and the largest value of a page or chunk.
#[derive(Clone, Debug, Default)]
pub(crate) struct Bounds {
    min_max: Option<(Vec<u8>, Vec<u8>)>,
    /// The first bytes of both, as numbers, which decide most comparisons.
    prefixes: (u128, u128),
    unknown: bool,
}

impl Bounds {
    /// Bounds that stay unknown.
    pub(crate) fn unknown() -> Self {
        Self { unknown: true, ..Self::default() }
    }

    /// Bounds in PLAIN encoding; `None` for a page of NULLs.
    pub(crate) fn of_numbers(min_max: Option<(Vec<u8>, Vec<u8>)>) -> Self {
        Self { min_max, ..Self::default() }
    }

    #[inline]
    pub(crate) fn include(&mut self, value: &[u8]) {
        let prefix = prefix(value);
        let inside = prefix > self.prefixes.0 && prefix < self.prefixes.1 && value.len() <= BOUND_BYTES_MAX;
        let empty_again = value.is_empty() && self.min_max.as_ref().is_some_and(|(min, _)| min.is_empty());
        if !inside && !empty_again && !self.unknown {
            self.widen(value, prefix);
        }
    }

    fn widen(&mut self, value: &[u8], prefix: u128) {
        match &mut self.min_max {
            _ if value.len() > BOUND_BYTES_MAX => *self = Self::unknown(),
            Some((min, _)) if value < min.as_slice() => {
                replace(min, value);
                self.prefixes.0 = prefix;
            }
            Some((_, max)) if value > max.as_slice() => {
                replace(max, value);
                self.prefixes.1 = prefix;
            }
            Some(_) => {}
            None => {
                self.min_max = Some((value.to_vec(), value.to_vec()));
                self.prefixes = (prefix, prefix);
            }
        }
    }

    /// Takes the bounds and resets them for the next page. Unknown bounds stay unknown.
    pub(crate) fn take(&mut self) -> Self {
        let fresh = Self { unknown: self.unknown, ..Self::default() };
        std::mem::replace(self, fresh)
    }
}

/// The first sixteen bytes as a number with the same order; shorter values are
/// padded with zeros.
#[inline]
fn prefix(value: &[u8]) -> u128 {
    match value.first_chunk::<16>() {
        Some(first) => u128::from_be_bytes(*first),
        None => {
            let mut padded = [0; 16];
            padded[..value.len()].copy_from_slice(value);
            u128::from_be_bytes(padded)
        }
    }
}

fn replace(bound: &mut Vec<u8>, value: &[u8]) {
    bound.clear();
    bound.extend_from_slice(value);
}

/// Statistics of a page.
pub(crate) struct PageStats {
    pub(crate) rows: usize,
    pub(crate) nulls: usize,
    pub(crate) bounds: Bounds,
    /// For a text column, the bytes of its values without length prefixes.
    pub(crate) text_bytes: Option<usize>,
}

/// The finished data pages of one column.
#[derive(Default)]
pub(crate) struct Pages {
    pages: Vec<(CompressedPage, PageStats)>,
    bytes: usize,
}

impl Pages {
    /// Compresses and adds a page. `raw` holds its definition levels, if the column is nullable, and its values.
    pub(crate) fn add(
        &mut self,
        raw: &[u8],
        encoding: Encoding,
        stats: PageStats,
        compressor: &mut Compressor,
    ) -> Result<(), WarehouseError> {
        let buf = compressor.compress(raw)?;
        self.bytes += buf.len() + size_of::<(CompressedPage, PageStats)>();
        let page = Page::DataPage {
            buf,
            num_values: stats.rows as u32,
            encoding,
            def_level_encoding: Encoding::RLE,
            rep_level_encoding: Encoding::RLE,
            statistics: None,
        };
        self.pages.push((CompressedPage::new(page, raw.len()), stats));
        Ok(())
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn uses(&self, encoding: Encoding) -> bool {
        self.pages.iter().any(|(page, _)| page.encoding() == encoding)
    }
}

/// All pages of one column in one row group.
pub(crate) struct Chunk {
    pub(crate) pages: Pages,
    pub(crate) dictionary: Option<CompressedPage>,
    pub(crate) filter: Option<Sbbf>,
}

impl Chunk {
    /// Appends the chunk to the row group as its next column.
    pub(crate) fn append_to<W: Write + Send>(
        self,
        group: &mut SerializedRowGroupWriter<'_, W>,
        column: &ColumnDescPtr,
        compressor: &mut Compressor,
    ) -> Result<(), ParquetError> {
        compressor.chunk.clear();
        compressor.chunk.reserve(self.pages.bytes() + 1024);
        let out = &mut compressor.chunk;
        let mut builder = ChunkBuilder::new(column.physical_type());
        if let Some(dictionary) = self.dictionary {
            builder.dictionary(write_page(out, &dictionary)?, dictionary.encoding());
        }
        for (page, stats) in self.pages.pages {
            builder.data(write_page(out, &page)?, page.encoding(), &stats);
        }
        let close = builder.finish(column, compressor.compression, self.filter)?;
        group.append_column(&ChunkBytes(out), close)
    }
}

/// The bytes of a column chunk, for the library to copy into the file. Unlike the library's own reader, it borrows them.
struct ChunkBytes<'a>(&'a [u8]);

impl Length for ChunkBytes<'_> {
    fn len(&self) -> u64 {
        self.0.len() as u64
    }
}

impl<'a> ChunkReader for ChunkBytes<'a> {
    type T = &'a [u8];

    fn get_read(&self, start: u64) -> Result<Self::T, ParquetError> {
        let rest = usize::try_from(start).ok().and_then(|start| self.0.get(start..));
        rest.ok_or_else(shorter)
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes, ParquetError> {
        let bytes = self.get_read(start)?.get(..length);
        bytes.map(Bytes::copy_from_slice).ok_or_else(shorter)
    }
}

fn shorter() -> ParquetError {
    ParquetError::EOF("the column chunk is shorter".to_owned())
}

/// Collects the metadata of a chunk, page by page.
struct ChunkBuilder {
    physical: Physical,
    totals: Totals,
    encodings: Vec<Encoding>,
    encoding_stats: Vec<PageEncodingStats>,
    bounds: Bounds,
    columns: ColumnIndexBuilder,
    offsets: OffsetIndexBuilder,
}

#[derive(Default)]
struct Totals {
    dictionary_offset: Option<i64>,
    data_offset: Option<i64>,
    compressed: i64,
    uncompressed: i64,
    written: u64,
    rows: u64,
    nulls: u64,
    text_bytes: Option<i64>,
}

impl ChunkBuilder {
    fn new(physical: Physical) -> Self {
        Self {
            physical,
            totals: Totals::default(),
            encodings: vec![Encoding::RLE],
            encoding_stats: Vec::new(),
            bounds: Bounds::default(),
            columns: ColumnIndexBuilder::new(physical),
            offsets: OffsetIndexBuilder::new(),
        }
    }

    fn dictionary(&mut self, spec: PageWriteSpec, encoding: Encoding) {
        self.totals.dictionary_offset = Some(spec.offset as i64);
        self.page(&spec, encoding);
    }

    fn data(&mut self, spec: PageWriteSpec, encoding: Encoding, stats: &PageStats) {
        let PageStats { rows, nulls, bounds, text_bytes } = stats;
        self.totals.data_offset.get_or_insert(spec.offset as i64);
        self.totals.rows += *rows as u64;
        self.totals.nulls += *nulls as u64;
        if let Some(bytes) = text_bytes {
            *self.totals.text_bytes.get_or_insert(0) += *bytes as i64;
        }
        self.page(&spec, encoding);
        self.offsets.append_row_count(*rows as i64);
        self.offsets.append_offset_and_size(spec.offset as i64, spec.compressed_size as i32);
        self.offsets.append_unencoded_byte_array_data_bytes(text_bytes.map(|bytes| bytes as i64));
        match &bounds.min_max {
            Some((min, max)) => {
                self.columns.append(false, min.clone(), max.clone(), *nulls as i64);
                self.widen(min);
                self.widen(max);
            }
            None if rows == nulls => self.columns.append(true, Vec::new(), Vec::new(), *nulls as i64),
            None => {
                self.columns.to_invalid();
                self.bounds = Bounds::unknown();
            }
        }
    }

    fn page(&mut self, spec: &PageWriteSpec, encoding: Encoding) {
        self.totals.compressed += spec.compressed_size as i64;
        self.totals.uncompressed += spec.uncompressed_size as i64;
        self.totals.written += spec.bytes_written;
        if !self.encodings.contains(&encoding) {
            self.encodings.push(encoding);
        }
        let same = |stats: &&mut PageEncodingStats| stats.page_type == spec.page_type && stats.encoding == encoding;
        match self.encoding_stats.last_mut().filter(same) {
            Some(stats) => stats.count += 1,
            None => self.encoding_stats.push(PageEncodingStats { page_type: spec.page_type, encoding, count: 1 }),
        }
    }

    /// Widens the chunk's bounds by a page's bound, in the order of the column's type.
    fn widen(&mut self, value: &[u8]) {
        if self.bounds.unknown {
            return;
        }
        let less = |a: &[u8], b: &[u8]| match self.physical {
            Physical::INT32 => int32(a) < int32(b),
            Physical::INT64 => int64(a) < int64(b),
            Physical::DOUBLE => double(a) < double(b),
            _ => a < b,
        };
        match &mut self.bounds.min_max {
            Some((min, _)) if less(value, min) => replace(min, value),
            Some((_, max)) if less(max, value) => replace(max, value),
            Some(_) => {}
            None => self.bounds.min_max = Some((value.to_vec(), value.to_vec())),
        }
    }

    fn statistics(&self) -> Option<Statistics> {
        if self.bounds.unknown {
            return None;
        }
        let (min, max) = self.bounds.min_max.as_ref().map(|(min, max)| (min.as_slice(), max.as_slice())).unzip();
        let nulls = Some(self.totals.nulls);
        Some(match self.physical {
            Physical::BOOLEAN => {
                let truth = |b: &[u8]| b.first().is_some_and(|b| *b != 0);
                Statistics::Boolean(ValueStatistics::new(min.map(truth), max.map(truth), None, nulls, false))
            }
            Physical::INT32 => {
                Statistics::Int32(ValueStatistics::new(min.map(int32), max.map(int32), None, nulls, false))
            }
            Physical::INT64 => {
                Statistics::Int64(ValueStatistics::new(min.map(int64), max.map(int64), None, nulls, false))
            }
            Physical::DOUBLE => {
                Statistics::Double(ValueStatistics::new(min.map(double), max.map(double), None, nulls, false))
            }
            _ => {
                let text = |b: &[u8]| ByteArray::from(b.to_vec());
                Statistics::ByteArray(ValueStatistics::new(min.map(text), max.map(text), None, nulls, false))
            }
        })
    }

    fn finish(
        mut self,
        column: &ColumnDescPtr,
        compression: Compression,
        filter: Option<Sbbf>,
    ) -> Result<ColumnCloseResult, ParquetError> {
        let statistics = self.statistics();
        let totals = self.totals;
        let mut metadata = ColumnChunkMetaData::builder(column.clone())
            .set_compression(compression.codec())
            .set_encodings(self.encodings)
            .set_page_encoding_stats(self.encoding_stats)
            .set_total_compressed_size(totals.compressed)
            .set_total_uncompressed_size(totals.uncompressed)
            .set_num_values(totals.rows as i64)
            .set_data_page_offset(totals.data_offset.unwrap_or(0))
            .set_dictionary_page_offset(totals.dictionary_offset)
            .set_unencoded_byte_array_data_bytes(totals.text_bytes);
        if let Some(statistics) = statistics {
            metadata = metadata.set_statistics(statistics);
        }
        self.columns.set_boundary_order(BoundaryOrder::UNORDERED);
        let column_index = self.columns.valid().then(|| self.columns.build()).transpose()?;
        Ok(ColumnCloseResult {
            bytes_written: totals.written,
            rows_written: totals.rows,
            metadata: metadata.build()?,
            bloom_filter: filter,
            column_index,
            offset_index: Some(self.offsets.build()),
        })
    }
}

fn int32(bytes: &[u8]) -> i32 {
    bytes.try_into().map_or(0, i32::from_le_bytes)
}

fn double(bytes: &[u8]) -> f64 {
    bytes.try_into().map_or(0.0, f64::from_le_bytes)
}

fn int64(bytes: &[u8]) -> i64 {
    bytes.try_into().map_or(0, i64::from_le_bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn bounds_follow_the_values_and_become_unknown_on_long_ones() {
        let mut bounds = Bounds::default();
        for value in ["m", "a", "z", "k"] {
            bounds.include(value.as_bytes());
        }
        assert_eq!(bounds.take().min_max, Some((b"a".to_vec(), b"z".to_vec())));
        bounds.include(&[b'x'; 257]);
        bounds.include(b"y");
        assert!(bounds.min_max.is_none() && bounds.take().unknown && bounds.unknown);
    }

    proptest! {
        #[test]
        fn bounds_are_the_smallest_and_the_largest(
            values in proptest::collection::vec("[ab\0]{0,3}|common-prefix-of-16[a-c\0]{0,2}", 1..20),
        ) {
            let mut bounds = Bounds::default();
            for value in &values {
                bounds.include(value.as_bytes());
            }
            let (min, max) = bounds.min_max.unwrap();
            prop_assert_eq!(Some(min.as_slice()), values.iter().map(|v| v.as_bytes()).min());
            prop_assert_eq!(Some(max.as_slice()), values.iter().map(|v| v.as_bytes()).max());
        }
    }

    #[test]
    fn numbers_are_ordered_as_numbers() {
        let mut layout = ChunkBuilder::new(Physical::INT64);
        for value in [5i64, -3, 300] {
            layout.widen(&value.to_le_bytes());
        }
        assert_eq!(layout.statistics().unwrap(), Statistics::int64(Some(-3), Some(300), None, Some(0), false));
    }
}
