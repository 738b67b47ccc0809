//! Which rules and anomaly configs can match an event, told from its subject alone.
//!
//! Invariant: an event of which no filter speaks costs one hash of its subject, no
//! allocation and no decoding.

use std::collections::HashMap;
use std::sync::Arc;

use crate::event::subject::parse_event_subject;

/// Subjects that are remembered with their answer; the whole memory is dropped when it is full.
const SUBJECTS_MAX: usize = 8_192;

/// What a document asks of an event's subject; `None` is any.
#[derive(Clone, Copy, Debug)]
pub struct Filters<'d> {
    pub app: Option<&'d str>,
    pub category: Option<&'d str>,
    /// Types are lower case, whatever a custom event was called.
    pub event_type: Option<&'d str>,
}

/// Positions of the rules and of the anomaly configs that can match, in their order.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Candidates {
    pub rules: Vec<u32>,
    pub anomalies: Vec<u32>,
}

/// The answer for a subject that nothing can match.
const NOTHING: u32 = u32::MAX;

/// Answers for subjects. The documents' positions are the order in which they were added.
#[derive(Default)]
pub struct Index {
    /// By the joined filters of [`join`].
    filters: HashMap<Box<str>, Candidates>,
    /// Positions in `lists`, or [`NOTHING`].
    answers: HashMap<Box<[u8]>, u32>,
    lists: Vec<Arc<Candidates>>,
    scratch: String,
}

impl Index {
    pub fn add_rule(&mut self, position: u32, filters: Filters<'_>) {
        self.entry(filters).rules.push(position);
    }

    pub fn add_anomaly(&mut self, position: u32, filters: Filters<'_>) {
        self.entry(filters).anomalies.push(position);
    }

    /// `None` when nothing can match.
    pub fn candidates(&mut self, subject: &[u8]) -> Option<&Arc<Candidates>> {
        if self.filters.is_empty() {
            return None;
        }
        let answer = match self.answers.get(subject) {
            Some(answer) => *answer,
            None => self.remember(subject),
        };
        self.lists.get(answer as usize)
    }

    fn remember(&mut self, subject: &[u8]) -> u32 {
        if self.answers.len() >= SUBJECTS_MAX {
            self.forget();
        }
        let answer = match self.look_up(subject) {
            Some(found) => {
                self.lists.push(Arc::new(found));
                self.lists.len() as u32 - 1
            }
            None => NOTHING,
        };
        self.answers.insert(subject.into(), answer);
        answer
    }

    fn forget(&mut self) {
        self.answers.clear();
        self.lists.clear();
    }

    fn entry(&mut self, filters: Filters<'_>) -> &mut Candidates {
        self.forget();
        let lower = filters.event_type.map(str::to_lowercase);
        let mut key = String::new();
        join(&mut key, filters.app, filters.category, lower.as_deref());
        self.filters.entry(key.into()).or_default()
    }

    fn look_up(&mut self, subject: &[u8]) -> Option<Candidates> {
        let parts = parse_event_subject(std::str::from_utf8(subject).ok()?)?;
        let mut found = Candidates::default();
        for mask in 0..8u8 {
            let given = |bit: u8, text| (mask & bit != 0).then_some(text);
            self.scratch.clear();
            join(&mut self.scratch, given(1, &*parts.app), given(2, &*parts.category), given(4, &*parts.event_type));
            if let Some(candidates) = self.filters.get(self.scratch.as_str()) {
                found.rules.extend(&candidates.rules);
                found.anomalies.extend(&candidates.anomalies);
            }
        }
        found.rules.sort_unstable();
        found.anomalies.sort_unstable();
        (found != Candidates::default()).then_some(found)
    }
}

/// One key for three filters. Only the type can hold any character, and it comes last.
fn join(key: &mut String, app: Option<&str>, category: Option<&str>, event_type: Option<&str>) {
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

    fn rules(index: &mut Index, subject: &str) -> Vec<u32> {
        let first = index.candidates(subject.as_bytes()).map(|found| found.rules.clone()).unwrap_or_default();
        let again = index.candidates(subject.as_bytes()).map(|found| found.rules.clone()).unwrap_or_default();
        assert_eq!(first, again);
        first
    }

    #[test]
    fn an_event_meets_only_what_can_match_it_in_order() {
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
            index.add_rule(position as u32, filter);
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
    fn nothing_known_is_nothing_found() {
        let mut index = Index::default();
        assert!(index.candidates(b"events.a.b.c").is_none());
        index.add_rule(0, filters("a", "b", "d"));
        assert!(index.candidates(b"events.a.b.c").is_none());
        assert!(index.candidates(b"events.a.b.d").is_some());
    }

    #[test]
    fn the_memory_of_subjects_is_bounded() {
        let mut index = Index::default();
        index.add_rule(0, filters("a", "", ""));
        for n in 0..SUBJECTS_MAX * 2 + 10 {
            assert!(index.candidates(format!("events.b.custom.t{n}").as_bytes()).is_none());
            assert!(index.answers.len() <= SUBJECTS_MAX);
        }
        assert_eq!(rules(&mut index, "events.a.custom.x"), [0]);
    }
}
