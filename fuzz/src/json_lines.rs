//! Bodies in JSON lines. Each line has the verdict that it has alone.

use causality::event::request::{accept_json_lines, accept_json_single};

use super::accepted::{self, arrival, check_events, held_max, without_ids};
use super::metered::within;

const EVENTS_MAX: usize = 1_000;

pub fn run(body: &[u8]) {
    let result = within(held_max(body), || accept_json_lines(body, EVENTS_MAX, &arrival()));
    let Ok(views) = accepted::check(&result) else { return };
    let body = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
    let lines: Vec<_> = body.split(|byte| *byte == b'\n').filter(|line| !line.trim_ascii().is_empty()).collect();
    assert_eq!(lines.len(), views.len(), "each line has a verdict");
    assert!((1..=EVENTS_MAX).contains(&views.len()));
    for (line, view) in lines.into_iter().zip(views) {
        let alone = [br#"{"event":"#, line, b"}"].concat();
        match (accept_json_single(&alone, &arrival()), view) {
            (Ok(alone), Ok(view)) => {
                assert_eq!(without_ids(check_events(&alone)), without_ids(vec![Ok(view)]));
            }
            (Err(_), Err(_)) => {}
            (alone, view) => panic!("alone {alone:?}\nas a line {view:?}"),
        }
    }
}
