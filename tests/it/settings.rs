//! What is written about the settings: one meaning each, the same in the file and in the table.

use std::collections::BTreeMap;

use causality::config::{DEFAULTS, NAMES};

/// Each setting with the comment right above it, on one line.
fn meanings() -> BTreeMap<&'static str, String> {
    let mut meanings = BTreeMap::new();
    let mut comment: Vec<&str> = Vec::new();
    for line in DEFAULTS.lines() {
        let setting = line.strip_prefix("#= ").unwrap_or(line);
        match (line.strip_prefix("# "), setting.split_once(" = ")) {
            (Some(words), _) => comment.push(words),
            (None, Some((name, _))) => {
                meanings.insert(name, std::mem::take(&mut comment).join(" "));
            }
            (None, None) => comment.clear(),
        }
    }
    meanings
}

#[test]
fn every_setting_has_a_meaning_of_its_own() {
    let meanings = meanings();
    let mut seen = BTreeMap::new();
    for name in NAMES.iter() {
        let meaning = &meanings[name];
        assert!(!meaning.is_empty(), "{name} is not explained in deploy/causality.toml");
        if let Some(other) = seen.insert(meaning, name) {
            panic!("{name} and {other} are explained by the same words");
        }
    }
}

#[test]
fn the_table_says_what_the_file_says() {
    let table = include_str!("../../docs/configuration.md");
    for (name, meaning) in meanings() {
        let start = format!("| `{}` | {meaning} | ", name.to_ascii_uppercase());
        assert!(table.lines().any(|line| line.starts_with(&start)), "docs/configuration.md has no row\n{start}");
    }
}
