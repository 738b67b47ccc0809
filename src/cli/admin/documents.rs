//! `rules`, `webhooks` and `anomalies`: the collections of documents that people write and `apply` sends.

use std::collections::HashMap;

use clap::Subcommand;
use jiff::Timestamp;
use serde_json::Value;

use super::answers::{names, text};
use crate::cli::client::{AdminArgs, AdminClient, limit, percent_encoded};
use crate::cli::failure::Failure;
use crate::cli::human_time;
use crate::cli::output::{note, print, print_document, print_json};
use crate::cli::table::Table;

#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
To create or change documents, write them into a file and use `causality apply -f FILE`.

Examples:
  causality rules list
  causality webhooks get ops --json
  causality anomalies delete 'slow starts'")]
pub struct Args {
    #[command(subcommand)]
    action: Action,
    #[command(flatten)]
    admin: AdminArgs,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Show all of them, one a line
    List {
        /// At most this many
        #[arg(long, default_value_t = 10_000, value_name = "N", value_parser = limit)]
        limit: usize,
    },
    /// Show one whole, as YAML or with --json as JSON
    Get {
        /// Its name or id
        name: String,
    },
    /// Delete one or more
    Delete {
        /// Names or ids
        #[arg(required = true)]
        names: Vec<String>,
    },
}

/// One collection of documents with unique names.
pub(crate) struct Collection {
    /// Its path in the API, also its command and its key in a file for `apply`.
    pub(crate) plural: &'static str,
    pub(crate) singular: &'static str,
    table: fn(&[Value], Timestamp) -> Table,
}

pub(crate) static WEBHOOKS: Collection = Collection { plural: "webhooks", singular: "webhook", table: webhooks_table };
pub(crate) static RULES: Collection = Collection { plural: "rules", singular: "rule", table: rules_table };
pub(crate) static ANOMALIES: Collection =
    Collection { plural: "anomalies", singular: "anomaly config", table: anomalies_table };

impl Collection {
    /// The path of the document with that name or id.
    pub(crate) fn path(&self, name: &str) -> String {
        format!("{}/{}", self.plural, percent_encoded(name))
    }
}

pub(crate) async fn execute(args: Args, collection: &Collection) -> Result<(), Failure> {
    let client = AdminClient::new(&args.admin)?;
    let place = |name: &str| format!("{} {name:?}", collection.singular);
    match args.action {
        Action::List { limit } => {
            let mut documents = client.list(collection.plural, &[], limit).await?;
            if args.admin.json {
                return print_json(&documents);
            }
            name_webhooks(&client, &mut documents).await?;
            let table = (collection.table)(&documents, Timestamp::now());
            if table.is_empty() {
                note(&format!("there are no {}; `causality apply -f FILE` creates them", collection.plural));
                return Ok(());
            }
            print(&table.render())
        }
        Action::Get { name } => {
            let document = client.get(&collection.path(&name)).await;
            let mut document = [document.map_err(|failure| failure.within(&place(&name)))?];
            if !args.admin.json {
                name_webhooks(&client, &mut document).await?;
            }
            print_document(&document[0], args.admin.json)
        }
        Action::Delete { names } => {
            for name in names {
                let deleted = client.delete(&collection.path(&name)).await;
                deleted.map_err(|failure| failure.within(&place(&name)))?;
                note(&format!("{} deleted", place(&name)));
            }
            Ok(())
        }
    }
}

/// Replaces webhook ids in documents by names. The server stores ids; people and files for `apply` use names.
async fn name_webhooks(client: &AdminClient, documents: &mut [Value]) -> Result<(), Failure> {
    let called = |document: &Value| document["actions"]["webhooks"].as_array().is_some_and(|ids| !ids.is_empty());
    if documents.iter().any(called) {
        let names = names(client, &[WEBHOOKS.plural]).await?;
        documents.iter_mut().for_each(|document| put_names(document, &names));
    }
    Ok(())
}

/// An id without a name stays: its webhook has been deleted since.
fn put_names(document: &mut Value, names: &HashMap<String, String>) {
    let ids = document.pointer_mut("/actions/webhooks").and_then(Value::as_array_mut);
    for id in ids.into_iter().flatten() {
        if let Some(name) = id.as_str().and_then(|id| names.get(id)) {
            *id = Value::from(name.as_str());
        }
    }
}

