//! The door for events: reads requests, judges each event, publishes the good ones and
//! answers when they are durable.
//!
//! Invariants: a 2xx, or `accepted` for one event of a batch, is only ever said of an event
//! that the bus holds; what is refused leaves no trace. Knows nothing of what reads the bus.

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
pub use cors::pages::CorsSettings;
pub use openapi::document::document;
pub use openapi::options::Shown;
pub use rate_limit::limits::RateLimitSettings;
pub use rate_limit::rate::Quota;
pub use service::serve;
pub use settings::{Destination, Settings};
