//! `apply`: replaces the server's webhooks, rules and anomaly configs with those in files, all or none.
//!
//! Invariant: every file is read before anything is sent, and everything is sent as one set, which the server stores as
//! a whole or not at all. If a file cannot be read, the rest is sent only for a dry run. Documents are matched by name,
//! so applying the same files twice changes nothing, and documents that no file has stay as they are.

mod difference;
mod files;

use serde::Serialize;
use serde_json::{Map, Value};

use crate::cli::admin::documents::{ANOMALIES, Collection, RULES, WEBHOOKS};
use crate::cli::client::{AdminArgs, AdminClient, InvalidField};
use crate::cli::failure::Failure;
use crate::cli::output::{print, print_json};
use difference::{Change, changes, render};
use files::{Contents, Document, List};

const DRY_RUN: &str = "apply?dry_run=true";

/// Create or replace webhooks, rules and anomaly configs from files, all of them or none
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
A file is YAML (any number of documents) or JSON, with any of the lists webhooks, rules and anomalies:

  webhooks:
    - name: ops
      url: https://ops.example.com/hook
  rules:
    - name: big purchase
      event_category: commerce
      event_type: purchase_complete
      conditions:
        - {path: $.purchase_complete.total_cents, operator: gte, value: 10000}
      actions: {webhooks: [ops]}

Documents are matched by name: a new name is created, a known one replaced. When anything is wrong,
everything that is wrong is said, with its file and place, and nothing is stored.

Examples:
  causality apply -f rules.yaml
  causality apply --dry-run -f deploy/rules/ -f local.json
  generate-rules | causality apply -f -")]
pub struct Args {
    /// A file; a directory, meaning its *.yaml, *.yml and *.json in the order of their names, without
    /// hidden files; or - for standard input. May be repeated
    #[arg(short, long = "file", value_name = "FILE|DIR", required = true)]
    files: Vec<String>,
    /// Check everything and show what would change, without storing it
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    admin: AdminArgs,
}

/// Counts the documents in the text of a file. For the fuzzer.
#[doc(hidden)]
pub fn count_documents(file: &str, text: &str) -> Result<usize, String> {
    let mut contents = Contents::default();
    contents.parse(file, text);
    if contents.errors.is_empty() { Ok(contents.documents.len()) } else { Err(contents.errors.join("\n")) }
}

/// One line of the result.
#[derive(Debug, Serialize)]
struct Applied {
    kind: &'static str,
    name: String,
    outcome: String,
    /// Only in a dry run.
    #[serde(skip_serializing_if = "Option::is_none")]
    changes: Option<Vec<Change>>,
}

pub(crate) async fn execute(args: Args) -> Result<(), Failure> {
    let Contents { documents, errors } = files::read(&args.files);
    let client = AdminClient::new(&args.admin)?;
    if !errors.is_empty() {
        return Err(refusal(errors, &dry_run_errors(&client, &documents).await));
    }
    let path = if args.dry_run { DRY_RUN } else { "apply" };
    let answer = match client.post_for_validation(path, &set_of(&documents)).await? {
        Ok(answer) => answer,
        Err(wrong) => return Err(refusal(invalid_documents(&documents, &wrong), &[])),
    };
    let Some(items) = answer["items"].as_array() else {
        return Err(Failure::failed("the server did not say what became of the documents; is it the admin API?"));
    };
    let applied: Vec<Applied> = items.iter().map(|item| applied(item, args.dry_run)).collect();
    if args.admin.json {
        return print_json(&applied);
    }
    applied.iter().try_for_each(|applied| print(&line(applied)))
}

/// The server's errors about the documents that could be read, or the reason why they could not be checked.
async fn dry_run_errors(client: &AdminClient, documents: &[Document]) -> Vec<String> {
    if documents.is_empty() {
        return Vec::new();
    }
    match client.post_for_validation(DRY_RUN, &set_of(documents)).await {
        Ok(Ok(_)) => Vec::new(),
        Ok(Err(wrong)) => invalid_documents(documents, &wrong),
        Err(failure) => vec![format!("the documents that could be read were not checked: {failure}")],
    }
}

