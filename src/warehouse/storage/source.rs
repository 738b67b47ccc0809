//! A stored file, as input of the Parquet reader.

use std::fs::File;
use std::io::{self, Read};

use bytes::Bytes;
use parquet::errors::ParquetError;
use parquet::file::reader::{ChunkReader, Length};

use super::failure::ReadFailure;
use super::remote::Reading;
use crate::warehouse::error::{WarehouseError, WarehouseErrorKind};

/// One stored file, open for reading.
pub(crate) struct Source {
    content: Content,
    failure: ReadFailure,
}

enum Content {
    File(File),
    Remote(Reading),
}

impl Source {
    pub(super) fn file(file: File) -> Self {
        Self { content: Content::File(file), failure: ReadFailure::default() }
    }

    pub(super) fn remote(reading: Reading) -> Self {
        let failure = reading.noted_failure();
        Self { content: Content::Remote(reading), failure }
    }

    /// Reads the file with `work`. Distinguishes a failure of the store from damage to the file.
    pub(crate) fn read_with<T>(
        self,
        work: impl FnOnce(Self) -> Result<T, WarehouseError>,
    ) -> Result<T, WarehouseError> {
        let failure = self.failure.clone();
        work(self).map_err(|error| match failure.take() {
            Some(failure) => WarehouseError::caused(WarehouseErrorKind::Unavailable, "read stored file", failure),
            None => error,
        })
    }
}

impl Length for Source {
    fn len(&self) -> u64 {
        match &self.content {
            Content::File(file) => file.len(),
            Content::Remote(reading) => reading.bytes(),
        }
    }
}

impl ChunkReader for Source {
    type T = Box<dyn Read>;

    fn get_read(&self, start: u64) -> Result<Self::T, ParquetError> {
        match &self.content {
            Content::File(file) => {
                let read = file.get_read(start).inspect_err(|error| self.failure.note(error.to_string()))?;
                Ok(Box::new(Noting { read, failure: self.failure.clone() }))
            }
            Content::Remote(reading) => Ok(Box::new(reading.read_from(start))),
        }
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes, ParquetError> {
        // Do not trust the lengths in a damaged file.
        if start.checked_add(length as u64).is_none_or(|end| end > self.len()) {
            return Err(ParquetError::EOF("the file ends before".to_owned()));
        }
        match &self.content {
            Content::File(_) => {
                let mut bytes = vec![0; length];
                self.get_read(start)?.read_exact(&mut bytes)?;
                Ok(bytes.into())
            }
            Content::Remote(reading) => {
                reading.get(start, length).map_err(|error| ParquetError::External(Box::new(error)))
            }
        }
    }
}

/// Records read errors of the operating system.
struct Noting<R> {
    read: R,
    failure: ReadFailure,
}

impl<R: Read> Read for Noting<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        self.read.read(out).inspect_err(|error| {
            if error.kind() != io::ErrorKind::Interrupted {
                self.failure.note(error.to_string());
            }
        })
    }
}
