//! Webhooks and published subjects: due deliveries are claimed from the store, sent, and their outcomes committed.
//!
//! Invariant: a webhook reaches no address that it may not. Must not know what made a delivery due.

mod settings;

mod endpoint;
mod signing;

mod address;
mod connect;
mod tls;

mod attempt;
mod circuit;
mod endpoints;
mod share;

mod claim;
mod dispatcher;
mod outbox;

pub use address::AllowedNetworks;
pub use dispatcher::run_dispatcher;
pub use endpoint::check_webhook;
pub use settings::{DispatcherSettings, claim_lease};
pub use tls::{TlsFiles, TlsRefused, check_tls_files};
