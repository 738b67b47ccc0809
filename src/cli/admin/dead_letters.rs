//! `dead-letters`: bus messages that a consumer gave up on, and input that the gateway refused, with the reason.

use clap::{Subcommand, ValueEnum};
use jiff::Timestamp;
use serde_json::Value;

use super::answers::text;
use crate::cli::client::{AdminArgs, AdminClient, limit, percent_encoded};
use crate::cli::failure::{ExitStatus, Failure};
use crate::cli::human_time;
use crate::cli::output::{note, print, print_document, print_json};
use crate::cli::table::Table;

/// List, count, show, replay, delete and purge messages that could not be handled, and input that was refused
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
A message becomes a dead letter when a consumer cannot decode it, has failed on it too often, or when it
ended the process in each of three attempts to handle it alone.
Replay hands it to that consumer again, and to no other.
Input that the gateway refused is kept here where QUARANTINE is on. Replay reads it again by the rules of
today: what is valid is taken in, with the time at which it first came; what is not stays.

Examples:
  causality dead-letters list
  causality dead-letters list --kind input --reason required --app shop
  causality dead-letters counts
  causality dead-letters replay --all --reason limit
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
        #[command(flatten)]
        filters: Filters,
        /// At most this many
        #[arg(long, default_value_t = 100, value_name = "N", value_parser = limit)]
        limit: usize,
    },
    /// Count refused input by app and reason
    Counts,
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
        #[arg(long, value_name = "TIME", value_parser = human_time::past)]
        before: Option<Timestamp>,
    },
    /// Hand one or more to their consumer again, or read refused input again
    Replay(Replay),
}

#[derive(Debug, Default, clap::Args)]
struct Filters {
    /// Only messages that a consumer gave up, or only input that was refused
    #[arg(long)]
    kind: Option<Kind>,
    /// Only those that this consumer gave up
    #[arg(long, value_name = "CONSUMER")]
    consumer: Option<String>,
    /// Only those of this app
    #[arg(long, value_name = "APP")]
    app: Option<String>,
    /// Only input that was refused for this: malformed, required, unknown_field, limit, value
    #[arg(long, value_name = "REASON")]
    reason: Option<String>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Kind {
    Message,
    Input,
}

#[derive(Debug, clap::Args)]
struct Replay {
    /// Those with these ids; or --all
    #[arg(value_name = "ID", required_unless_present = "all", conflicts_with = "all")]
    ids: Vec<u64>,
    /// All input that was refused, or what the filters leave of it
    #[arg(long)]
    all: bool,
    /// Only of this app
    #[arg(long, value_name = "APP", requires = "all")]
    app: Option<String>,
    /// Only what was refused for this: malformed, required, unknown_field, limit, value
    #[arg(long, value_name = "REASON", requires = "all")]
    reason: Option<String>,
}

impl Filters {
    fn pairs(&self) -> Vec<(&'static str, &str)> {
        let kind = self.kind.map(|kind| match kind {
            Kind::Message => "message",
            Kind::Input => "input",
        });
        [
            ("kind", kind),
            ("consumer", self.consumer.as_deref()),
            ("app_id", self.app.as_deref()),
            ("reason_code", self.reason.as_deref()),
        ]
        .into_iter()
        .filter_map(|(name, value)| Some((name, value?)))
        .collect()
    }
}

pub(crate) async fn execute(args: Args) -> Result<(), Failure> {
    let client = AdminClient::new(&args.admin)?;
    let within = |id: u64| move |failure: Failure| failure.within(&format!("dead letter {id}"));
    match args.action {
        Action::List { filters, limit } => {
            let letters = client.list("dead-letters", &filters.pairs(), limit).await?;
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
        Action::Counts => {
            let counts = client.get("dead-letters/counts").await?;
            if args.admin.json {
                return print_json(&counts);
            }
            let items = counts["items"].as_array().cloned().unwrap_or_default();
            if items.is_empty() {
                note("there is no refused input");
                return Ok(());
            }
            let mut table = Table::new(["APP", "REASON", "COUNT"]);
            for item in items {
                table.row(vec![text(&item, "app_id"), text(&item, "reason_code"), text(&item, "count")]);
            }
            print(&table.render())
        }
        Action::Replay(Replay { all: true, app, reason, .. }) => replay_all(&client, app, reason).await,
        Action::Replay(Replay { ids, .. }) => {
            for id in ids {
                client.post(&format!("dead-letters/{id}/replay"), None).await.map_err(within(id))?;
                note(&format!("dead letter {id} replayed"));
            }
            Ok(())
        }
    }
}

/// Replays refused input, oldest first, in order of arrival. Input that is still refused stays, and does not stop the
/// replay.
async fn replay_all(client: &AdminClient, app: Option<String>, reason: Option<String>) -> Result<(), Failure> {
    let filters = Filters { kind: Some(Kind::Input), app, reason, consumer: None };
    let letters = client.list("dead-letters", &filters.pairs(), usize::MAX).await?;
    let (mut replayed, mut refused) = (0, 0);
    for id in letters.iter().rev().map(|letter| text(letter, "id")) {
        match client.post(&format!("dead-letters/{id}/replay"), None).await {
            Ok(_) => replayed += 1,
            Err(failure) if failure.status == ExitStatus::Failed => {
                note(&failure.within(&format!("dead letter {id}")).to_string());
                refused += 1;
            }
            Err(failure) => return Err(failure),
        }
    }
    note(&format!("{replayed} dead letters replayed"));
    match refused {
        0 => Ok(()),
        refused => Err(Failure::failed(format!("{refused} dead letters are still refused, and stay"))),
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
            human_time::member(d, "dead_at_ms", now),
            text(d, "reason"),
        ]);
    }
    table
}
