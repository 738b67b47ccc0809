//! The gateway's copy of all API keys, and the record of their use.
//!
//! Invariants: a request never waits for the store, whether its key is known or not; while the store is unreachable the
//! copy stays as it is; a change arrives with the store's signal, or within `REFRESH_INTERVAL` if the signal is lost.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock};
use subtle::ConstantTimeEq as _;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::caller::KnownKey;
use crate::base::clock::unix_ms;
use crate::base::errors::chain;
use crate::http::Readiness;
use crate::metrics;
use crate::store::{HashedKey, KEYS_MAX, KEYS_PAGE, KeyHash, Store, StoreError};

/// How often the store is polled for changes whose signal was lost.
const REFRESH_INTERVAL: Duration = Duration::from_secs(2);
/// Minimum time between two reads of the store, however many changes there are.
const REFRESH_PAUSE: Duration = Duration::from_millis(50);
/// How long uses are collected before they are written.
const USED_INTERVAL: Duration = Duration::from_secs(10);
/// Keys whose use is recorded in one transaction.
const USED_BATCH: usize = 1_000;
/// Time limit for recording uses when the process stops.
const STOP_TIMEOUT: Duration = Duration::from_secs(1);
const MINUTE_MS: i64 = 60_000;
/// Name of the readiness component and of its warning.
const COMPONENT: &str = "keys";

/// Cheap to clone.
#[derive(Clone)]
pub struct KeyRing(Arc<Ring>);

struct Ring {
    store: Store,
    readiness: Readiness,
    keys: RwLock<Keys>,
    /// Whether the keys were ever read.
    read: watch::Sender<bool>,
    clock: StoreClock,
    /// Keys and the minute of their last use, not written yet. At most one entry per key.
    used: Mutex<HashMap<Uuid, i64>>,
    use_pending: Notify,
}

/// Indexed by the first half of the hash; the whole hash is compared in constant time.
type Keys = HashMap<[u8; 16], Arc<KnownKey>>;

/// Why a lookup found no caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KeyLookupError {
    NoSuchKey,
    Expired,
    /// The store could not be read yet.
    NotLoaded,
}

/// The store version that the copy corresponds to.
#[derive(Clone, Copy, Default)]
struct Cursor {
    version: u64,
    /// The store failed. Another store may answer next, so everything is read again.
    resync: bool,
}

impl KeyRing {
    /// Unready until [`KeyRing::follow`] has read the keys.
    pub fn new(store: Store, readiness: Readiness) -> Self {
        readiness.set(COMPONENT, Err("API keys are not read yet".to_owned()));
        Self(Arc::new(Ring {
            store,
            readiness,
            keys: RwLock::default(),
            read: watch::Sender::new(false),
            clock: StoreClock::new(),
            used: Mutex::default(),
            use_pending: Notify::new(),
        }))
    }

    /// Waits until [`KeyRing::follow`] has read the keys.
    pub async fn loaded(&self) {
        // It only fails when the sender is gone, which this ring owns.
        let _ = self.0.read.subscribe().wait_for(|read| *read).await;
    }

    /// Looks up a key by its hash, and records its use at `now`.
    pub(crate) fn find(&self, hash: &KeyHash, now: Instant) -> Result<Arc<KnownKey>, KeyLookupError> {
        let ring = &*self.0;
        let found = ring.keys.read().get(&prefix(hash)).cloned();
        let Some(key) = found.filter(|key| bool::from(key.hash.ct_eq(hash))) else {
            return Err(if *ring.read.borrow() { KeyLookupError::NoSuchKey } else { KeyLookupError::NotLoaded });
        };
        let now_ms = ring.clock.at(now);
        if key.expires_at_ms.is_some_and(|expires_at_ms| expires_at_ms <= now_ms) {
            return Err(KeyLookupError::Expired);
        }
        let minute = now_ms - now_ms.rem_euclid(MINUTE_MS);
        if key.used_minute.load(Relaxed) < minute && key.used_minute.fetch_max(minute, Relaxed) < minute {
            self.record_use(key.id, minute);
        }
        Ok(key)
    }

    /// Keeps the copy current and records the use of keys until `stop`. Reports to readiness.
    pub async fn follow(&self, stop: CancellationToken) {
        tokio::join!(self.follow_changes(&stop), self.record_uses(&stop));
    }

    async fn follow_changes(&self, stop: &CancellationToken) {
        let (mut changes, mut cursor) = (self.0.store.changes(), Cursor::default());
        let (mut read_at, mut failing) = (None, false);
        loop {
            changes.mark_unchanged();
            let Some(refreshed) = stop.run_until_cancelled(self.refresh(&mut cursor)).await else { return };
            match refreshed {
                Ok(()) => {
                    read_at = Some(Instant::now());
                    self.report_loaded();
                    if std::mem::take(&mut failing) {
                        tracing::info!("API keys are read again");
                    }
                }
                Err(error) => {
                    cursor.resync = true;
                    self.report_failure(&chain(&error), read_at);
                    if !std::mem::replace(&mut failing, true) {
                        tracing::warn!(error = chain(&error), "API keys cannot be read, going on from the copy");
                    }
                }
            }
            let next = async {
                tokio::time::sleep(REFRESH_PAUSE).await;
                tokio::select! {
                    Ok(()) = changes.changed() => {}
                    () = tokio::time::sleep(REFRESH_INTERVAL) => {}
                }
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = next => {}
            }
        }
    }

