//! Whether this process should get traffic, and if not, why.
//!
//! Components report themselves by name, and a transition wakes all watchers. Readers take only a short lock, so probes
//! answer under any load.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value, json};
use tokio::sync::watch;

use crate::metrics;

/// The components that ingest needs. If any other is down, events are still accepted and wait on the bus.
const INGEST: [&str; 4] = ["bus", "bus_file", "keys", "nats"];

/// The scope of a readiness question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Accepting events.
    Ingest,
    /// Everything this process does.
    Process,
}

/// The readiness of the process, shared by those who report to it and those who read it.
#[derive(Clone, Debug)]
pub struct Readiness(Arc<watch::Sender<State>>);

#[derive(Clone, Debug, Default)]
struct State {
    starting: bool,
    draining: bool,
    components: BTreeMap<&'static str, Result<(), String>>,
    warnings: BTreeMap<&'static str, String>,
}

impl Default for Readiness {
    fn default() -> Self {
        Self::new()
    }
}

impl Readiness {
    /// Ready and without components. Each component reports itself before the listeners open.
    pub fn new() -> Self {
        Self(Arc::new(watch::Sender::new(State::default())))
    }

    /// Unready until [`Readiness::set_started`].
    pub fn starting() -> Self {
        Self(Arc::new(watch::Sender::new(State { starting: true, ..State::default() })))
    }

    pub fn set_started(&self) {
        self.0.send_if_modified(|now| std::mem::take(&mut now.starting));
    }

    /// Reports a component; `Err` has the reason for people. Watchers wake only on a change.
    pub fn set(&self, component: &'static str, state: Result<(), String>) {
        metrics::component(component, state.is_ok());
        self.0.send_if_modified(|now| {
            let changed = now.components.get(component) != Some(&state);
            if changed {
                now.components.insert(component, state);
            }
            changed
        });
    }

    /// Sets or clears the warning under `key`. A warning does not affect traffic.
    pub fn set_warning(&self, key: &'static str, text: Option<String>) {
        self.0.send_if_modified(|now| {
            match text {
                Some(text) => now.warnings.insert(key, text),
                None => now.warnings.remove(key),
            };
            // A warning never changes readiness, so no watcher wakes.
            false
        });
    }

    /// Whether the last report of the component was a failure.
    pub fn failing(&self, component: &str) -> bool {
        self.0.borrow().components.get(component).is_some_and(Result::is_err)
    }

    /// Stops traffic permanently.
    pub fn set_draining(&self) {
        self.0.send_if_modified(|now| !std::mem::replace(&mut now.draining, true));
    }

    pub fn ready(&self) -> bool {
        self.ready_for(Scope::Process)
    }

    pub fn ready_for(&self, scope: Scope) -> bool {
        self.0.borrow().ready_for(scope)
    }

    pub fn has_started(&self) -> bool {
        !self.0.borrow().starting
    }

    pub fn draining(&self) -> bool {
        self.0.borrow().draining
    }

    /// `{"status":"ready","components":{"bus":"ok"}}`; a failed component has its reason, the status is
    /// `ready`, `unready`, `starting` or `draining`. `"warnings":["..."]` when there are any.
    pub fn report(&self) -> Value {
        self.report_for(Scope::Process)
    }

    /// Lists all components; the status is for the scope.
    pub fn report_for(&self, scope: Scope) -> Value {
        let state = self.0.borrow();
        let components: serde_json::Map<String, Value> = state
            .components
            .iter()
            .map(|(name, state)| ((*name).to_owned(), state.as_ref().err().map_or("ok", String::as_str).into()))
            .collect();
        let mut report = json!({"status": state.status(scope), "components": components});
        if !state.warnings.is_empty() {
            report["warnings"] = state.warnings.values().cloned().collect();
        }
        report
    }

    /// The same in one line: `ready`, or `unready: bus: is full; store: cannot be reached`.
    pub fn line(&self) -> String {
        let state = self.0.borrow();
        let failed =
            state.components.iter().filter_map(|(name, state)| Some(format!("{name}: {}", state.as_ref().err()?)));
        let failed: Vec<_> = failed.collect();
        let status = state.status(Scope::Process);
        if failed.is_empty() { status.to_owned() } else { format!("{status}: {}", failed.join("; ")) }
    }