/// The documents grouped by list, as the server expects them.
fn set_of(documents: &[Document]) -> Value {
    let mut set = Map::new();
    for list in [List::Webhooks, List::Rules, List::Anomalies] {
        let bodies = documents.iter().filter(|document| document.list == list).map(|document| document.body.clone());
        set.insert(collection(list).plural.to_owned(), bodies.collect());
    }
    set.into()
}

fn collection(list: List) -> &'static Collection {
    match list {
        List::Webhooks => &WEBHOOKS,
        List::Rules => &RULES,
        List::Anomalies => &ANOMALIES,
    }
}

fn applied(item: &Value, dry_run: bool) -> Applied {
    let text = |member: &str| item[member].as_str().unwrap_or_default().to_owned();
    let kind = match item["kind"].as_str() {
        Some("webhook") => WEBHOOKS.singular,
        Some("rule") => RULES.singular,
        _ => ANOMALIES.singular,
    };
    let changes = dry_run.then(|| changes(&item["before"], &item["after"]));
    Applied { kind, name: text("name"), outcome: text("outcome"), changes }
}

fn line(applied: &Applied) -> String {
    let Applied { kind, name, outcome, changes } = applied;
    match changes {
        None => format!("{kind} {name:?} {outcome}\n"),
        Some(_) if outcome == "unchanged" => format!("{kind} {name:?} is unchanged\n"),
        // Masked secrets may differ even if both sides look equal.
        Some(changes) if changes.is_empty() => format!("{kind} {name:?} would be {outcome}\n  ~ a secret\n"),
        Some(changes) => format!("{kind} {name:?} would be {outcome}\n{}", render(changes)),
    }
}

/// The errors about documents, each with its file and place.
fn invalid_documents(documents: &[Document], wrong: &[InvalidField]) -> Vec<String> {
    let mut lines = Vec::new();
    for InvalidField { pointer, detail } in wrong {
        let mut parts = pointer.splitn(4, '/').skip(1);
        let (list, index, rest) = (parts.next(), parts.next(), parts.next());
        let document = list.zip(index.and_then(|index| index.parse().ok())).and_then(|(list, index)| {
            documents.iter().filter(|document| collection(document.list).plural == list).nth(index)
        });
        // The duplicate name was already reported, with both files.
        if document.is_some_and(|document| document.is_duplicate) && rest == Some("name") {
            continue;
        }
        lines.push(match document {
            Some(document) => {
                let rest = rest.map_or_else(String::new, |rest| format!(" /{rest}"));
                format!("{}: {}{rest}: {detail}", document.file, document.label(collection(document.list).singular))
            }
            None => format!("{pointer}: {detail}"),
        });
    }
    lines
}

