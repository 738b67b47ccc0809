//! `dead-letters`: messages of the bus that a consumer gave up on, with the reason.

use clap::Subcommand;
use jiff::Timestamp;
use serde_json::Value;

use super::client::{AdminArgs, AdminClient, limit, percent_encoded};
use super::documents::text;
use super::failure::Failure;
use super::moment;
use super::output::{note, print, print_document, print_json};
use super::table::Table;

/// List, show, replay, delete and purge messages that could not be handled
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
A message becomes a dead letter when a consumer cannot decode it, has failed on it too often, or when it
ended the process in each of three attempts to handle it alone.
Replay hands it to that consumer again, and to no other.

Examples:
  causality dead-letters list
  causality dead-letters get 42
  causality dead-letters replay 42 43
  causality dead-letters purge --before 2026-01-31T09:00:00Z")]
pub struct Args {
    #[command(subcommand)]
    action: Action,
    #[command(flatten)]
    admin: AdminArgs,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Show the latest ones, one a line
    List {
        /// At most this many
        #[arg(long, default_value_t = 100, value_name = "N", value_parser = limit)]
        limit: usize,
    },
    /// Show one whole
    Get { id: u64 },
    /// Delete one or more for good
    Delete {
        #[arg(required = true)]
        ids: Vec<u64>,
    },
    /// Delete all of them for good, or those that died before a time
    Purge {
        /// Only those that died before then: how long ago (30m, 1h, 7d), a date, or 2026-01-31T09:00:00Z
        #[arg(long, value_name = "TIME", value_parser = moment::past)]
        before: Option<Timestamp>,
    },
    /// Hand one or more to their consumer again
    Replay {
        #[arg(required = true)]
        ids: Vec<u64>,
    },
}

pub(super) async fn execute(args: Args) -> Result<(), Failure> {
    let client = AdminClient::new(&args.admin)?;
    let within = |id: u64| move |failure: Failure| failure.within(&format!("dead letter {id}"));
    match args.action {
        Action::List { limit } => {
            let letters = client.list("dead-letters", &[], limit).await?;
            if args.admin.json {
                return print_json(&letters);
            }
            if letters.is_empty() {
                note("there are no dead letters");
                return Ok(());
            }
            print(&table(&letters, Timestamp::now()).render())
        }
        Action::Get { id } => print_document(&client.get(&format!("dead-letters/{id}")).await?, args.admin.json),
        Action::Delete { ids } => {
            for id in ids {
                client.delete(&format!("dead-letters/{id}")).await.map_err(within(id))?;
                note(&format!("dead letter {id} deleted"));
            }
            Ok(())
        }
        Action::Purge { before } => {
            let filter = before.map_or_else(String::new, |at| format!("?before={}", percent_encoded(&at.to_string())));
            let answer = client.delete(&format!("dead-letters{filter}")).await?;
            if args.admin.json {
                return print_json(&answer);
            }
            note(&format!("{} dead letters deleted", text(&answer, "deleted")));
            Ok(())
        }
        Action::Replay { ids } => {
            for id in ids {
                client.post(&format!("dead-letters/{id}/replay"), None).await.map_err(within(id))?;
                note(&format!("dead letter {id} replayed"));
            }
            Ok(())
        }
    }
}

fn table(letters: &[Value], now: Timestamp) -> Table {
    let mut table = Table::new(["ID", "CONSUMER", "SUBJECT", "SEQUENCE", "DELIVERIES", "DEAD", "REASON"]);
    for d in letters {
        table.row(vec![
            text(d, "id"),
            text(d, "consumer"),
            text(d, "subject"),
            text(d, "sequence"),
            text(d, "delivery_count"),
            moment::member(d, "dead_at_ms", now),
            text(d, "reason"),
        ]);
    }
    table
}
