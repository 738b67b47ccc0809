//! Webhooks and published subjects: due deliveries are claimed from the store and sent, and their outcomes committed.
//!
//! Invariant: a webhook reaches only addresses that are allowed. Must not know why a delivery was made.

mod settings;

mod endpoint;
mod signing;

mod address;
mod connect;
mod tls;

mod attempt;
mod circuit;
mod concurrency;
mod endpoint_state;

mod claim;
mod dispatcher;
mod outbox;

pub use address::AllowedNetworks;
pub use dispatcher::run_dispatcher;
pub use endpoint::check_webhook;
pub use settings::{DispatcherSettings, claim_lease};
pub use tls::{TlsFiles, TlsFilesError, check_tls_files};
