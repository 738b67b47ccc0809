//! Turns a batch of messages into effects: a function of values, without I/O.
//!
//! Invariant: a message without candidates is neither decoded nor copied. The payloads are those that the admin API's
//! contract promises to webhooks.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::Arc;

use jiff::Timestamp;
use serde::{Serialize, Serializer};
use serde_json::value::{RawValue, to_raw_value};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::anomalies::config::ActiveAnomaly;
use super::anomalies::detection::{Groups, Observation};
use super::anomalies::stream_order::StreamPosition;
use super::faults::{FailedDocument, FaultCounts};
use super::matching::{self, CandidateMessage};
use super::rules::actions::WebhookCall;
use super::rules::rule::RuleFault;
use super::rules::selection::MatchResult;
use super::rules::subject_template::{SubjectTemplate, anomaly_subject};
use super::rules::view::View;
use super::ruleset::{ActiveRule, Ruleset};
use super::settings::EngineSettings;
use crate::bus::{Delivery, Receipt};
use crate::event::{EventRef, Int64};
use crate::store::{AnomalyEvent, Cause, Effects, NewDelivery, OutboxMessage};

/// Effects in one commit; a batch that causes more is committed in parts.
const EFFECTS_MAX: usize = 4_096;
/// Messages matched ahead of the first effect: the upper bound of wasted matching when the effects of the first few
/// fill a commit.
const WINDOW_MESSAGES: usize = 1_024;
/// Payload bytes in one commit.
const EFFECT_BYTES_MAX: usize = 16 << 20;

/// The state of one evaluation.
pub(super) struct Evaluation<'a> {
    pub(super) ruleset: &'a mut Ruleset,
    pub(super) groups: &'a mut Groups,
    pub(super) faults: &'a mut FaultCounts,
    /// Stops the evaluation between two messages, or after an expensive rule.
    stop: CancellationToken,
    pub(super) now: Timestamp,
    pub(super) max_attempts: u32,
    /// Threads that match rules.
    threads: usize,
    pub(super) effects: Effects,
    bytes: usize,
    pub(super) evaluated: u64,
    pub(super) matches: u64,
}

/// Identifies a message in the store.
pub(super) fn cause(delivery: &Delivery) -> Cause {
    Cause::new(delivery.sequence(), delivery.published_at_ms)
}

/// A message that cannot be decoded.
#[derive(Debug)]
pub(super) struct Undecodable {
    pub(super) receipt: Receipt,
    pub(super) reason: String,
}

impl<'a> Evaluation<'a> {
    pub(super) fn new(
        ruleset: &'a mut Ruleset,
        groups: &'a mut Groups,
        faults: &'a mut FaultCounts,
        stop: &CancellationToken,
        effects: Effects,
        settings: &EngineSettings,
    ) -> Self {
        let backlog_max = Some(settings.disabled_backlog.deliveries_max);
        let effects = Effects { backlog_max, ..effects };
        Self {
            ruleset,
            groups,
            faults,
            stop: stop.clone(),
            now: Timestamp::now(),
            max_attempts: settings.max_attempts,
            threads: settings.match_threads_max,
            effects,
            bytes: 0,
            evaluated: 0,
            matches: 0,
        }
    }

    /// Evaluates messages until none is left, the effects fill one commit, or the engine stops. Returns the number of
    /// messages consumed.
    pub(super) fn evaluate(
        &mut self,
        deliveries: &[Delivery],
        consumed: &HashSet<Cause>,
        undecodable: &mut Vec<Undecodable>,
    ) -> usize {
        for start in (0..deliveries.len()).step_by(WINDOW_MESSAGES) {
            let window = start..deliveries.len().min(start + WINDOW_MESSAGES);
            let mut messages = self.candidate_messages(deliveries, window, consumed);
            matching::match_in_parallel(&self.ruleset.rules, &mut messages, self.threads, &self.stop);
            for mut message in messages {
                if self.is_full() || self.stop.is_cancelled() {
                    return message.index;
                }
                match matching::decode(message.delivery) {
                    Ok(event) => {
                        let view = View::of(&event);
                        let rules = || matching::matches(&self.ruleset.rules, &message.candidates, &view, &self.stop);
                        let Some(matched) = message.matched.take().or_else(rules) else { return message.index };
                        self.event(&event, &view, &message, matched);
                    }
                    Err(error) => {
                        let receipt = message.delivery.receipt;
                        undecodable.push(Undecodable { receipt, reason: error.to_string() });
                    }
                }
            }
        }
        deliveries.len()
    }

