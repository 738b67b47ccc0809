//! What this process needs on the server, and what was found of it.

use std::collections::{BTreeMap, HashMap};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use async_nats::jetstream::stream::Info;
use tokio::sync::{Notify, watch};

use super::consumers::Needed;
use super::streams::Role;
use crate::bus::nats::lock::lock;

/// How long a subscription takes a consumer that it has seen for the same one.
pub(crate) const SEEN_FOR: Duration = Duration::from_secs(2);

/// What is looked after, and what was found.
#[derive(Debug, Default)]
pub(crate) struct Keeper {
    pub(super) consumers: Mutex<BTreeMap<String, (Role, Needed)>>,
    /// When each consumer was created, in nanoseconds, and when it was seen last.
    pub(crate) seen: Mutex<HashMap<String, (i128, Instant)>>,
    /// The life of the stream of events that was seen last, and the connection's epoch in which it was.
    pub(crate) stream: watch::Sender<(String, u64)>,
    /// What is missing or wrong now.
    pub(crate) trouble: Mutex<Option<String>>,
    /// What was lost since the start, by stream.
    pub(crate) lost: Mutex<BTreeMap<String, String>>,
    pub(crate) doubt: Notify,
}

impl Keeper {
    pub(crate) fn new(stream_id: String) -> Self {
        Self { stream: watch::Sender::new((stream_id, 0)), ..Self::default() }
    }

    /// From now on this consumer is looked after.
    pub(crate) fn needs(&self, role: Role, consumer: Needed) {
        lock(&self.consumers).insert(consumer.name.clone(), (role, consumer));
    }

    /// Something was not where it should be: looks at once.
    pub(crate) fn doubt(&self) {
        self.doubt.notify_one();
    }

    /// When a consumer was created, and when that was asked last.
    pub(crate) fn seen(&self, name: &str) -> Option<(i128, Instant)> {
        lock(&self.seen).get(name).copied()
    }

    pub(crate) fn stream_id(&self) -> String {
        self.stream.borrow().0.clone()
    }

    /// Changes when the stream of events is seen in another life, or for the first time in an epoch.
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
        lock(&self.trouble).clone()
    }

    /// What was lost on the server since the start.
    pub(crate) fn lost(&self) -> Option<String> {
        let lost = lock(&self.lost);
        (!lost.is_empty()).then(|| lost.values().cloned().collect::<Vec<_>>().join("; "))
    }
}

/// Names one life of the stream.
pub(crate) fn stream_id(info: &Info) -> String {
    format!("{}:{}", info.config.name, info.created.unix_timestamp_nanos())
}