    /// Updates the copy from the store.
    async fn refresh(&self, cursor: &mut Cursor) -> Result<(), StoreError> {
        let ring = &*self.0;
        let news = ring.store.revocations(cursor.version).await?;
        ring.clock.set(news.now_ms);
        let whole = cursor.resync || !news.complete || !*ring.read.borrow();
        if whole {
            let mut keys = Keys::default();
            self.read_after(0, |page| add(&mut keys, page)).await?;
            // The old keys are dropped after the lock is released.
            self.write_keys(|held| std::mem::swap(held, &mut keys));
            ring.read.send_replace(true);
        } else if news.version != cursor.version {
            self.write_keys(|keys| news.revoked.iter().for_each(|hash| drop(keys.remove(&prefix(hash)))));
            self.read_after(cursor.version, |page| self.write_keys(|keys| add(keys, page))).await?;
        }
        // Keys created in the meantime are read again next time; revocations in the meantime are reported next time.
        *cursor = Cursor { version: news.version, resync: false };
        Ok(())
    }

    async fn read_after(&self, mut version: u64, mut add: impl FnMut(Vec<HashedKey>)) -> Result<(), StoreError> {
        loop {
            let page = self.0.store.keys_after(version).await?;
            let (read, last) = (page.len(), page.last().map(|key| key.version));
            add(page);
            match last {
                Some(last) if read == KEYS_PAGE => version = last,
                _ => return Ok(()),
            }
        }
    }

    fn write_keys(&self, change: impl FnOnce(&mut Keys)) {
        change(&mut self.0.keys.write());
    }

    fn report_loaded(&self) {
        let readiness = &self.0.readiness;
        readiness.set(COMPONENT, Ok(()));
        let count = self.0.keys.read().len() as u64;
        metrics::gateway_api_keys(count);
        let warning = match count {
            0 => {
                Some("there are no API keys, and requests without one are refused: `causality keys create`".to_owned())
            }
            KEYS_MAX.. => Some(format!("there are {KEYS_MAX} API keys, the most that there can be")),
            _ => None,
        };
        readiness.set_warning(COMPONENT, warning);
    }

    fn report_failure(&self, reason: &str, read_at: Option<Instant>) {
        match read_at {
            Some(read_at) => {
                let age = read_at.elapsed().as_secs();
                let text = format!("API keys are those of {age}s ago, since the store cannot be read: {reason}");
                self.0.readiness.set_warning(COMPONENT, Some(text));
            }
            None => self.0.readiness.set(COMPONENT, Err(format!("API keys could not be read yet: {reason}"))),
        }
    }

    fn record_use(&self, id: Uuid, minute_ms: i64) {
        let mut used = self.0.used.lock();
        let first = used.is_empty();
        if (used.len() as u64) < KEYS_MAX {
            used.insert(id, minute_ms);
        }
        if first {
            self.0.use_pending.notify_one();
        }
    }

    async fn record_uses(&self, stop: &CancellationToken) {
        while !stop.is_cancelled() {
            tokio::select! {
                () = stop.cancelled() => {}
                () = self.0.use_pending.notified() => {
                    let _ = tokio::time::timeout(USED_INTERVAL, stop.cancelled()).await;
                }
            }
            let stopped = async {
                stop.cancelled().await;
                tokio::time::sleep(STOP_TIMEOUT).await;
            };
            tokio::select! {
                noted = self.flush_uses() => if noted.is_err() {
                    // Uses that could not be written are retried together with new ones.
                    self.0.use_pending.notify_one();
                },
                () = stopped => {}
            }
        }
    }

    async fn flush_uses(&self) -> Result<(), StoreError> {
        let taken: Vec<(Uuid, i64)> = std::mem::take(&mut *self.0.used.lock()).into_iter().collect();
        for (index, batch) in taken.chunks(USED_BATCH).enumerate() {
            if let Err(error) = self.0.store.record_key_use(batch).await {
                tracing::debug!(error = chain(&error), "the last use of keys could not be noted");
                let mut used = self.0.used.lock();
                for (id, minute_ms) in &taken[index * USED_BATCH..] {
                    used.entry(*id).or_insert(*minute_ms);
                }
                return Err(error);
            }
        }
        Ok(())
    }
}

impl fmt::Debug for KeyRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyRing")
    }
}

fn add(keys: &mut Keys, page: Vec<HashedKey>) {
    for key in page {
        let prefix = prefix(&key.hash);
        // A key that is already known keeps its record of uses.
        if (keys.len() as u64) < KEYS_MAX && !keys.contains_key(&prefix) {
            keys.insert(prefix, Arc::new(key.into()));
        }
    }
}

fn prefix(hash: &KeyHash) -> [u8; 16] {
    let mut prefix = [0; 16];
    prefix.copy_from_slice(&hash[..16]);
    prefix
}

/// The store's clock. It decides when keys expire, so that gateways with different clocks agree.
struct StoreClock {
    base: Instant,
    /// The store's time at `base`.
    base_ms: AtomicI64,
}

impl StoreClock {
    /// Follows this machine's clock until the store is read.
    fn new() -> Self {
        Self { base: Instant::now(), base_ms: AtomicI64::new(unix_ms()) }
    }

    fn set(&self, now_ms: i64) {
        self.base_ms.store(now_ms - self.since(Instant::now()), Relaxed);
    }

    fn at(&self, now: Instant) -> i64 {
        self.base_ms.load(Relaxed) + self.since(now)
    }

    fn since(&self, now: Instant) -> i64 {
        now.saturating_duration_since(self.base).as_millis() as i64
    }
}
