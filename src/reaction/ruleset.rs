//! The rules and anomaly configs in force, compiled and indexed.
//!
//! Invariant: a set is built from one read of the store and never changes; unchanged documents are not recompiled. A
//! document that no longer compiles is left out and logged, and the rest stays in force.

use std::collections::HashMap;
use std::sync::Arc;

use jiff::Timestamp;
use tracing::{error, warn};
use uuid::Uuid;

use super::anomalies::config::{ActiveAnomaly, Detector};
use super::blocking::off_the_runtime;
use super::rules::actions::WebhookCall;
use super::rules::index::{Filters, Index};
use super::rules::rule::Matcher;
use super::rules::subject_template::SubjectTemplate;
use crate::event::{FieldError, Int64};
use crate::store::{
    Actions, AnomalyConfig, NewAnomalyConfig, NewRule, NewWebhook, Page, PageRequest, Rule, Store, StoreError, Webhook,
};

/// Documents in one page of the store.
const PAGE_LIMIT: usize = 1_000;

/// A rule in force.
pub(super) struct ActiveRule {
    pub(super) id: Uuid,
    pub(super) document: NewRule,
    pub(super) updated_at: Timestamp,
    pub(super) matcher: Matcher,
    /// Existing webhooks only. Deliveries to a disabled one wait until it is enabled.
    pub(super) webhooks: Vec<WebhookCall>,
    pub(super) publish: Vec<SubjectTemplate>,
}

/// Everything in force.
#[derive(Default)]
pub(super) struct Ruleset {
    pub(super) index: Index,
    pub(super) rules: Vec<Arc<ActiveRule>>,
    pub(super) anomalies: Vec<Arc<ActiveAnomaly>>,
}

impl Ruleset {
    /// Whether no event can have an effect.
    pub(super) fn is_empty(&self) -> bool {
        self.rules.is_empty() && self.anomalies.is_empty()
    }

    /// Loads all documents and compiles those that `previous` does not hold.
    pub(super) async fn load(store: &Store, previous: &Self) -> Result<Self, StoreError> {
        let webhooks = Webhooks::of(read_all(|page| store.list::<NewWebhook>(page)).await?);
        let rules = read_all(|page| store.list::<NewRule>(page)).await?;
        let configs = read_all(|page| store.list::<NewAnomalyConfig>(page)).await?;
        // Compiling thousands of rules takes a while and must not block other tasks of this thread.
        Ok(off_the_runtime(|| Self::compile(previous, &webhooks, rules, configs)))
    }

    fn compile(previous: &Self, webhooks: &Webhooks, rules: Vec<Rule>, configs: Vec<AnomalyConfig>) -> Self {
        let mut set = Self::default();
        let known: HashMap<Uuid, &Arc<ActiveRule>> = previous.rules.iter().map(|rule| (rule.id, rule)).collect();
        for rule in rules.into_iter().filter(|rule| rule.document.enabled) {
            let calls = webhooks.calls_of(&rule.document.actions);
            match known.get(&rule.id) {
                Some(same)
                    if same.updated_at == rule.updated_at
                        && same.document == rule.document
                        && same.webhooks == calls =>
                {
                    set.rules.push(Arc::clone(same));
                }
                _ => set.rules.extend(compile_rule(rule, calls)),
            }
        }
        let known: HashMap<Uuid, &Arc<ActiveAnomaly>> =
            previous.anomalies.iter().map(|known| (known.id, known)).collect();
        for config in configs.into_iter().filter(|config| config.document.enabled) {
            let calls = webhooks.calls_of(&config.document.actions);
            match known.get(&config.id) {
                Some(same)
                    if same.updated_at == config.updated_at
                        && same.document == config.document
                        && same.webhooks == calls =>
                {
                    set.anomalies.push(Arc::clone(same));
                }
                _ => set.anomalies.extend(compile_anomaly(config, calls)),
            }
        }
        set.sort_and_index();
        set
    }

    /// Sorts by descending priority, then name, and indexes the documents by their position.
    fn sort_and_index(&mut self) {
        self.rules.sort_by(|a, b| {
            let (a, b) = (&a.document, &b.document);
            b.priority.cmp(&a.priority).then_with(|| a.name.cmp(&b.name))
        });
        self.anomalies.sort_by(|a, b| a.document.name.cmp(&b.document.name));
        for (position, rule) in self.rules.iter().enumerate() {
            let document = &rule.document;
            let filters = filters(&document.app_id, &document.event_category, &document.event_type);
            self.index.add_rule(position as u32, filters, &rule.matcher);
        }
        for (position, anomaly) in self.anomalies.iter().enumerate() {
            let document = &anomaly.document;
            let filters = filters(&document.app_id, &document.event_category, &document.event_type);
            self.index.add_anomaly(position as u32, filters);
        }
    }

