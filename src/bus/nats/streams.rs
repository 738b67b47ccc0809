//! The streams on the server, brought to what the settings say.
//!
//! Invariant: a stream is limited by bytes with `discard: new` and has no age of its own, so
//! that the server drops nothing by itself: what is purged, the janitor has seen acknowledged.

use async_nats::jetstream::context::{CreateStreamErrorKind, GetStreamErrorKind};
use async_nats::jetstream::stream::{Config, DiscardPolicy, Info, RetentionPolicy, StorageType};
use async_nats::jetstream::{Context, ErrorCode};
use tracing::info;

use crate::bus::{BusError, BusErrorKind, NatsSettings, StreamStorage};

/// The subjects of dead letters.
pub(super) const DEAD_LETTERS: &str = "dlq.>";

impl NatsSettings {
    /// The stream of ranges that consumers of the stream lease.
    pub(super) fn range_stream(&self) -> String {
        format!("{}_RANGES", self.stream)
    }

    pub(super) fn range_subject(&self, consumer: &str) -> String {
        format!("ranges.{}.{consumer}", self.stream)
    }
}

/// Creates or updates all streams; answers what the server says of the main one.
pub(super) async fn reconcile(context: &Context, settings: &NatsSettings, atomic: bool) -> Result<Info, BusError> {
    let storage = match settings.storage {
        StreamStorage::File => StorageType::File,
        StreamStorage::Memory => StorageType::Memory,
    };
    let common = |config: Config| Config {
        retention: RetentionPolicy::Limits,
        storage,
        num_replicas: settings.replicas,
        duplicate_window: settings.dedup_window,
        ..config
    };
    let wanted = |config: Config| {
        common(Config {
            name: settings.stream.clone(),
            subjects: settings.subjects.clone(),
            max_bytes: i64::try_from(settings.bytes_max).unwrap_or(i64::MAX),
            max_age: std::time::Duration::ZERO,
            discard: DiscardPolicy::New,
            allow_atomic_publish: atomic,
            ..config
        })
    };
    // The server remembers no id for longer than a message.
    let dead_letter_window = match settings.dead_letter_age_max {
        age if age.is_zero() => settings.dedup_window,
        age => settings.dedup_window.min(age),
    };
    let dead = |config: Config| Config {
        duplicate_window: dead_letter_window,
        ..common(Config {
            name: settings.dead_letter_stream.clone(),
            subjects: vec![DEAD_LETTERS.to_owned()],
            max_age: settings.dead_letter_age_max,
            discard: DiscardPolicy::Old,
            ..config
        })
    };
    // No larger than what the ranges are of: the janitor takes both together.
    let ranges = |config: Config| {
        common(Config {
            name: settings.range_stream(),
            subjects: vec![settings.range_subject("*")],
            discard: DiscardPolicy::New,
            ..config
        })
    };
    bring(context, &settings.dead_letter_stream, dead).await?;
    bring(context, &settings.range_stream(), ranges).await?;
    bring(context, &settings.stream, wanted).await
}

/// Creates the stream when it is missing, and updates it when `wanted` would change it.
async fn bring(context: &Context, name: &str, wanted: impl Fn(Config) -> Config) -> Result<Info, BusError> {
    let found = match context.get_stream(name).await {
        Ok(stream) => stream.cached_info().clone(),
        Err(error) if is_missing(&error.kind()) => {
            let created = context.create_stream(wanted(Config::default())).await;
            let mut stream = created.map_err(|error| refused(name, "create", &error, is_busy(error.kind())))?;
            info!(stream = name, "created");
            return stream.info().await.cloned().map_err(|error| failed("read stream", error));
        }
        Err(error) => return Err(missing_jetstream(error)),
    };
    let config = wanted(found.config.clone());
    if config == found.config {
        return Ok(found);
    }
    match context.update_stream(&config).await {
        Ok(info) => {
            info!(stream = name, "updated to the settings");
            Ok(info)
        }
        Err(error) => Err(refused(name, "change", &error, is_busy(error.kind()))),
    }
}

fn is_missing(kind: &GetStreamErrorKind) -> bool {
    matches!(kind, GetStreamErrorKind::JetStream(error) if error.error_code() == ErrorCode::STREAM_NOT_FOUND)
}

fn is_busy(kind: CreateStreamErrorKind) -> bool {
    matches!(kind, CreateStreamErrorKind::TimedOut | CreateStreamErrorKind::Response)
}

fn refused(name: &str, what: &str, error: &dyn std::error::Error, busy: bool) -> BusError {
    let kind = if busy { BusErrorKind::Unavailable } else { BusErrorKind::Refused };
    let text = format!("NATS will not {what} stream {name} as the settings (nats_stream_*, dedup_window) say: {error}");
    BusError::caused(kind, "reconcile stream", text)
}

fn missing_jetstream(error: async_nats::jetstream::context::GetStreamError) -> BusError {
    let text = format!("{error}; is JetStream enabled on the server of nats_url, for this account?");
    BusError::caused(BusErrorKind::Unavailable, "read stream", text)
}

pub(super) fn failed(context: &'static str, error: impl std::fmt::Display) -> BusError {
    BusError::caused(BusErrorKind::Unavailable, context, error.to_string())
}
