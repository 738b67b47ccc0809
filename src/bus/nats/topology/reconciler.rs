//! Looks after what this process needs on the server: the streams, and the durable consumers that it reads with.
//!
//! Each of them can be deleted, changed or lost with the server's disk while everything runs, and to a reader all of
//! that looks like an idle stream. What is gone is named and created anew; a consumer then delivers everything that
//! the stream holds once more.
//!
//! Invariant: a consumer is created anew only after it has been missing for longer than any subscription hands out
//! messages without having seen it ([`Subscription`](crate::bus::nats::Subscription)). So each subscription learns of the new
//! one, and up to where its messages are suspect, before it hands out the first of them.

use std::collections::HashMap;
use std::sync::Weak;
use std::time::{Duration, Instant};

use async_nats::jetstream::stream::Info;
use jiff::Timestamp;
use tracing::{error, info, warn};

use super::consumers::{self, Needed};
use super::state::stream_id;
use super::streams::{self, Role};
use crate::bus::nats::lock::lock;
use crate::bus::nats::shared::Shared;
use crate::bus::{BusError, BusErrorKind};

/// How often everything is looked at.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// The same while something is missing, and the least time between two looks.
const LOOK_AGAIN: Duration = Duration::from_millis(500);
/// A stream that is missing for this long is created anew: one answer alone may come from a server that is starting.
const STREAM_GONE_FOR: Duration = Duration::from_millis(400);
/// The same for a consumer: see above.
const CONSUMER_GONE_FOR: Duration = Duration::from_secs(3);
/// Looks until the bus is gone.
pub(crate) async fn keep(shared: Weak<Shared>, [dead_letters, ranges, events]: [Info; 3]) {
    let mut looks = Looks::default();
    for info in [dead_letters, ranges, events] {
        looks.lives.insert(info.config.name.clone(), info.created.unix_timestamp_nanos());
    }
    let mut wait = LOOK_INTERVAL;
    loop {
        let Some(keeper) = shared.upgrade().map(|shared| shared.keeper.clone()) else { return };
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = keeper.doubt.notified() => tokio::time::sleep(LOOK_AGAIN.min(wait)).await,
        }
        let Some(shared) = shared.upgrade() else { return };
        if shared.link.check(&shared.client, "look after streams").is_err() {
            // What cannot be asked for is not missing.
            looks.missing.clear();
            wait = LOOK_AGAIN;
            continue;
        }
        looks.look(&shared).await;
        wait = if looks.missing.is_empty() { LOOK_INTERVAL } else { LOOK_AGAIN };
    }
}

/// What the looks so far have shown.
#[derive(Default)]
struct Looks {
    /// When each stream and consumer was created, in nanoseconds.
    lives: HashMap<String, i128>,
    /// Since when what is missing has been.
    missing: HashMap<String, Instant>,
    trouble: Vec<String>,
}

impl Looks {
    async fn look(&mut self, shared: &Shared) {
        self.trouble.clear();
        for role in Role::ALL {
            let name = role.stream(&shared.settings);
            if let Err(error) = self.look_at_stream(shared, role, &name).await {
                self.failed(&name, &error);
            }
        }
        let needed: Vec<_> = lock(&shared.keeper.consumers).values().cloned().collect();
        for (role, needed) in needed {
            if let Err(error) = self.look_at_consumer(shared, role, &needed).await {
                self.failed(&needed.name, &error);
            }
        }
        let trouble = (!self.trouble.is_empty()).then(|| self.trouble.join("; "));
        *lock(&shared.keeper.trouble) = trouble;
    }

    async fn look_at_stream(&mut self, shared: &Shared, role: Role, name: &str) -> Result<(), BusError> {
        let epoch = shared.link.epoch();
        let info = match streams::find(&shared.context, name).await? {
            Some(found) => {
                self.missing.remove(name);
                streams::correct(&shared.context, role, found).await?
            }
            None => {
                if !self.is_gone("stream", name, STREAM_GONE_FOR) {
                    return Ok(());
                }
                let created = streams::create(&shared.context, &shared.settings, role, shared.atomic).await?;
                self.is_back(name);
                created
            }
        };
        let created = info.created.unix_timestamp_nanos();
        if self.lives.insert(name.to_owned(), created).is_some_and(|before| before != created) {
            self.stream_is_new(shared, role, &info);
        }
        if role == Role::Events {
            shared.keeper.saw_stream(stream_id(&info), epoch);
        }
        Ok(())
    }

    fn stream_is_new(&self, shared: &Shared, role: Role, info: &Info) {
        let (name, at) = (&info.config.name, Timestamp::now());
        error!(stream = name, "the stream was gone from NATS and is there anew: what it held is lost to this system");
        let what = match role {
            Role::Events => "events that nobody had read are lost",
            Role::Ranges => "events are read anew, and what is stored already is recognized",
            Role::DeadLetters => "the dead letters are lost",
        };
        let text = format!("stream {name} was gone from NATS and is there anew since {at:.0}: {what}");
        lock(&shared.keeper.lost).insert(name.clone(), text);
        if role == Role::Events {
            shared.keeper.saw_stream(stream_id(info), shared.link.epoch());
        }
        if role != Role::DeadLetters {
            shared.link.begin_anew();
        }
    }

    async fn look_at_consumer(&mut self, shared: &Shared, role: Role, needed: &Needed) -> Result<(), BusError> {
        let (stream, name, asked_at) = (shared.stream_of(role), &needed.name, Instant::now());
        let info = match consumers::find(stream, name).await? {
            Some(found) if consumers::is_safe(&found.config) => found,
            Some(_) => {
                warn!(consumer = name, "the consumer was changed on NATS, it is changed back");
                consumers::ensure_consumer(stream, needed).await?
            }
            None => {
                lock(&shared.keeper.seen).remove(name);
                if !self.missing.contains_key(name) {
                    // Its leases and acknowledgements are gone with it.
                    shared.link.begin_anew();
                }
                if !self.is_gone("consumer", name, CONSUMER_GONE_FOR) {
                    return Ok(());
                }
                let brought = consumers::ensure_consumer(stream, needed).await?;
                self.is_back(name);
                info!(consumer = name, "created anew: what the stream holds is read once more");
                brought
            }
        };
        self.missing.remove(name);
        let created = info.created.unix_timestamp_nanos();
        lock(&shared.keeper.seen).insert(name.clone(), (created, asked_at));
        if self.lives.insert(name.clone(), created).is_some_and(|before| before != created) {
            shared.link.begin_anew();
        }
        Ok(())
    }

    /// Notes that something is missing; true when it has been for so long that it is created anew.
    fn is_gone(&mut self, what: &'static str, name: &str, wait: Duration) -> bool {
        let since = *self.missing.entry(name.to_owned()).or_insert_with(|| {
            warn!(name, "the {what} is gone from NATS, it will be created anew");
            Instant::now()
        });
        self.trouble.push(format!("{what} {name} is gone from NATS and is being created anew"));
        since.elapsed() >= wait
    }

    /// What was noted last is there again.
    fn is_back(&mut self, name: &str) {
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
            // Whoever pings the server says so.
            _ => tracing::debug!(name, error = text, "could not look"),
        }
    }
}
