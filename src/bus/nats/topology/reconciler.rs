//! Reconciles the streams and durable consumers that this process needs on the server.
//!
//! Each of them can be deleted, changed or lost with the server's disk at any time, and to a reader all of that looks
//! like an idle stream. The reconciler reports what is missing and creates it again; a new consumer then delivers
//! everything in the stream again.
//!
//! Invariant: a consumer is created again only after it has been missing for longer than any subscription hands out
//! messages without having seen it ([`Subscription`](crate::bus::nats::Subscription)). So each subscription learns of
//! the new consumer, and of its redelivery horizon, before it hands out the first of its messages.

use std::collections::HashMap;
use std::sync::Weak;
use std::time::{Duration, Instant};

use async_nats::jetstream::stream::Info;
use jiff::Timestamp;
use tracing::{error, info, warn};

use super::consumers::{self, RequiredConsumer};
use super::state::stream_id;
use super::streams::{self, StreamRole};
use crate::bus::nats::shared::Shared;
use crate::bus::{BusError, BusErrorKind};

/// The interval of checks.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// The interval while something is missing, and the minimum between two checks.
const RECHECK_INTERVAL: Duration = Duration::from_millis(500);
/// A stream missing for this long is created again. A single answer may come from a server that is starting.
const STREAM_GONE_FOR: Duration = Duration::from_millis(400);
/// The same for a consumer: see above.
const CONSUMER_GONE_FOR: Duration = Duration::from_secs(3);
/// Runs until the bus is closed.
pub(crate) async fn keep(shared: Weak<Shared>, [dead_letters, chunks, events]: [Info; 3]) {
    let mut reconciler = Reconciler::default();
    for info in [dead_letters, chunks, events] {
        reconciler.created_at.insert(info.config.name.clone(), info.created.unix_timestamp_nanos());
    }
    let mut wait = CHECK_INTERVAL;
    loop {
        let Some(topology) = shared.upgrade().map(|shared| shared.topology.clone()) else { return };
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = topology.request_check.notified() => tokio::time::sleep(RECHECK_INTERVAL.min(wait)).await,
        }
        let Some(shared) = shared.upgrade() else { return };
        if shared.link.check(&shared.client, "look after streams").is_err() {
            // Something that cannot be asked for is not missing.
            reconciler.missing.clear();
            wait = RECHECK_INTERVAL;
            continue;
        }
        reconciler.look(&shared).await;
        wait = if reconciler.missing.is_empty() { CHECK_INTERVAL } else { RECHECK_INTERVAL };
    }
}

/// The results of the checks so far.
#[derive(Default)]
struct Reconciler {
    /// When each stream and consumer was created, in nanoseconds.
    created_at: HashMap<String, i128>,
    /// Since when each missing stream or consumer has been missing.
    missing: HashMap<String, Instant>,
    trouble: Vec<String>,
}

impl Reconciler {
    async fn look(&mut self, shared: &Shared) {
        self.trouble.clear();
        for role in StreamRole::ALL {
            let name = role.stream(&shared.settings);
            if let Err(error) = self.check_stream(shared, role, &name).await {
                self.failed(&name, &error);
            }
        }
        let required: Vec<_> = shared.topology.consumers.lock().values().cloned().collect();
        for (role, required) in required {
            if let Err(error) = self.check_consumer(shared, role, &required).await {
                self.failed(&required.name, &error);
            }
        }
        let trouble = (!self.trouble.is_empty()).then(|| self.trouble.join("; "));
        *shared.topology.trouble.lock() = trouble;
    }

    async fn check_stream(&mut self, shared: &Shared, role: StreamRole, name: &str) -> Result<(), BusError> {
        let epoch = shared.link.epoch();
        let info = match streams::find(&shared.context, name).await? {
            Some(found) => {
                self.missing.remove(name);
                streams::correct(&shared.context, role, found).await?
            }
            None => {
                if !self.note_missing("stream", name, STREAM_GONE_FOR) {
                    return Ok(());
                }
                let created = streams::create(&shared.context, &shared.settings, role, shared.atomic).await?;
                self.note_restored(name);
                created
            }
        };
        let created = info.created.unix_timestamp_nanos();
        if self.created_at.insert(name.to_owned(), created).is_some_and(|before| before != created) {
            self.stream_is_new(shared, role, &info);
        }
        if role == StreamRole::Events {
            shared.topology.saw_stream(stream_id(&info), epoch);
        }
        Ok(())
    }

    fn stream_is_new(&self, shared: &Shared, role: StreamRole, info: &Info) {
        let (name, at) = (&info.config.name, Timestamp::now());
        error!(stream = name, "the stream was gone from NATS and is there anew: what it held is lost to this system");
        let what = match role {
            StreamRole::Events => "events that nobody had read are lost",
            StreamRole::Chunks => "events are read anew, and what is stored already is recognized",
            StreamRole::DeadLetters => "the dead letters are lost",
        };
        let text = format!("stream {name} was gone from NATS and is there anew since {at:.0}: {what}");
        shared.topology.lost.lock().insert(name.clone(), text);
        if role == StreamRole::Events {
            shared.topology.saw_stream(stream_id(info), shared.link.epoch());
        }
        if role != StreamRole::DeadLetters {
            shared.link.advance_epoch();
        }
    }

    async fn check_consumer(
        &mut self,
        shared: &Shared,
        role: StreamRole,
        required: &RequiredConsumer,
    ) -> Result<(), BusError> {
        let (stream, name, requested_at) = (shared.stream_of(role), &required.name, Instant::now());
        let info = match consumers::find(stream, name).await? {
            Some(found) if consumers::is_safe(&found.config) => found,
            Some(_) => {
                warn!(consumer = name, "the consumer was changed on NATS, it is changed back");
                consumers::ensure_consumer(stream, required).await?
            }
            None => {
                shared.topology.seen.lock().remove(name);
                if !self.missing.contains_key(name) {
                    // Its leases and acknowledgements are gone with it.
                    shared.link.advance_epoch();
                }
                if !self.note_missing("consumer", name, CONSUMER_GONE_FOR) {
                    return Ok(());
                }
                let created = consumers::ensure_consumer(stream, required).await?;
                self.note_restored(name);
                info!(consumer = name, "created anew: what the stream holds is read once more");
                created
            }
        };
        self.missing.remove(name);
        let created = info.created.unix_timestamp_nanos();
        shared.topology.seen.lock().insert(name.clone(), (created, requested_at));
        if self.created_at.insert(name.clone(), created).is_some_and(|before| before != created) {
            shared.link.advance_epoch();
        }
        Ok(())
    }

    /// Records that something is missing. Returns `true` once it has been missing for long enough to be created again.
    fn note_missing(&mut self, what: &'static str, name: &str, wait: Duration) -> bool {
        let since = *self.missing.entry(name.to_owned()).or_insert_with(|| {
            warn!(name, "the {what} is gone from NATS, it will be created anew");
            Instant::now()
        });
        self.trouble.push(format!("{what} {name} is gone from NATS and is being created anew"));
        since.elapsed() >= wait
    }

    /// The last recorded stream or consumer exists again.
    fn note_restored(&mut self, name: &str) {
        self.missing.remove(name);
        self.trouble.pop();
    }

    fn failed(&mut self, name: &str, error: &BusError) {
        let text = crate::base::errors::chain(error);
        match error.kind {
            BusErrorKind::Refused => {
                warn!(name, error = text, "what this process needs on NATS is not as it must be");
                self.trouble.push(text);
            }
            // The ping reports this.
            _ => tracing::debug!(name, error = text, "could not look"),
        }
    }
}
