//! The HTTP server of every listener: the accept loop, connection limits, bounded bodies, problem documents and
//! readiness.
//!
//! Invariants: whatever a client does or fails to do ends at a named limit; after `stop` the listener is closed
//! immediately and requests in flight still get their replies. Knows nothing of events or routes.

mod connection;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod limits;
mod memory;
#[cfg(test)]
pub(crate) mod raw_client;
mod readiness;
mod reply;
mod request;
mod serve;
mod settings;
#[cfg(test)]
mod tests;
mod tls;

pub use limits::Limits;
pub use memory::MemoryBudget;
pub use readiness::{Readiness, ReadinessWatch, Scope};
pub use reply::problem::Problem;
pub use reply::refusal_headers::RefusalHeaders;
pub use request::body::{Inbound, InboundError, read_body};
pub use request::body_error::BodyError;
pub use request::client_address::{ForwardedTarget, Scheme, TrustedProxies};
pub use request::coding::{Coding, read_coded};
pub use request::head::{header_value, header_values};
pub use request::own_origin;
pub use request::request_id::RequestIds;
pub use serve::{Drained, SPARE_CONNECTIONS, serve};
pub use settings::HttpSettings;
pub use tls::certificate::Validity;
pub use tls::files::{TlsError, TlsFile, TlsFiles};
pub use tls::reload::{Reload, Tls};
