//! Files as objects of a bucket: S3 and compatible stores, Google Cloud Storage, Azure.
//!
//! Invariants: an object is visible as a whole or not at all; every attempt to store a file puts the same
//! content under the same name, so that a repeated request, or one whose response was lost, changes
//! nothing; all reads of an object return parts of the same content. Uploads that a crash interrupted stay
//! invisible; a lifecycle rule of the bucket removes them.

use std::fs::File;
use std::io::{self, Read};
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::TryStreamExt;
use futures_util::stream::{FuturesUnordered, StreamExt};
use object_store::path::Path;
use object_store::{Error, GetOptions, GetRange, ObjectStore, ObjectStoreExt, PutMode, PutPayload};
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tracing::warn;

use super::advice::{StoreLocation, advice, chain, is_final};
use super::client::{Client, client};
use super::delete::Deleter;
use super::failure::{ReadFailure, no_create};
use super::listing::{Listed, Walked};
use super::settings::ObjectSettings;
use crate::warehouse::error::{WarehouseError, WarehouseErrorKind};

/// Larger files are uploaded in parts. Below this size, a single request costs less than a multipart upload.
const WHOLE_BYTES_MAX: usize = 32 << 20;
/// S3 requires parts of at least 5 MiB except for the last, and allows at most 10,000.
const PART_BYTES: usize = 16 << 20;
/// Concurrent part uploads of one file.
const PARTS_AT_ONCE: usize = 4;
/// Read-ahead when a file's metadata or ids are read.
const READ_AHEAD_BYTES: usize = 1 << 20;
/// Concurrent reads of file ends, over all users of this store.
const ENDS_AT_ONCE: usize = 32;
/// The object that is written and removed to check permissions.
const PROBE: &str = ".causality-probe";
/// The object that is written to read the store's clock. It stays, since other processes may be about to read it.
const CLOCK: &str = ".causality-clock";
/// The object that conditional puts are tested with.
const CONDITION_PROBE: &str = ".causality-condition";

#[derive(Debug)]
pub(super) struct Remote {
    store: Arc<dyn ObjectStore>,
    prefix: String,
    runtime: Handle,
    /// For S3; the other clients delete single objects themselves.
    deleter: Option<Deleter>,
    ends: Arc<Semaphore>,
}

impl Remote {
    /// Builds the client and probes the bucket, so that a wrong setting fails the start rather than the first file.
    pub(super) async fn open(settings: &ObjectSettings) -> Result<Self, WarehouseError> {
        let Client { store, deleter, prefix: url_prefix, location } = client(settings)?;
        let prefixes = [url_prefix.as_str(), settings.prefix.as_deref().unwrap_or_default()];
        let prefix = prefixes.map(|prefix| prefix.trim_matches('/')).into_iter().filter(|prefix| !prefix.is_empty());
        let prefix = prefix.collect::<Vec<_>>().join("/");
        let ends = Arc::new(Semaphore::new(ENDS_AT_ONCE));
        let remote = Self { store, prefix, runtime: Handle::current(), deleter, ends };
        remote.probe_bucket(&location).await?;
        Ok(remote)
    }

    async fn probe_bucket(&self, location: &StoreLocation) -> Result<(), WarehouseError> {
        let context = "try out bucket";
        let probe = self.path("", PROBE)?;
        let tried = async {
            self.store.list(Some(&Path::from(self.prefix.as_str()))).take(1).try_collect::<Vec<_>>().await?;
            self.store.put(&probe, PutPayload::from_static(b"")).await?;
            // Another starting process may have deleted it.
            if let Err(error) = self.delete(&probe).await
                && !matches!(error, Error::NotFound { .. })
            {
                // Ingestion works without it.
                let reason = chain(&error);
                warn!(object = %probe, reason, "objects cannot be deleted: a probe stays, and compaction will not work");
            }
            Ok::<(), Error>(())
        };
        tried.await.map_err(|error| {
            let kind = if is_final(&error) { WarehouseErrorKind::Refused } else { WarehouseErrorKind::Unavailable };
            WarehouseError::caused(kind, context, format!("{}; {}", chain(&error), advice(&error, location)))
        })
    }

