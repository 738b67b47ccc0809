//! Anomaly configs: validated when they are written, compiled when they are loaded.
//!
//! Invariant: a config that passes [`check_anomaly_config`] compiles.
//!
//! `threshold {path, min, max}` detects the first number at the path that lies outside the bounds; `rate
//! {max_per_minute}` and `count {window_seconds, max_count}` count events over a sliding window and detect when the
//! count is **above** the bound. Each app is measured separately and, with `group_by`, each value found there; an
//! event without such a value (nothing found, or null) is not measured.

use std::cmp::Ordering;

use data_encoding::HEXLOWER;
use jiff::Timestamp;
use serde_json::{Map, Number, Value, json};
use uuid::Uuid;

use super::window::Window;
use crate::base::json_pointer::escaped;
use crate::base::nearest::suggestion;
use crate::event::describe::ViewType;
use crate::event::{FieldError, GROUP_BYTES_MAX, ViewValue};
use crate::reaction::name::check_name;
use crate::reaction::rules::actions::{WebhookCall, check_actions};
use crate::reaction::rules::budget::{Budget, Exhausted};
use crate::reaction::rules::feasibility::impossible_comparison;
use crate::reaction::rules::filters::{EventKinds, check_filters};
use crate::reaction::rules::node_types::{NodeTypes, describe};
use crate::reaction::rules::number::Numeric;
use crate::reaction::rules::path::Path;
use crate::reaction::rules::subject_template::SubjectTemplate;
use crate::reaction::rules::view::View;
use crate::store::{Detection, NewAnomalyConfig, Operator};

/// Seconds of a `count` window: one week.
const WINDOW_SECONDS_MAX: u64 = 7 * 24 * 3_600;
/// Seconds of a cooldown: thirty days.
const COOLDOWN_SECONDS_MAX: u64 = 30 * 24 * 3_600;

/// An anomaly config in force, compiled.
#[derive(Debug)]
pub(in crate::reaction) struct ActiveAnomaly {
    pub(in crate::reaction) id: Uuid,
    pub(in crate::reaction) document: NewAnomalyConfig,
    pub(in crate::reaction) updated_at: Timestamp,
    pub(in crate::reaction) detector: Detector,
    pub(in crate::reaction) cooldown_ms: i64,
    pub(in crate::reaction) webhooks: Vec<WebhookCall>,
    pub(in crate::reaction) publish: Vec<SubjectTemplate>,
}

#[derive(Debug)]
pub(in crate::reaction) struct Detector {
    measure: Measure,
    group_by: Option<Path>,
}

#[derive(Debug)]
enum Measure {
    Threshold { path: Path, min: Option<Number>, max: Option<Number> },
    Rate { max_per_minute: u64 },
    Count { window_seconds: u64, max_count: u64 },
}

/// Validates an anomaly config. Returns every error; empty when the config can be stored.
pub fn check_anomaly_config(config: &NewAnomalyConfig) -> Vec<FieldError> {
    let mut errors = Vec::from_iter(check_name(&config.name));
    errors.extend(check_filters(&config.app_id, &config.event_category, &config.event_type));
    match Detector::compile(config) {
        Ok(detector) => errors.extend(detector.check(EventKinds::of(&config.event_category, &config.event_type))),
        Err(found) => errors.extend(found),
    }
    if config.cooldown_seconds > COOLDOWN_SECONDS_MAX {
        errors.push(FieldError::new("/cooldown_seconds", format!("must be at most {COOLDOWN_SECONDS_MAX}")));
    }
    errors.extend(check_actions(&config.actions));
    errors
}

impl Detector {
    pub(in crate::reaction) fn compile(config: &NewAnomalyConfig) -> Result<Self, Vec<FieldError>> {
        let Value::Object(members) = &config.config else {
            return Err(vec![FieldError::new("/config", "must be an object")]);
        };
        let mut reader = FieldReader { members, errors: Vec::new() };
        let (measure, fields): (_, &[&str]) = match config.detection_type {
            Detection::Threshold => (reader.threshold(), &["path", "min", "max"]),
            Detection::Rate => {
                let max = reader.integer("max_per_minute", 1, u64::MAX);
                (max.map(|max_per_minute| Measure::Rate { max_per_minute }), &["max_per_minute"])
            }
            Detection::Count => {
                let window = reader.integer("window_seconds", 1, WINDOW_SECONDS_MAX);
                let max = reader.integer("max_count", 0, u64::MAX);
                let both = window.zip(max);
                (
                    both.map(|(window_seconds, max_count)| Measure::Count { window_seconds, max_count }),
                    &["window_seconds", "max_count"],
                )
            }
        };
        let group_by = if members.contains_key("group_by") { reader.path("group_by") } else { None };
        for name in members.keys().filter(|name| *name != "group_by" && !fields.contains(&name.as_str())) {
            let pointer = format!("/config/{}", escaped(name));
            let known = fields.iter().copied().chain(["group_by"]);
            let detail = format!("is not a field of this detection type{}", suggestion(name, known));
            reader.errors.push(FieldError::new(pointer, detail));
        }
        match measure {
            Some(measure) if reader.errors.is_empty() => Ok(Self { measure, group_by }),
            _ => Err(reader.errors),
        }
    }

