//! `keys`: the API keys with which applications send events.

use clap::Subcommand;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::answers::text;
use crate::cli::client::{AdminArgs, AdminClient, limit, percent_encoded};
use crate::cli::failure::Failure;
use crate::cli::human_time::{self, future};
use crate::cli::output::{note, print, print_document, print_json};
use crate::cli::table::Table;

/// List, show, create and delete API keys
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
A key belongs to one app; its holder sends it as the header X-API-Key, as Authorization: Bearer, or as
the user name of HTTP Basic. It is shown once, when it is created: the server keeps only its hash.

To rotate a key, create a second one for its app, give it to whoever holds the first, and delete the
first when its last use is over: both are good meanwhile.

Examples:
  causality keys create --app shop --name 'ios release'
  causality keys create --app shop --name 'load test' --expires 7d --requests-per-second 50
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
        #[command(flatten)]
        usage: Usage,
    },
    /// Revoke one or more: requests with them are refused from then on
    Delete {
        /// Names or ids
        #[arg(required = true)]
        ids: Vec<String>,
    },
}

/// How long and how often a key may be used.
#[derive(Debug, clap::Args)]
struct Usage {
    /// When it ends: in how long (12h, 90d), a date (UTC) or RFC 3339; never, when left out
    #[arg(long, value_name = "TIME", value_parser = future)]
    expires: Option<Timestamp>,
    /// Its own rate limit, instead of the one for all keys
    #[arg(long, value_name = "N")]
    requests_per_second: Option<u32>,
    /// Requests that it may send at once, instead of the number for all keys
    #[arg(long, value_name = "N")]
    burst: Option<u32>,
}

pub(crate) async fn execute(args: Args) -> Result<(), Failure> {
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
        Action::Create { app, name, usage } => {
            let document = json!({
                "app_id": app, "name": name, "expires_at": usage.expires,
                "requests_per_second": usage.requests_per_second, "burst": usage.burst,
            });
            let created = client.post("keys", Some(&document)).await?;
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
    let mut table = Table::new(["ID", "APP", "NAME", "LIMITS", "CREATED", "LAST USED", "EXPIRES"]);
    for key in keys {
        let [created, used, expires] =
            ["created_at", "last_used_at", "expires_at"].map(|name| human_time::member(key, name, now));
        table.row(vec![text(key, "id"), text(key, "app_id"), text(key, "name"), limits(key), created, used, expires]);
    }
    table
}

/// The key's own limits: "50/s, burst 100".
fn limits(key: &Value) -> String {
    let rate = key["requests_per_second"].as_u64().map(|rate| format!("{rate}/s"));
    let burst = key["burst"].as_u64().map(|burst| format!("burst {burst}"));
    let own: Vec<String> = rate.into_iter().chain(burst).collect();
    if own.is_empty() { "-".to_owned() } else { own.join(", ") }
}
