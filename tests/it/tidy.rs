//! What keeps the code readable, held as ordinary tests.

use std::path::{Path, PathBuf};

/// Past this a file usually holds two ideas.
const LINES_MAX: usize = 500;

/// Files that are longer, and why; one that no longer is must leave this list.
const LONGER: &[(&str, &str)] = &[
    ("src/bus/conformance/mod.rs", "one suite, read from top to bottom"),
    ("src/gateway/tests/bad_input.rs", "a table of cases"),
    ("src/store/conformance/mod.rs", "one suite, read from top to bottom"),
    ("src/store/sqlite/tests.rs", "one engine's promises, read from top to bottom"),
];

fn rust_files(dir: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            rust_files(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

/// Every Rust file of ours with its path from the root.
fn sources() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    for dir in ["src", "tests", "benches"] {
        rust_files(&root.join(dir), &mut files);
    }
    let named = |path: PathBuf| {
        let text = std::fs::read_to_string(&path).unwrap();
        (path.strip_prefix(root).unwrap().display().to_string(), text)
    };
    files.into_iter().map(named).collect()
}

#[test]
fn files_are_short() {
    let sources = sources();
    let is_long = |name: &str| LONGER.iter().any(|(long, _)| *long == name);
    for (name, text) in &sources {
        let lines = text.lines().count();
        assert!(lines <= LINES_MAX || is_long(name), "{name} has {lines} lines, more than {LINES_MAX}");
        assert!(lines > LINES_MAX || !is_long(name), "{name} is short now: take it off the list");
    }
    for (long, _) in LONGER {
        assert!(sources.iter().any(|(name, _)| name == long), "{long} is gone: take it off the list");
    }
}

#[test]
fn every_module_opens_with_its_job() {
    for (name, text) in sources() {
        assert!(text.starts_with("//! "), "{name} does not say what it is for");
    }
}

/// Only these may end the process; everything below returns an error that reaches them.
const MAY_END_THE_PROCESS: [&str; 4] = ["src/main.rs", "src/app", "src/cli", "src/base/faults.rs"];

#[test]
fn only_the_composition_root_ends_the_process() {
    let ends = ["exit", "abort", "_exit", "kill", "raise"];
    let calls: Vec<_> = ["process::", "libc::"].iter().flat_map(|of| ends.map(|end| format!("{of}{end}"))).collect();
    let mut allowed = 0;
    for (name, text) in sources().into_iter().filter(|(name, _)| name.starts_with("src/") && !name.contains("/tests/"))
    {
        // Imported in a group, a call would not be found.
        assert!(!text.contains("use std::process::{"), "{name}: import what is needed of std::process line by line");
        for call in calls.iter().filter(|call| text.contains(*call)) {
            let is_allowed = MAY_END_THE_PROCESS.iter().any(|place| name.starts_with(place));
            assert!(is_allowed, "{name} ends the process by {call}: return an error that reaches `app` instead");
            allowed += 1;
        }
    }
    assert!(allowed >= 3, "the calls in `app` and the injected faults were found: {allowed}");
}
