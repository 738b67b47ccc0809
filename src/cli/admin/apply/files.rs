//! Reads the files of `apply` into documents, and collects every error.

use std::collections::HashMap;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::de::value::MapAccessDeserializer;
use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use crate::event::UniqueKeys;

const FILE_BYTES_MAX: u64 = 16 << 20;
const STDIN: &str = "-";

/// In the order of sending: rules and anomaly configs refer to webhooks by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum List {
    Webhooks,
    Rules,
    Anomalies,
}

/// One document of one file.
#[derive(Debug)]
pub(super) struct Document {
    pub(super) file: String,
    pub(super) list: List,
    /// `/rules/0`, and the number of the YAML document in the file if there are several.
    place: String,
    pub(super) body: Value,
    /// An earlier document has the same name.
    pub(super) is_duplicate: bool,
}

impl Document {
    fn name(&self) -> Option<&str> {
        self.body["name"].as_str().filter(|name| !name.is_empty())
    }

    /// Its name, or its place if it has none.
    pub(super) fn label(&self, singular: &str) -> String {
        match self.name() {
            Some(name) => format!("{singular} {name:?}"),
            None => format!("{singular} at {}", self.place),
        }
    }
}

/// The content of a file, or of one YAML document in it.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Lists {
    #[serde(default)]
    webhooks: Option<Vec<UniqueKeys>>,
    #[serde(default)]
    rules: Option<Vec<UniqueKeys>>,
    #[serde(default)]
    anomalies: Option<Vec<UniqueKeys>>,
}

/// Accepts only an object: serde would also read an array as the fields in order.
#[derive(Debug, Default)]
struct TopLevel(Lists);

impl<'de> Deserialize<'de> for TopLevel {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = TopLevel;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object with any of the lists webhooks, rules and anomalies")
            }

            fn visit_map<A: MapAccess<'de>>(self, members: A) -> Result<TopLevel, A::Error> {
                Lists::deserialize(MapAccessDeserializer::new(members)).map(TopLevel)
            }
        }
        deserializer.deserialize_map(Object)
    }
}

/// The content of the files, as far as they can be read.
#[derive(Debug, Default)]
pub(super) struct Contents {
    /// In the order of sending.
    pub(super) documents: Vec<Document>,
    /// Everything that is wrong with the files.
    pub(super) errors: Vec<String>,
}

pub(super) fn read(names: &[String]) -> Contents {
    let mut contents = Contents::default();
    for name in names {
        let files = if name == STDIN { Ok(vec![PathBuf::from(STDIN)]) } else { files_of(Path::new(name)) };
        match files {
            Ok(files) => files.iter().for_each(|file| contents.read_file(file)),
            Err(problem) => contents.errors.push(problem),
        }
    }
    let duplicates = duplicate_names(&mut contents.documents);
    contents.errors.extend(duplicates);
    if contents.documents.is_empty() && contents.errors.is_empty() {
        contents.errors.push("nothing to apply: no webhooks, rules or anomalies in the files given".to_owned());
    }
    contents.documents.sort_by_key(|document| document.list);
    contents
}

impl Contents {
    fn read_file(&mut self, path: &Path) {
        let (file, text) = if path == Path::new(STDIN) {
            ("standard input".to_owned(), read_text(std::io::stdin().lock(), "standard input"))
        } else {
            let file = path.display().to_string();
            let reader = std::fs::File::open(path).map_err(|error| format!("cannot read {file}: {error}"));
            let text = reader.and_then(|reader| read_text(reader, &file));
            (file, text)
        };
        match text {
            Ok(text) => self.parse(&file, &text),
            Err(problem) => self.errors.push(problem),
        }
    }

    /// Text that starts like JSON is parsed as JSON, since the JSON parser locates errors better.
    pub(super) fn parse(&mut self, file: &str, text: &str) {
        if text.trim_start().starts_with('{') {
            match serde_json::from_str::<TopLevel>(text) {
                Ok(top) => self.collect(file, 1, top.0),
                Err(error) => self.errors.push(format!("{file}: {error}")),
            }
            return;
        }
        let documents = serde_yaml_ng::Deserializer::from_str(text).zip(serde_yaml_ng::Deserializer::from_str(text));
        for (position, (plain, yaml)) in documents.enumerate() {
            // A syntax error stops the parser. An error in the content does not prevent reading the next document.
            if let Err(error) = IgnoredAny::deserialize(plain) {
                self.errors.push(yaml_problem(file, &error));
                break;
            }
            match Option::<TopLevel>::deserialize(yaml) {
                Ok(top) => self.collect(file, position + 1, top.unwrap_or_default().0),
                Err(error) => self.errors.push(yaml_problem(file, &error)),
            }
        }
    }

