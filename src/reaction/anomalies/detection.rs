//! The state of anomaly detection: one window and one cooldown for each config, app and group.
//!
//! Invariants: memory holds the state of the store plus the changes of the current batch, which
//! [`Groups::take_changed`] returns to be committed with it. If the store refuses them, the owner restores the store's
//! state ([`Groups::restore`]); if the commit fails, it reloads the groups. At most `groups_max` groups per config
//! outlive a batch; the least recently touched are evicted first. Reads no clock: the caller passes the time.

use std::collections::HashMap;

use serde::Deserialize as _;
use serde_json::{Value, json};
use uuid::Uuid;

use super::config::{ActiveAnomaly, Detector};
use super::stream_order::{StreamPosition, StreamProgress};
use super::window::Window;
use crate::reaction::rules::budget::{Budget, Exhausted};
use crate::reaction::rules::view::View;
use crate::store::AnomalyState;

/// The member of a stored state that holds the stream progress, next to the members of the window.
const SEEN: &str = "seen";
/// Eviction removes an extra share of the groups, one in this many, so that it runs rarely.
const EVICTION_SHARE: usize = 10;

/// All groups of all configs.
#[derive(Debug)]
pub(in crate::reaction) struct Groups {
    groups_max: usize,
    configs: HashMap<Uuid, ConfigGroups>,
    changed: Vec<(Uuid, Box<str>, Box<str>)>,
    /// The hash of the stream's id, which changes when the stream is recreated.
    stream: u32,
    /// Counts touches. A clock would not do, since it may be set back.
    touches: u64,
}

#[derive(Debug, Default)]
struct ConfigGroups {
    apps: HashMap<Box<str>, HashMap<Box<str>, Group>>,
    count: usize,
}

#[derive(Debug)]
struct Group {
    window: Option<Window>,
    cooldown_until_ms: i64,
    seen: StreamProgress,
    touched: u64,
    touched_ms: i64,
    /// The version of the stored state that this one replaces; 0 when there is none.
    version: u64,
    changed: bool,
}

/// Identifies one group.
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

/// The effect of one event on one config.
#[derive(Debug, Default, PartialEq)]
pub(in crate::reaction) struct Observation {
    /// Whether a state must be committed.
    pub(in crate::reaction) changed: bool,
    /// The `details` of a detection.
    pub(in crate::reaction) detected: Option<Value>,
}

impl Groups {
    pub(in crate::reaction) fn new(groups_max: usize) -> Self {
        Self { groups_max, configs: HashMap::new(), changed: Vec::new(), stream: 0, touches: 0 }
    }

    /// Sets the stream that later events belong to.
    pub(in crate::reaction) fn follow(&mut self, stream_id: &str) {
        self.stream = crc32fast::hash(stream_id.as_bytes());
    }

    /// Loads the states of the store. A window whose length has changed starts empty.
    pub(in crate::reaction) fn load(&mut self, mut states: Vec<AnomalyState>, detectors: &HashMap<Uuid, &Detector>) {
        self.configs.clear();
        self.changed.clear();
        states.sort_by_key(|state| state.updated_at_ms);
        self.put(states, detectors);
        self.evict();
    }

    /// Replaces the groups that [`Groups::take_changed`] returned as `written` with the states of the store.
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