    /// Watches the transitions of components and of draining.
    pub fn watch(&self) -> ReadinessWatch {
        ReadinessWatch(self.0.subscribe())
    }
}

impl State {
    fn status(&self, scope: Scope) -> &'static str {
        if self.draining {
            "draining"
        } else if self.starting {
            "starting"
        } else if self.ready_for(scope) {
            "ready"
        } else {
            "unready"
        }
    }

    fn ready_for(&self, scope: Scope) -> bool {
        let counts = |component: &&str| scope == Scope::Process || INGEST.contains(component);
        let mut counted = self.components.iter().filter(|(component, _)| counts(component));
        !self.starting && !self.draining && counted.all(|(_, state)| state.is_ok())
    }
}

/// Watches the transitions of a [`Readiness`].
pub struct ReadinessWatch(watch::Receiver<State>);

impl ReadinessWatch {
    /// Whether the process is ready, after the next transition; `None` once all reporters are gone.
    pub async fn changed(&mut self) -> Option<bool> {
        self.0.changed().await.ok()?;
        Some(self.0.borrow_and_update().ready_for(Scope::Process))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn says_why_and_recovers() {
        let readiness = Readiness::starting();
        assert_eq!(readiness.report(), json!({"status": "starting", "components": {}}));
        let mut watch = readiness.watch();
        readiness.set("bus", Ok(()));
        assert_eq!(watch.changed().await, Some(false));
        readiness.set_started();
        assert_eq!(watch.changed().await, Some(true));
        readiness.set("bus", Err("is full".into()));
        assert_eq!(watch.changed().await, Some(false));
        assert_eq!(readiness.report(), json!({"status": "unready", "components": {"bus": "is full"}}));
        assert_eq!(readiness.line(), "unready: bus: is full");
        readiness.set("bus", Ok(()));
        assert_eq!(readiness.line(), "ready");
        assert!(readiness.ready());
        assert_eq!(readiness.report(), json!({"status": "ready", "components": {"bus": "ok"}}));
        readiness.set_draining();
        assert!(!readiness.ready());
        assert_eq!(readiness.report(), json!({"status": "draining", "components": {"bus": "ok"}}));
    }

    #[test]
    fn warnings_are_reported_and_do_not_affect_readiness() {
        let readiness = Readiness::new();
        readiness.set("bus", Ok(()));
        readiness.set_warning("durability", Some("one server".into()));
        assert!(readiness.ready());
        let report = json!({"status": "ready", "components": {"bus": "ok"}, "warnings": ["one server"]});
        assert_eq!(readiness.report(), report);
        readiness.set_warning("durability", None);
        assert_eq!(readiness.report(), json!({"status": "ready", "components": {"bus": "ok"}}));
    }

    #[test]
    fn ingest_is_ready_without_consumers() {
        let readiness = Readiness::new();
        readiness.set("nats", Ok(()));
        readiness.set("warehouse", Err("is away".into()));
        assert!(readiness.ready_for(Scope::Ingest) && !readiness.ready());
        let components = json!({"nats": "ok", "warehouse": "is away"});
        assert_eq!(readiness.report_for(Scope::Ingest), json!({"status": "ready", "components": components}));
        assert_eq!(readiness.report(), json!({"status": "unready", "components": components}));
        for needed in ["nats", "bus", "bus_file"] {
            readiness.set(needed, Err("is away".into()));
            assert!(!readiness.ready_for(Scope::Ingest), "{needed}");
            readiness.set(needed, Ok(()));
        }
        readiness.set_draining();
        assert!(!readiness.ready_for(Scope::Ingest));
    }

    #[tokio::test]
    async fn repeated_reports_wake_no_watcher() {
        let readiness = Readiness::new();
        readiness.set("bus", Ok(()));
        let mut watch = readiness.watch();
        readiness.set("bus", Ok(()));
        assert!(tokio::time::timeout(std::time::Duration::from_millis(20), watch.changed()).await.is_err());
    }
}