    pub(super) fn store(
        &self,
        directory: &str,
        name: &str,
        bytes: &Bytes,
        commit: impl FnOnce() -> bool,
    ) -> Result<bool, WarehouseError> {
        let path = self.path(directory, name)?;
        let stored = self.runtime.block_on(async {
            if bytes.len() > WHOLE_BYTES_MAX {
                return self.store_in_parts(&path, bytes, commit).await;
            }
            if !commit() {
                return Ok(false);
            }
            self.store.put(&path, PutPayload::from_bytes(bytes.clone())).await.map(|_| true)
        });
        stored.map_err(|error| failed("store object", &error).at(path.to_string()))
    }

    /// Uploads all parts; a last, small request makes the object visible.
    async fn store_in_parts(&self, path: &Path, bytes: &Bytes, commit: impl FnOnce() -> bool) -> Result<bool, Error> {
        let mut upload = self.store.put_multipart(path).await?;
        let sent = async {
            let mut on_their_way = FuturesUnordered::new();
            for start in (0..bytes.len()).step_by(PART_BYTES) {
                if on_their_way.len() == PARTS_AT_ONCE {
                    on_their_way.try_next().await?;
                }
                let part = bytes.slice(start..bytes.len().min(start + PART_BYTES));
                on_their_way.push(upload.put_part(PutPayload::from_bytes(part)));
            }
            while on_their_way.try_next().await?.is_some() {}
            Ok(())
        };
        let sent: Result<(), Error> = sent.await;
        let done = match sent {
            Ok(()) if commit() => upload.complete().await.map(|_| true),
            Ok(()) => Ok(false),
            Err(error) => Err(error),
        };
        if !matches!(done, Ok(true)) {
            // Best effort: leftover parts are invisible, and the bucket's lifecycle rule removes them.
            let _ = upload.abort().await;
        }
        done
    }

    /// An attempt whose response is lost may have stored the object; the next one then reports that the name is taken.
    pub(super) fn create(&self, directory: &str, name: &str, bytes: &Bytes) -> Result<bool, WarehouseError> {
        let path = self.path(directory, name)?;
        match self.runtime.block_on(self.put_new(&path, bytes.clone())) {
            Ok(created) => Ok(created),
            Err(error) => Err(failed("create object", &error).at(path.to_string())),
        }
    }