    /// Measures one event. Its time is the bus's publish time; `now_ms` is the local clock.
    pub(in crate::reaction) fn observe(
        &mut self,
        anomaly: &ActiveAnomaly,
        app: &str,
        event: StreamPosition,
        now_ms: i64,
        view: &View<'_>,
    ) -> Result<Observation, Exhausted> {
        let detector = &anomaly.detector;
        let mut budget = Budget::full();
        let out_of_bounds = detector.out_of_bounds(view, &mut budget)?;
        // A value within the threshold changes nothing.
        if detector.window_ms().is_none() && out_of_bounds.is_none() {
            return Ok(Observation::default());
        }
        let Some(name) = detector.group(view, &mut budget)? else { return Ok(Observation::default()) };
        let group = self.configs.entry(anomaly.id).or_default().group(app, &name, detector);
        group.check_clock(event, anomaly, self.stream);
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
            return Ok(Observation::default());
        }
        self.touches += 1;
        group.seen.see(event);
        (group.touched, group.touched_ms) = (self.touches, now_ms);
        if !std::mem::replace(&mut group.changed, true) {
            self.changed.push((anomaly.id, app.into(), name.as_str().into()));
        }
        Ok(Observation { changed: true, detected: detected.map(|value| detector.details(value, &name)) })
    }

    /// Returns the states to commit, marks all groups unchanged, and evicts down to the bound.
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
    /// Restarts the window and the cooldown when the bus's clock was set back: they refer to a time that is yet to
    /// come again. A late event changes nothing.
    fn check_clock(&mut self, event: StreamPosition, anomaly: &ActiveAnomaly, stream: u32) {
        self.seen.follow(stream);
        if !self.seen.is_ahead(event) {
            return;
        }
        if self.cooldown_until_ms > event.at_ms.saturating_add(anomaly.cooldown_ms) {
            self.cooldown_until_ms = 0;
            self.seen.clock_set_back_before(event);
        }
        if self.window.as_ref().is_some_and(|window| window.is_past(event.at_ms)) {
            self.window = anomaly.detector.window();
            self.seen.clock_set_back_before(event);
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

impl ConfigGroups {
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
                seen: StreamProgress::default(),
                touched: 0,
                touched_ms: 0,
                version: 0,
                changed: false,
            };
            groups.insert(name.into(), fresh);
        }
        groups.get_mut(name).unwrap_or_else(|| unreachable!("inserted above"))
    }

    /// Loads a stored state. A window whose length has changed starts empty.
    fn put(&mut self, state: AnomalyState, detector: &Detector, touched: u64) {
        let window = detector
            .window_ms()
            .map(|length| Window::from_json(&state.window, length).unwrap_or_else(|| Window::new(length)));
        let group = Group {
            window,
            cooldown_until_ms: state.cooldown_until_ms,
            seen: state.window.get(SEEN).and_then(|seen| StreamProgress::deserialize(seen).ok()).unwrap_or_default(),
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

    /// Evicts the `surplus` least recently touched groups.
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

    fn anomaly(detection: &str, body: Value, cooldown_seconds: i64) -> ActiveAnomaly {
        let document = config(detection, body);
        ActiveAnomaly {
            id: Uuid::now_v7(),
            detector: Detector::compile(&document).unwrap(),
            document,
            updated_at: jiff::Timestamp::UNIX_EPOCH,
            cooldown_ms: cooldown_seconds * 1_000,
            webhooks: vec![],
            publish: vec![],
        }
    }

    /// A position on a bus whose clock was never set.
    fn at(at_ms: i64) -> StreamPosition {
        StreamPosition { at_ms, sequence: 0 }
    }

    fn view(device: &str, value: i64) -> View<'static> {
        View::from(json!({"device_id": device, "battery_change": {"battery_level": value}}))
    }

    #[test]
    fn a_threshold_fires_once_and_cools_down() {
        let anomaly = anomaly("threshold", json!({"path": "$.battery_change.battery_level", "min": 10}), 60);
        let mut groups = Groups::new(10);
        assert_eq!(groups.observe(&anomaly, "a", at(0), 0, &view("d", 50)).unwrap(), Observation::default());
        let fired = groups.observe(&anomaly, "a", at(1_000), 0, &view("d", 5)).unwrap();
        assert_eq!(fired.detected, Some(json!({"value": 5, "min": 10, "max": null, "group": null})));
        assert_eq!(groups.observe(&anomaly, "a", at(60_999), 0, &view("d", 4)).unwrap(), Observation::default());
        assert!(groups.observe(&anomaly, "b", at(2_000), 0, &view("d", 4)).unwrap().detected.is_some());
        assert!(groups.observe(&anomaly, "a", at(61_000), 0, &view("d", 4)).unwrap().detected.is_some());
        assert_eq!(groups.take_changed().len(), 2);
    }

    #[test]
    fn rates_use_bus_time_and_count_by_app() {
        let anomaly = anomaly("rate", json!({"max_per_minute": 3}), 300);
        let mut groups = Groups::new(10);
        let mut detect = |app: &str, ms| groups.observe(&anomaly, app, at(ms), 0, &view("d", 1)).unwrap().detected;
        // A backlog of an hour, read in an instant, never exceeds 3 a minute.
        assert!((0..60).all(|minute| detect("backlog", minute * 60_000).is_none()));
        assert!((0..3).all(|n| detect("a", n).is_none() && detect("b", n).is_none()));
        assert_eq!(detect("a", 4), Some(json!({"value": 4, "max_per_minute": 3, "group": null})));
        assert_eq!(detect("a", 5), None);
    }

    #[test]
    fn groups_count_separately_and_survive_a_restart() {
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

    /// The states as the store returns them after a write.
    fn stored(states: Vec<AnomalyState>) -> Vec<AnomalyState> {
        states.into_iter().map(|state| AnomalyState { version: state.version + 1, ..state }).collect()
    }

    #[test]
    fn states_of_another_process_replace_refused_ones() {
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
    fn the_least_recently_touched_groups_are_evicted_first() {
        let anomaly = anomaly("rate", json!({"max_per_minute": 1, "group_by": "$.device_id"}), 0);
        let mut groups = Groups::new(20);
        for n in 0..50i64 {
            groups.observe(&anomaly, "a", at(0), n, &view(&n.to_string(), 1)).unwrap();
        }
        assert_eq!(groups.take_changed().len(), 50);
        assert_eq!(groups.configs[&anomaly.id].count, 18);
        // The newest group is kept, so a second event exceeds the bound; the oldest starts over.
        assert!(groups.observe(&anomaly, "a", at(0), 50, &view("49", 1)).unwrap().detected.is_some());
        assert!(groups.observe(&anomaly, "a", at(0), 50, &view("0", 1)).unwrap().detected.is_none());
    }

    /// The bus's clock is set back by three hours: every kind of detection continues immediately, also after a
    /// restart.
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
                let event = StreamPosition { at_ms, sequence };
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

            // A late event from before the clock change is neither counted nor moves the window.
            let late = StreamPosition { at_ms: start + 5, sequence: 4 };
            assert!(groups.observe(&rate, "a", late, 0, &view("d", 1)).unwrap().detected.is_none());
            let later: Vec<_> = (0..3).map(|n| detect(&mut groups, back + 61_000 + n)[0]).collect();
            assert_eq!(later, [false, false, true], "a minute later");
        }
    }

    #[test]
    fn late_events_restart_nothing() {
        let rate = anomaly("rate", json!({"max_per_minute": 2}), 60);
        let threshold = anomaly("threshold", json!({"path": "$.battery_change.battery_level", "min": 10}), 60);
        let mut groups = Groups::new(10);
        groups.follow("stream:1");
        let event = |at_ms, sequence| StreamPosition { at_ms, sequence };
        let detects = |groups: &mut Groups, anomaly: &ActiveAnomaly, event| {
            groups.observe(anomaly, "a", event, 0, &view("d", 1)).unwrap().detected.is_some()
        };
        assert!(!detects(&mut groups, &rate, event(10_000_000, 100)));
        assert!(!detects(&mut groups, &rate, event(10_000_001, 101)));
        assert!(detects(&mut groups, &threshold, event(10_000_000, 100)));
        // Redelivered, or handled by another process.
        for sequence in 1..50 {
            let late = event(1_000_000 + sequence as i64, sequence);
            assert!(!detects(&mut groups, &rate, late) && !detects(&mut groups, &threshold, late));
        }
        assert!(detects(&mut groups, &rate, event(10_000_002, 102)));
        // Sequences restart in a recreated stream.
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
