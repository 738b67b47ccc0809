//! The memory of anomaly detection: one window and one cooldown for each config, app and group.
//!
//! Invariants: what is in memory is what the store holds plus the changes of the batch in
//! hand, which [`Groups::take_changed`] hands over to be committed with it; if the store refuses
//! them the owner gives back what the store holds ([`Groups::restore`]), and if the commit fails
//! it loads the groups anew. At most `groups_max` groups a config outlive a batch; the
//! ones untouched for longest go first. Knows no clock: the caller brings the time.

use std::collections::HashMap;

use serde::Deserialize as _;
use serde_json::{Value, json};
use uuid::Uuid;

use super::config::{Anomaly, Detector};
use super::stream_order::{Published, Seen};
use super::window::Window;
use crate::reaction::rules::budget::{Budget, Exhausted};
use crate::reaction::rules::view::View;
use crate::store::AnomalyState;

/// The member of a stored state beside those of its window.
const SEEN: &str = "seen";
/// When there are too many groups, so many more than needed go at once: one in this many.
const EVICTION_SHARE: usize = 10;

/// All groups of all configs.
#[derive(Debug)]
pub(in crate::reaction) struct Groups {
    groups_max: usize,
    configs: HashMap<Uuid, Config>,
    changed: Vec<(Uuid, Box<str>, Box<str>)>,
    /// The life of the stream that events are of.
    stream: u32,
    /// Counts what touches groups. A clock would not do: it may be set back.
    touches: u64,
}

#[derive(Debug, Default)]
struct Config {
    apps: HashMap<Box<str>, HashMap<Box<str>, Group>>,
    count: usize,
}

#[derive(Debug)]
struct Group {
    window: Option<Window>,
    cooldown_until_ms: i64,
    seen: Seen,
    touched: u64,
    touched_ms: i64,
    /// Of the state in the store that this one continues; 0 when there is none.
    version: u64,
    changed: bool,
}

/// Names one group.
#[derive(Clone, Debug)]
pub(in crate::reaction) struct GroupKey {
    config_id: Uuid,
    app: String,
    group: String,
}

impl GroupKey {
    pub(in crate::reaction) fn of(state: &AnomalyState) -> Self {
        Self { config_id: state.config_id, app: state.app_id.clone(), group: state.group.clone() }
    }
}

/// What one event did to one config.
#[derive(Debug, Default, PartialEq)]
pub(in crate::reaction) struct Observed {
    /// Something has to be committed.
    pub(in crate::reaction) changed: bool,
    /// The `details` of a detection.
    pub(in crate::reaction) detected: Option<Value>,
}

impl Groups {
    pub(in crate::reaction) fn new(groups_max: usize) -> Self {
        Self { groups_max, configs: HashMap::new(), changed: Vec::new(), stream: 0, touches: 0 }
    }

    /// From now on events are of this life of the stream.
    pub(in crate::reaction) fn follow(&mut self, stream_id: &str) {
        self.stream = crc32fast::hash(stream_id.as_bytes());
    }

    /// Takes what the store holds; a window of another length starts anew.
    pub(in crate::reaction) fn load(&mut self, mut states: Vec<AnomalyState>, detectors: &HashMap<Uuid, &Detector>) {
        self.configs.clear();
        self.changed.clear();
        states.sort_by_key(|state| state.updated_at_ms);
        self.put(states, detectors);
        self.evict();
    }

    /// Replaces what [`Groups::take_changed`] handed over as `written` by what the store holds of it.
    pub(in crate::reaction) fn restore(
        &mut self,
        written: &[GroupKey],
        states: Vec<AnomalyState>,
        detectors: &HashMap<Uuid, &Detector>,
    ) {
        for key in written {
            if let Some(config) = self.configs.get_mut(&key.config_id) {
                config.remove(&key.app, &key.group);
            }
        }
        self.put(states, detectors);
    }

    fn put(&mut self, states: Vec<AnomalyState>, detectors: &HashMap<Uuid, &Detector>) {
        for state in states {
            let Some(detector) = detectors.get(&state.config_id) else { continue };
            self.touches += 1;
            self.configs.entry(state.config_id).or_default().put(state, detector, self.touches);
        }
    }

