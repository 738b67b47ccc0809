//! From a batch of messages to its effects: a function of values, without IO.
//!
//! Invariant: a message that nothing asks for is neither decoded nor copied. The payloads are
//! what the admin API's contract says a webhook receives.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::Arc;

use jiff::Timestamp;
use serde::{Serialize, Serializer};
use serde_json::value::{RawValue, to_raw_value};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::anomalies::config::Anomaly;
use super::anomalies::detection::{Groups, Observed};
use super::anomalies::stream_order::Published;
use super::faults::{Failed, Ledger};
use super::matching::{self, Asked, Matched};
use super::rules::actions::Call;
use super::rules::rule::Fault;
use super::rules::subject_template::{Template, anomaly_subject};
use super::rules::view::View;
use super::ruleset::{ActiveRule, Ruleset};
use super::settings::EngineSettings;
use crate::bus::{Delivery, Receipt};
use crate::event::{EventRef, Int64};
use crate::store::{AnomalyEvent, Cause, Effects, NewDelivery, OutboxMessage};

/// Effects that are committed together; a batch that causes more is committed in parts.
const EFFECTS_MAX: usize = 4_096;
/// Messages whose rules are matched before the first of their effects: as many as may be matched in vain when the
/// effects of the first few fill a commit.
const WINDOW_MESSAGES: usize = 1_024;
/// Payload bytes that are committed together.
const EFFECT_BYTES_MAX: usize = 16 << 20;

/// What evaluation needs besides the messages.
pub(super) struct Evaluation<'a> {
    pub(super) ruleset: &'a mut Ruleset,
    pub(super) groups: &'a mut Groups,
    pub(super) faults: &'a mut Ledger,
    /// Ends evaluation between two messages, or after a rule that took long.
    stop: CancellationToken,
    pub(super) now: Timestamp,
    pub(super) max_attempts: u32,
    /// That match rules.
    threads: usize,
    pub(super) effects: Effects,
    bytes: usize,
    pub(super) evaluated: u64,
    pub(super) matches: u64,
}

