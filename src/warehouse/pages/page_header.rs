//! The header that precedes each page in a file.
//!
//! It is written here because the library writes no checksums. Format: `PageHeader` of parquet.thrift in Thrift's compact
//! protocol. The checksum is the CRC-32 of the page's bytes in the file. For the pages written here
//! (version 1: levels and values together) these are all the bytes after the header.

use parquet::basic::Encoding;
use parquet::column::page::{CompressedPage, Page, PageWriteSpec};
use parquet::errors::ParquetError;

use crate::base::varint::put_varint;

/// Field types of the compact protocol: i32 and enums, and structs.
const I32: u8 = 5;
const STRUCT: u8 = 12;
const STOP: u8 = 0;

/// Appends header and page to `out`, and returns their offset and sizes.
pub(crate) fn write_page(out: &mut Vec<u8>, page: &CompressedPage) -> Result<PageWriteSpec, ParquetError> {
    let start = out.len();
    let mut header = Fields { out, last: 0 };
    header.i32(1, page.page_type() as i32);
    header.i32(2, size(page.uncompressed_size())?);
    header.i32(3, size(page.compressed_size())?);
    header.i32(4, crc32fast::hash(page.data()) as i32);
    match page.compressed_page() {
        Page::DataPage { num_values, encoding, def_level_encoding, rep_level_encoding, statistics: None, .. } => {
            header.structure(5, |data| {
                data.i32(1, *num_values as i32);
                for (field, encoding) in [(2, encoding), (3, def_level_encoding), (4, rep_level_encoding)] {
                    data.i32(field, number(*encoding));
                }
            });
        }
        Page::DictionaryPage { num_values, encoding, is_sorted: false, .. } => {
            header.structure(7, |dictionary| {
                dictionary.i32(1, *num_values as i32);
                dictionary.i32(2, number(*encoding));
            });
        }
        _ => return Err(ParquetError::NYI("a kind of page that is not written".to_owned())),
    }
    header.out.push(STOP);
    let header_bytes = out.len() - start;
    out.extend_from_slice(page.data());

    let mut spec = PageWriteSpec::new();
    spec.page_type = page.page_type();
    spec.uncompressed_size = page.uncompressed_size() + header_bytes;
    spec.compressed_size = page.compressed_size() + header_bytes;
    spec.offset = start as u64;
    spec.bytes_written = (out.len() - start) as u64;
    spec.num_values = page.num_values();
    Ok(spec)
}

fn size(bytes: usize) -> Result<i32, ParquetError> {
    i32::try_from(bytes).map_err(|_| ParquetError::General(format!("a page of {bytes} bytes is too large")))
}

/// The number of an encoding in parquet.thrift.
fn number(encoding: Encoding) -> i32 {
    encoding as i32
}

/// The fields of one struct, in ascending order.
struct Fields<'o> {
    out: &'o mut Vec<u8>,
    last: u8,
}

impl Fields<'_> {
    fn begin(&mut self, field: u8, kind: u8) {
        self.out.push((field - self.last) << 4 | kind);
        self.last = field;
    }

    fn i32(&mut self, field: u8, value: i32) {
        self.begin(field, I32);
        // Zigzag, then a varint.
        put_varint(self.out, u64::from(((value << 1) ^ (value >> 31)) as u32));
    }

    fn structure(&mut self, field: u8, fill: impl FnOnce(&mut Fields<'_>)) {
        self.begin(field, STRUCT);
        fill(&mut Fields { out: self.out, last: 0 });
        self.out.push(STOP);
    }
}
