//! Reacts to events: rules and anomaly configs decide, webhooks are called, subjects published.
//!
//! ```text
//!             ┌ engine ───────────────────────────┐            ┌ dispatcher ───────────────┐
//!  bus ──────►│ subject → candidates → view →     │──► store ─►│ claim → send → outcome    │──► webhooks
//!  events.>   │ match, measure → effects → commit │            │ outbox → publish → forget │──► bus
//!             └────────────── then acknowledge ───┘            └───────────────────────────┘
//! ```
//!
//! Invariants: reactions happen exactly once in the store and at least once on the wire; an
//! event that no rule can match costs a hash of its subject; whatever a person writes is
//! refused when written or evaluates in bounded time; a webhook reaches no address that it may
//! not. Must not know how events arrive or where they are kept.

mod budget;
mod kinds;
mod number;

mod condition;
mod expression;
mod fitting;
mod path;
mod pattern;
mod rules;
mod subjects;
mod view;

mod anomalies;
mod detection;
mod order;
mod window;

mod engine;
mod evaluate;
mod faults;
mod index;
mod matching;
mod ruleset;

mod address;
mod attempt;
mod circuit;
mod claim;
mod connect;
mod dispatcher;
mod endpoints;
mod outbox;
mod share;
mod signing;
mod trust;
mod webhook;

#[cfg(test)]
mod tests;

use std::fmt;
use std::time::Duration;

pub use address::AllowedNetworks;
pub use anomalies::check_anomaly_config;
pub use dispatcher::run_dispatcher;
pub use engine::run_engine;
pub use index::{Candidates, Filters, Index};
pub use rules::{Fault, Matcher, check_rule};
pub use trust::{TlsFiles, TlsRefused, check_tls_files};
pub use view::View;
pub use webhook::check_webhook;

use crate::base::backoff::Backoff;
use crate::base::supervisor::StopBudget;
use crate::bus::BusError;
use crate::store::{OwedBounds, StoreError};

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

/// How long a claimed delivery may wait for its request, beyond a request before it and its own.
const CLAIM_SPARE: Duration = Duration::from_secs(5);

/// How long a claim holds where a request may take `request_timeout`.
pub fn claim_lease(request_timeout: Duration) -> Duration {
    2 * request_timeout + CLAIM_SPARE
}

/// How webhooks are called.
#[derive(Clone, Debug)]
pub struct DispatcherSettings {
    /// Requests on their way at once, beside the first of each webhook, which no other one keeps waiting.
    pub workers: usize,
    /// How often due deliveries are looked for when nothing announced them.
    pub poll_interval: Duration,
    /// Deliveries claimed at once.
    pub batch_size: usize,
    /// How the attempts of one delivery, and the probes of a dead endpoint, spread.
    pub backoff: Backoff,
    /// The longest `Retry-After` that is honoured.
    pub retry_after_max: Duration,
    /// The longest that one attempt may take; a webhook's own timeout can be shorter.
    pub request_timeout: Duration,
    /// How long a claim holds. Must be longer than `request_timeout` where several processes claim. After a crash
    /// the embedded store releases the claims of its previous life when it opens, so nothing waits for this.
    pub lease: Duration,
    /// Requests on their way to one webhook at once.
    pub endpoint_concurrency_max: usize,
    /// Whom TLS trusts, and what it shows.
    pub tls: TlsFiles,
    /// Networks that webhooks may reach although they are not public.
    pub allowed_networks: AllowedNetworks,
    /// How long requests on their way may take to end after stop.
    pub stop_budget: StopBudget,
}

impl Default for DispatcherSettings {
    fn default() -> Self {
        Self {
            workers: 256,
            poll_interval: Duration::from_secs(5),
            batch_size: 256,
            backoff: Backoff { initial: Duration::from_secs(1), multiplier: 2.0, max: Duration::from_secs(300) },
            retry_after_max: Duration::from_secs(3_600),
            request_timeout: Duration::from_secs(30),
            lease: Duration::from_secs(120),
            endpoint_concurrency_max: 16,
            tls: TlsFiles::default(),
            allowed_networks: AllowedNetworks::default(),
            stop_budget: Duration::from_secs(10).into(),
        }
    }
}

/// What ends the engine or the dispatcher before it was told to.
#[derive(Debug)]
pub enum ReactionError {
    Bus(BusError),
    Store(StoreError),
    /// TLS could not be set up.
    Tls(TlsRefused),
}

impl fmt::Display for ReactionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bus(_) => "use bus",
            Self::Store(_) => "use store",
            Self::Tls(_) => "set up TLS",
        })
    }
}

impl std::error::Error for ReactionError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Bus(error) => Some(error),
            Self::Store(error) => Some(error),
            Self::Tls(error) => Some(error),
        }
    }
}

impl From<BusError> for ReactionError {
    fn from(error: BusError) -> Self {
        Self::Bus(error)
    }
}

impl From<StoreError> for ReactionError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<TlsRefused> for ReactionError {
    fn from(error: TlsRefused) -> Self {
        Self::Tls(error)
    }
}

/// Runs what takes processor time for long while the other tasks of this thread go on elsewhere.
fn off_the_runtime<T>(run: impl FnOnce() -> T) -> T {
    match tokio::runtime::Handle::try_current().map(|handle| handle.runtime_flavor()) {
        Ok(tokio::runtime::RuntimeFlavor::MultiThread) => tokio::task::block_in_place(run),
        // There is no other thread to go on.
        _ => run(),
    }
}