    /// Adds the lists of the `number`th document in the file. The server validates them.
    fn collect(&mut self, file: &str, number: usize, lists: Lists) {
        for (list, key, bodies) in [
            (List::Webhooks, "webhooks", lists.webhooks),
            (List::Rules, "rules", lists.rules),
            (List::Anomalies, "anomalies", lists.anomalies),
        ] {
            for (index, UniqueKeys(body)) in bodies.unwrap_or_default().into_iter().enumerate() {
                let of = if number > 1 { format!(" of document {number}") } else { String::new() };
                let place = format!("/{key}/{index}{of}");
                self.documents.push(Document { file: file.to_owned(), list, place, body, is_duplicate: false });
            }
        }
    }
}

fn yaml_problem(file: &str, error: &serde_yaml_ng::Error) -> String {
    let position = error.location().map(|at| format!(" at line {} column {}", at.line(), at.column()));
    let message = error.to_string();
    // The library includes the position in some of its messages only.
    let position = position.filter(|_| !message.contains(" at line ")).unwrap_or_default();
    format!("{file}: {message}{position}")
}

fn files_of(path: &Path) -> Result<Vec<PathBuf>, String> {
    let shown = path.display();
    let cannot_read = |error: std::io::Error| format!("cannot read {shown}: {error}");
    if !std::fs::metadata(path).map_err(cannot_read)?.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut files = Vec::new();
    for entry in std::fs::read_dir(path).map_err(cannot_read)? {
        let file = entry.map_err(cannot_read)?.path();
        if is_document_file(&file) && file.is_file() {
            files.push(file);
        }
    }
    if files.is_empty() {
        return Err(format!("{shown} holds no *.yaml, *.yml or *.json file"));
    }
    files.sort();
    Ok(files)
}

/// Ignores hidden files and those that editors leave behind (`.#a.yaml`, `#a.yaml#`, `a.yaml~`, `.a.yaml.swp`).
fn is_document_file(file: &Path) -> bool {
    let Some(name) = file.file_name().and_then(|name| name.to_str()) else { return false };
    let extension = file.extension().and_then(|extension| extension.to_str());
    matches!(extension, Some("yaml" | "yml" | "json")) && !name.starts_with(['.', '#', '~'])
}

fn read_text(reader: impl Read, file: &str) -> Result<String, String> {
    let mut text = String::new();
    reader
        .take(FILE_BYTES_MAX + 1)
        .read_to_string(&mut text)
        .map_err(|error| format!("cannot read {file}: {error}"))?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(format!("{file} is larger than {} MiB", FILE_BYTES_MAX >> 20));
    }
    // Some editors write a byte order mark before UTF-8.
    Ok(text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text))
}

