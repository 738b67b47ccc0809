//! Which rules match which events: the costly part of judging, and the one whose order does not
//! matter. Several threads share a window of messages; what comes of a match is done by one.
//!
//! Invariant: the answer is the same however many threads there are, and what a thread could not
//! be started for is simply not answered yet.

use std::sync::Arc;
use std::thread;

use tokio_util::sync::CancellationToken;

use super::rules::budget::Budget;
use super::rules::index::Candidates;
use super::rules::rule::Fault;
use super::rules::view::View;
use super::ruleset::ActiveRule;
use crate::bus::Delivery;
use crate::event::{DecodeError, EventRef, check_names};

/// Fewer messages than this are not worth a thread: starting one costs as much as matching them.
const THREAD_MESSAGES_MIN: usize = 64;
/// A rule that took so many steps is a reason to ask whether to stop.
const COSTLY_STEPS: u32 = 10_000;

/// A message that some rule or anomaly config may match.
pub(super) struct Asked<'d> {
    /// Its place in the batch.
    pub(super) place: usize,
    pub(super) delivery: &'d Delivery,
    pub(super) candidates: Arc<Candidates>,
    /// What the rules said; `None` until somebody has looked.
    pub(super) matched: Option<Matched>,
}

/// What the candidates said of one event: positions of rules, in order.
#[derive(Clone, Debug, Default)]
pub(super) struct Matched {
    pub(super) rules: Vec<u32>,
    pub(super) faults: Vec<(u32, Fault)>,
}

/// An event that the store can keep the names of: a commit that it refuses for ever would hold up all that follow.
pub(super) fn read(delivery: &Delivery) -> Result<EventRef<'_>, DecodeError> {
    crate::base::faults::end_process_on("CAUSALITY_FAULT_REACTION", delivery.payload());
    let event = EventRef::decode(delivery.payload())?;
    check_names(&event)?;
    Ok(event)
}

/// Asks the candidates; `None` when it was stopped on the way.
pub(super) fn matches(
    rules: &[Arc<ActiveRule>],
    candidates: &[u32],
    view: &View<'_>,
    stop: &CancellationToken,
) -> Option<Matched> {
    let mut matched = Matched::default();
    for position in candidates {
        let mut budget = Budget::full();
        match rules[*position as usize].matcher.judge_within(view, &mut budget) {
            Ok(true) => matched.rules.push(*position),
            Ok(false) => {}
            Err(fault) => matched.faults.push((*position, fault)),
        }
        if budget.used() >= COSTLY_STEPS && stop.is_cancelled() {
            return None;
        }
    }
    Some(matched)
}

/// Looks at all of them, on up to so many threads. One thread alone leaves it to whoever comes to each message.
pub(super) fn look_ahead(
    rules: &[Arc<ActiveRule>],
    asked: &mut [Asked<'_>],
    threads_max: usize,
    stop: &CancellationToken,
) {
    let threads = threads_max.min(asked.len() / THREAD_MESSAGES_MIN);
    if threads < 2 {
        return;
    }
    let share = asked.len().div_ceil(threads);
    thread::scope(|scope| {
        let mut parts = asked.chunks_mut(share);
        let own = parts.next();
        for part in parts {
            // Without a thread its messages are looked at later, one by one.
            let _ =
                thread::Builder::new().name("rules".to_owned()).spawn_scoped(scope, move || look_at(rules, part, stop));
        }
        look_at(rules, own.unwrap_or_default(), stop);
    });
}

fn look_at(rules: &[Arc<ActiveRule>], part: &mut [Asked<'_>], stop: &CancellationToken) {
    for asked in part {
        if stop.is_cancelled() {
            return;
        }
        // What cannot be read is told by whoever comes to it.
        let event = read(asked.delivery).ok();
        asked.matched = event.and_then(|event| matches(rules, &asked.candidates.rules, &View::of(&event), stop));
    }
}