/// What names a message to the store.
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
        faults: &'a mut Ledger,
        stop: &CancellationToken,
        effects: Effects,
        settings: &EngineSettings,
    ) -> Self {
        let owed_max = Some(settings.disabled_owed.deliveries_max);
        let effects = Effects { owed_max, ..effects };
        Self {
            ruleset,
            groups,
            faults,
            stop: stop.clone(),
            now: Timestamp::now(),
            max_attempts: settings.max_attempts,
            threads: settings.evaluations_max,
            effects,
            bytes: 0,
            evaluated: 0,
            matches: 0,
        }
    }

    /// Evaluates messages until they end, the effects are enough for one commit, or it is stopped; answers how many
    /// it took.
    pub(super) fn take(
        &mut self,
        deliveries: &[Delivery],
        consumed: &HashSet<Cause>,
        undecodable: &mut Vec<Undecodable>,
    ) -> usize {
        for start in (0..deliveries.len()).step_by(WINDOW_MESSAGES) {
            let window = start..deliveries.len().min(start + WINDOW_MESSAGES);
            let mut asked = self.asked(deliveries, window, consumed);
            matching::look_ahead(&self.ruleset.rules, &mut asked, self.threads, &self.stop);
            for mut asked in asked {
                if self.is_full() || self.stop.is_cancelled() {
                    return asked.place;
                }
                match matching::read(asked.delivery) {
                    Ok(event) => {
                        let view = View::of(&event);
                        let rules =
                            || matching::matches(&self.ruleset.rules, &asked.candidates.rules, &view, &self.stop);
                        let Some(matched) = asked.matched.take().or_else(rules) else { return asked.place };
                        self.event(&event, &view, &asked, matched);
                    }
                    Err(error) => {
                        let receipt = asked.delivery.receipt;
                        undecodable.push(Undecodable { receipt, reason: error.to_string() });
                    }
                }
            }
        }
        deliveries.len()
    }

    /// The messages of the window that something may match, without those that are consumed.
    fn asked<'d>(
        &mut self,
        deliveries: &'d [Delivery],
        window: Range<usize>,
        consumed: &HashSet<Cause>,
    ) -> Vec<Asked<'d>> {
        let mut asked = Vec::new();
        for place in window {
            let delivery = &deliveries[place];
            let Some(candidates) = self.ruleset.index.candidates(delivery.subject()) else { continue };
            if !consumed.contains(&cause(delivery)) {
                asked.push(Asked { place, delivery, candidates: Arc::clone(candidates), matched: None });
            }
        }
        asked
    }

    /// The effects, with the changed states of the groups.
    pub(super) fn finish(mut self) -> Effects {
        self.effects.anomaly_states = self.groups.take_changed();
        self.effects
    }

    fn is_full(&self) -> bool {
        let effects = &self.effects;
        let count = effects.deliveries.len() + effects.outbox.len() + effects.anomaly_events.len();
        count >= EFFECTS_MAX || self.bytes >= EFFECT_BYTES_MAX
    }

    fn event(&mut self, event: &EventRef<'_>, view: &View<'_>, asked: &Asked<'_>, matched: Matched) {
        self.evaluated += 1;
        let (delivery, candidates) = (asked.delivery, &asked.candidates);
        let mut json = EventJson::default();
        let mut had_effect = false;
        for (position, fault) in matched.faults {
            let rule = &self.ruleset.rules[position as usize];
            let failed = Failed { kind: "rule", id: rule.id, name: &rule.document.name, as_of: rule.updated_at };
            self.faults.note(failed, &fault, self.now);
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
            let published = Published { at_ms: delivery.published_at_ms, sequence: delivery.sequence() };
            let observed = self.groups.observe(&anomaly, event.app_id, published, now_ms, view);
            let observed = observed.unwrap_or_else(|exhausted| {
                let (id, as_of) = (anomaly.id, anomaly.updated_at);
                let failed = Failed { kind: "anomaly", id, name: &anomaly.document.name, as_of };
                self.faults.note(failed, &Fault::from(exhausted), self.now);
                Observed::default()
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
                timestamp_ms: Integer(event.timestamp_ms, int64),
                correlation_id: event.correlation_id,
                event: json.get(event, int64),
                triggered_at,
            };
            to_raw_value(&payload)
        };
        // Strings, numbers and valid JSON always serialize.
        let Ok(numbers) = payload(Int64::AsNumber) else { return };
        let strings = has_strings(&rule.webhooks).then(|| payload(Int64::AsString)).and_then(Result::ok);
        let bodies = Bodies { numbers: &numbers, strings: strings.as_deref() };
        self.deliver(&rule.webhooks, Some(rule.id), None, event, &bodies);
        self.publish(&rule.publish, event, &numbers);
    }

    fn detected(&mut self, anomaly: &Anomaly, event: &EventRef<'_>, details: serde_json::Value) {
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
            let strings = has_strings(&anomaly.webhooks).then(|| with_strings(&record)).flatten();
            let bodies = Bodies { numbers: &payload, strings: strings.as_deref() };
            self.deliver(&anomaly.webhooks, None, Some(anomaly.id), event, &bodies);
            self.owe(anomaly_subject(event.app_id, &document.name), &payload);
            self.publish(&anomaly.publish, event, &payload);
        }
        self.effects.anomaly_events.push(record);
    }

    fn deliver(
        &mut self,
        calls: &[Call],
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

    fn publish(&mut self, templates: &[Template], event: &EventRef<'_>, payload: &RawValue) {
        for template in templates {
            self.owe(template.fill(event.app_id, event.category(), &event.event_type()), payload);
        }
    }

    fn owe(&mut self, subject: String, payload: &RawValue) {
        self.bytes += payload.get().len();
        let payload = payload.get().as_bytes().to_vec();
        self.effects.outbox.push(OutboxMessage { id: Uuid::now_v7(), subject, payload });
    }
}

/// What a webhook receives from a rule.
#[derive(Serialize)]
struct RulePayload<'a> {
    rule_id: Uuid,
    rule_name: &'a str,
    event_id: &'a str,
    app_id: &'a str,
    device_id: &'a str,
    timestamp_ms: Integer,
    correlation_id: &'a str,
    event: &'a RawValue,
    triggered_at: Timestamp,
}

/// A 64-bit integer as a webhook wants it.
struct Integer(i64, Int64);

impl Serialize for Integer {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.1 {
            Int64::AsNumber => serializer.serialize_i64(self.0),
            Int64::AsString => serializer.collect_str(&self.0),
        }
    }
}

/// One body in both forms; the second is there when a webhook wants it.
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

fn has_strings(calls: &[Call]) -> bool {
    calls.iter().any(|call| call.int64 == Int64::AsString)
}

/// What a webhook receives from an anomaly, its only 64-bit integer of an event as a string.
fn with_strings(record: &AnomalyEvent) -> Option<Box<RawValue>> {
    let mut document = serde_json::to_value(record).ok()?;
    document["timestamp_ms"] = record.timestamp_ms.to_string().into();
    to_raw_value(&document).ok()
}

/// The rule view as text, each form written once however many rules match.
#[derive(Default)]
struct EventJson {
    numbers: Option<Box<RawValue>>,
    strings: Option<Box<RawValue>>,
}

impl EventJson {
    fn get(&mut self, event: &EventRef<'_>, int64: Int64) -> &RawValue {
        let form = match int64 {
            Int64::AsNumber => &mut self.numbers,
            Int64::AsString => &mut self.strings,
        };
        form.get_or_insert_with(|| {
            let mut json = Vec::with_capacity(1_024 + 2 * event.payload.len());
            event.write_view_json_with(&mut json, int64);
            let text = String::from_utf8(json).unwrap_or_default();
            RawValue::from_string(text).unwrap_or_else(|_| RawValue::NULL.to_owned())
        })
    }
}
