//! Who may import whom. The layers are a promise of `src/lib.rs`; this holds it.

use std::collections::BTreeSet;
use std::path::Path;

/// A module and the modules of ours that it may name.
const ALLOWED: &[(&str, &[&str])] = &[
    ("event", &[]),
    ("backoff", &[]),
    ("metrics", &[]),
    ("sqlite", &[]),
    ("role", &[]),
    ("config", &[]),
    ("telemetry", &["config"]),
    ("supervisor", &["backoff", "metrics"]),
    ("bus", &["event", "metrics", "backoff", "sqlite", "supervisor"]),
    ("store", &["event", "metrics", "backoff", "sqlite", "supervisor"]),
    ("warehouse", &["event", "metrics", "backoff", "supervisor"]),
    ("http", &["event", "metrics", "supervisor"]),
    ("gateway", &["bus", "http", "event", "metrics", "supervisor"]),
    ("sink", &["bus", "warehouse", "event", "metrics", "backoff", "supervisor"]),
    ("reaction", &["bus", "store", "event", "metrics", "backoff", "supervisor"]),
    ("admin", &["bus", "store", "http", "event", "metrics", "backoff", "supervisor"]),
    // The composition root, and the commands that start it or speak to it.
    (
        "app",
        &[
            "admin",
            "bus",
            "config",
            "event",
            "gateway",
            "http",
            "metrics",
            "reaction",
            "role",
            "sink",
            "store",
            "supervisor",
            "telemetry",
            "warehouse",
            "backoff",
        ],
    ),
    ("cli", &["app", "config", "event", "role", "supervisor", "telemetry", "warehouse"]),
    ("main", &["cli"]),
];

#[test]
fn modules_import_only_what_their_layer_allows() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let modules: BTreeSet<String> = ALLOWED.iter().map(|(name, _)| (*name).to_owned()).collect();
    let mut seen = BTreeSet::new();
    let mut wrong = Vec::new();
    for file in rust_files(&root) {
        let inside = file.strip_prefix(&root).unwrap();
        let module =
            inside.components().next().unwrap().as_os_str().to_str().unwrap().trim_end_matches(".rs").to_owned();
        if module == "lib" {
            continue;
        }
        let Some((_, allowed)) = ALLOWED.iter().find(|(name, _)| **name == module) else {
            wrong.push(format!("{}: the module `{module}` has no line in this test", inside.display()));
            continue;
        };
        seen.insert(module.clone());
        let text = std::fs::read_to_string(&file).unwrap();
        for name in named_modules(&text, &modules) {
            if name != module && !allowed.contains(&name.as_str()) {
                wrong.push(format!("{}: `{module}` may not import `{name}`", inside.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(seen, modules, "a line of this test names a module that is gone");
}

/// The top-level modules that `crate::...` or `causality::...` paths name, in `use` trees or in place.
fn named_modules(text: &str, modules: &BTreeSet<String>) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for line in text.lines().map(str::trim_start).filter(|line| !line.starts_with("//")) {
        for root in ["crate::", "causality::"] {
            for (at, _) in line.match_indices(root) {
                // `macro_crate::x` is some other name's end.
                if line[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_') {
                    continue;
                }
                let rest = &line[at + root.len()..];
                let names: Vec<&str> = match rest.strip_prefix('{') {
                    Some(group) => group.split(',').collect(),
                    None => vec![rest],
                };
                for name in names {
                    let name: String = name.trim().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                    if modules.contains(&name) {
                        found.insert(name);
                    }
                }
            }
        }
    }
    found
}

fn rust_files(dir: &Path) -> Vec<std::path::PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files
}
