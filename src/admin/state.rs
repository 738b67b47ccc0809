//! What requests share: the ports, the settings, and the locks that bound the work of one process.

use std::sync::Arc;

use serde_json::Value;

use super::access::Access;
use crate::bus::Bus;
use crate::event::FieldError;
use crate::quarantine::ReadSettings;
use crate::store::{NewAnomalyConfig, NewRule, NewWebhook, Store};

/// What the admin API works on. Cheap to clone.
#[derive(Clone)]
pub struct State {
    pub bus: Bus,
    pub store: Store,
    pub checks: Checks,
    pub settings: Arc<Settings>,
    pub access: Access,
    pub probes: Probes,
}

/// What the process says of itself. Cheap to clone.
#[derive(Clone)]
pub struct Probes {
    /// Whether the process takes traffic, and the document that says why.
    pub ready: Arc<dyn Fn() -> (bool, Value) + Send + Sync>,
    /// All metrics as Prometheus text.
    pub metrics: Arc<dyn Fn() -> String + Send + Sync>,
    /// Version, roles, uptime, backends, open batches: an object.
    pub status: Arc<dyn Fn() -> Value + Send + Sync>,
}

/// What makes a readable document wrong, by those who will have to work with it.
#[derive(Clone, Copy)]
pub struct Checks {
    pub rule: fn(&NewRule) -> Vec<FieldError>,
    pub anomaly: fn(&NewAnomalyConfig) -> Vec<FieldError>,
    pub webhook: fn(&NewWebhook) -> Vec<FieldError>,
}

#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// The listener is bound to loopback: only names of this machine are answered, so that a web page
    /// whose name resolves to 127.0.0.1 is not.
    pub loopback: bool,
    /// Host names, without port, that are answered and may send requests from their pages all the same.
    pub allowed_hosts: Vec<String>,
    /// The OpenAPI document of the gateway, for the page that shows it beside that of this API.
    pub gateway_document: Option<Value>,
    /// By which refused input is read again.
    pub replays: ReadSettings,
}

/// The state, and what requests share beside it.
pub(super) struct Shared {
    pub(super) state: State,
    /// Held from reading a stored document to replacing it, so that requests of this process do not get in each
    /// other's way. What another process changes meanwhile, the store notices.
    pub(super) patching: tokio::sync::Mutex<()>,
    /// Held while a set of documents is checked and applied: they are large, and one at a time is enough.
    pub(super) applying: tokio::sync::Mutex<()>,
    /// Held while somebody's data is looked for and erased, which reads all that there is.
    pub(super) erasing: tokio::sync::Mutex<()>,
    /// Documents that are checked at once.
    pub(super) checking: Arc<tokio::sync::Semaphore>,
}

/// Documents that are checked at once: each may keep a processor busy for a while.
const CHECKS_MAX: usize = 2;

impl Shared {
    pub(super) fn new(state: State) -> Self {
        let checking = Arc::new(tokio::sync::Semaphore::new(CHECKS_MAX));
        let one = || tokio::sync::Mutex::new(());
        Self { state, patching: one(), applying: one(), erasing: one(), checking }
    }
}
