//! Who may import whom. The layers are a promise of `src/lib.rs`; this holds it.

use std::collections::BTreeSet;
use std::path::Path;

/// A module and the modules of ours that it may name.
const ALLOWED: &[(&str, &[&str])] = &[
    ("base", &["metrics"]),
    ("metrics", &[]),
    ("event", &[]),
    ("bus", &["base", "event", "metrics"]),
    ("store", &["base", "event", "metrics"]),
    ("warehouse", &["base", "event", "metrics"]),
    ("quarantine", &["bus", "event"]),
    ("http", &["base", "event", "metrics"]),
    ("openapi", &["event", "http"]),
    ("gateway", &["base", "bus", "quarantine", "store", "http", "openapi", "event", "metrics"]),
    ("import", &["base", "event", "warehouse"]),
    ("sink", &["base", "bus", "warehouse", "event", "metrics"]),
    ("reaction", &["base", "bus", "store", "event", "metrics"]),
    ("admin", &["base", "bus", "quarantine", "store", "http", "openapi", "event", "metrics"]),
    // The settings of all parts.
    ("config", &["admin", "base", "bus", "gateway", "http", "reaction", "sink", "store", "warehouse"]),
    // The composition root, and the commands that start it or speak to it.
    (
        "app",
        &[
            "admin",
            "base",
            "bus",
            "config",
            "event",
            "gateway",
            "http",
            "import",
            "metrics",
            "quarantine",
            "reaction",
            "sink",
            "store",
            "warehouse",
        ],
    ),
    ("cli", &["app", "base", "config", "event", "import", "store", "warehouse"]),
    ("main", &["base", "cli"]),
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
    let code: String = text
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .fold(String::new(), |all, line| all + line + "\n");
    for root in ["crate::", "causality::"] {
        for (at, _) in code.match_indices(root) {
            // `macro_crate::x` is some other name's end.
            if code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_') {
                continue;
            }
            let rest = &code[at + root.len()..];
            let names = rest.strip_prefix('{').map_or_else(|| vec![rest], branches);
            for name in names {
                let name: String = name.trim().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                if modules.contains(&name) {
                    found.insert(name);
                }
            }
        }
    }
    found
}

/// The branches of a `use` group, up to its closing brace, whatever lines it takes.
pub(crate) fn branches(group: &str) -> Vec<&str> {
    let (mut branches, mut depth, mut start) = (Vec::new(), 0, 0);
    for (at, letter) in group.char_indices() {
        match letter {
            '{' => depth += 1,
            '}' if depth > 0 => depth -= 1,
            ',' if depth == 0 => {
                branches.push(&group[start..at]);
                start = at + 1;
            }
            '}' => {
                branches.push(&group[start..at]);
                break;
            }
            _ => {}
        }
    }
    branches
}

#[test]
fn use_trees_are_read_however_they_are_broken() {
    let modules = ["bus", "event", "http", "store", "sink"].map(str::to_owned).into_iter().collect();
    let text =
        "use crate::{\n    bus::{Bus, store},\n    event,\n};\n// use crate::sink;\nlet x = crate::http::serve();";
    let found: Vec<_> = named_modules(text, &modules).into_iter().collect();
    assert_eq!(found, ["bus", "event", "http"]);
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
