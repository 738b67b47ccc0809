//! Matches rules against events: the expensive part of the evaluation, and the one whose order does not matter.
//! Several threads share a window of messages; a single thread turns the matches into effects.
//!
//! Invariant: the result does not depend on the number of threads. When a thread cannot be started, its messages
//! simply stay unmatched.

use std::sync::Arc;
use std::thread;

use tokio_util::sync::CancellationToken;

use super::rules::selection::{Candidates, MatchResult};
use super::rules::view::View;
use super::ruleset::ActiveRule;
use crate::bus::Delivery;
use crate::event::{DecodeError, EventRef, check_names};

/// Fewer messages than this are not worth a thread: starting one costs as much as matching them.
const THREAD_MESSAGES_MIN: usize = 64;

/// A message with candidates.
pub(super) struct CandidateMessage<'d> {
    /// Its index in the batch.
    pub(super) index: usize,
    pub(super) delivery: &'d Delivery,
    pub(super) candidates: Arc<Candidates>,
    /// The result, `None` until the message was matched.
    pub(super) matched: Option<MatchResult>,
}

/// Decodes an event, and refuses names that the store cannot hold: a commit that the store always refuses would block
/// all later ones.
pub(super) fn decode(delivery: &Delivery) -> Result<EventRef<'_>, DecodeError> {
    crate::base::faults::end_process_on("CAUSALITY_FAULT_REACTION", delivery.payload());
    let event = EventRef::decode(delivery.payload())?;
    check_names(&event)?;
    Ok(event)
}

/// Matches the candidates; `None` when cancelled.
pub(super) fn matches(
    rules: &[Arc<ActiveRule>],
    candidates: &Candidates,
    view: &View<'_>,
    stop: &CancellationToken,
) -> Option<MatchResult> {
    candidates.matches(view, |position| &rules[position as usize].matcher, || stop.is_cancelled())
}

/// Matches all messages on up to `threads_max` threads. With fewer than two, each message is matched later, when its
/// turn comes.
pub(super) fn match_in_parallel(
    rules: &[Arc<ActiveRule>],
    messages: &mut [CandidateMessage<'_>],
    threads_max: usize,
    stop: &CancellationToken,
) {
    let threads = threads_max.min(messages.len() / THREAD_MESSAGES_MIN);
    if threads < 2 {
        return;
    }
    let share = messages.len().div_ceil(threads);
    thread::scope(|scope| {
        let mut parts = messages.chunks_mut(share);
        let own = parts.next();
        for part in parts {
            // If the thread cannot be started, its messages are matched later, one by one.
            let _ = thread::Builder::new()
                .name("rules".to_owned())
                .spawn_scoped(scope, move || match_part(rules, part, stop));
        }
        match_part(rules, own.unwrap_or_default(), stop);
    });
}

fn match_part(rules: &[Arc<ActiveRule>], part: &mut [CandidateMessage<'_>], stop: &CancellationToken) {
    for message in part {
        if stop.is_cancelled() {
            return;
        }
        // Decoding errors are reported when the message's turn comes.
        let event = decode(message.delivery).ok();
        message.matched = event.and_then(|event| matches(rules, &message.candidates, &View::of(&event), stop));
    }
}
