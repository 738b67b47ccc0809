//! The durable consumers on the server, kept as their specs say.
//!
//! Invariant: nothing in a consumer's configuration can skip messages, deliver parts of them, or give them up. What
//! the server will not change back is an error that names the field.

use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, Config, DeliverPolicy, Info, PriorityPolicy, ReplayPolicy};
use async_nats::jetstream::context::ConsumerInfoErrorKind;
use async_nats::jetstream::stream::{ConsumerErrorKind, Info as StreamInfo, Stream};
use tracing::warn;

use super::streams::differences;
use crate::bus::nats::failed::failed;
use crate::bus::{BusError, BusErrorKind, ConsumerSpec};

/// Pull requests of one consumer that may wait at the same time: one for each subscription.
const PULLS_WAITING_MAX: i64 = 512;
/// The status of what JetStream cannot do for now.
const TEMPORARILY: usize = 503;

/// A durable consumer as this process needs it.
#[derive(Clone, Debug)]
pub(crate) struct Needed {
    pub(crate) name: String,
    /// What the server lets through; empty for everything.
    pub(crate) filter: String,
    pub(crate) ack_wait: Duration,
    pub(crate) pending_max: usize,
}

impl Needed {
    pub(crate) fn of(spec: &ConsumerSpec, filter: &str, pending_max: usize) -> Self {
        Self { name: spec.name.clone(), filter: filter.to_owned(), ack_wait: spec.ack_wait, pending_max }
    }

    /// What the spec says, over what must hold anyway.
    fn wanted(&self, found: Config) -> Config {
        Config {
            durable_name: Some(self.name.clone()),
            filter_subject: self.filter.clone(),
            filter_subjects: Vec::new(),
            ack_wait: self.ack_wait,
            max_ack_pending: i64::try_from(self.pending_max).unwrap_or(i64::MAX),
            max_waiting: PULLS_WAITING_MAX,
            ..safe(found)
        }
    }
}

/// What must hold whatever the spec says. Limits that the server sets by itself stay.
fn safe(found: Config) -> Config {
    Config {
        deliver_subject: None,
        deliver_group: None,
        deliver_policy: DeliverPolicy::All,
        ack_policy: AckPolicy::Explicit,
        // Deliveries are counted here: a message that the server alone gave up would be in nobody's hands.
        max_deliver: -1,
        backoff: Vec::new(),
        replay_policy: ReplayPolicy::Instant,
        rate_limit: 0,
        headers_only: false,
        flow_control: false,
        idle_heartbeat: Duration::ZERO,
        inactive_threshold: Duration::ZERO,
        memory_storage: false,
        priority_policy: PriorityPolicy::None,
        priority_groups: Vec::new(),
        priority_timeout: Duration::ZERO,
        pause_until: None,
        ..found
    }
}

/// Whether nobody changed the consumer while it is in use, other than with the settings.
pub(crate) fn is_safe(found: &Config) -> bool {
    safe(found.clone()) == *found
}

/// What the server says of a consumer; none when there is none of that name, or no such stream.
pub(crate) async fn find(stream: &Stream, name: &str) -> Result<Option<Info>, BusError> {
    match stream.consumer_info(name).await {
        Ok(info) => Ok(Some(info)),
        Err(error) => match error.kind() {
            ConsumerInfoErrorKind::NotFound | ConsumerInfoErrorKind::StreamNotFound => Ok(None),
            _ => Err(failed("read consumer", error)),
        },
    }
}

/// Creates the durable consumer, or changes it to what is needed.
pub(crate) async fn ensure_consumer(stream: &Stream, needed: &Needed) -> Result<Info, BusError> {
    let mut info = create(stream, needed).await?;
    if info.delivered.stream_sequence > 0 {
        let end = stream.get_info().await.map_err(|error| failed("read stream", error))?;
        if is_ahead(info.delivered.stream_sequence, &end) {
            remove_ahead(stream, &needed.name).await?;
            info = create(stream, needed).await?;
        }
    }
    if info.paused {
        let resumed = stream.resume_consumer(&needed.name).await;
        resumed.map_err(|error| refused(needed, kind_of(&error.kind()), &error.to_string()))?;
        tracing::info!(consumer = needed.name, "was paused on the server, resumed");
    }
    let mut config = info.config.clone();
    config.pause_until = None;
    let wanted = needed.wanted(config.clone());
    if wanted == config {
        return Ok(info);
    }
    Err(refused(needed, BusErrorKind::Refused, &differences(&config, &wanted)))
}

async fn create(stream: &Stream, needed: &Needed) -> Result<Info, BusError> {
    let error = match stream.create_consumer(needed.wanted(Config::default())).await {
        Ok(consumer) => return Ok(consumer.cached_info().clone()),
        Err(error) => error,
    };
    let (kind, why) = (kind_of(&error.kind()), error.to_string());
    let wrong = match kind {
        BusErrorKind::Refused => wrong_now(stream, needed).await,
        _ => String::new(),
    };
    Err(refused(needed, kind, &format!("{why}{wrong}")))
}

/// Whether a consumer has delivered what the stream, asked after it, has not: the stream has lost its last messages. One
/// with replicas loses none; a replica may be behind.
pub(crate) fn is_ahead(delivered: u64, stream: &StreamInfo) -> bool {
    stream.config.num_replicas == 1 && delivered > stream.state.last_sequence
}

/// Deletes a consumer that would pass over messages: the next one reads the stream from its beginning, and what was
/// handled is recognized.
pub(crate) async fn remove_ahead(stream: &Stream, name: &str) -> Result<(), BusError> {
    warn!(
        consumer = name,
        "the stream has lost its last messages and the consumer has not noticed: it is created anew"
    );
    match stream.delete_consumer(name).await {
        Err(error) if find(stream, name).await?.is_some() => Err(failed("delete consumer", error)),
        _ => Ok(()),
    }
}

fn kind_of(kind: &ConsumerErrorKind) -> BusErrorKind {
    match kind {
        ConsumerErrorKind::TimedOut | ConsumerErrorKind::Request => BusErrorKind::Unavailable,
        ConsumerErrorKind::JetStream(error) if error.code() == TEMPORARILY => BusErrorKind::Unavailable,
        _ => BusErrorKind::Refused,
    }
}

/// What the server does not change in a consumer, in words.
async fn wrong_now(stream: &Stream, needed: &Needed) -> String {
    match find(stream, &needed.name).await {
        Ok(Some(found)) => {
            let wrong = differences(&found.config, &needed.wanted(found.config.clone()));
            format!("; on the server: {wrong}; once it is deleted there, it is created anew and nothing is lost")
        }
        _ => String::new(),
    }
}

fn refused(needed: &Needed, kind: BusErrorKind, why: &str) -> BusError {
    let settings = "the settings (consumer_name, nats_ack_wait)";
    let text = format!("NATS will not create or change consumer {} as {settings} say: {why}", needed.name);
    BusError::caused(kind, "reconcile consumer", text)
}