    /// The messages of the window that have candidates and were not consumed before.
    fn candidate_messages<'d>(
        &mut self,
        deliveries: &'d [Delivery],
        window: Range<usize>,
        consumed: &HashSet<Cause>,
    ) -> Vec<CandidateMessage<'d>> {
        let mut messages = Vec::new();
        for index in window {
            let delivery = &deliveries[index];
            let Some(candidates) = self.ruleset.index.candidates(delivery.subject()) else { continue };
            if !consumed.contains(&cause(delivery)) {
                messages.push(CandidateMessage { index, delivery, candidates: Arc::clone(candidates), matched: None });
            }
        }
        messages
    }

    /// Returns the effects with the changed states of the groups.
    pub(super) fn finish(mut self) -> Effects {
        self.effects.anomaly_states = self.groups.take_changed();
        self.effects
    }

    fn is_full(&self) -> bool {
        let effects = &self.effects;
        let count = effects.deliveries.len() + effects.outbox.len() + effects.anomaly_events.len();
        count >= EFFECTS_MAX || self.bytes >= EFFECT_BYTES_MAX
    }

    fn event(&mut self, event: &EventRef<'_>, view: &View<'_>, message: &CandidateMessage<'_>, matched: MatchResult) {
        self.evaluated += 1;
        let (delivery, candidates) = (message.delivery, &message.candidates);
        let mut json = EventJson::default();
        let mut had_effect = false;
        for (position, fault) in matched.faults {
            let rule = &self.ruleset.rules[position as usize];
            let failed =
                FailedDocument { kind: "rule", id: rule.id, name: &rule.document.name, as_of: rule.updated_at };
            self.faults.record(failed, &fault, self.now);
        }
        for position in matched.rules {
            let rule = Arc::clone(&self.ruleset.rules[position as usize]);
            self.matches += 1;
            if rule.webhooks.is_empty() && rule.publish.is_empty() {
                continue;
            }
            had_effect = true;
            self.rule_matched(&rule, event, &mut json);
        }
        for position in &candidates.anomalies {
            let anomaly = Arc::clone(&self.ruleset.anomalies[*position as usize]);
            let now_ms = self.now.as_millisecond();
            let published = StreamPosition { at_ms: delivery.published_at_ms, sequence: delivery.sequence() };
            let observed = self.groups.observe(&anomaly, event.app_id, published, now_ms, view);
            let observed = observed.unwrap_or_else(|exhausted| {
                let (id, as_of) = (anomaly.id, anomaly.updated_at);
                let failed = FailedDocument { kind: "anomaly", id, name: &anomaly.document.name, as_of };
                self.faults.record(failed, &RuleFault::from(exhausted), self.now);
                Observation::default()
            });
            had_effect |= observed.changed;
            if let Some(details) = observed.detected {
                self.detected(&anomaly, event, details);
            }
        }
        if had_effect {
            self.effects.causes.push(cause(delivery));
        }
    }

    fn rule_matched(&mut self, rule: &ActiveRule, event: &EventRef<'_>, json: &mut EventJson) {
        let triggered_at = self.now;
        let mut payload = |int64| {
            let payload = RulePayload {
                rule_id: rule.id,
                rule_name: &rule.document.name,
                event_id: event.id,
                app_id: event.app_id,
                device_id: event.device_id,
                timestamp_ms: Int64Value(event.timestamp_ms, int64),
                correlation_id: event.correlation_id,
                event: json.get(event, int64),
                triggered_at,
            };
            to_raw_value(&payload)
        };
        // Strings, numbers and valid JSON always serialize.
        let Ok(numbers) = payload(Int64::AsNumber) else { return };
        let strings = wants_strings(&rule.webhooks).then(|| payload(Int64::AsString)).and_then(Result::ok);
        let bodies = Bodies { numbers: &numbers, strings: strings.as_deref() };
        self.deliver(&rule.webhooks, Some(rule.id), None, event, &bodies);
        self.publish(&rule.publish, event, &numbers);
    }

    fn detected(&mut self, anomaly: &ActiveAnomaly, event: &EventRef<'_>, details: serde_json::Value) {
        let document = &anomaly.document;
        let record = AnomalyEvent {
            id: Uuid::now_v7(),
            anomaly_config_id: anomaly.id,
            anomaly_config_name: document.name.clone(),
            detection_type: document.detection_type,
            app_id: event.app_id.to_owned(),
            event_category: event.category().to_owned(),
            event_type: event.event_type().into_owned(),
            event_id: event.id.to_owned(),
            device_id: event.device_id.to_owned(),
            user_id: event.user_id.to_owned(),
            timestamp_ms: event.timestamp_ms,
            details,
            detected_at: self.now,
        };
        if let Ok(payload) = to_raw_value(&record) {
            let strings = wants_strings(&anomaly.webhooks).then(|| with_strings(&record)).flatten();
            let bodies = Bodies { numbers: &payload, strings: strings.as_deref() };
            self.deliver(&anomaly.webhooks, None, Some(anomaly.id), event, &bodies);
            self.push_outbox(anomaly_subject(event.app_id, &document.name), &payload);
            self.publish(&anomaly.publish, event, &payload);
        }
        self.effects.anomaly_events.push(record);
    }

    fn deliver(
        &mut self,
        calls: &[WebhookCall],
        rule_id: Option<Uuid>,
        anomaly_config_id: Option<Uuid>,
        event: &EventRef<'_>,
        bodies: &Bodies<'_>,
    ) {
        for call in calls {
            let payload = bodies.of(call.int64);
            self.bytes += payload.get().len();
            self.effects.deliveries.push(NewDelivery {
                id: Uuid::now_v7(),
                webhook_id: call.webhook,
                rule_id,
                anomaly_config_id,
                event_id: event.id.to_owned(),
                payload: payload.to_owned(),
                max_attempts: self.max_attempts,
            });
        }
    }

    fn publish(&mut self, templates: &[SubjectTemplate], event: &EventRef<'_>, payload: &RawValue) {
        for template in templates {
            self.push_outbox(template.fill(event.app_id, event.category(), &event.event_type()), payload);
        }
    }

    fn push_outbox(&mut self, subject: String, payload: &RawValue) {
        self.bytes += payload.get().len();
        let payload = payload.get().as_bytes().to_vec();
        self.effects.outbox.push(OutboxMessage { id: Uuid::now_v7(), subject, payload });
    }
}

