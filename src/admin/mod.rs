//! The admin listener's service: health, readiness, metrics, and the REST API over the store and the dead letters.
//!
//! Invariants: a refused request stores nothing; a secret never leaves; an error is a problem document that does not
//! repeat values of the request. Does not know how rules are compiled: the injected checks decide whether a document
//! makes sense.

mod access;
mod audited_store;
mod guard;
mod handlers;
mod input;
mod openapi;
mod problem;
mod resource;
mod route;
mod router;
mod routes;
mod service;
mod settings;
mod state;
#[cfg(test)]
mod tests;

pub use access::{Access, AccessSettings};
pub use router::{document, probes_router, router, starting_router};
pub use service::AdminService;
pub use settings::AdminSettings;
pub use state::{Checks, Probes, Settings, State};