    /// Measures one event. Its time is the bus's, `now_ms` the clock's.
    pub(in crate::reaction) fn observe(
        &mut self,
        anomaly: &Anomaly,
        app: &str,
        event: Published,
        now_ms: i64,
        view: &View<'_>,
    ) -> Result<Observed, Exhausted> {
        let detector = &anomaly.detector;
        let mut budget = Budget::full();
        let out_of_bounds = detector.out_of_bounds(view, &mut budget)?;
        // A threshold that is kept leaves no trace.
        if detector.window_ms().is_none() && out_of_bounds.is_none() {
            return Ok(Observed::default());
        }
        let Some(name) = detector.group(view, &mut budget)? else { return Ok(Observed::default()) };
        let group = self.configs.entry(anomaly.id).or_default().group(app, &name, detector);
        group.place(event, anomaly, self.stream);
        let measured = match (&mut group.window, out_of_bounds) {
            (Some(_), _) if group.seen.is_outdated(event) => None,
            (Some(window), _) => {
                let count = window.add(event.at_ms);
                detector.too_many(count).then(|| json!(count))
            }
            (None, out_of_bounds) => out_of_bounds,
        };
        let detected = measured.filter(|_| event.at_ms >= group.cooldown_until_ms);
        if detected.is_some() {
            group.cooldown_until_ms = event.at_ms.saturating_add(anomaly.cooldown_ms);
        } else if group.window.is_none() {
            return Ok(Observed::default());
        }
        self.touches += 1;
        group.seen.see(event);
        (group.touched, group.touched_ms) = (self.touches, now_ms);
        if !std::mem::replace(&mut group.changed, true) {
            self.changed.push((anomaly.id, app.into(), name.as_str().into()));
        }
        Ok(Observed { changed: true, detected: detected.map(|value| detector.details(value, &name)) })
    }

    /// The states to commit; afterwards nothing counts as changed, and the bound holds again.
    pub(in crate::reaction) fn take_changed(&mut self) -> Vec<AnomalyState> {
        let mut states = Vec::with_capacity(self.changed.len());
        for (config_id, app, name) in std::mem::take(&mut self.changed) {
            let group = self.configs.get_mut(&config_id).and_then(|config| config.apps.get_mut(&app)?.get_mut(&name));
            let Some(group) = group else { continue };
            group.changed = false;
            group.version += 1;
            states.push(AnomalyState {
                version: group.version - 1,
                config_id,
                app_id: app.into(),
                group: name.into(),
                window: group.to_json(),
                cooldown_until_ms: group.cooldown_until_ms,
                updated_at_ms: group.touched_ms,
            });
        }
        self.evict();
        states
    }

    fn evict(&mut self) {
        for config in self.configs.values_mut() {
            if config.count > self.groups_max {
                config.evict(config.count - self.groups_max + self.groups_max / EVICTION_SHARE);
            }
        }
    }
}

impl Group {
    /// Begins anew where the clock was set back: what the group holds is of a time that is yet to come again. An event
    /// that is only late changes nothing.
    fn place(&mut self, event: Published, anomaly: &Anomaly, stream: u32) {
        self.seen.follow(stream);
        if !self.seen.is_later(event) {
            return;
        }
        if self.cooldown_until_ms > event.at_ms.saturating_add(anomaly.cooldown_ms) {
            self.cooldown_until_ms = 0;
            self.seen.begin_with(event);
        }
        if self.window.as_ref().is_some_and(|window| window.is_past(event.at_ms)) {
            self.window = anomaly.detector.window();
            self.seen.begin_with(event);
        }
    }

    fn to_json(&self) -> Value {
        let mut state = self.window.as_ref().map_or_else(|| json!({}), Window::to_json);
        if let (Value::Object(members), Ok(seen)) = (&mut state, serde_json::to_value(self.seen)) {
            members.insert(SEEN.to_owned(), seen);
        }
        state
    }
}

impl Config {
    fn group(&mut self, app: &str, name: &str, detector: &Detector) -> &mut Group {
        if !self.apps.contains_key(app) {
            self.apps.insert(app.into(), HashMap::new());
        }
        let groups = self.apps.get_mut(app).unwrap_or_else(|| unreachable!("inserted above"));
        if !groups.contains_key(name) {
            self.count += 1;
            let window = detector.window();
            let fresh = Group {
                window,
                cooldown_until_ms: 0,
                seen: Seen::default(),
                touched: 0,
                touched_ms: 0,
                version: 0,
                changed: false,
            };
            groups.insert(name.into(), fresh);
        }
        groups.get_mut(name).unwrap_or_else(|| unreachable!("inserted above"))
    }