    pub(super) fn detectors(&self) -> HashMap<Uuid, &Detector> {
        self.anomalies.iter().map(|anomaly| (anomaly.id, &anomaly.detector)).collect()
    }
}

fn filters<'d>(app: &'d Option<String>, category: &'d Option<String>, event_type: &'d Option<String>) -> Filters<'d> {
    Filters { app: app.as_deref(), category: category.as_deref(), event_type: event_type.as_deref() }
}

fn compile_rule(rule: Rule, webhooks: Vec<WebhookCall>) -> Option<Arc<ActiveRule>> {
    let Rule { id, document, updated_at, .. } = rule;
    let compiled = Matcher::compile(&document).and_then(|matcher| Ok((matcher, templates(&document.actions)?)));
    let (matcher, publish) = compiled.map_err(|errors| log_left_out("rule", id, &document.name, &errors)).ok()?;
    // It was stored before this check existed: it stays in force, and evaluating the impossible part is a fault.
    if let Some(error) = matcher.check(&document).first() {
        warn!(%id, name = document.name, reason = %error, "stored rule asks for what no event has");
    }
    Some(Arc::new(ActiveRule { id, document, updated_at, matcher, webhooks, publish }))
}

fn compile_anomaly(config: AnomalyConfig, webhooks: Vec<WebhookCall>) -> Option<Arc<ActiveAnomaly>> {
    let AnomalyConfig { id, document, updated_at, .. } = config;
    let compiled = Detector::compile(&document).and_then(|detector| Ok((detector, templates(&document.actions)?)));
    let (detector, publish) = compiled.map_err(|errors| log_left_out("anomaly", id, &document.name, &errors)).ok()?;
    let cooldown_ms = i64::try_from(document.cooldown_seconds.saturating_mul(1_000)).unwrap_or(i64::MAX);
    Some(Arc::new(ActiveAnomaly { id, document, updated_at, detector, cooldown_ms, webhooks, publish }))
}

fn templates(actions: &Actions) -> Result<Vec<SubjectTemplate>, Vec<FieldError>> {
    let compiled =
        actions.publish_subjects.iter().map(|source| SubjectTemplate::compile(source)).collect::<Result<_, _>>();
    compiled.map_err(|detail| vec![FieldError::new("/actions/publish_subjects", detail)])
}

fn log_left_out(kind: &str, id: Uuid, name: &str, errors: &[FieldError]) {
    let reason = errors.first().map(ToString::to_string).unwrap_or_default();
    error!(%id, name, reason, "stored {kind} does not compile and is not in force");
}

/// All webhooks, by id and by name.
struct Webhooks {
    ids: HashMap<String, Uuid>,
    calls: HashMap<Uuid, WebhookCall>,
}

impl Webhooks {
    fn of(webhooks: Vec<Webhook>) -> Self {
        let call = |webhook: &Webhook| {
            let int64 = if webhook.document.int64_as_string { Int64::AsString } else { Int64::AsNumber };
            (webhook.id, WebhookCall { webhook: webhook.id, int64 })
        };
        let calls = webhooks.iter().map(call).collect();
        let ids = webhooks.into_iter().map(|webhook| (webhook.document.name, webhook.id)).collect();
        Self { ids, calls }
    }

    /// The webhooks of a document, without duplicates, in the order of the document.
    fn calls_of(&self, actions: &Actions) -> Vec<WebhookCall> {
        let mut found = Vec::new();
        for key in &actions.webhooks {
            let id = key.parse().ok().or_else(|| self.ids.get(key).copied());
            if let Some(call) = id.and_then(|id| self.calls.get(&id)).filter(|call| !found.contains(*call)) {
                found.push(*call);
            }
        }
        found
    }
}

async fn read_all<T, F>(read: impl Fn(PageRequest) -> F) -> Result<Vec<T>, StoreError>
where
    F: Future<Output = Result<Page<T>, StoreError>>,
{
    let mut all = Vec::new();
    let mut cursor = None;
    loop {
        let page = read(PageRequest { limit: PAGE_LIMIT, cursor }).await?;
        all.extend(page.items);
        match page.next {
            Some(next) => cursor = Some(next),
            None => return Ok(all),
        }
    }
}
