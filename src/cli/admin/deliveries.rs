//! `deliveries`: webhook deliveries and their outcomes.

use std::collections::HashMap;

use clap::{Subcommand, ValueEnum};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::answers::{names, text};
use super::documents::{Collection, RULES, WEBHOOKS};
use crate::cli::client::{AdminArgs, AdminClient, limit, percent_encoded};
use crate::cli::failure::Failure;
use crate::cli::human_time;
use crate::cli::output::{note, print, print_document, print_json};
use crate::cli::table::Table;

/// List, show, retry and delete webhook deliveries
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  causality deliveries list --status dead_letter --webhook ops
  causality deliveries list --event 0190a2b4-7c1e-7000-8000-3f2a9c1b4d5e --json
  causality deliveries retry 0190a2b4-7c1e-7000-8000-3f2a9c1b4d5e
  causality deliveries retry --since 1h --webhook ops
  causality deliveries retry --since 2026-01-31T09:00:00Z --until 2026-01-31T10:00:00Z")]
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
        /// Only those with this status
        #[arg(long)]
        status: Option<Status>,
        /// Only those to this webhook, by name or id
        #[arg(long, value_name = "WEBHOOK")]
        webhook: Option<String>,
        /// Only those that this rule caused, by name or id
        #[arg(long, value_name = "RULE")]
        rule: Option<String>,
        /// Only those that this event caused
        #[arg(long, value_name = "EVENT_ID")]
        event: Option<String>,
        /// At most this many
        #[arg(long, default_value_t = 100, value_name = "N", value_parser = limit)]
        limit: usize,
    },
    /// Show one whole, with the body it sends
    Get { id: String },
    /// Delete one or more for good; what is still owed is not sent
    Delete {
        #[arg(required = true)]
        ids: Vec<String>,
    },
    /// Send one or more again that failed, died or were cancelled; or all of a time that failed or died
    Retry(Retry),
}

#[derive(Debug, clap::Args)]
struct Retry {
    /// Those with these ids; or --since for all of a time
    #[arg(value_name = "ID", required_unless_present = "since",
          conflicts_with_all = ["since", "until", "status", "webhook", "rule"])]
    ids: Vec<String>,
    /// All that were created since then: how long ago (30m, 1h, 7d), a date, or 2026-01-31T09:00:00Z
    #[arg(long, value_name = "TIME", value_parser = human_time::past)]
    since: Option<Timestamp>,
    /// Only those that were created before then, said likewise
    #[arg(long, value_name = "TIME", requires = "since", value_parser = human_time::past)]
    until: Option<Timestamp>,
    /// Only those with this status, instead of failed and dead_letter
    #[arg(long, requires = "since")]
    status: Option<Status>,
    /// Only those to this webhook, by name or id
    #[arg(long, value_name = "WEBHOOK", requires = "since")]
    webhook: Option<String>,
    /// Only those that this rule caused, by name or id
    #[arg(long, value_name = "RULE", requires = "since")]
    rule: Option<String>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
#[value(rename_all = "snake_case")]
enum Status {
    Pending,
    InProgress,
    Delivered,
    Failed,
    DeadLetter,
    Cancelled,
}

pub(crate) async fn execute(args: Args) -> Result<(), Failure> {
    let client = AdminClient::new(&args.admin)?;
    match args.action {
        Action::List { status, webhook, rule, event, limit } => {
            let mut filters: Vec<(&str, String)> = Vec::new();
            filters.extend(status.as_ref().and_then(word).map(|word| ("status", word)));
            if let Some(name) = webhook {
                filters.push(("webhook_id", id_of(&client, &WEBHOOKS, &name).await?));
            }
            if let Some(name) = rule {
                filters.push(("rule_id", id_of(&client, &RULES, &name).await?));
            }
            filters.extend(event.map(|id| ("event_id", id)));
            let filters: Vec<(&str, &str)> = filters.iter().map(|(name, value)| (*name, value.as_str())).collect();
            let deliveries = client.list("deliveries", &filters, limit).await?;
            if args.admin.json {
                return print_json(&deliveries);
            }
            if deliveries.is_empty() {
                note("there are no such deliveries");
                return Ok(());
            }
            let names = names(&client, &["webhooks", "rules", "anomalies"]).await?;
            print(&table(&deliveries, &names, Timestamp::now()).render())
        }
        Action::Get { id } => {
            print_document(&client.get(&format!("deliveries/{}", percent_encoded(&id))).await?, args.admin.json)
        }
        Action::Delete { ids } => {
            for id in ids {
                let path = format!("deliveries/{}", percent_encoded(&id));
                client.delete(&path).await.map_err(|failure| failure.within(&format!("delivery {id}")))?;
                note(&format!("delivery {id} deleted"));
            }
            Ok(())
        }
        Action::Retry(retry) if retry.since.is_some() => retry_all(&client, retry, args.admin.json).await,
        Action::Retry(Retry { ids, .. }) => {
            for id in ids {
                let path = format!("deliveries/{}/retry", percent_encoded(&id));
                let retried = client.post(&path, None).await;
                let delivery = retried.map_err(|failure| failure.within(&format!("delivery {id}")))?;
                match disabled(&client, &text(&delivery, "webhook_id")).await? {
                    Some(name) => note(&format!("delivery {id} is pending until webhook {name:?} is enabled")),
                    None => note(&format!("delivery {id} will be sent again")),
                }
            }
            Ok(())
        }
    }
}

