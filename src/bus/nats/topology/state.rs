//! The streams and consumers that this process needs on the server, and their last known state.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use async_nats::jetstream::stream::Info;
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

use super::consumers::RequiredConsumer;
use super::streams::StreamRole;

/// How long a subscription assumes that a consumer it has seen is still the same.
pub(crate) const SEEN_TTL: Duration = Duration::from_secs(2);

/// The required consumers and the last known state of the server.
#[derive(Debug, Default)]
pub(crate) struct Topology {
    pub(super) consumers: Mutex<BTreeMap<String, (StreamRole, RequiredConsumer)>>,
    /// When each consumer was created, in nanoseconds, and when it was last seen.
    pub(crate) seen: Mutex<HashMap<String, (i128, Instant)>>,
    /// The last known incarnation of the stream of events, and the connection epoch in which it was seen.
    pub(crate) stream: watch::Sender<(String, u64)>,
    /// What is missing or wrong now.
    pub(crate) trouble: Mutex<Option<String>>,
    /// What was lost since the start, by stream.
    pub(crate) lost: Mutex<BTreeMap<String, String>>,
    pub(crate) request_check: Notify,
}

impl Topology {
    pub(crate) fn new(stream_id: String) -> Self {
        Self { stream: watch::Sender::new((stream_id, 0)), ..Self::default() }
    }

    /// Adds a consumer to be reconciled from now on.
    pub(crate) fn require(&self, role: StreamRole, consumer: RequiredConsumer) {
        self.consumers.lock().insert(consumer.name.clone(), (role, consumer));
    }

    /// Something was missing: checks immediately.
    pub(crate) fn request_check(&self) {
        self.request_check.notify_one();
    }

    /// When a consumer was created, and when that was last checked.
    pub(crate) fn seen(&self, name: &str) -> Option<(i128, Instant)> {
        self.seen.lock().get(name).copied()
    }

    pub(crate) fn stream_id(&self) -> String {
        self.stream.borrow().0.clone()
    }

    /// Changes when a new incarnation of the stream of events is seen, or the first time it is seen in an epoch.
    pub(crate) fn stream(&self) -> watch::Receiver<(String, u64)> {
        self.stream.subscribe()
    }

    pub(super) fn saw_stream(&self, id: String, epoch: u64) {
        let now = (id, epoch);
        self.stream.send_if_modified(|seen| {
            let is_news = *seen != now;
            *seen = now;
            is_news
        });
    }

    /// What is missing or wrong on the server now.
    pub(crate) fn trouble(&self) -> Option<String> {
        self.trouble.lock().clone()
    }

    /// What was lost on the server since the start.
    pub(crate) fn lost(&self) -> Option<String> {
        let lost = self.lost.lock();
        (!lost.is_empty()).then(|| lost.values().cloned().collect::<Vec<_>>().join("; "))
    }
}

/// Identifies an incarnation of the stream.
pub(crate) fn stream_id(info: &Info) -> String {
    format!("{}:{}", info.config.name, info.created.unix_timestamp_nanos())
}