    /// Reports the parts that compile but find nothing in any event of these kinds.
    fn check(&self, kinds: EventKinds<'_>) -> Vec<FieldError> {
        let mut errors = Vec::new();
        if let Measure::Threshold { path, min, max } = &self.measure {
            match path.check(kinds) {
                Ok(types) => errors.extend(check_bounds(&types, min.as_ref(), max.as_ref())),
                Err(detail) => errors.push(FieldError::new("/config/path", detail)),
            }
        }
        if let Some(Err(detail)) = self.group_by.as_ref().map(|path| path.check(kinds)) {
            errors.push(FieldError::new("/config/group_by", detail));
        }
        errors
    }

    /// An empty window for one group; `None` when nothing is counted.
    pub(super) fn window(&self) -> Option<Window> {
        self.window_ms().map(Window::new)
    }

    pub(in crate::reaction) fn window_ms(&self) -> Option<i64> {
        match self.measure {
            Measure::Threshold { .. } => None,
            Measure::Rate { .. } => Some(60_000),
            Measure::Count { window_seconds, .. } => Some(window_seconds as i64 * 1_000),
        }
    }

    /// The group as JSON text, empty without `group_by`. `None` when the event is not measured.
    pub(in crate::reaction) fn group(&self, view: &View<'_>, budget: &mut Budget) -> Result<Option<String>, Exhausted> {
        let Some(path) = &self.group_by else { return Ok(Some(String::new())) };
        let Some(value) = path.first(view.value(), budget)?.filter(|value| **value != ViewValue::Null) else {
            return Ok(None);
        };
        let text = match Numeric::of_value(value) {
            // `1` and `1.0` are one group, as they are equal everywhere else.
            Some(number) => number.canonical(),
            None => {
                let bytes = size(value, budget)?;
                budget.bytes(bytes)?;
                value.to_json().to_string()
            }
        };
        if text.len() <= GROUP_BYTES_MAX {
            return Ok(Some(text));
        }
        budget.bytes(text.len())?;
        let digest = ring::digest::digest(&ring::digest::SHA256, text.as_bytes());
        Ok(Some(format!("\"sha256:{}\"", HEXLOWER.encode(digest.as_ref()))))
    }

    /// The first number out of bounds, for thresholds.
    pub(in crate::reaction) fn out_of_bounds(
        &self,
        view: &View<'_>,
        budget: &mut Budget,
    ) -> Result<Option<Value>, Exhausted> {
        let Measure::Threshold { path, min, max } = &self.measure else { return Ok(None) };
        let (min, max) = (min.as_ref().map(Numeric::of), max.as_ref().map(Numeric::of));
        let outside = |number: Numeric| {
            let beyond = |bound: Option<Numeric>| bound.and_then(|bound| number.compare(bound));
            beyond(min).is_some_and(Ordering::is_lt) || beyond(max).is_some_and(Ordering::is_gt)
        };
        let found = path.find(view.value(), budget, |node, _| Ok(Numeric::of_value(node).is_some_and(outside)))?;
        Ok(found.map(ViewValue::to_json))
    }

    /// Whether this count exceeds the bound.
    pub(in crate::reaction) fn too_many(&self, count: u64) -> bool {
        match self.measure {
            Measure::Threshold { .. } => false,
            Measure::Rate { max_per_minute } => count > max_per_minute,
            Measure::Count { max_count, .. } => count > max_count,
        }
    }

    /// The `details` of a detection: the measured value, the bound and the group.
    pub(in crate::reaction) fn details(&self, value: Value, group: &str) -> Value {
        let group: Value = serde_json::from_str(group).unwrap_or_default();
        match &self.measure {
            Measure::Threshold { min, max, .. } => json!({"value": value, "min": min, "max": max, "group": group}),
            Measure::Rate { max_per_minute } => {
                json!({"value": value, "max_per_minute": max_per_minute, "group": group})
            }
            Measure::Count { window_seconds, max_count } => {
                json!({"value": value, "window_seconds": window_seconds, "max_count": max_count, "group": group})
            }
        }
    }
}

