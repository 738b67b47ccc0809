//! The streams on the server, kept as the settings say.
//!
//! Invariant: nothing in a stream's configuration can drop, expire, rewrite or refuse messages behind our back. The
//! server is limited by bytes with `discard: new` and purges nothing by itself: what is purged, the janitor has
//! seen acknowledged. What the server will not change back is an error that names the field.

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
/// A stream needs room for its durable consumers and for one of each process that reads ranges.
const CONSUMERS_MIN: i32 = 100;

/// The streams that are kept on the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Events,
    /// Ranges of the events, as consumers lease them.
    Ranges,
    DeadLetters,
}

impl Role {
    pub(crate) const ALL: [Self; 3] = [Self::DeadLetters, Self::Ranges, Self::Events];

    pub(crate) fn stream(self, settings: &NatsSettings) -> String {
        match self {
            Self::Events => settings.stream.clone(),
            Self::Ranges => settings.range_stream(),
            Self::DeadLetters => settings.dead_letter_stream.clone(),
        }
    }

    /// What the settings say, over what must hold anyway.
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
            Self::Ranges => Config { subjects: vec![settings.range_subject("*")], ..common },
            Self::DeadLetters => Config {
                subjects: vec![DEAD_LETTERS.to_owned()],
                max_age: settings.dead_letter_age_max,
                duplicate_window: dead_letter_window(settings),
                ..common
            },
        }
    }

    /// What must hold whatever the settings say. All else in `found` stays: placement, compression, republishing,
    /// sources and direct access are the operator's.
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
            // Without acknowledgements nothing is known to be stored; in this mode they come before it is.
            no_ack: false,
            persist_mode: found.persist_mode.filter(|mode| *mode != PersistenceMode::Async),
            sealed: false,
            deny_purge: false,
            // A publisher's header would purge what others wrote.
            allow_rollup: false,
            mirror: None,
            subject_transform: None,
            // They would delete a consumer, and its place with it, after a time without readers.
            consumer_limits: None,
            subject_delete_marker_ttl: None,
            allow_message_counter: false,
            ..found
        };
        match self {
            Self::Events => common,
            // No larger than what the ranges are of: the janitor takes both together.
            Self::Ranges => Config { max_bytes: unlimited(common.max_bytes), deny_delete: false, ..common },
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

/// The server remembers no id for longer than a message.
fn dead_letter_window(settings: &NatsSettings) -> Duration {
    match settings.dead_letter_age_max {
        age if age.is_zero() => settings.dedup_window,
        age => settings.dedup_window.min(age),
    }
}

impl NatsSettings {
    /// The stream of ranges that consumers of the stream lease.
    pub(crate) fn range_stream(&self) -> String {
        format!("{}_RANGES", self.stream)
    }

    pub(crate) fn range_subject(&self, consumer: &str) -> String {
        format!("ranges.{}.{consumer}", self.stream)
    }
}

/// What the server says of a stream; none when it has none of that name.
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
    role: Role,
    atomic: bool,
) -> Result<Info, BusError> {
    let name = role.stream(settings);
    let created = context.create_stream(role.wanted(settings, atomic, Config::default())).await;
    let mut stream = created.map_err(|error| refused(&name, "create", &error.to_string(), is_busy(error.kind())))?;
    info!(stream = name, "created");
    stream.info().await.cloned().map_err(|error| failed("read stream", error))
}

/// Changes the stream that was found to what the settings say.
async fn ensure_stream(
    context: &Context,
    settings: &NatsSettings,
    (role, found): (Role, Info),
    atomic: bool,
) -> Result<Info, BusError> {
    change(context, found, |found| role.wanted(settings, atomic, found)).await
}

/// Changes back what somebody changed in a stream while it is in use. The settings' own fields are left alone: processes
/// with other settings, as during a change of them, would take turns.
pub(crate) async fn correct(context: &Context, role: Role, found: Info) -> Result<Info, BusError> {
    change(context, found, |found| role.safe(found)).await
}

async fn change(context: &Context, found: Info, wanted: impl Fn(Config) -> Config) -> Result<Info, BusError> {
    let config = wanted(found.config.clone());
    if config == found.config {
        return Ok(found);
    }
    let (name, wrong) = (&config.name, differences(&found.config, &config));
    // A server that can would make the mirror a stream of its own, and end what it is kept for.
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

/// Creates or corrects all streams; answers what the server says of them, in the order of [`Role::ALL`].
pub(crate) async fn reconcile(context: &Context, settings: &NatsSettings, atomic: bool) -> Result<[Info; 3], BusError> {
    let ensure = async |role: Role| match find(context, &role.stream(settings)).await? {
        None => create(context, settings, role, atomic).await,
        Some(found) => ensure_stream(context, settings, (role, found), atomic).await,
    };
    let [dead_letters, ranges, events] = Role::ALL;
    Ok([ensure(dead_letters).await?, ensure(ranges).await?, ensure(events).await?])
}

/// The fields in which two configurations differ, as the server names them: `max_msgs = 5 (must be -1)`.
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