/// Marks documents whose name an earlier one has, and returns the errors.
fn duplicate_names(documents: &mut [Document]) -> Vec<String> {
    let mut seen: HashMap<(List, String), String> = HashMap::new();
    let mut wrong = Vec::new();
    for document in documents {
        let Some(name) = document.name().map(str::to_owned) else { continue };
        if let Some(first) = seen.insert((document.list, name.clone()), document.file.clone()) {
            let files = if first == document.file { first } else { format!("{first} and {}", document.file) };
            wrong.push(format!("{files}: the name {name:?} is used twice"));
            document.is_duplicate = true;
        }
    }
    wrong
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(documents: &[Document]) -> Vec<(List, &str)> {
        documents.iter().map(|d| (d.list, d.name().unwrap())).collect()
    }

    fn parse(file: &str, text: &str) -> Vec<Document> {
        let mut contents = Contents::default();
        contents.parse(file, text);
        assert_eq!(contents.errors, [""; 0]);
        contents.documents
    }

    fn refusal(text: &str) -> String {
        let mut contents = Contents::default();
        contents.parse("f.yaml", text);
        assert_eq!(contents.errors.len(), 1, "{:?}", contents.errors);
        contents.errors.remove(0)
    }

    fn said(names: &[&str]) -> String {
        read(&names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()).errors.join("\n")
    }

    #[test]
    fn yaml_with_several_documents_and_json_are_equivalent() {
        let yaml = "# a comment\nrules:\n  - name: r\n    conditions: [{path: $.a, operator: gte, value: 10000}]\n---\n\
                    webhooks:\n  - {name: w, url: 'http://a'}\n---\n";
        let documents = parse("f.yaml", yaml);
        assert_eq!(names(&documents), [(List::Rules, "r"), (List::Webhooks, "w")]);
        assert_eq!(documents[0].body["conditions"][0]["value"], 10000);
        let json = r#"{"anomalies": [{"name": "a"}], "webhooks": null, "rules": []}"#;
        assert_eq!(names(&parse("f.json", json)), [(List::Anomalies, "a")]);
        assert!(parse("f.yaml", "").is_empty());
    }

    #[test]
    fn errors_name_file_and_position() {
        let unknown = refusal("webhooks: []\n---\nrules: []\nhooks:\n  - name: a\n");
        assert!(unknown.starts_with("f.yaml: unknown field `hooks`"), "{unknown}");
        assert!(unknown.contains("line 4"), "{unknown}");
        let unknown = refusal("{\"rules\": [],\n \"hooks\": []}");
        assert!(unknown.contains("unknown field `hooks`") && unknown.contains("line 2"), "{unknown}");
        assert!(refusal("rules:\n  name: a\n").contains("line 2"), "{}", refusal("rules:\n  name: a\n"));
        assert!(refusal("rules: [").contains("line"), "{}", refusal("rules: ["));
        let anchor = refusal("rules: [*nowhere, {name: a}]\n---\nrules: []\n");
        assert!(anchor.contains("unknown anchor"), "{anchor}");
        for text in ["[1, 2]", "hello", "- name: a\n", "7"] {
            let said = refusal(text);
            assert!(said.contains("expected an object with any of the lists webhooks, rules and anomalies"), "{said}");
        }
        for text in [
            "rules:\n  - name: a\n    enabled: false\n    enabled: true\n",
            r#"{"rules": [{"name": "a", "enabled": false, "enabled": true}]}"#,
        ] {
            let said = refusal(text);
            assert!(said.contains("the key \"enabled\" comes twice") && said.contains(" line "), "{said}");
        }
        assert!(
            refusal("rules: []\nrules: []\n").contains("duplicate field `rules`"),
            "{}",
            refusal("rules: []\nrules: []\n")
        );
    }

    #[test]
    fn files_of_a_directory_are_read_by_name_and_webhooks_go_first() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
        write("20.yml", "webhooks: [{name: late}]");
        write("10.yaml", "rules: [{name: r}]");
        write("15.json", r#"{"webhooks": [{"name": "early"}]}"#);
        for ignored in ["notes.txt", ".hidden.yaml", ".#20.yaml", "#20.yaml#", "20.yaml~", ".20.yaml.swp", "~20.yml"] {
            write(ignored, "not yaml: [");
        }
        let path = dir.path().display().to_string();
        let contents = read(std::slice::from_ref(&path));
        assert_eq!(
            names(&contents.documents),
            [(List::Webhooks, "early"), (List::Webhooks, "late"), (List::Rules, "r")]
        );
        assert_eq!(contents.errors, [""; 0]);

        write("30.yaml", "rules: [{name: r}]");
        let twice = said(&[&path]);
        assert!(twice.contains("10.yaml and ") && twice.ends_with("the name \"r\" is used twice"), "{twice}");
        write(
            "40.yaml",
            "rules: [{name: before}]\n---\nhooks: []\n---\nrules: 7\n---\nrules: [{name: s}]\n---\nrules: [",
        );
        write("50.json", "{\"rules\": 7}");
        let contents = read(&["/no/such/file".to_owned(), path]);
        let all = contents.errors.join("\n");
        let parts = [
            "/no/such/file",
            "40.yaml: unknown field `hooks`",
            "expected a sequence at line 5",
            "50.json",
            "the name \"r\" is used twice",
        ];
        for part in parts {
            assert!(all.contains(part), "{part}: {all}");
        }
        assert_eq!(contents.errors.len(), 6, "{all}");
        let rules = names(&contents.documents).into_iter().filter(|(list, _)| *list == List::Rules);
        assert_eq!(rules.map(|(_, name)| name).collect::<Vec<_>>(), ["r", "r", "before", "s"], "the rest is read");

        let hidden = said(&[&dir.path().join(".hidden.yaml").display().to_string()]);
        assert!(hidden.contains(".hidden.yaml"), "one that is named is read: {hidden}");
        let empty = tempfile::tempdir().unwrap();
        assert!(said(&[&empty.path().display().to_string()]).contains("holds no *.yaml"));
        assert!(said(&["/no/such/file"]).starts_with("cannot read /no/such/file"));
    }
}
