//! The durable consumers on the server, reconciled with their specs.
//!
//! Invariant: nothing in the configuration of a consumer can skip messages, deliver them partially, or stop
//! redelivering them. A field that the server refuses to change is an error that names the field.

use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, Config, DeliverPolicy, Info, PriorityPolicy, ReplayPolicy};
use async_nats::jetstream::context::ConsumerInfoErrorKind;
use async_nats::jetstream::stream::{ConsumerErrorKind, Info as StreamInfo, Stream};
use tracing::warn;

use super::streams::differences;
use crate::bus::nats::failed::failed;
use crate::bus::{BusError, BusErrorKind, ConsumerSpec};

/// Concurrent pull requests of a consumer: one per subscription.
const PULLS_WAITING_MAX: i64 = 512;
/// The status for requests that JetStream cannot serve at the moment.
const TEMPORARILY: usize = 503;

/// A durable consumer as required by this process.
#[derive(Clone, Debug)]
pub(crate) struct RequiredConsumer {
    pub(crate) name: String,
    /// The filter on the server; empty for everything.
    pub(crate) filter: String,
    pub(crate) ack_wait: Duration,
    pub(crate) pending_max: usize,
}

impl RequiredConsumer {
    pub(crate) fn of(spec: &ConsumerSpec, filter: &str, pending_max: usize) -> Self {
        Self { name: spec.name.clone(), filter: filter.to_owned(), ack_wait: spec.ack_wait, pending_max }
    }

    /// The settings of the spec, on top of the invariants.
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

/// The invariants that hold for any spec. Limits that the server sets by itself stay.
fn safe(found: Config) -> Config {
    Config {
        deliver_subject: None,
        deliver_group: None,
        deliver_policy: DeliverPolicy::All,
        ack_policy: AckPolicy::Explicit,
        // Deliveries are counted by this process: a message abandoned by the server alone would be lost.
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

/// Whether the configuration of a consumer in use still satisfies the invariants.
pub(crate) fn is_safe(found: &Config) -> bool {
    safe(found.clone()) == *found
}

/// The consumer on the server; `None` when the consumer or its stream does not exist.
pub(crate) async fn find(stream: &Stream, name: &str) -> Result<Option<Info>, BusError> {
    match stream.consumer_info(name).await {
        Ok(info) => Ok(Some(info)),
        Err(error) => match error.kind() {
            ConsumerInfoErrorKind::NotFound | ConsumerInfoErrorKind::StreamNotFound => Ok(None),
            _ => Err(failed("read consumer", error)),
        },
    }
}

/// Creates the durable consumer, or updates it as required.
pub(crate) async fn ensure_consumer(stream: &Stream, required: &RequiredConsumer) -> Result<Info, BusError> {
    let mut info = create(stream, required).await?;
    if info.delivered.stream_sequence > 0 {
        let end = stream.get_info().await.map_err(|error| failed("read stream", error))?;
        if is_ahead(info.delivered.stream_sequence, &end) {
            remove_ahead(stream, &required.name).await?;
            info = create(stream, required).await?;
        }
    }
    if info.paused {
        let resumed = stream.resume_consumer(&required.name).await;
        resumed.map_err(|error| refused(required, kind_of(&error.kind()), &error.to_string()))?;
        tracing::info!(consumer = required.name, "was paused on the server, resumed");
    }
    let mut config = info.config.clone();
    config.pause_until = None;
    let wanted = required.wanted(config.clone());
    if wanted == config {
        return Ok(info);
    }
    Err(refused(required, BusErrorKind::Refused, &differences(&config, &wanted)))
}

async fn create(stream: &Stream, required: &RequiredConsumer) -> Result<Info, BusError> {
    let error = match stream.create_consumer(required.wanted(Config::default())).await {
        Ok(consumer) => return Ok(consumer.cached_info().clone()),
        Err(error) => error,
    };
    let (kind, why) = (kind_of(&error.kind()), error.to_string());
    let wrong = match kind {
        BusErrorKind::Refused => wrong_now(stream, required).await,
        _ => String::new(),
    };
    Err(refused(required, kind, &format!("{why}{wrong}")))
}

/// Whether a consumer has delivered messages beyond the end of the stream, which was read after it: the stream has lost
/// its last messages. A replicated stream does not lose any; a replica may be behind.
pub(crate) fn is_ahead(delivered: u64, stream: &StreamInfo) -> bool {
    stream.config.num_replicas == 1 && delivered > stream.state.last_sequence
}

/// Deletes a consumer that would skip messages. The next one reads the stream from its beginning, and messages that
/// were handled are recognized.
pub(crate) async fn remove_ahead(stream: &Stream, name: &str) -> Result<(), BusError> {
    warn!(consumer = name, "the stream has lost its last messages: the consumer is created anew");
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

/// Describes the fields that the server refuses to change.
async fn wrong_now(stream: &Stream, required: &RequiredConsumer) -> String {
    match find(stream, &required.name).await {
        Ok(Some(found)) => {
            let wrong = differences(&found.config, &required.wanted(found.config.clone()));
            format!("; on the server: {wrong}; once it is deleted there, it is created anew and nothing is lost")
        }
        _ => String::new(),
    }
}

fn refused(required: &RequiredConsumer, kind: BusErrorKind, why: &str) -> BusError {
    let settings = "the settings (consumer_name, nats_ack_wait)";
    let text = format!("NATS will not create or change consumer {} as {settings} say: {why}", required.name);
    BusError::caused(kind, "reconcile consumer", text)
}
