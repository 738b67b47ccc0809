//! What strangers send to the two ports: requests that two parsers could read in two ways, floods, senders that never
//! end, bodies that burst. Each a row of a table with its exact answer; afterwards the process is as it was before.

mod bombs;
mod floods;
mod frames;
mod h2spec;
mod http1;
mod http2;
mod process;
mod slow;
mod upload;
mod wire;

use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Rows that are tried at once.
const AT_ONCE: usize = 8;

/// How often what may leave something behind is tried; more in the long form.
fn rounds() -> usize {
    let set = std::env::var("CAUSALITY_HOSTILE_ROUNDS");
    set.map_or(2, |rounds| rounds.parse().expect("CAUSALITY_HOSTILE_ROUNDS is a number"))
}

/// Judges each row, several at once; fails with what was wrong with all of them.
fn each<T: Sync>(rows: &[T], judge: impl Fn(&T) -> Result<(), String> + Sync) {
    let (next, wrong) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some(row) = rows.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if let Err(why) = judge(row) {
                        wrong.lock().unwrap().push(why);
                    }
                }
            });
        }
    });
    let wrong = wrong.into_inner().unwrap();
    assert!(wrong.is_empty(), "{} of {} rows:\n{}", wrong.len(), rows.len(), wrong.join("\n"));
}

/// The lines of a table: no comments, cut at their bars. Read when the test runs, so that a row can be tried without a
/// build.
fn table<const COLUMNS: usize>(file: &str) -> Vec<[&'static str; COLUMNS]> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/hostile").join(file);
    let text: &'static str = std::fs::read_to_string(file).unwrap().leak();
    let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    let row = |line: &'static str| {
        let columns: Vec<_> = line.split(" | ").collect();
        columns.try_into().unwrap_or_else(|_| panic!("not {COLUMNS} columns: {line}"))
    };
    lines.map(row).collect()
}
