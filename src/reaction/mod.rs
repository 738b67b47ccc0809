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
pub use rules::index::{Candidates, Filters, Index};
pub use rules::rule::{Fault, Matcher, check_rule};
pub use rules::view::View;
pub use settings::EngineSettings;
pub use webhooks::{
    AllowedNetworks, DispatcherSettings, TlsFiles, TlsRefused, check_tls_files, check_webhook, claim_lease,
    run_dispatcher,
};
