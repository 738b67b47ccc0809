//! State shared by all requests: the ports, the settings, and the locks that bound the work of a process.

use std::sync::Arc;

use serde_json::Value;

use super::access::Access;
use crate::bus::Bus;
use crate::event::FieldError;
use crate::quarantine::ReadSettings;
use crate::store::{NewAnomalyConfig, NewRule, NewWebhook, Store};

/// What the admin API needs. Cheap to clone.
#[derive(Clone)]
pub struct State {
    pub bus: Bus,
    pub store: Store,
    pub checks: Checks,
    pub settings: Arc<Settings>,
    pub access: Access,
    pub probes: Probes,
}

/// What the process reports about itself. Cheap to clone.
#[derive(Clone)]
pub struct Probes {
    /// Whether the process accepts traffic, and a document that says why.
    pub ready: Arc<dyn Fn() -> (bool, Value) + Send + Sync>,
    /// All metrics as Prometheus text.
    pub metrics: Arc<dyn Fn() -> String + Send + Sync>,
    /// An object with version, roles, uptime, backends and open batches.
    pub status: Arc<dyn Fn() -> Value + Send + Sync>,
}

/// Semantic checks of documents, supplied by the components that use them.
#[derive(Clone, Copy)]
pub struct Checks {
    pub rule: fn(&NewRule) -> Vec<FieldError>,
    pub anomaly: fn(&NewAnomalyConfig) -> Vec<FieldError>,
    pub webhook: fn(&NewWebhook) -> Vec<FieldError>,
}

#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// The listener is bound to loopback: requests must use a name of this machine, so that a web page whose name
    /// resolves to 127.0.0.1 is refused.
    pub loopback: bool,
    /// Further host names, without port, that are accepted and whose pages may send requests.
    pub allowed_hosts: Vec<String>,
    /// The OpenAPI document of the gateway, shown on the same page as this API's.
    pub gateway_document: Option<Value>,
    /// The limits for replaying refused input.
    pub replays: ReadSettings,
}

/// The state, and the locks of this process.
pub(super) struct Shared {
    pub(super) state: State,
    /// Held from reading a stored document until it is replaced, so that requests of this process do not conflict. The
    /// store detects changes by other processes.
    pub(super) patching: tokio::sync::Mutex<()>,
    /// Held while a set is checked and applied: sets are large, so one at a time.
    pub(super) applying: tokio::sync::Mutex<()>,
    /// Held while a person's data is searched and erased, which reads everything that is stored.
    pub(super) erasing: tokio::sync::Mutex<()>,
    /// Bounds concurrent document checks.
    pub(super) checking: Arc<tokio::sync::Semaphore>,
}

/// Concurrent document checks: each may keep a processor busy for a while.
const CHECKS_MAX: usize = 2;

impl Shared {
    pub(super) fn new(state: State) -> Self {
        let checking = Arc::new(tokio::sync::Semaphore::new(CHECKS_MAX));
        let one = || tokio::sync::Mutex::new(());
        Self { state, patching: one(), applying: one(), erasing: one(), checking }
    }
}
