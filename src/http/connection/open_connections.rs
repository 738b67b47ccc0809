//! The open connections of one listener.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use tokio::time::Instant;

use super::watch::Watch;
use crate::http::memory::{Candidate, Holders};

/// Minimum idle time before a connection is closed to make room.
const IDLE_MIN: Duration = Duration::from_secs(1);
/// Making room closes up to this fraction of the connections, so that it is not repeated for each new one.
const ROOM_FRACTION: usize = 64;
/// Maximum number of connections closed at a time to make room.
pub(crate) const ROOM_CONNECTIONS_MAX: usize = 32;

/// The open connections that were not cut to make room.
#[derive(Debug, Default)]
pub(crate) struct Connections(Mutex<HashMap<u64, Arc<Watch>>>);

impl Connections {
    pub(crate) fn insert(&self, id: u64, watch: Arc<Watch>) {
        self.open().insert(id, watch);
    }

    pub(crate) fn remove(&self, id: u64) {
        self.open().remove(&id);
    }

    pub(crate) fn len(&self) -> usize {
        self.open().len()
    }

    pub(crate) fn all(&self) -> Vec<Arc<Watch>> {
        self.open().values().cloned().collect()
    }

    /// Cuts the connections that have been idle longest, starting with those that never sent a request. Returns `false`
    /// when none is idle.
    pub(crate) fn make_room(&self) -> bool {
        let mut open = self.open();
        let now = Instant::now();
        let idle = |(id, watch): (&u64, &Arc<Watch>)| {
            let (served_any, since) = watch.idle_since()?;
            (now.duration_since(since) >= IDLE_MIN).then_some((served_any, since, *id))
        };
        let mut idle: Vec<_> = open.iter().filter_map(idle).collect();
        idle.sort_unstable();
        let count = (open.len() / ROOM_FRACTION).clamp(1, ROOM_CONNECTIONS_MAX);
        for (_, _, id) in idle.iter().take(count) {
            if let Some(watch) = open.remove(id) {
                watch.cut();
            }
        }
        !idle.is_empty()
    }

    fn open(&self) -> MutexGuard<'_, HashMap<u64, Arc<Watch>>> {
        self.0.lock()
    }
}

impl Holders for Connections {
    fn candidates(&self, candidates: &mut Vec<Candidate>) {
        for watch in self.all() {
            watch.candidates(candidates);
        }
    }
}
