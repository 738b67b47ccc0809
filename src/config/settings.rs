//! The settings of all parts, and the checks across them.

use super::exposure::Exposure;
use super::process::ProcessSettings;
use crate::admin::AdminSettings;
use crate::base::settings::Reader;
use crate::bus::{EmbeddedSettings, NatsSettings};
use crate::http::HttpSettings;
use crate::reaction::{DispatcherSettings, EngineSettings};
use crate::store::{PostgresSettings, SqliteSettings};
use crate::warehouse::LakeSettings;
use crate::{gateway, sink};

/// The lower limit of `http_memory_max`: a handful of connections needs this much.
const HTTP_MEMORY_LEAST: usize = 4 << 20;

/// The effective configuration. `deploy/causality.toml` documents each setting.
#[derive(Clone, Debug)]
pub struct Config {
    pub process: ProcessSettings,
    pub http: HttpSettings,
    pub exposure: Exposure,
    /// Whether the gateway requires API keys.
    pub requires_api_keys: bool,
    pub gateway: gateway::Settings,
    pub admin: AdminSettings,
    /// Whether a setting names the server of the bus, of the store. Where roles run apart, both are on servers anyway.
    pub names_nats: bool,
    pub names_postgres: bool,
    pub nats: NatsSettings,
    pub embedded_bus: EmbeddedSettings,
    pub lake: LakeSettings,
    pub sink: sink::Settings,
    pub postgres: PostgresSettings,
    pub sqlite: SqliteSettings,
    pub engine: EngineSettings,
    pub dispatcher: DispatcherSettings,
}

impl Config {
    pub(super) fn read(from: &mut Reader<'_>) -> Self {
        let process = ProcessSettings::read(from);
        let http = HttpSettings::read(from);
        let exposure = Exposure::of(&http);
        let is_public = exposure.is_public();
        let requires_api_keys = from.optional("auth_enabled").unwrap_or(is_public);
        let gateway = gateway::Settings::read(from, &http, is_public);
        let admin = AdminSettings::read(from);
        let nats = NatsSettings::read(from);
        let lake = LakeSettings::read(from);
        // A client that can create webhooks here can reach this machine's services anyway.
        let reaches_loopback = !is_public && admin.addr.is_loopback();
        Self {
            process,
            http,
            exposure,
            requires_api_keys,
            gateway,
            admin,
            names_nats: from.is_set("nats_url"),
            names_postgres: from.is_set("database_url") || from.is_set("database_host"),
            nats,
            embedded_bus: EmbeddedSettings::read(from),
            sink: sink::Settings::read(from, lake.objects.is_remote()),
            lake,
            postgres: PostgresSettings::read(from),
            sqlite: SqliteSettings::read(from),
            engine: EngineSettings::read(from),
            dispatcher: DispatcherSettings::read(from, reaches_loopback),
        }
    }

    /// Refuses settings of one part that contradict those of another.
    pub(super) fn check(&self, from: &mut Reader<'_>) {
        // It may share a disk with the events and must leave room for them.
        if self.gateway.quarantine_bytes_max.is_some_and(|bytes| bytes > self.nats.bytes_max / 2) {
            from.refuse("quarantine_max_bytes", "at most half of nats_stream_max_bytes");
        }
        let (memory, body) = (self.http.memory_bytes_max, self.gateway.body_bytes_max);
        if memory < 2 * body.max(HTTP_MEMORY_LEAST / 2) {
            from.refuse("http_memory_max", "at least 4MiB, and twice max_body_size");
        }
        if from.is_set("http_body_memory_max") && !(body..=memory).contains(&self.http.body_memory_bytes_max) {
            from.refuse("http_body_memory_max", "at least max_body_size, and at most http_memory_max");
        }
    }
}