async fn retry_all(client: &AdminClient, retry: Retry, json: bool) -> Result<(), Failure> {
    let request = json!({
        "since": retry.since, "until": retry.until, "status": retry.status.and_then(|status| word(&status)),
        "webhook_id": retry.webhook, "rule_id": retry.rule,
    });
    let answer = client.post("deliveries/retry", Some(&request)).await?;
    if json {
        return print_json(&answer);
    }
    note(&format!("{} deliveries will be sent again", text(&answer, "retried")));
    if answer["more"] == true {
        note("there may be more; run it again for them");
    }
    Ok(())
}

fn word(status: &Status) -> Option<String> {
    status.to_possible_value().map(|value| value.get_name().to_owned())
}

/// The name of the webhook, if it is disabled.
async fn disabled(client: &AdminClient, id: &str) -> Result<Option<String>, Failure> {
    let webhook = client.find(&WEBHOOKS.path(id)).await?;
    Ok(webhook.filter(|webhook| webhook["enabled"] == false).map(|webhook| text(&webhook, "name")))
}

/// Resolves a name to an id: the API filters by id.
async fn id_of(client: &AdminClient, collection: &Collection, name: &str) -> Result<String, Failure> {
    if uuid::Uuid::try_parse(name).is_ok() {
        return Ok(name.to_owned());
    }
    let place = format!("{} {name:?}", collection.singular);
    let document = client.get(&collection.path(name)).await.map_err(|failure| failure.within(&place))?;
    Ok(text(&document, "id"))
}

fn table(deliveries: &[Value], names: &HashMap<String, String>, now: Timestamp) -> Table {
    let heading = ["ID", "STATUS", "ATTEMPTS", "WEBHOOK", "CAUSE", "EVENT", "CREATED", "NEXT ATTEMPT", "LAST ERROR"];
    let mut table = Table::new(heading);
    let name = |d: &Value, member: &str| {
        let id = text(d, member);
        names.get(&id).cloned().unwrap_or(id)
    };
    for d in deliveries {
        let cause = if d["rule_id"].is_null() { name(d, "anomaly_config_id") } else { name(d, "rule_id") };
        table.row(vec![
            text(d, "id"),
            text(d, "status"),
            format!("{}/{}", text(d, "attempts"), text(d, "max_attempts")),
            name(d, "webhook_id"),
            cause,
            text(d, "event_id"),
            human_time::member(d, "created_at", now),
            human_time::member(d, "next_attempt_at", now),
            text(d, "last_error"),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_shown_as_names_if_known() {
        let delivery = json!({"id": "d", "status": "pending", "attempts": 1, "max_attempts": 5, "webhook_id": "w",
            "rule_id": null, "anomaly_config_id": "gone", "event_id": "e", "created_at": "2026-03-01T12:00:00Z",
            "next_attempt_at": "2026-03-01T12:00:30Z", "last_error": "HTTP 500"});
        let names = HashMap::from([("w".to_owned(), "ops".to_owned())]);
        let text = table(&[delivery], &names, "2026-03-01T12:00:10Z".parse().unwrap()).render();
        assert_eq!(
            text.lines().last(),
            Some("d   pending  1/5       ops      gone   e      10s ago  in 20s        HTTP 500")
        );
    }
}