    /// Takes over a stored state; a window of another length starts anew.
    fn put(&mut self, state: AnomalyState, detector: &Detector, touched: u64) {
        let window = detector
            .window_ms()
            .map(|length| Window::from_json(&state.window, length).unwrap_or_else(|| Window::new(length)));
        let group = Group {
            window,
            cooldown_until_ms: state.cooldown_until_ms,
            seen: state.window.get(SEEN).and_then(|seen| Seen::deserialize(seen).ok()).unwrap_or_default(),
            touched,
            touched_ms: state.updated_at_ms,
            version: state.version,
            changed: false,
        };
        if self.apps.entry(state.app_id.into()).or_default().insert(state.group.into(), group).is_none() {
            self.count += 1;
        }
    }

    fn remove(&mut self, app: &str, name: &str) {
        if self.apps.get_mut(app).is_some_and(|groups| groups.remove(name).is_some()) {
            self.count -= 1;
        }
    }

    /// Drops the `surplus` groups that were touched least recently.
    fn evict(&mut self, surplus: usize) {
        let mut touched: Vec<u64> = self.apps.values().flat_map(HashMap::values).map(|group| group.touched).collect();
        let surplus = surplus.min(touched.len());
        let Some(last) = surplus.checked_sub(1) else { return };
        let newest_out = *touched.select_nth_unstable(last).1;
        let mut left = surplus;
        for groups in self.apps.values_mut() {
            groups.retain(|_, group| {
                let goes = left > 0 && group.touched <= newest_out;
                left -= usize::from(goes);
                !goes
            });
        }
        self.apps.retain(|_, groups| !groups.is_empty());
        self.count = self.apps.values().map(HashMap::len).sum();
    }
}

#[cfg(test)]
mod tests {
    use super::super::config::tests::config;
    use super::*;

    fn anomaly(detection: &str, body: Value, cooldown_seconds: i64) -> Anomaly {
        let document = config(detection, body);
        Anomaly {
            id: Uuid::now_v7(),
            detector: Detector::compile(&document).unwrap(),
            document,
            updated_at: jiff::Timestamp::UNIX_EPOCH,
            cooldown_ms: cooldown_seconds * 1_000,
            webhooks: vec![],
            publish: vec![],
        }
    }

    /// Of a bus whose clock was never set.
    fn at(at_ms: i64) -> Published {
        Published { at_ms, sequence: 0 }
    }

