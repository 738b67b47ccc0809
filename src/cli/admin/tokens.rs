//! `tokens`: access to the admin API.

use clap::{Subcommand, ValueEnum};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::answers::text;
use crate::cli::client::{AdminArgs, AdminClient, limit, percent_encoded};
use crate::cli::failure::Failure;
use crate::cli::human_time::{self, future};
use crate::cli::output::{note, print, print_document, print_json};
use crate::cli::table::Table;

/// List, show, create and revoke tokens of the admin API
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
A viewer reads, never a secret. An operator also changes webhooks, rules and anomaly configs, and
sends deliveries and dead letters again. An admin also manages keys and tokens and reads the audit
log. The first admin is the setting ADMIN_TOKEN of the process. A token is shown once, when it is
created: the server keeps only its hash.

Examples:
  causality tokens create --name 'ops laptop' --role operator --expires 90d
  causality tokens list
  causality tokens delete 'ops laptop'")]
pub struct Args {
    #[command(subcommand)]
    action: Action,
    #[command(flatten)]
    admin: AdminArgs,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Show all of them, never the tokens themselves
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
        /// Who holds it, for people and for the audit log
        #[arg(long)]
        name: String,
        /// What its holder may do
        #[arg(long)]
        role: Role,
        /// When it ends: in how long (12h, 90d), a date (UTC) or RFC 3339; never, when left out
        #[arg(long, value_name = "TIME", value_parser = future)]
        expires: Option<Timestamp>,
    },
    /// Revoke one or more: requests with them are refused from then on
    Delete {
        /// Names or ids
        #[arg(required = true)]
        names: Vec<String>,
    },
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Role {
    Viewer,
    Operator,
    Admin,
}

impl Role {
    fn text(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Admin => "admin",
        }
    }
}

pub(crate) async fn execute(args: Args) -> Result<(), Failure> {
    let client = AdminClient::new(&args.admin)?;
    match args.action {
        Action::List { limit } => {
            let tokens = client.list("tokens", &[], limit).await?;
            if args.admin.json {
                return print_json(&tokens);
            }
            if tokens.is_empty() {
                note("there are no tokens; `causality tokens create --name NAME --role ROLE` creates one");
                return Ok(());
            }
            print(&table(&tokens, Timestamp::now()).render())
        }
        Action::Get { name } => {
            let token = client.get(&format!("tokens/{}", percent_encoded(&name))).await;
            print_document(&token.map_err(|failure| failure.within(&format!("token {name}")))?, args.admin.json)
        }
        Action::Create { name, role, expires } => {
            let document = json!({"name": name, "role": role.text(), "expires_at": expires});
            let created = client.post("tokens", Some(&document)).await?;
            note(&format!("{} token {name:?}. Keep it now: it is not shown again.", role.text()));
            if args.admin.json { print_json(&created) } else { print(&format!("{}\n", text(&created, "token"))) }
        }
        Action::Delete { names } => {
            for name in names {
                let deleted = client.delete(&format!("tokens/{}", percent_encoded(&name))).await;
                deleted.map_err(|failure| failure.within(&format!("token {name}")))?;
                note(&format!("token {name} revoked"));
            }
            Ok(())
        }
    }
}

fn table(tokens: &[Value], now: Timestamp) -> Table {
    let mut table = Table::new(["ID", "NAME", "ROLE", "CREATED", "LAST USED", "EXPIRES"]);
    for token in tokens {
        let time = |name: &str| human_time::member(token, name, now);
        table.row(vec![
            text(token, "id"),
            text(token, "name"),
            text(token, "role"),
            time("created_at"),
            time("last_used_at"),
            time("expires_at"),
        ]);
    }
    table
}
