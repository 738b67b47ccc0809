//! `audit`: who changed what.

use jiff::Timestamp;
use serde_json::Value;

use super::answers::text;
use crate::cli::client::{AdminArgs, AdminClient, limit};
use crate::cli::failure::Failure;
use crate::cli::human_time::{self, past};
use crate::cli::output::{note, print, print_json};
use crate::cli::table::Table;

/// Show who changed what through the admin API, the newest first
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Each record tells who (the name of a token, ADMIN_TOKEN, or loopback where no token is asked for),
when, from where, what was done to what, and with --json what it was before and after, secrets masked.
Requests that were refused for want of a token or a role are counted, in one record a minute at most and one when the log is read.

Examples:
  causality audit --since 7d
  causality audit --actor 'ops laptop' --kind rule --json")]
pub struct Args {
    /// Only of this token, by its name or id
    #[arg(long, value_name = "NAME")]
    actor: Option<String>,
    /// Only of this kind: webhook, rule, anomaly, key, token, delivery, dead_letter, erasure, access, retention
    #[arg(long)]
    kind: Option<String>,
    /// Only since then: how long ago, a date (UTC) or RFC 3339
    #[arg(long, value_name = "TIME", value_parser = past)]
    since: Option<Timestamp>,
    /// At most this many
    #[arg(long, default_value_t = 100, value_name = "N", value_parser = limit)]
    limit: usize,
    #[command(flatten)]
    admin: AdminArgs,
}

pub(crate) async fn execute(args: Args) -> Result<(), Failure> {
    let client = AdminClient::new(&args.admin)?;
    let since = args.since.map(|since| since.to_string());
    let filters = [("actor", &args.actor), ("kind", &args.kind), ("since", &since)];
    let filters: Vec<_> = filters.iter().filter_map(|(name, value)| Some((*name, value.as_deref()?))).collect();
    let records = client.list("audit", &filters, args.limit).await?;
    if args.admin.json {
        return print_json(&records);
    }
    if records.is_empty() {
        note("there are no records");
        return Ok(());
    }
    print(&table(&records, Timestamp::now()).render())
}

fn table(records: &[Value], now: Timestamp) -> Table {
    let mut table = Table::new(["WHEN", "WHO", "FROM", "WHAT", "NAME", "OUTCOME"]);
    for record in records {
        table.row(vec![
            human_time::member(record, "at", now),
            text(record, "actor"),
            text(record, "address"),
            format!("{} {}", text(record, "action"), text(record, "kind")),
            name(record),
            text(record, "outcome"),
        ]);
    }
    table
}

/// The name of the changed object, or its id. For refusals, the count by reason.
fn name(record: &Value) -> String {
    if let Some(reasons) = record["after"]["reasons"].as_object() {
        return reasons.iter().map(|(reason, count)| format!("{reason} {count}")).collect::<Vec<_>>().join(", ");
    }
    let name = text(record, "name");
    if name.is_empty() || name == "-" { text(record, "object_id") } else { name }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_record_is_a_line() {
        let now: Timestamp = "2026-03-10T12:00:00Z".parse().unwrap();
        let records = [
            json!({"at": "2026-03-10T11:59:48Z", "actor": "ops", "address": "192.0.2.7", "action": "replace",
                "kind": "rule", "object_id": "7", "name": "big", "outcome": "done"}),
            json!({"at": "2026-03-10T11:00:00Z", "actor": "-", "address": null, "action": "refuse", "kind": "access",
                "object_id": null, "name": null, "outcome": "refused", "after": {"reasons": {"invalid": 3}}}),
        ];
        let lines = table(&records, now).render();
        assert!(lines.contains("12s ago  ops  192.0.2.7  replace rule   big        done"), "{lines}");
        assert!(lines.contains("invalid 3"), "{lines}");
    }
}
