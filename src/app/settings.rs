//! Settings that depend on what else runs in this process.

use std::time::Duration;

use anyhow::Context as _;

use super::choice::Choice;
use super::listeners::Listeners;
use crate::config::Config;
use crate::warehouse::MetastoreSettings;
use crate::{gateway, http, sink};

/// How long publishing and answering a request may take after its body has arrived, in addition to the time of the bus: a
/// publish through NATS ends after three times `nats_timeout`.
const ANSWER_SPARE: Duration = Duration::from_secs(15);

/// How long an idle connection may take to send a last request when the gateway stops.
const LAST_CALL: Duration = Duration::from_secs(1);

/// How long each stage has to stop, at least. It also gets what earlier stages left of `shutdown_timeout`.
pub(super) struct Budgets {
    pub(super) gateway: Duration,
    pub(super) sink: Duration,
    pub(super) reaction: Duration,
    pub(super) webhooks: Duration,
    pub(super) upkeep: Duration,
    pub(super) admin: Duration,
}

impl Budgets {
    /// The rest, about half, goes to the first stage that needs it: that honours the default `http_shutdown_timeout`.
    /// The sink has the most left to do: it reads what is on the bus and closes the open files.
    pub(super) fn of(config: &Config) -> Self {
        let total = config.process.shutdown_timeout;
        Self {
            gateway: Duration::ZERO,
            sink: total / 4,
            reaction: total / 16,
            webhooks: total / 8,
            upkeep: total / 32,
            admin: total / 32,
        }
    }
}

/// `None` without a metastore. Call it after the warehouse is open: its directory exists then.
pub(super) fn metastore(config: &Config) -> anyhow::Result<Option<MetastoreSettings>> {
    let Some(mut metastore) = config.lake.metastore.clone() else { return Ok(None) };
    if metastore.location.is_empty() {
        let directory = config.lake.objects.directory_in(&config.process.data_dir).canonicalize()?;
        let path = directory.to_str().context("the path of the lake is not UTF-8, as a metastore wants it")?;
        metastore.location = format!("file://{path}");
    }
    Ok(Some(metastore))
}

pub(super) fn gateway(config: &Config, listeners: &Listeners) -> gateway::Settings {
    let http = http::Limits {
        connections_max: listeners.gateway_connections_max,
        request_timeout: config.http.read_timeout + 3 * config.nats.timeout + ANSWER_SPARE,
        tls: listeners.certificates.gateway.clone(),
        // Behind load balancers, clients keep their connections.
        last_call: config.process.shutdown_delay.min(LAST_CALL),
        drain_timeout: config.http.shutdown_timeout.into(),
        refusal_headers: http::RefusalHeaders::request_ids(),
        ..config.http.limits(listeners.memory.clone())
    };
    gateway::Settings { http, ..config.gateway.clone() }
}

pub(super) fn admin_limits(config: &Config, listeners: &Listeners) -> http::Limits {
    http::Limits {
        connections_max: listeners.admin_connections_max,
        tls: listeners.certificates.admin.clone(),
        last_call: Duration::ZERO,
        request_timeout: http::Limits::default().request_timeout.max(config.http.read_timeout + ANSWER_SPARE),
        ..gateway(config, listeners).http
    }
}

pub(super) fn sink(config: &Config, choice: &Choice) -> sink::Settings {
    let settings = config.sink.clone();
    let fetch_bytes_max = if choice.nats { sink::SERVER_FETCH_BYTES_MAX } else { settings.fetch_bytes_max };
    sink::Settings { fetch_bytes_max, ..settings }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bus::SINK_CONSUMER;
    use crate::config::load;

    fn config() -> Config {
        load(None, &[]).unwrap().config
    }

    #[test]
    fn a_request_that_arrives_in_time_has_time_for_its_response() {
        for seconds in [1, 30, 600] {
            let config = load(None, &[("http_read_timeout", format!("{seconds}s"))]).unwrap().config;
            let listeners = Listeners::of(&config, u64::MAX);
            let settings = gateway(&config, &listeners);
            assert_eq!(settings.body_timeout, Duration::from_secs(seconds));
            let publish = 3 * config.nats.timeout;
            assert!(settings.http.request_timeout > settings.body_timeout + publish, "{seconds}");
            assert!(admin_limits(&config, &listeners).request_timeout > settings.body_timeout);
        }
    }

    #[test]
    fn the_bus_waits_for_the_consumers_of_the_roles() {
        let config = config();
        assert_eq!(config.sink.consumer().name, SINK_CONSUMER);
        assert_eq!(config.nats.readers, [config.sink.consumer().name, config.engine.consumer().name]);
    }

    #[test]
    fn the_stages_leave_room_for_the_drain_of_the_gateway() {
        let config = config();
        let Budgets { gateway, sink, reaction, webhooks, upkeep, admin } = Budgets::of(&config);
        let room = config.process.shutdown_timeout - (gateway + sink + reaction + webhooks + upkeep + admin);
        assert!(room.mul_f64(0.9) > config.http.shutdown_timeout, "{room:?}");
    }
}