fn refusal(of_files: Vec<String>, of_documents: &[String]) -> Failure {
    let lines = of_files.iter().chain(of_documents);
    lines.fold(Failure::failed("nothing was stored"), |failure, line| failure.followed_by(line))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::cli::client::scripted_peer::ScriptedPeer;

    fn apply(text: &str, answer: (&str, &str)) -> (Result<(), Failure>, String, String) {
        let peer = ScriptedPeer::start(&[answer]);
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("all.yaml").display().to_string();
        std::fs::write(&file, text).unwrap();
        let args = Args { files: vec![file.clone()], dry_run: false, admin: AdminArgs::at(&peer.url) };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let done = runtime.block_on(execute(args));
        (done, file, peer.requests().remove(0))
    }

    #[test]
    fn everything_is_sent_in_one_request_in_the_order_of_the_lists() {
        let text = "rules: [{name: r, x: 1}]\n---\nwebhooks: [{name: w, url: 'http://a'}]\nrules: [{name: s}]";
        let (done, _, request) = apply(text, ("200 OK", r#"{"items": []}"#));
        done.unwrap();
        assert!(request.starts_with("POST /api/admin/apply HTTP/1.1\r\n"), "{request}");
        let sent: Value = serde_json::from_str(request.split("\r\n\r\n").nth(1).unwrap()).unwrap();
        let expected = json!({"webhooks": [{"name": "w", "url": "http://a"}], "rules": [{"name": "r", "x": 1}, {"name": "s"}],
            "anomalies": []});
        assert_eq!(sent, expected);
    }

    #[test]
    fn errors_of_the_server_name_file_and_place() {
        let text = "rules: [{name: r}]\n---\nrules: [{priority: 1}, 7]\nwebhooks: [{name: w}]";
        let answer = r#"{"title": "Unprocessable Entity", "errors": [
            {"pointer": "/webhooks/0/url", "detail": "is required"},
            {"pointer": "/rules/0/conditions/0/path", "detail": "is not a JSONPath"},
            {"pointer": "/rules/1/name", "detail": "is required"},
            {"pointer": "/rules/2", "detail": "must be an object"},
            {"pointer": "", "detail": "odd"}]}"#;
        let (done, file, _) = apply(text, ("422 Unprocessable Entity", answer));
        let expected = format!(
            "nothing was stored\n  {file}: webhook \"w\" /url: is required\n  {file}: rule \"r\" \
             /conditions/0/path: is not a JSONPath\n  {file}: rule at /rules/0 of document 2 /name: is required\n  \
             {file}: rule at /rules/1 of document 2: must be an object\n  : odd"
        );
        assert_eq!(done.unwrap_err().to_string(), expected);
    }

    #[test]
    fn documents_are_validated_even_if_a_file_cannot_be_read() {
        let text = "rules: [{name: r}]\n---\nrules: 7\n---\nrules: [{name: r}, {name: s}]\n";
        let answer = r#"{"title": "Unprocessable Entity", "errors": [
            {"pointer": "/rules/1/name", "detail": "is the name of another one of the set"},
            {"pointer": "/rules/1/expression", "detail": "is wrong"},
            {"pointer": "/rules/2/prioritty", "detail": "is not a known field"}]}"#;
        let (done, file, request) = apply(text, ("422 Unprocessable Entity", answer));
        assert!(request.starts_with("POST /api/admin/apply?dry_run=true HTTP/1.1\r\n"), "{request}");
        let said = done.unwrap_err().to_string();
        let lines: Vec<_> = said.lines().collect();
        assert_eq!(lines.len(), 5, "{said}");
        assert_eq!(lines[0], "nothing was stored");
        assert!(lines[1].starts_with(&format!("  {file}: ")) && lines[1].contains("line 3"), "{said}");
        assert_eq!(lines[2], format!("  {file}: the name \"r\" is used twice"));
        assert_eq!(lines[3], format!("  {file}: rule \"r\" /expression: is wrong"));
        assert_eq!(lines[4], format!("  {file}: rule \"s\" /prioritty: is not a known field"));

        let (done, ..) = apply(text, ("200 OK", r#"{"items": []}"#));
        assert_eq!(done.unwrap_err().to_string().lines().count(), 3);
        let (done, ..) = apply(text, ("503 Service Unavailable", r#"{"title": "x", "detail": "is stopping"}"#));
        let said = done.unwrap_err().to_string();
        assert!(said.contains("the documents that could be read were not checked: "), "{said}");
    }

    #[test]
    fn a_dry_run_shows_what_would_change() {
        let shown = |item: Value| line(&applied(&item, true));
        let item = json!({"kind": "rule", "name": "r", "outcome": "updated", "before": {"priority": 1}, "after": {"priority": 2}});
        assert_eq!(shown(item), "rule \"r\" would be updated\n  - /priority: 1\n  + /priority: 2\n");
        let item = json!({"kind": "anomaly", "name": "a", "outcome": "created", "before": null, "after": {"id": "1", "name": "a"}});
        assert_eq!(shown(item), "anomaly config \"a\" would be created\n  + /name: \"a\"\n");
        let masked = json!({"token": "***"});
        let item = json!({"kind": "webhook", "name": "w", "outcome": "updated", "before": masked, "after": masked});
        assert_eq!(shown(item), "webhook \"w\" would be updated\n  ~ a secret\n");
        let item = json!({"kind": "webhook", "name": "w", "outcome": "unchanged", "before": masked, "after": masked});
        assert_eq!(shown(item), "webhook \"w\" is unchanged\n");
    }
}
