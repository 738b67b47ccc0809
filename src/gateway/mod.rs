//! The gateway for events: reads requests, validates each event, publishes the valid ones and replies once they are
//! durable.
//!
//! Invariants: a 2xx, or `accepted` for an event of a batch, is only sent for events that the bus has stored; a refused
//! event reaches no consumer, and only the quarantine keeps it. Does not know the consumers of the bus.

mod admission;
mod auth;
mod bus_health;
mod cors;
mod events;
mod exchange;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod intake;
mod logs;
mod openapi;
mod quarantine;
mod rate_limit;
mod route;
mod segment;
mod service;
mod settings;
mod state;
#[cfg(test)]
mod tests;

pub use crate::http::TrustedProxies;
pub use auth::access::Access;
pub use auth::key_ring::KeyRing;
pub use cors::settings::CorsSettings;
pub use openapi::document::document;
pub use openapi::options::DocumentOptions;
pub use rate_limit::limits::RateLimitSettings;
pub use rate_limit::rate::Quota;
pub use service::serve;
pub use settings::{Destination, Settings};
