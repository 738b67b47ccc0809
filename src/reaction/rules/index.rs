//! Finds the rules and anomaly configs that can match an event, from its subject alone.
//!
//! Invariant: an event that no filter matches costs one hash of its subject, without allocation or decoding.

use std::collections::HashMap;
use std::sync::Arc;

use super::rule::Matcher;
use super::selection::Candidates;
use crate::event::subject::parse_event_subject;

/// Cached subjects; the whole cache is cleared when it is full.
const SUBJECTS_MAX: usize = 8_192;

/// The filters of a document on the event's subject; `None` matches any value.
#[derive(Clone, Copy, Debug)]
pub struct Filters<'d> {
    pub app: Option<&'d str>,
    pub category: Option<&'d str>,
    /// Lower case, as the types of custom events always are.
    pub event_type: Option<&'d str>,
}

/// Marks a subject that nothing can match.
const NO_CANDIDATES: u32 = u32::MAX;

/// An index of documents by their filters, with a cache by subject. Positions follow the order of insertion.
#[derive(Default)]
pub struct Index {
    /// Candidates by filter key.
    filters: HashMap<Box<str>, Candidates>,
    /// Cached answers: positions in `lists`, or [`NO_CANDIDATES`].
    cache: HashMap<Box<[u8]>, u32>,
    lists: Vec<Arc<Candidates>>,
    scratch: String,
}

impl Index {
    pub fn add_rule(&mut self, position: u32, filters: Filters<'_>, matcher: &Matcher) {
        let entry = self.entry(filters);
        entry.rules.push(position);
        if entry.selections.is_empty() {
            entry.selections.push(Arc::default());
        }
        Arc::make_mut(&mut entry.selections[0]).add(position, matcher);
    }

    pub fn add_anomaly(&mut self, position: u32, filters: Filters<'_>) {
        self.entry(filters).anomalies.push(position);
    }

    /// `None` when nothing can match.
    pub fn candidates(&mut self, subject: &[u8]) -> Option<&Arc<Candidates>> {
        if self.filters.is_empty() {
            return None;
        }
        let cached = match self.cache.get(subject) {
            Some(cached) => *cached,
            None => self.add_to_cache(subject),
        };
        self.lists.get(cached as usize)
    }

    fn add_to_cache(&mut self, subject: &[u8]) -> u32 {
        if self.cache.len() >= SUBJECTS_MAX {
            self.clear_cache();
        }
        let cached = match self.look_up(subject) {
            Some(found) => {
                self.lists.push(Arc::new(found));
                self.lists.len() as u32 - 1
            }
            None => NO_CANDIDATES,
        };
        self.cache.insert(subject.into(), cached);
        cached
    }

    fn clear_cache(&mut self) {
        self.cache.clear();
        self.lists.clear();
    }

    fn entry(&mut self, filters: Filters<'_>) -> &mut Candidates {
        self.clear_cache();
        let lower = filters.event_type.map(str::to_lowercase);
        let mut key = String::new();
        filter_key(&mut key, filters.app, filters.category, lower.as_deref());
        self.filters.entry(key.into()).or_default()
    }

    fn look_up(&mut self, subject: &[u8]) -> Option<Candidates> {
        let parts = parse_event_subject(std::str::from_utf8(subject).ok()?)?;
        let mut found = Candidates::default();
        for mask in 0..8u8 {
            let given = |bit: u8, text| (mask & bit != 0).then_some(text);
            self.scratch.clear();
            filter_key(
                &mut self.scratch,
                given(1, &*parts.app),
                given(2, &*parts.category),
                given(4, &*parts.event_type),
            );
            if let Some(candidates) = self.filters.get(self.scratch.as_str()) {
                found.rules.extend(&candidates.rules);
                found.anomalies.extend(&candidates.anomalies);
                found.selections.extend(candidates.selections.iter().cloned());
            }
        }
        found.rules.sort_unstable();
        found.anomalies.sort_unstable();
        (!found.rules.is_empty() || !found.anomalies.is_empty()).then_some(found)
    }
}

/// Joins three filters to one key. Only the type can contain any character, so it comes last.
fn filter_key(key: &mut String, app: Option<&str>, category: Option<&str>, event_type: Option<&str>) {
    for filter in [app, category, event_type] {
        match filter {
            Some(text) => {
                key.push('=');
                key.push_str(text);
            }
            None => key.push('*'),
        }
        key.push('\0');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filters<'d>(app: &'d str, category: &'d str, event_type: &'d str) -> Filters<'d> {
        let given = |text: &'d str| (!text.is_empty()).then_some(text);
        Filters { app: given(app), category: given(category), event_type: given(event_type) }
    }

    fn add_rule(index: &mut Index, position: u32, filters: Filters<'_>) {
        let document = serde_json::from_value(serde_json::json!({"name": "all"})).unwrap();
        index.add_rule(position, filters, &Matcher::compile(&document).unwrap());
    }

    fn rules(index: &mut Index, subject: &str) -> Vec<u32> {
        let first = index.candidates(subject.as_bytes()).map(|found| found.rules.clone()).unwrap_or_default();
        let again = index.candidates(subject.as_bytes()).map(|found| found.rules.clone()).unwrap_or_default();
        assert_eq!(first, again);
        first
    }

    #[test]
    fn candidates_are_those_that_can_match_in_order() {
        let mut index = Index::default();
        for (position, filter) in [
            filters("shop", "commerce", "purchase_complete"),
            filters("", "", "level_up"),
            filters("shop", "", ""),
            filters("", "commerce", ""),
            filters("", "", ""),
            filters("com.game", "custom", "Level_Up"),
            filters("shop", "commerce", "*"),
        ]
        .into_iter()
        .enumerate()
        {
            add_rule(&mut index, position as u32, filter);
        }
        index.add_anomaly(0, filters("game", "", ""));
        assert_eq!(rules(&mut index, "events.shop.commerce.purchase_complete"), [0, 2, 3, 4]);
        assert_eq!(rules(&mut index, "events.shop.custom.level_up"), [1, 2, 4]);
        assert_eq!(rules(&mut index, "events.com%2Egame.custom.level_up"), [1, 4, 5]);
        assert_eq!(rules(&mut index, "events.x.screen.view"), [4]);
        assert_eq!(index.candidates(b"events.game.screen.view").unwrap().anomalies, [0]);
        assert_eq!(rules(&mut index, "events.broken"), [0u32; 0]);
        assert!(index.candidates(b"events.\xff.a.b").is_none());
    }

    #[test]
    fn an_empty_index_finds_nothing() {
        let mut index = Index::default();
        assert!(index.candidates(b"events.a.b.c").is_none());
        add_rule(&mut index, 0, filters("a", "b", "d"));
        assert!(index.candidates(b"events.a.b.c").is_none());
        assert!(index.candidates(b"events.a.b.d").is_some());
    }

    #[test]
    fn the_cache_of_subjects_is_bounded() {
        let mut index = Index::default();
        add_rule(&mut index, 0, filters("a", "", ""));
        for n in 0..SUBJECTS_MAX * 2 + 10 {
            assert!(index.candidates(format!("events.b.custom.t{n}").as_bytes()).is_none());
            assert!(index.cache.len() <= SUBJECTS_MAX);
        }
        assert_eq!(rules(&mut index, "events.a.custom.x"), [0]);
    }
}
