//! `keys`: the API keys that applications send their events with.

use clap::Subcommand;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::client::{AdminArgs, AdminClient, limit, percent_encoded};
use super::documents::text;
use super::failure::Failure;
use super::moment;
use super::output::{note, print, print_document, print_json};
use super::table::Table;

/// List, show, create and delete API keys
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
A key belongs to one app; its holder sends it as the header X-API-Key. It is shown once, when it is
created: the server keeps only its hash.

Examples:
  causality keys create --app shop --name 'ios release'
  causality keys list
  causality keys delete 0190a2b4-7c1e-7000-8000-3f2a9c1b4d5e")]
pub struct Args {
    #[command(subcommand)]
    action: Action,
    #[command(flatten)]
    admin: AdminArgs,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Show all of them, never the keys themselves
    List {
        /// At most this many
        #[arg(long, default_value_t = 10_000, value_name = "N", value_parser = limit)]
        limit: usize,
    },
    /// Show what is known of one
    Get {
        /// Its name or id
        name: String,
    },
    /// Create one and print it, this once
    Create {
        /// The app whose events the key admits
        #[arg(long, value_name = "APP_ID")]
        app: String,
        /// Who holds it, for people
        #[arg(long)]
        name: String,
    },
    /// Revoke one or more: requests with them are refused from then on
    Delete {
        /// Names or ids
        #[arg(required = true)]
        ids: Vec<String>,
    },
}

pub(super) async fn execute(args: Args) -> Result<(), Failure> {
    let client = AdminClient::new(&args.admin)?;
    match args.action {
        Action::List { limit } => {
            let keys = client.list("keys", &[], limit).await?;
            if args.admin.json {
                return print_json(&keys);
            }
            if keys.is_empty() {
                note("there are no API keys; `causality keys create --app APP --name NAME` creates one");
                return Ok(());
            }
            print(&table(&keys, Timestamp::now()).render())
        }
        Action::Get { name } => {
            let key = client.get(&format!("keys/{}", percent_encoded(&name))).await;
            print_document(&key.map_err(|failure| failure.within(&format!("API key {name}")))?, args.admin.json)
        }
        Action::Create { app, name } => {
            let created = client.post("keys", Some(&json!({"app_id": app, "name": name}))).await?;
            note(&format!("API key {:?} for app {app:?}. Keep it now: it is not shown again.", name));
            if args.admin.json { print_json(&created) } else { print(&format!("{}\n", text(&created, "key"))) }
        }
        Action::Delete { ids } => {
            for id in ids {
                let deleted = client.delete(&format!("keys/{}", percent_encoded(&id))).await;
                deleted.map_err(|failure| failure.within(&format!("API key {id}")))?;
                note(&format!("API key {id} deleted"));
            }
            Ok(())
        }
    }
}

fn table(keys: &[Value], now: Timestamp) -> Table {
    let mut table = Table::new(["ID", "APP", "NAME", "CREATED"]);
    for key in keys {
        let created = moment::member(key, "created_at", now);
        table.row(vec![text(key, "id"), text(key, "app_id"), text(key, "name"), created]);
    }
    table
}
