//! `apply`: makes the server's webhooks, rules and anomaly configs be what the files say.
//!
//! Invariant: every file is read and checked before anything is sent. Documents are matched by name,
//! so applying the same files twice changes nothing; what no file mentions stays as it is.

mod files;

use serde::Serialize;
use serde_json::Value;

use super::client::{AdminArgs, AdminClient};
use super::documents::{ANOMALIES, Collection, RULES, WEBHOOKS};
use super::failure::Failure;
use super::output::{print, print_json};
use files::Document;

/// Create or replace webhooks, rules and anomaly configs from files
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

Documents are matched by name: a new name is created, a known one replaced. Everything is read and
checked first; then webhooks are sent, then rules, then anomaly configs. The first refusal ends it.

Examples:
  causality apply -f rules.yaml
  causality apply -f deploy/rules/ -f local.json
  generate-rules | causality apply -f -")]
pub struct Args {
    /// A file; a directory, meaning its *.yaml, *.yml and *.json in the order of their names; or - for
    /// standard input. May be repeated
    #[arg(short, long = "file", value_name = "FILE|DIR", required = true)]
    files: Vec<String>,
    #[command(flatten)]
    admin: AdminArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Outcome {
    Created,
    Updated,
    Unchanged,
}

/// One line of the result.
#[derive(Debug, Serialize)]
struct Applied<'a> {
    kind: &'static str,
    name: &'a str,
    outcome: Outcome,
}

pub(super) async fn execute(args: Args) -> Result<(), Failure> {
    let documents = files::read(&args.files)?;
    let client = AdminClient::new(&args.admin)?;
    let mut applied = Vec::new();
    let mut refused = None;
    for (sent, document) in documents.iter().enumerate() {
        let collection = collection(document);
        match send(&client, collection, document).await {
            Ok(outcome) => {
                applied.push(Applied { kind: collection.singular, name: &document.name, outcome });
                if !args.admin.json {
                    let word = match outcome {
                        Outcome::Created => "created",
                        Outcome::Updated => "updated",
                        Outcome::Unchanged => "unchanged",
                    };
                    print(&format!("{} {:?} {word}\n", collection.singular, document.name))?;
                }
            }
            Err(failure) => {
                let place = format!("{}: {} {:?} not applied", document.file, collection.singular, document.name);
                refused = Some(match documents.len() - sent - 1 {
                    0 => failure.within(&place),
                    1 => failure.within(&place).followed_by("1 document after it was not sent"),
                    n => failure.within(&place).followed_by(&format!("{n} documents after it were not sent")),
                });
                break;
            }
        }
    }
    if args.admin.json {
        print_json(&applied)?;
    }
    refused.map_or(Ok(()), Err)
}

fn collection(document: &Document) -> &'static Collection {
    match document.list {
        files::List::Webhooks => &WEBHOOKS,
        files::List::Rules => &RULES,
        files::List::Anomalies => &ANOMALIES,
    }
}

async fn send(client: &AdminClient, collection: &Collection, document: &Document) -> Result<Outcome, Failure> {
    let path = collection.path(&document.name);
    let Some(before) = client.find(&path).await? else {
        client.post(collection.plural, Some(&document.body)).await?;
        return Ok(Outcome::Created);
    };
    let after = client.put(&path, &document.body).await?;
    let same = same_document(&before, &after) && !sends_secret(&document.body, &after);
    Ok(if same { Outcome::Unchanged } else { Outcome::Updated })
}

/// Whether a replacement left everything but its own time as it was. The server is asked rather than
/// the file compared, because only the server knows the defaults of what the file leaves out.
fn same_document(before: &Value, after: &Value) -> bool {
    let (Some(before), Some(after)) = (before.as_object(), after.as_object()) else { return false };
    before.len() == after.len()
        && before.iter().all(|(name, value)| name == "updated_at" || after.get(name) == Some(value))
}

/// Whether the file holds a secret in clear: what reads back as `***` cannot be compared.
fn sends_secret(sent: &Value, stored: &Value) -> bool {
    match (sent, stored) {
        (Value::String(sent), Value::String(stored)) => stored == "***" && sent != "***",
        (Value::Object(sent), Value::Object(stored)) => {
            sent.iter().any(|(name, value)| stored.get(name).is_some_and(|stored| sends_secret(value, stored)))
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::cli::scripted_peer::ScriptedPeer;

    #[test]
    fn a_replacement_by_the_same_is_unchanged() {
        let stored = json!({"id": 1, "name": "ops", "url": "http://a", "updated_at": "2026-01-01T00:00:00Z"});
        let later = json!({"id": 1, "name": "ops", "url": "http://a", "updated_at": "2026-01-02T00:00:00Z"});
        let moved = json!({"id": 1, "name": "ops", "url": "http://b", "updated_at": "2026-01-02T00:00:00Z"});
        assert!(same_document(&stored, &later));
        assert!(!same_document(&stored, &moved));
    }

    #[test]
    fn a_secret_in_clear_may_have_changed() {
        let stored = json!({"auth_config": {"secret": "***", "header": "X"}});
        assert!(sends_secret(&json!({"auth_config": {"secret": "s3cret", "header": "X"}}), &stored));
        assert!(!sends_secret(&json!({"auth_config": {"secret": "***", "header": "X"}}), &stored));
        assert!(!sends_secret(&json!({"name": "ops"}), &stored));
    }

    #[test]
    fn documents_are_created_replaced_or_left_until_one_is_refused() {
        let stored = r#"{"id":"1","name":"b","url":"http://b","updated_at":"2026-01-01T00:00:00Z"}"#;
        let moved = r#"{"id":"1","name":"b","url":"http://new","updated_at":"2026-01-02T00:00:00Z"}"#;
        let refusal = r#"{"title":"Unprocessable Entity","detail":"no","errors":[{"pointer":"/x","detail":"bad"}]}"#;
        let peer = ScriptedPeer::start(&[
            ("404 Not Found", "{}"),
            ("201 Created", r#"{"name":"a a"}"#),
            ("200 OK", stored),
            ("200 OK", moved),
            ("404 Not Found", "{}"),
            ("422 Unprocessable Entity", refusal),
        ]);
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("all.yaml").display().to_string();
        let text = "rules: [{name: r, x: 1}]\nanomalies: [{name: never}]\n\
                    webhooks: [{name: a a, url: 'http://a'}, {name: b, url: 'http://new'}]";
        std::fs::write(&file, text).unwrap();
        let admin = AdminArgs { admin_url: peer.url.clone(), admin_token: None, json: false };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let failure = runtime.block_on(execute(Args { files: vec![file.clone()], admin })).unwrap_err();
        assert_eq!(
            failure.to_string(),
            format!(
                "{file}: rule \"r\" not applied: Unprocessable Entity: no\n  /x: bad\n  1 document after it was not sent"
            )
        );
        let requests = peer.requests();
        let lines: Vec<&str> = requests.iter().map(|request| request.lines().next().unwrap()).collect();
        assert_eq!(
            lines,
            [
                "GET /api/admin/webhooks/a%20a HTTP/1.1",
                "POST /api/admin/webhooks HTTP/1.1",
                "GET /api/admin/webhooks/b HTTP/1.1",
                "PUT /api/admin/webhooks/b HTTP/1.1",
                "GET /api/admin/rules/r HTTP/1.1",
                "POST /api/admin/rules HTTP/1.1",
            ]
        );
        assert!(requests[1].ends_with(r#"{"name":"a a","url":"http://a"}"#), "{}", requests[1]);
    }
}