    fn view(device: &str, value: i64) -> View<'static> {
        View::from(json!({"device_id": device, "battery_change": {"battery_level": value}}))
    }

    #[test]
    fn a_threshold_fires_once_and_cools_down() {
        let anomaly = anomaly("threshold", json!({"path": "$.battery_change.battery_level", "min": 10}), 60);
        let mut groups = Groups::new(10);
        assert_eq!(groups.observe(&anomaly, "a", at(0), 0, &view("d", 50)).unwrap(), Observed::default());
        let fired = groups.observe(&anomaly, "a", at(1_000), 0, &view("d", 5)).unwrap();
        assert_eq!(fired.detected, Some(json!({"value": 5, "min": 10, "max": null, "group": null})));
        assert_eq!(groups.observe(&anomaly, "a", at(60_999), 0, &view("d", 4)).unwrap(), Observed::default());
        assert!(groups.observe(&anomaly, "b", at(2_000), 0, &view("d", 4)).unwrap().detected.is_some());
        assert!(groups.observe(&anomaly, "a", at(61_000), 0, &view("d", 4)).unwrap().detected.is_some());
        assert_eq!(groups.take_changed().len(), 2);
    }

    #[test]
    fn a_rate_is_of_the_bus_time_and_by_app() {
        let anomaly = anomaly("rate", json!({"max_per_minute": 3}), 300);
        let mut groups = Groups::new(10);
        let mut detect = |app: &str, ms| groups.observe(&anomaly, app, at(ms), 0, &view("d", 1)).unwrap().detected;
        // A backlog of an hour, read in an instant: never more than 3 a minute.
        assert!((0..60).all(|minute| detect("backlog", minute * 60_000).is_none()));
        assert!((0..3).all(|n| detect("a", n).is_none() && detect("b", n).is_none()));
        assert_eq!(detect("a", 4), Some(json!({"value": 4, "max_per_minute": 3, "group": null})));
        assert_eq!(detect("a", 5), None);
    }

    #[test]
    fn groups_count_apart_and_survive_a_restart() {
        let anomaly = anomaly("count", json!({"window_seconds": 10, "max_count": 1, "group_by": "$.device_id"}), 5);
        let mut groups = Groups::new(10);
        assert!(groups.observe(&anomaly, "a", at(1_000), 7, &view("d1", 1)).unwrap().changed);
        assert!(groups.observe(&anomaly, "a", at(1_000), 7, &view("d2", 1)).unwrap().detected.is_none());
        let states = groups.take_changed();
        assert_eq!(states.len(), 2);
        assert!(groups.take_changed().is_empty());

        let detectors = HashMap::from([(anomaly.id, &anomaly.detector)]);
        let mut restarted = Groups::new(10);
        restarted.load(stored(states), &detectors);
        let fired = restarted.observe(&anomaly, "a", at(2_000), 8, &view("d1", 1)).unwrap().detected.unwrap();
        assert_eq!(fired, json!({"value": 2, "window_seconds": 10, "max_count": 1, "group": "d1"}));
        let mut cooled = Groups::new(10);
        cooled.load(stored(restarted.take_changed()), &detectors);
        assert!(cooled.observe(&anomaly, "a", at(6_999), 9, &view("d1", 1)).unwrap().detected.is_none());
        assert!(cooled.observe(&anomaly, "a", at(7_000), 9, &view("d1", 1)).unwrap().detected.is_some());
    }

    /// As the store has them once they are written.
    fn stored(states: Vec<AnomalyState>) -> Vec<AnomalyState> {
        states.into_iter().map(|state| AnomalyState { version: state.version + 1, ..state }).collect()
    }

    #[test]
    fn what_another_process_wrote_replaces_what_was_judged_in_vain() {
        let anomaly = anomaly("count", json!({"window_seconds": 10, "max_count": 3, "group_by": "$.device_id"}), 5);
        let detectors = HashMap::from([(anomaly.id, &anomaly.detector)]);
        let (mut ours, mut theirs) = (Groups::new(10), Groups::new(10));
        for _ in 0..2 {
            theirs.observe(&anomaly, "a", at(1_000), 7, &view("d", 1)).unwrap();
        }
        let now = stored(theirs.take_changed());
        ours.observe(&anomaly, "a", at(1_000), 7, &view("d", 1)).unwrap();
        ours.observe(&anomaly, "a", at(1_000), 7, &view("new", 1)).unwrap();
        let refused = ours.take_changed();
        assert!(refused.iter().all(|state| state.version == 0));
        let keys: Vec<GroupKey> = refused.iter().map(GroupKey::of).collect();
        ours.restore(&keys, now, &detectors);

        ours.observe(&anomaly, "a", at(1_000), 8, &view("new", 1)).unwrap();
        assert!(ours.observe(&anomaly, "a", at(1_000), 8, &view("d", 1)).unwrap().detected.is_none());
        let fired = ours.observe(&anomaly, "a", at(1_000), 8, &view("d", 1)).unwrap().detected.unwrap();
        assert_eq!(fired["value"], 4);
        let mut versions: Vec<(String, u64)> =
            ours.take_changed().into_iter().map(|state| (state.group, state.version)).collect();
        versions.sort();
        assert_eq!(versions, [("\"d\"".to_owned(), 1), ("\"new\"".to_owned(), 0)]);
    }

    #[test]
    fn the_stalest_groups_go_first() {
        let anomaly = anomaly("rate", json!({"max_per_minute": 1, "group_by": "$.device_id"}), 0);
        let mut groups = Groups::new(20);
        for n in 0..50i64 {
            groups.observe(&anomaly, "a", at(0), n, &view(&n.to_string(), 1)).unwrap();
        }
        assert_eq!(groups.take_changed().len(), 50);
        assert_eq!(groups.configs[&anomaly.id].count, 18);
        // The newest is remembered, so a second event is one too many; the oldest starts anew.
        assert!(groups.observe(&anomaly, "a", at(0), 50, &view("49", 1)).unwrap().detected.is_some());
        assert!(groups.observe(&anomaly, "a", at(0), 50, &view("0", 1)).unwrap().detected.is_none());
    }

    /// The bus's clock is set back by three hours: each kind of detection goes on at once, after a restart too.
    #[test]
    fn a_clock_that_was_set_back_silences_nothing() {
        const STEP_MS: i64 = 3 * 3_600_000;
        let rate = anomaly("rate", json!({"max_per_minute": 2}), 60);
        let threshold = anomaly("threshold", json!({"path": "$.battery_change.battery_level", "min": 10}), 60);
        let detectors = HashMap::from([(rate.id, &rate.detector), (threshold.id, &threshold.detector)]);
        for restart in [false, true] {
            let mut groups = Groups::new(10);
            groups.follow("stream:1");
            let mut sequence = 0;
            let mut detect = |groups: &mut Groups, at_ms: i64| {
                sequence += 1;
                let event = Published { at_ms, sequence };
                [&rate, &threshold]
                    .map(|anomaly| groups.observe(anomaly, "a", event, 0, &view("d", 1)).unwrap().detected.is_some())
            };
            let start = STEP_MS * 2;
            let before: Vec<_> = (0..4).map(|n| detect(&mut groups, start + n)).collect();
            assert_eq!(before, [[false, true], [false, false], [true, false], [false, false]]);
            if restart {
                let states = stored(groups.take_changed());
                groups = Groups::new(10);
                groups.follow("stream:1");
                groups.load(states, &detectors);
            }
            let back = start - STEP_MS;
            let after: Vec<_> = (0..4).map(|n| detect(&mut groups, back + n)).collect();
            assert_eq!(after, before, "restart: {restart}");

            // What was published before and is late is neither counted nor takes the window with it.
            let late = Published { at_ms: start + 5, sequence: 4 };
            assert!(groups.observe(&rate, "a", late, 0, &view("d", 1)).unwrap().detected.is_none());
            let later: Vec<_> = (0..3).map(|n| detect(&mut groups, back + 61_000 + n)[0]).collect();
            assert_eq!(later, [false, false, true], "a minute later");
        }
    }

    #[test]
    fn an_event_that_is_late_begins_nothing_anew() {
        let rate = anomaly("rate", json!({"max_per_minute": 2}), 60);
        let threshold = anomaly("threshold", json!({"path": "$.battery_change.battery_level", "min": 10}), 60);
        let mut groups = Groups::new(10);
        groups.follow("stream:1");
        let event = |at_ms, sequence| Published { at_ms, sequence };
        let detects = |groups: &mut Groups, anomaly: &Anomaly, event| {
            groups.observe(anomaly, "a", event, 0, &view("d", 1)).unwrap().detected.is_some()
        };
        assert!(!detects(&mut groups, &rate, event(10_000_000, 100)));
        assert!(!detects(&mut groups, &rate, event(10_000_001, 101)));
        assert!(detects(&mut groups, &threshold, event(10_000_000, 100)));
        // Delivered again, or another process had them.
        for sequence in 1..50 {
            let late = event(1_000_000 + sequence as i64, sequence);
            assert!(!detects(&mut groups, &rate, late) && !detects(&mut groups, &threshold, late));
        }
        assert!(detects(&mut groups, &rate, event(10_000_002, 102)));
        // Sequences count anew in a stream that was created anew.
        groups.follow("stream:2");
        assert!(!detects(&mut groups, &rate, event(1_000_000, 1)));
        assert!(!detects(&mut groups, &rate, event(1_000_001, 2)));
        assert!(detects(&mut groups, &rate, event(1_000_002, 3)));
    }

    #[test]
    fn groups_in_use_stay_when_the_clock_was_set_back() {
        let anomaly = anomaly("rate", json!({"max_per_minute": 1, "group_by": "$.device_id"}), 0);
        let mut groups = Groups::new(20);
        for n in 0..20 {
            groups.observe(&anomaly, "a", at(0), 9_000_000, &view(&format!("old {n}"), 1)).unwrap();
        }
        groups.take_changed();
        groups.observe(&anomaly, "a", at(0), 5, &view("new", 1)).unwrap();
        groups.take_changed();
        assert!(groups.observe(&anomaly, "a", at(0), 6, &view("new", 1)).unwrap().detected.is_some());
    }
}
