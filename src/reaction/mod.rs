//! Reacts to events: rules and anomaly configs are evaluated, webhooks called, subjects published.
//!
//! ```text
//!             ┌ engine ───────────────────────────┐            ┌ dispatcher ───────────────┐
//!  bus ──────►│ subject → candidates → view →     │──► store ─►│ claim → send → outcome    │──► webhooks
//!  events.>   │ match, measure → effects → commit │            │ outbox → publish → forget │──► bus
//!             └────────────── then acknowledge ───┘            └───────────────────────────┘
//! ```
//!
//! Invariants: a reaction is recorded exactly once in the store and sent at least once; an event that no rule can
//! match costs one hash of its subject; every user-written document is either refused when it is written or evaluated
//! in bounded time; a webhook reaches only addresses that are allowed. Must not know how events arrive or where they
//! are stored.

mod error;
mod settings;

mod blocking;
mod name;

mod anomalies;
mod rules;

mod engine;
mod evaluate;
mod faults;
mod matching;
mod ruleset;

mod webhooks;

#[cfg(test)]
mod tests;

pub use anomalies::config::check_anomaly_config;
pub use engine::run_engine;
pub use error::ReactionError;
pub use rules::index::{Filters, Index};
pub use rules::rule::{Matcher, RuleFault, check_rule};
pub use rules::selection::{Candidates, MatchResult};
pub use rules::view::View;
pub use settings::EngineSettings;
pub use webhooks::{
    AllowedNetworks, DispatcherSettings, TlsFiles, TlsFilesError, check_tls_files, check_webhook, claim_lease,
    run_dispatcher,
};
