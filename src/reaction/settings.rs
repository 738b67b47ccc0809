//! The settings of the engine.

use std::time::Duration;

use crate::store::OwedBounds;

/// How events are judged.
#[derive(Clone, Debug)]
pub struct EngineSettings {
    /// The durable consumer.
    pub consumer_name: String,
    /// Rules are read again at least so often, besides at once when they change in this process.
    pub refresh_interval: Duration,
    pub fetch_messages_max: usize,
    pub fetch_bytes_max: usize,
    /// How long a batch may take before the bus delivers it again.
    pub ack_wait: Duration,
    /// After so many deliveries an event goes to the dead letters.
    pub max_deliver: u32,
    /// How often the engine learns how far the bus has acknowledged, while effects are committed: with the next commit
    /// the store makes one record of those so far.
    pub floor_interval: Duration,
    /// Attempts that a new delivery gets.
    pub max_attempts: u32,
    /// What each disabled webhook is owed at most.
    pub disabled_owed: OwedBounds,
    /// Threads that match rules, of events that came together.
    pub evaluations_max: usize,
    /// Groups that are remembered of one anomaly config; the stalest are forgotten first.
    pub groups_max: usize,
    /// How often stale anomaly state is looked for.
    pub state_cleanup_interval: Duration,
    /// How long anomaly state that nobody touched is kept.
    pub state_retention: Duration,
}

impl Default for EngineSettings {
    fn default() -> Self {
        Self {
            consumer_name: "analysis-engine".to_owned(),
            refresh_interval: Duration::from_secs(30),
            fetch_messages_max: 4_096,
            fetch_bytes_max: 4 << 20,
            ack_wait: Duration::from_secs(60),
            max_deliver: 10,
            floor_interval: Duration::from_secs(5),
            max_attempts: 100,
            disabled_owed: OwedBounds { deliveries_max: 10_000, age_max: Duration::from_secs(7 * 24 * 3_600) },
            evaluations_max: 1,
            groups_max: 10_000,
            state_cleanup_interval: Duration::from_secs(60),
            state_retention: Duration::from_secs(24 * 3_600),
        }
    }
}