fn enabled(document: &Value) -> String {
    if document["enabled"].as_bool().unwrap_or(true) { "yes" } else { "no" }.to_owned()
}

/// The events that a rule or an anomaly config looks at: `shop commerce.purchase_complete`.
fn events(document: &Value) -> String {
    let part = |name| document[name].as_str().unwrap_or("*");
    format!("{} {}.{}", part("app_id"), part("event_category"), part("event_type"))
}

fn calls(document: &Value) -> String {
    let actions = &document["actions"];
    let names = |member: &str| {
        actions[member].as_array().into_iter().flatten().filter_map(Value::as_str).collect::<Vec<_>>().join(", ")
    };
    match (names("webhooks"), names("publish_subjects")) {
        (webhooks, subjects) if subjects.is_empty() => webhooks,
        (webhooks, subjects) if webhooks.is_empty() => format!("publish {subjects}"),
        (webhooks, subjects) => format!("{webhooks}; publish {subjects}"),
    }
}

fn webhooks_table(documents: &[Value], now: Timestamp) -> Table {
    let mut table = Table::new(["ID", "NAME", "ENABLED", "METHOD", "URL", "AUTH", "UPDATED"]);
    for d in documents {
        let updated = human_time::member(d, "updated_at", now);
        table.row(vec![
            text(d, "id"),
            text(d, "name"),
            enabled(d),
            text(d, "method"),
            text(d, "url"),
            text(d, "auth_type"),
            updated,
        ]);
    }
    table
}

fn rules_table(documents: &[Value], now: Timestamp) -> Table {
    let mut table = Table::new(["ID", "NAME", "ENABLED", "PRIORITY", "EVENTS", "CONDITIONS", "CALLS", "UPDATED"]);
    for d in documents {
        let conditions = match (d["conditions"].as_array().map_or(0, Vec::len), d["expression"].is_string()) {
            (0, false) => "all".to_owned(),
            (0, true) => "expression".to_owned(),
            (n, false) => n.to_string(),
            (n, true) => format!("{n} + expression"),
        };
        table.row(vec![
            text(d, "id"),
            text(d, "name"),
            enabled(d),
            text(d, "priority"),
            events(d),
            conditions,
            calls(d),
            human_time::member(d, "updated_at", now),
        ]);
    }
    table
}

fn anomalies_table(documents: &[Value], now: Timestamp) -> Table {
    let mut table = Table::new(["ID", "NAME", "ENABLED", "DETECTS", "EVENTS", "COOLDOWN", "CALLS", "UPDATED"]);
    for d in documents {
        table.row(vec![
            text(d, "id"),
            text(d, "name"),
            enabled(d),
            text(d, "detection_type"),
            events(d),
            d["cooldown_seconds"].as_i64().map_or_else(String::new, human_time::duration),
            calls(d),
            human_time::member(d, "updated_at", now),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_rule_is_one_line() {
        let mut rule = json!({"id": "1", "name": "big purchase", "app_id": "shop", "event_category": "commerce",
            "event_type": null, "conditions": [{}, {}], "expression": "true", "priority": 10, "enabled": true,
            "actions": {"webhooks": ["0190a2b4-1", "0190a2b4-2"], "publish_subjects": ["alerts.x"]},
            "updated_at": "2026-03-01T12:03:00Z"});
        let names = [("0190a2b4-1", "ops"), ("0190a2b4-2", "crm"), ("1", "not a webhook")];
        put_names(&mut rule, &names.into_iter().map(|(id, name)| (id.to_owned(), name.to_owned())).collect());
        let now = "2026-03-01T12:04:00Z".parse().unwrap();
        assert_eq!(
            rules_table(&[rule], now).render(),
            "ID  NAME          ENABLED  PRIORITY  EVENTS           CONDITIONS      CALLS                       UPDATED\n\
             1   big purchase  yes      10        shop commerce.*  2 + expression  ops, crm; publish alerts.x  60s ago\n"
        );
    }
}
