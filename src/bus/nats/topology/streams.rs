//! The streams on the server, reconciled with the settings.
//!
//! Invariant: nothing in the configuration of a stream can drop, expire, rewrite or refuse messages behind our back.
//! Streams are limited by bytes with `discard: new`, so the server purges nothing by itself: the janitor purges only
//! acknowledged messages. A field that the server refuses to change is an error that names the field.

use std::time::Duration;

use async_nats::jetstream::context::{CreateStreamErrorKind, GetStreamErrorKind};
use async_nats::jetstream::stream::{Config, DiscardPolicy, Info, PersistenceMode, RetentionPolicy, StorageType};
use async_nats::jetstream::{Context, ErrorCode};
use serde::Serialize;
use serde_json::Value;
use tracing::info;

use crate::bus::nats::failed::failed;
use crate::bus::{BusError, BusErrorKind, NatsSettings, StreamStorage};

/// The subjects of dead letters.
pub(crate) const DEAD_LETTERS: &str = "dlq.>";
/// A stream needs room for its durable consumers and for one consumer of each process that reads chunks.
const CONSUMERS_MIN: i32 = 100;

/// The streams maintained on the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StreamRole {
    Events,
    /// Chunks of the events, as leased by consumers.
    Chunks,
    DeadLetters,
}

impl StreamRole {
    pub(crate) const ALL: [Self; 3] = [Self::DeadLetters, Self::Chunks, Self::Events];

    pub(crate) fn stream(self, settings: &NatsSettings) -> String {
        match self {
            Self::Events => settings.stream.clone(),
            Self::Chunks => settings.chunk_stream(),
            Self::DeadLetters => settings.dead_letter_stream.clone(),
        }
    }

    /// The settings, on top of the invariants.
    fn wanted(self, settings: &NatsSettings, atomic: bool, found: Config) -> Config {
        let common = Config {
            name: self.stream(settings),
            storage: match settings.storage {
                StreamStorage::File => StorageType::File,
                StreamStorage::Memory => StorageType::Memory,
            },
            num_replicas: settings.replicas,
            duplicate_window: settings.dedup_window,
            ..self.safe(found)
        };
        match self {
            Self::Events => Config {
                subjects: settings.subjects.clone(),
                max_bytes: i64::try_from(settings.bytes_max).unwrap_or(i64::MAX),
                allow_atomic_publish: atomic,
                ..common
            },
            Self::Chunks => Config { subjects: vec![settings.chunk_subject("*")], ..common },
            Self::DeadLetters => Config {
                subjects: vec![DEAD_LETTERS.to_owned()],
                max_age: settings.dead_letter_age_max,
                duplicate_window: dead_letter_window(settings),
                ..common
            },
        }
    }

    /// The invariants that hold for any settings. Everything else in `found` stays: placement, compression,
    /// republishing, sources and direct access are up to the operator.
    fn safe(self, found: Config) -> Config {
        let common = Config {
            retention: RetentionPolicy::Limits,
            discard: DiscardPolicy::New,
            discard_new_per_subject: false,
            max_age: Duration::ZERO,
            max_messages: unlimited(found.max_messages),
            max_messages_per_subject: unlimited(found.max_messages_per_subject),
            max_message_size: if found.max_message_size > 0 { -1 } else { found.max_message_size },
            max_consumers: if (1..CONSUMERS_MIN).contains(&found.max_consumers) { -1 } else { found.max_consumers },
            // Without acknowledgements, storing is never confirmed; in this mode they are sent before the message is
            // stored.
            no_ack: false,
            persist_mode: found.persist_mode.filter(|mode| *mode != PersistenceMode::Async),
            sealed: false,
            deny_purge: false,
            // A publisher's header could purge the messages of others.
            allow_rollup: false,
            mirror: None,
            subject_transform: None,
            // They would delete a consumer, with its position, after a time without readers.
            consumer_limits: None,
            subject_delete_marker_ttl: None,
            allow_message_counter: false,
            ..found
        };
        match self {
            Self::Events => common,
            // Never larger than the chunked messages themselves: the janitor purges both together.
            Self::Chunks => Config { max_bytes: unlimited(common.max_bytes), deny_delete: false, ..common },
            Self::DeadLetters => Config {
                max_bytes: unlimited(common.max_bytes),
                max_age: found.max_age,
                discard: DiscardPolicy::Old,
                deny_delete: false,
                ..common
            },
        }
    }
}

fn unlimited(limit: i64) -> i64 {
    if limit > 0 { -1 } else { limit }
}

/// The server does not remember an id for longer than its message.
fn dead_letter_window(settings: &NatsSettings) -> Duration {
    match settings.dead_letter_age_max {
        age if age.is_zero() => settings.dedup_window,
        age => settings.dedup_window.min(age),
    }
}

impl NatsSettings {
    /// The stream of chunks that consumers of the stream lease.
    pub(crate) fn chunk_stream(&self) -> String {
        format!("{}_RANGES", self.stream)
    }

    pub(crate) fn chunk_subject(&self, consumer: &str) -> String {
        format!("ranges.{}.{consumer}", self.stream)
    }
}