    async fn put_new(&self, path: &Path, bytes: Bytes) -> Result<bool, Error> {
        match self.store.put_opts(path, PutPayload::from_bytes(bytes), PutMode::Create.into()).await {
            Ok(_) => Ok(true),
            Err(Error::AlreadyExists { .. } | Error::Precondition { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Stores without conditional puts replace the object or reject the request.
    pub(super) fn check_create(&self) -> Result<(), WarehouseError> {
        let path = self.path("", CONDITION_PROBE)?;
        let tried = self.runtime.block_on(async {
            // The object stays: otherwise another starting process could create it successfully in between.
            Ok(self.put_new(&path, Bytes::new()).await? && self.put_new(&path, Bytes::new()).await?)
        });
        match tried {
            Ok(false) => Ok(()),
            Ok(true) => Err(no_create("the object store replaces an object that must be absent")),
            Err(error) if is_unimplemented(&error) => {
                Err(no_create(&format!("the object store does not take conditional puts ({})", chain(&error))))
            }
            Err(error) => Err(failed("try out conditional put", &error).at(path.to_string())),
        }
    }

    pub(super) fn read_whole(&self, directory: &str, name: &str) -> Result<Option<Bytes>, WarehouseError> {
        let path = self.path(directory, name)?;
        let read = self.runtime.block_on(async {
            // Responses to requests without a range are checked as XML.
            let whole = GetOptions::new().with_range(Some(GetRange::Offset(0)));
            self.store.get_opts(&path, whole).await?.bytes().await
        });
        match read {
            Ok(bytes) => Ok(Some(bytes)),
            Err(Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(failed("read object", &error).at(path.to_string())),
        }
    }

    pub(super) fn walk(
        &self,
        each: &mut dyn FnMut(&Walked) -> Result<bool, WarehouseError>,
    ) -> Result<(), WarehouseError> {
        let root = Path::from(self.prefix.as_str());
        let mut all = self.store.list(Some(&root));
        while let Some(object) = self.runtime.block_on(all.next()) {
            let object = object.map_err(|error| failed("list objects", &error).at(root.to_string()))?;
            let Some(below) = object.location.prefix_match(&root) else { continue };
            let parts: Vec<String> = below.map(|part| part.as_ref().to_owned()).collect();
            let Some((name, directories)) = parts.split_last() else { continue };
            let modified_ms = object.last_modified.timestamp_millis();
            let file = Listed { name: name.clone(), modified_ms, bytes: object.size };
            if !each(&Walked { directory: directories.join("/"), file })? {
                return Ok(());
            }
        }
        Ok(())
    }

    pub(super) fn list(&self, directory: &str) -> Result<Vec<Listed>, WarehouseError> {
        let prefix = self.path(directory, "")?;
        let listed = self.runtime.block_on(self.store.list_with_delimiter(Some(&prefix)));
        let listed = listed.map_err(|error| failed("list partition", &error).at(prefix.to_string()))?;
        let file = |object: object_store::ObjectMeta| {
            Some(Listed {
                name: object.location.filename()?.to_owned(),
                modified_ms: object.last_modified.timestamp_millis(),
                bytes: object.size,
            })
        };
        Ok(listed.objects.into_iter().filter_map(file).collect())
    }

    pub(super) fn read(&self, directory: &str, file: &Listed) -> Reading {
        Reading {
            store: self.store.clone(),
            path: self.path(directory, &file.name),
            bytes: file.bytes,
            runtime: self.runtime.clone(),
            state: Arc::default(),
            failure: ReadFailure::default(),
        }
    }

    /// Like [`Remote::read`] of each file, with the last `end_bytes` of each prefetched. A failed prefetch is retried
    /// when the bytes are needed.
    pub(super) fn read_ends(&self, directory: &str, files: &[Listed], end_bytes: usize) -> Vec<Reading> {
        let readings: Vec<Reading> = files.iter().map(|file| self.read(directory, file)).collect();
        let ahead = readings.iter().map(|reading| async {
            // The semaphore is never closed.
            let _permit = self.ends.acquire().await;
            reading.read_end(end_bytes as u64).await
        });
        self.runtime.block_on(futures_util::future::join_all(ahead));
        readings
    }

    pub(super) fn now_ms(&self) -> Result<i64, WarehouseError> {
        let path = self.path("", CLOCK)?;
        let now = self.runtime.block_on(async {
            self.store.put(&path, PutPayload::from_static(b"")).await?;
            Ok(self.store.head(&path).await?.last_modified.timestamp_millis())
        });
        now.map_err(|error| failed("read object store's clock", &error).at(path.to_string()))
    }

    /// Uploads a file from this machine's disk, a part at a time.
    pub(super) fn upload(&self, file: &std::path::Path, directory: &str, name: &str) -> Result<(), WarehouseError> {
        let path = self.path(directory, name)?;
        let io = |error| WarehouseError::io("read file to upload", error, false).at(file.display().to_string());
        let mut open = File::open(file).map_err(io)?;
        let bytes = open.metadata().map_err(io)?.len() as usize;
        let mut next = |length: usize| {
            let mut part = vec![0; length];
            open.read_exact(&mut part).map(|()| PutPayload::from(part)).map_err(io)
        };
        let failed = |error| failed("store object", &error).at(path.to_string());
        if bytes <= PART_BYTES {
            let whole = next(bytes)?;
            return self.runtime.block_on(self.store.put(&path, whole)).map(drop).map_err(failed);
        }
        let mut upload = self.runtime.block_on(self.store.put_multipart(&path)).map_err(failed)?;
        let sent = (0..bytes).step_by(PART_BYTES).try_for_each(|start| {
            let part = next(PART_BYTES.min(bytes - start))?;
            self.runtime.block_on(upload.put_part(part)).map_err(failed)
        });
        let done = sent.and_then(|()| self.runtime.block_on(upload.complete()).map(drop).map_err(failed));
        if done.is_err() {
            // Best effort: leftover parts are invisible, and the bucket's lifecycle rule removes them.
            let _ = self.runtime.block_on(upload.abort());
        }
        done
    }

    /// Copies, then deletes: if interrupted, both exist.
    pub(super) fn rename(&self, from: (&str, &str), to: (&str, &str)) -> Result<(), WarehouseError> {
        let (from, to) = (self.path(from.0, from.1)?, self.path(to.0, to.1)?);
        let renamed = self.runtime.block_on(async {
            self.store.copy(&from, &to).await?;
            self.delete(&from).await
        });
        renamed.map_err(|error| failed("rename object", &error).at(to.to_string()))
    }

    pub(super) fn remove(&self, directory: &str, name: &str) -> Result<(), WarehouseError> {
        let path = self.path(directory, name)?;
        let removed = self.runtime.block_on(self.delete(&path));
        removed.map_err(|error| failed("remove object", &error).at(path.to_string()))
    }

    async fn delete(&self, path: &Path) -> Result<(), Error> {
        match &self.deleter {
            Some(deleter) => deleter.delete(path).await,
            None => self.store.delete(path).await,
        }
    }

    fn path(&self, directory: &str, name: &str) -> Result<Path, WarehouseError> {
        let parts = [self.prefix.as_str(), directory, name];
        let text = parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("/");
        Path::parse(&text).map_err(|error| WarehouseError::caused(WarehouseErrorKind::Refused, "name object", error))
    }
}

/// An object that is being read, block by block.
#[derive(Clone)]
pub(crate) struct Reading {
    store: Arc<dyn ObjectStore>,
    path: Result<Path, WarehouseError>,
    bytes: u64,
    runtime: Handle,
    state: Arc<Mutex<ReadingState>>,
    failure: ReadFailure,
}

#[derive(Default)]
struct ReadingState {
    /// The last block read, and its offset.
    block: (u64, Bytes),
    /// The ETag of the content being read, if the store sends one.
    tag: Option<String>,
}

impl Reading {
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn get(&self, start: u64, length: usize) -> io::Result<Bytes> {
        let end = start + length as u64;
        let mut state = self.state.lock();
        let state = &mut *state;
        let (at, bytes) = &state.block;
        if start < *at || end > at + bytes.len() as u64 {
            if end > self.bytes {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            // The end of a file is read backwards, footer first.
            let wanted = length.max(READ_AHEAD_BYTES) as u64;
            let from = if end == self.bytes { start.min(self.bytes.saturating_sub(wanted)) } else { start };
            let to = self.bytes.min(from + wanted.max(end - from));
            let path = self.path.as_ref().map_err(|error| io::Error::other(error.clone()))?;
            let read = self.runtime.block_on(self.get_block(path, from..to, &mut state.tag));
            let read = read.map_err(|error| {
                self.failure.note(chain(&error));
                io::Error::other(error)
            })?;
            state.block = (from, read);
        }
        let (at, bytes) = &state.block;
        let from = (start - at) as usize;
        if from + length > bytes.len() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(bytes.slice(from..from + length))
    }

    /// Fails if the file was replaced since it was listed: the parts would not belong together.
    async fn get_block(&self, path: &Path, range: Range<u64>, tag: &mut Option<String>) -> Result<Bytes, Error> {
        let got = self.store.get_opts(path, GetOptions::new().with_range(Some(range))).await?;
        let replaced = got.meta.size != self.bytes || tag.is_some() && *tag != got.meta.e_tag;
        if replaced {
            let source = "it was replaced since it was listed".into();
            return Err(Error::Precondition { path: path.to_string(), source });
        }
        *tag = got.meta.e_tag.clone();
        got.bytes().await
    }

    /// Prefetches the end of the file. A failure surfaces when the end is read.
    async fn read_end(&self, bytes: u64) {
        let Ok(path) = &self.path else { return };
        let (from, mut tag) = (self.bytes.saturating_sub(bytes), None);
        if self.bytes > 0
            && let Ok(end) = self.get_block(path, from..self.bytes, &mut tag).await
        {
            let block = (from, end);
            *self.state.lock() = ReadingState { block, tag };
        }
    }

    /// Where failed requests are recorded.
    pub(super) fn noted_failure(&self) -> ReadFailure {
        self.failure.clone()
    }

    pub(super) fn read_from(&self, start: u64) -> impl Read + use<> {
        Sequential { reading: self.clone(), at: start }
    }
}

struct Sequential {
    reading: Reading,
    at: u64,
}

impl Read for Sequential {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let length = out.len().min((self.reading.bytes - self.at.min(self.reading.bytes)) as usize);
        let bytes = self.reading.get(self.at, length)?;
        out[..length].copy_from_slice(&bytes);
        self.at += length as u64;
        Ok(length)
    }
}

fn failed(context: &'static str, error: &Error) -> WarehouseError {
    let kind = if is_final(error) { WarehouseErrorKind::Refused } else { WarehouseErrorKind::Unavailable };
    WarehouseError::caused(kind, context, chain(error))
}

/// Whether a store reports that it does not support a request.
fn is_unimplemented(error: &Error) -> bool {
    let text = chain(error);
    matches!(error, Error::NotImplemented { .. } | Error::NotSupported { .. })
        || ["NotImplemented", "501 Not Implemented", "UnsupportedHeader"].iter().any(|sign| text.contains(sign))
}