/// The webhook payload of a rule.
#[derive(Serialize)]
struct RulePayload<'a> {
    rule_id: Uuid,
    rule_name: &'a str,
    event_id: &'a str,
    app_id: &'a str,
    device_id: &'a str,
    timestamp_ms: Int64Value,
    correlation_id: &'a str,
    event: &'a RawValue,
    triggered_at: Timestamp,
}

/// A 64-bit integer in the representation that a webhook asks for.
struct Int64Value(i64, Int64);

impl Serialize for Int64Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.1 {
            Int64::AsNumber => serializer.serialize_i64(self.0),
            Int64::AsString => serializer.collect_str(&self.0),
        }
    }
}

/// One payload in both integer representations; the second only when a webhook asks for it.
struct Bodies<'a> {
    numbers: &'a RawValue,
    strings: Option<&'a RawValue>,
}

impl Bodies<'_> {
    fn of(&self, int64: Int64) -> &RawValue {
        match int64 {
            Int64::AsNumber => self.numbers,
            Int64::AsString => self.strings.unwrap_or(self.numbers),
        }
    }
}

fn wants_strings(calls: &[WebhookCall]) -> bool {
    calls.iter().any(|call| call.int64 == Int64::AsString)
}

/// The webhook payload of an anomaly with its only 64-bit event integer as a string.
fn with_strings(record: &AnomalyEvent) -> Option<Box<RawValue>> {
    let mut document = serde_json::to_value(record).ok()?;
    document["timestamp_ms"] = record.timestamp_ms.to_string().into();
    to_raw_value(&document).ok()
}

/// The rule view as JSON, written at most once for each integer representation.
#[derive(Default)]
struct EventJson {
    numbers: Option<Box<RawValue>>,
    strings: Option<Box<RawValue>>,
}

impl EventJson {
    fn get(&mut self, event: &EventRef<'_>, int64: Int64) -> &RawValue {
        let json = match int64 {
            Int64::AsNumber => &mut self.numbers,
            Int64::AsString => &mut self.strings,
        };
        json.get_or_insert_with(|| {
            let mut json = Vec::with_capacity(1_024 + 2 * event.payload.len());
            event.write_view_json_with(&mut json, int64);
            let text = String::from_utf8(json).unwrap_or_default();
            RawValue::from_string(text).unwrap_or_else(|_| RawValue::NULL.to_owned())
        })
    }
}