/// The stream on the server; `None` when it does not exist.
pub(crate) async fn find(context: &Context, name: &str) -> Result<Option<Info>, BusError> {
    match context.get_stream(name).await {
        Ok(stream) => Ok(Some(stream.cached_info().clone())),
        Err(error) if is_missing(&error.kind()) => Ok(None),
        Err(error) => Err(missing_jetstream(error)),
    }
}

/// Creates the stream.
pub(crate) async fn create(
    context: &Context,
    settings: &NatsSettings,
    role: StreamRole,
    atomic: bool,
) -> Result<Info, BusError> {
    let name = role.stream(settings);
    let created = context.create_stream(role.wanted(settings, atomic, Config::default())).await;
    let mut stream = created.map_err(|error| refused(&name, "create", &error.to_string(), is_busy(error.kind())))?;
    info!(stream = name, "created");
    stream.info().await.cloned().map_err(|error| failed("read stream", error))
}

/// Updates the existing stream to match the settings.
async fn ensure_stream(
    context: &Context,
    settings: &NatsSettings,
    (role, found): (StreamRole, Info),
    atomic: bool,
) -> Result<Info, BusError> {
    change(context, found, |found| role.wanted(settings, atomic, found)).await
}

/// Restores the invariants of a stream in use. Fields that depend on settings are left alone: processes with different
/// settings, as during a rollout, would take turns.
pub(crate) async fn correct(context: &Context, role: StreamRole, found: Info) -> Result<Info, BusError> {
    change(context, found, |found| role.safe(found)).await
}

async fn change(context: &Context, found: Info, wanted: impl Fn(Config) -> Config) -> Result<Info, BusError> {
    let config = wanted(found.config.clone());
    if config == found.config {
        return Ok(found);
    }
    let (name, wrong) = (&config.name, differences(&found.config, &config));
    // A server that supports it would turn the mirror into an independent stream, and defeat its purpose.
    if found.config.mirror.is_some() {
        return Err(refused(name, "change", &wrong, false));
    }
    let updated = context.update_stream(&config).await;
    let info = updated.map_err(|error| {
        let text = format!("{error}; on the server: {wrong}");
        refused(name, "change", &text, is_busy(error.kind()))
    })?;
    let left = wanted(info.config.clone());
    if left != info.config {
        return Err(refused(name, "change", &differences(&info.config, &left), false));
    }
    info!(stream = name, changed = wrong, "brought to the settings");
    Ok(info)
}

/// Creates or updates all streams. Returns their state in the order of [`StreamRole::ALL`].
pub(crate) async fn reconcile(context: &Context, settings: &NatsSettings, atomic: bool) -> Result<[Info; 3], BusError> {
    let ensure = async |role: StreamRole| match find(context, &role.stream(settings)).await? {
        None => create(context, settings, role, atomic).await,
        Some(found) => ensure_stream(context, settings, (role, found), atomic).await,
    };
    let [dead_letters, chunks, events] = StreamRole::ALL;
    Ok([ensure(dead_letters).await?, ensure(chunks).await?, ensure(events).await?])
}

/// The fields that differ between two configurations, as named by the server: `max_msgs = 5 (must be -1)`.
pub(crate) fn differences<T: Serialize>(found: &T, wanted: &T) -> String {
    let fields = |config: &T| match serde_json::to_value(config) {
        Ok(Value::Object(fields)) => fields,
        _ => serde_json::Map::new(),
    };
    let (found, wanted) = (fields(found), fields(wanted));
    let show = |value: Option<&Value>| value.map_or_else(|| "unset".to_owned(), Value::to_string);
    let differs = |key: &&String| found.get(*key) != wanted.get(*key);
    let mut names: Vec<&String> = found.keys().chain(wanted.keys()).filter(differs).collect();
    names.sort();
    names.dedup();
    let field = |key: &String| format!("{key} = {} (must be {})", show(found.get(key)), show(wanted.get(key)));
    names.into_iter().map(field).collect::<Vec<_>>().join(", ")
}

fn is_missing(kind: &GetStreamErrorKind) -> bool {
    matches!(kind, GetStreamErrorKind::JetStream(error) if error.error_code() == ErrorCode::STREAM_NOT_FOUND)
}

fn is_busy(kind: CreateStreamErrorKind) -> bool {
    matches!(kind, CreateStreamErrorKind::TimedOut | CreateStreamErrorKind::Response)
}

fn refused(name: &str, what: &str, why: &str, busy: bool) -> BusError {
    let kind = if busy { BusErrorKind::Unavailable } else { BusErrorKind::Refused };
    let text = format!("NATS will not {what} stream {name} as the settings (nats_stream_*, dedup_window) say: {why}");
    BusError::caused(kind, "reconcile stream", text)
}

fn missing_jetstream(error: async_nats::jetstream::context::GetStreamError) -> BusError {
    let text = format!("{error}; is JetStream enabled on the server of nats_url, for this account?");
    BusError::caused(BusErrorKind::Unavailable, "read stream", text)
}
