//! Files as objects of a bucket: S3 and what speaks its protocol, Google Cloud Storage, Azure.
//!
//! Invariants: an object is visible whole or not at all; attempts to store a file put the same
//! content under the same name, so that a repeated request, or one whose answer was lost, changes
//! nothing; what is read of an object is of one content. Uploads that a crash cut short stay
//! invisible; a lifecycle rule of the bucket clears them away.

use std::fs::File;
use std::io::{self, Read};
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures_util::TryStreamExt;
use futures_util::stream::{FuturesUnordered, StreamExt};
use object_store::path::Path;
use object_store::{Error, GetOptions, GetRange, ObjectStore, ObjectStoreExt, PutMode, PutPayload};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tracing::warn;

use super::advice::{Place, advice, chain, is_final};
use super::client::{Client, client};
use super::delete::Deleter;
use super::failure::{ReadFailure, no_create};
use super::listing::{Listed, Walked};
use super::settings::ObjectSettings;
use crate::warehouse::error::{WarehouseError, WarehouseErrorKind};

/// Files above this are uploaded in parts: below, one request costs less than their beginning, parts and end.
const WHOLE_BYTES_MAX: usize = 32 << 20;
/// S3 allows no part below 5 MiB but the last, and at most 10,000.
const PART_BYTES: usize = 16 << 20;
/// Parts of one file on their way at once.
const PARTS_AT_ONCE: usize = 4;
/// Bytes that are read at once when a file's metadata or ids are looked at.
const READ_AHEAD_BYTES: usize = 1 << 20;
/// Ends of files that are read at once, by all who look into this store.
const ENDS_AT_ONCE: usize = 32;
/// The object that is written and removed to see whether that is allowed.
const PROBE: &str = ".causality-probe";
/// The object whose time is the store's. It stays: others may be about to look at it.
const CLOCK: &str = ".causality-clock";
/// The object that is put under the condition that there is none.
const CONDITION_PROBE: &str = ".causality-condition";

#[derive(Debug)]
pub(super) struct Remote {
    store: Arc<dyn ObjectStore>,
    prefix: String,
    runtime: Handle,
    /// Of S3; the others' clients delete one by one.
    deleter: Option<Deleter>,
    ends: Arc<Semaphore>,
}

impl Remote {
    /// Makes the client and tries it out, so that a wrong setting ends the start and not the first file.
    pub(super) async fn open(settings: &ObjectSettings) -> Result<Self, WarehouseError> {
        let Client { store, deleter, prefix: url_prefix, place } = client(settings)?;
        let prefixes = [url_prefix.as_str(), settings.prefix.as_deref().unwrap_or_default()];
        let prefix = prefixes.map(|prefix| prefix.trim_matches('/')).into_iter().filter(|prefix| !prefix.is_empty());
        let prefix = prefix.collect::<Vec<_>>().join("/");
        let ends = Arc::new(Semaphore::new(ENDS_AT_ONCE));
        let remote = Self { store, prefix, runtime: Handle::current(), deleter, ends };
        remote.try_out(&place).await?;
        Ok(remote)
    }

    async fn try_out(&self, place: &Place) -> Result<(), WarehouseError> {
        let context = "try out bucket";
        let probe = self.path("", PROBE)?;
        let tried = async {
            self.store.list(Some(&Path::from(self.prefix.as_str()))).take(1).try_collect::<Vec<_>>().await?;
            self.store.put(&probe, PutPayload::from_static(b"")).await?;
            // Another process that starts may have deleted it.
            if let Err(error) = self.delete(&probe).await
                && !matches!(error, Error::NotFound { .. })
            {
                // Deleting is needed in rare repairs only.
                let reason = chain(&error);
                warn!(object = %probe, reason, "objects cannot be deleted: a probe stays, and compaction will not work");
            }
            Ok::<(), Error>(())
        };
        tried.await.map_err(|error| {
            let kind = if is_final(&error) { WarehouseErrorKind::Refused } else { WarehouseErrorKind::Unavailable };
            WarehouseError::caused(kind, context, format!("{}; {}", chain(&error), advice(&error, place)))
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

    /// All parts first; the object appears with the last, small request.
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
            // Best effort: what stays is invisible, and the bucket's lifecycle rule removes it.
            let _ = upload.abort().await;
        }
        done
    }

    /// An attempt whose answer is lost may have stored it, and the next is told that the name is taken.
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

    /// Stores that do not know the condition put the object again, or refuse the request.
    pub(super) fn check_create(&self) -> Result<(), WarehouseError> {
        let path = self.path("", CONDITION_PROBE)?;
        let tried = self.runtime.block_on(async {
            // It stays, or another process that starts would be told that it is new.
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
            // What is not asked for by its range is taken for an answer in XML.
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

    /// Like [`Remote::read`] of each, with the last `end_bytes` of each read ahead. What could not be read ahead is
    /// asked for once more when it is wanted.
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
    pub(super) fn bring(&self, file: &std::path::Path, directory: &str, name: &str) -> Result<(), WarehouseError> {
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
            // Best effort: what stays is invisible, and the bucket's lifecycle rule removes it.
            let _ = self.runtime.block_on(upload.abort());
        }
        done
    }

    /// A copy first: when this is cut short both are there.
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

/// One object that is being read, a block at a time.
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
    /// The block read last, and where it begins.
    block: (u64, Bytes),
    /// Which content of the name is being read, when the store says so.
    tag: Option<String>,
}

impl Reading {
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn get(&self, start: u64, length: usize) -> io::Result<Bytes> {
        let end = start + length as u64;
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let state = &mut *state;
        let (at, bytes) = &state.block;
        if start < *at || end > at + bytes.len() as u64 {
            if end > self.bytes {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            // The end of a file is read backwards: its footer first.
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

    /// Refuses a file that was replaced since it was listed: its parts would not belong together.
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

    /// Fills the block with the file's end. A failure shows when the end is asked for.
    async fn read_end(&self, bytes: u64) {
        let Ok(path) = &self.path else { return };
        let (from, mut tag) = (self.bytes.saturating_sub(bytes), None);
        if self.bytes > 0
            && let Ok(end) = self.get_block(path, from..self.bytes, &mut tag).await
        {
            let block = (from, end);
            *self.state.lock().unwrap_or_else(PoisonError::into_inner) = ReadingState { block, tag };
        }
    }

    /// Where a failed request is noted.
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

/// Whether a store says that it does not have a request.
fn is_unimplemented(error: &Error) -> bool {
    let text = chain(error);
    matches!(error, Error::NotImplemented { .. } | Error::NotSupported { .. })
        || ["NotImplemented", "501 Not Implemented", "UnsupportedHeader"].iter().any(|sign| text.contains(sign))
}