/// Validates the bounds of a threshold on nodes of these types: at least one bound must be reachable.
fn check_bounds(types: &NodeTypes, min: Option<&Number>, max: Option<&Number>) -> Vec<FieldError> {
    let number = |node: &ViewType| matches!(node, ViewType::Int { .. } | ViewType::Double);
    let Some(known) = types.known() else { return Vec::new() };
    if !known.iter().any(number) {
        let found = known.first().map_or("nothing", |node| describe(*node));
        let detail = format!("finds {found}, and a threshold is of a number");
        return vec![FieldError::new("/config/path", detail)];
    }
    let bounds = [("min", Operator::Lt, min), ("max", Operator::Gt, max)];
    let bounds = bounds.into_iter().filter_map(|(name, operator, bound)| Some((name, operator, bound?)));
    let errors: Vec<_> = bounds
        .map(|(name, operator, bound)| {
            let never = impossible_comparison(types, operator, &Value::Number(bound.clone()));
            never.map(|detail| FieldError::new(format!("/config/{name}"), detail))
        })
        .collect();
    if errors.iter().all(Option::is_some) { errors.into_iter().flatten().collect() } else { Vec::new() }
}

/// The approximate size of the value's text in bytes, without serializing it.
fn size(value: &ViewValue<'_>, budget: &mut Budget) -> Result<usize, Exhausted> {
    budget.step()?;
    let mut bytes = 2;
    match value {
        ViewValue::Text(text) => bytes += text.len(),
        ViewValue::List(elements) => {
            for element in elements {
                bytes += size(element, budget)?;
            }
        }
        ViewValue::Object(members) => {
            for (name, member) in members.iter() {
                bytes += name.len() + size(member, budget)?;
            }
        }
        _ => bytes += 8,
    }
    Ok(bytes)
}

/// Reads the fields of `config` and collects the errors.
struct FieldReader<'d> {
    members: &'d Map<String, Value>,
    errors: Vec<FieldError>,
}

impl FieldReader<'_> {
    fn threshold(&mut self) -> Option<Measure> {
        let path = self.path("path");
        let (min, max) = (self.number("min"), self.number("max"));
        if self.members.get("min").is_none_or(Value::is_null) && self.members.get("max").is_none_or(Value::is_null) {
            self.errors.push(FieldError::new("/config", "needs `min`, `max` or both"));
        }
        if let (Some(min), Some(max)) = (&min, &max)
            && Numeric::of(min).compare(Numeric::of(max)) == Some(Ordering::Greater)
        {
            self.errors.push(FieldError::new("/config/min", "must not be above `max`"));
        }
        path.map(|path| Measure::Threshold { path, min, max })
    }

    fn path(&mut self, name: &str) -> Option<Path> {
        let compiled = match self.members.get(name) {
            Some(Value::String(source)) => Path::compile(source),
            _ => Err("must be a JSONPath".to_owned()),
        };
        compiled.map_err(|detail| self.errors.push(FieldError::new(format!("/config/{name}"), detail))).ok()
    }

    fn number(&mut self, name: &str) -> Option<Number> {
        match self.members.get(name)? {
            Value::Null => None,
            Value::Number(number) => Some(number.clone()),
            _ => {
                self.errors.push(FieldError::new(format!("/config/{name}"), "must be a number"));
                None
            }
        }
    }

    fn integer(&mut self, name: &str, min: u64, max: u64) -> Option<u64> {
        let value = self.members.get(name).and_then(Value::as_u64).filter(|value| (min..=max).contains(value));
        if value.is_none() {
            let range = if max == u64::MAX { format!("from {min}") } else { format!("from {min} to {max}") };
            self.errors.push(FieldError::new(format!("/config/{name}"), format!("must be an integer {range}")));
        }
        value
    }
}

#[cfg(test)]
pub(in crate::reaction) mod tests {
    use super::*;

    pub(in crate::reaction) fn config(detection: &str, config: Value) -> NewAnomalyConfig {
        serde_json::from_value(json!({"name": "a", "detection_type": detection, "config": config})).unwrap()
    }

