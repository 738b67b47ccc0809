//! Page compression.
//!
//! One [`Compressor`] serves all columns and files of a thread, because its tables are far
//! larger than a page.

use std::io::Write;

use bytes::Bytes;
use parquet::basic::Compression as Codec;

use crate::base::settings::choice;
use crate::warehouse::error::{WarehouseError, WarehouseErrorKind};

/// zstd's default.
const ZSTD_LEVEL: i32 = 3;
const GZIP_LEVEL: u32 = 6;

choice! {
    /// How pages are compressed.
    #[derive(Default)]
    Compression { #[default] Snappy = "snappy", Gzip = "gzip", Zstd = "zstd", None = "none" }
}

impl Compression {
    /// The inverse of [`Compression::codec`]; `None` for a codec that is not written here.
    pub(crate) fn of_codec(codec: Codec) -> Option<Self> {
        match codec {
            Codec::SNAPPY => Some(Self::Snappy),
            Codec::GZIP(_) => Some(Self::Gzip),
            Codec::ZSTD(_) => Some(Self::Zstd),
            Codec::UNCOMPRESSED => Some(Self::None),
            _ => None,
        }
    }

    pub(crate) fn codec(self) -> Codec {
        match self {
            Self::Snappy => Codec::SNAPPY,
            Self::Gzip => Codec::GZIP(Default::default()),
            Self::Zstd => Codec::ZSTD(Default::default()),
            Self::None => Codec::UNCOMPRESSED,
        }
    }
}

/// A codec with its buffers, and the buffer for column chunks. They are reused because the page faults of fresh memory
/// would cost more than writing the chunk.
pub(crate) struct Compressor {
    pub(crate) compression: Compression,
    snappy: snap::raw::Encoder,
    zstd: Option<zstd::bulk::Compressor<'static>>,
    scratch: Vec<u8>,
    /// The column chunk being written to a file.
    pub(crate) chunk: Vec<u8>,
}

impl Compressor {
    pub(crate) fn new(compression: Compression) -> Result<Self, WarehouseError> {
        let zstd = match compression {
            Compression::Zstd => Some(zstd::bulk::Compressor::new(ZSTD_LEVEL).map_err(failed)?),
            _ => None,
        };
        Ok(Self { compression, snappy: snap::raw::Encoder::new(), zstd, scratch: Vec::new(), chunk: Vec::new() })
    }

    pub(crate) fn compress(&mut self, raw: &[u8]) -> Result<Bytes, WarehouseError> {
        match (&mut self.zstd, self.compression) {
            (Some(zstd), _) => Ok(Bytes::from(zstd.compress(raw).map_err(failed)?)),
            (None, Compression::Gzip) => {
                let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(GZIP_LEVEL));
                gzip.write_all(raw).map_err(failed)?;
                Ok(Bytes::from(gzip.finish().map_err(failed)?))
            }
            (None, Compression::None | Compression::Zstd) => Ok(Bytes::copy_from_slice(raw)),
            (None, Compression::Snappy) => {
                let bytes_max = snap::raw::max_compress_len(raw.len());
                if self.scratch.len() < bytes_max {
                    self.scratch.resize(bytes_max, 0);
                }
                let length = self.snappy.compress(raw, &mut self.scratch).map_err(failed)?;
                Ok(Bytes::copy_from_slice(&self.scratch[..length]))
            }
        }
    }
}

fn failed(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> WarehouseError {
    WarehouseError::caused(WarehouseErrorKind::Encode, "compress page", error)
}
