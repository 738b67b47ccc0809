//! The settings of the engine.

use std::time::Duration;

use crate::base::settings::{self, Reader};
use crate::bus::{ack_wait, rules_consumer};
use crate::store::BacklogLimits;

/// How events are evaluated.
#[derive(Clone, Debug)]
pub struct EngineSettings {
    /// The durable consumer.
    pub consumer_name: String,
    /// Rules are reloaded at least this often. Changes made in this process are seen immediately.
    pub refresh_interval: Duration,
    pub fetch_messages_max: usize,
    pub fetch_bytes_max: usize,
    /// Redelivery timeout of a batch.
    pub ack_wait: Duration,
    /// Deliveries after which an event is dead-lettered.
    pub max_deliver: u32,
    /// How often the engine asks the bus for its ack floor while effects are committed. The next commit lets the store
    /// compact its records up to that floor.
    pub floor_interval: Duration,
    /// Attempts allowed for a new delivery.
    pub max_attempts: u32,
    /// Bounds on the pending deliveries of each disabled webhook.
    pub disabled_backlog: BacklogLimits,
    /// Threads that match rules against one batch.
    pub match_threads_max: usize,
    /// Groups kept for one anomaly config; the least recently touched are evicted first.
    pub groups_max: usize,
    /// How often stale anomaly state is deleted.
    pub state_cleanup_interval: Duration,
    /// How long untouched anomaly state is kept.
    pub state_retention: Duration,
}

/// More threads than any machine can use.
const MATCH_THREADS_MAX: usize = 64;

impl EngineSettings {
    pub fn read(from: &mut Reader<'_>) -> Self {
        let refresh = from.get::<Duration>("engine_rule_refresh_interval");
        Self {
            consumer_name: rules_consumer(from),
            refresh_interval: refresh.min(from.get("anomaly_config_refresh_interval")),
            fetch_messages_max: 4_096,
            fetch_bytes_max: 4 << 20,
            ack_wait: ack_wait(from),
            max_deliver: 10,
            floor_interval: Duration::from_secs(5),
            max_attempts: from.get::<usize>("dispatcher_max_attempts") as u32,
            disabled_backlog: BacklogLimits {
                deliveries_max: from.get::<usize>("webhook_disabled_max_pending") as u64,
                age_max: from.get("webhook_disabled_max_age"),
            },
            match_threads_max: from.count_to("engine_max_concurrent_evaluations", MATCH_THREADS_MAX),
            groups_max: 10_000,
            state_cleanup_interval: from.get("anomaly_state_cleanup_interval"),
            state_retention: from.get("anomaly_state_retention_duration"),
        }
    }
}

impl Default for EngineSettings {
    fn default() -> Self {
        settings::defaults(Self::read)
    }
}