    #[test]
    fn checks_each_type_by_its_own_fields() {
        for (detection, good) in [
            ("threshold", json!({"path": "$.timestamp_ms", "min": 1})),
            ("threshold", json!({"path": "$..total_cents", "max": 1.5, "min": null, "group_by": "$.device_id"})),
            ("threshold", json!({"path": "$.purchase_complete.item_count", "min": 1, "max": i32::MAX})),
            ("rate", json!({"max_per_minute": 1})),
            ("count", json!({"window_seconds": 10, "max_count": 0, "group_by": "$.user_id"})),
        ] {
            assert_eq!(check_anomaly_config(&config(detection, good)), []);
        }
        for (detection, bad, pointers) in [
            ("threshold", json!([]), vec!["/config"]),
            ("threshold", json!({"path": "$.a"}), vec!["/config"]),
            ("threshold", json!({"min": 1}), vec!["/config/path"]),
            ("threshold", json!({"path": "a", "min": "x", "max": 1}), vec!["/config/path", "/config/min"]),
            ("threshold", json!({"path": "$.a", "min": 2, "max": 1}), vec!["/config/min"]),
            ("rate", json!({}), vec!["/config/max_per_minute"]),
            ("rate", json!({"max_per_minute": 0}), vec!["/config/max_per_minute"]),
            ("rate", json!({"max_per_minute": 1.5}), vec!["/config/max_per_minute"]),
            ("rate", json!({"max_per_minute": 1, "a/b": 1}), vec!["/config/a~1b"]),
            (
                "count",
                json!({"max_per_minute": 1}),
                vec!["/config/window_seconds", "/config/max_count", "/config/max_per_minute"],
            ),
            (
                "count",
                json!({"window_seconds": WINDOW_SECONDS_MAX + 1, "max_count": -1}),
                vec!["/config/window_seconds", "/config/max_count"],
            ),
            ("count", json!({"window_seconds": 1, "max_count": 1, "group_by": 5}), vec!["/config/group_by"]),
            (
                "threshold",
                json!({"path": "$.app_id", "min": 1, "group_by": "$.devise_id"}),
                vec!["/config/path", "/config/group_by"],
            ),
            ("threshold", json!({"path": "$.purchase_complete.total", "min": 1}), vec!["/config/path"]),
            ("threshold", json!({"path": "$.timestamp_ms", "max": 1e19}), vec!["/config/max"]),
            ("threshold", json!({"path": "$.timestamp_ms", "min": i64::MIN}), vec!["/config/min"]),
            (
                "threshold",
                json!({"path": "$.purchase_complete.item_count", "min": -3e9, "max": i32::MAX}),
                vec!["/config/min", "/config/max"],
            ),
            ("threshold", json!({"path": "$['user_id','app_id']", "max": 1}), vec!["/config/path"]),
        ] {
            let errors = check_anomaly_config(&config(detection, bad.clone()));
            let found: Vec<&str> = errors.iter().map(|error| error.pointer.as_str()).collect();
            assert_eq!(found, pointers, "{detection} {bad}");
        }
    }

    #[test]
    fn a_group_is_the_text_of_its_value() {
        let detector = |group_by: &str| {
            Detector::compile(&config("rate", json!({"max_per_minute": 1, "group_by": group_by}))).unwrap()
        };
        let view = View::from(json!({"d": "x", "n": 5, "nil": null, "long": "y".repeat(300)}));
        assert_eq!(detector("$.d").group(&view, &mut Budget::full()).unwrap().as_deref(), Some("\"x\""));
        assert_eq!(detector("$.n").group(&view, &mut Budget::full()).unwrap().as_deref(), Some("5"));
        assert_eq!(detector("$.nil").group(&view, &mut Budget::full()).unwrap(), None);
        assert_eq!(detector("$.missing").group(&view, &mut Budget::full()).unwrap(), None);
        let long = detector("$.long").group(&view, &mut Budget::full()).unwrap().unwrap();
        assert!(long.starts_with("\"sha256:") && long.len() < GROUP_BYTES_MAX, "{long}");
    }

    #[test]
    fn a_threshold_compares_exactly() {
        let limit = 9_007_199_254_740_992u64;
        let detector = Detector::compile(&config("threshold", json!({"path": "$.n", "max": limit}))).unwrap();
        let found = |number: Value| {
            detector.out_of_bounds(&View::from(json!({"n": number})), &mut Budget::full()).unwrap().is_some()
        };
        assert!(found(json!(limit + 1)), "the next integer, which a double cannot tell apart");
        assert!(!found(json!(limit)) && !found(json!(limit as f64)) && found(json!(1e300)));
        let group = |number: Value| {
            let detector = Detector::compile(&config("rate", json!({"max_per_minute": 1, "group_by": "$.n"}))).unwrap();
            detector.group(&View::from(json!({"n": number})), &mut Budget::full()).unwrap().unwrap()
        };
        assert_eq!(group(json!(5)), group(json!(5.0)));
        assert_ne!(group(json!(limit)), group(json!(limit + 1)));
    }
}
