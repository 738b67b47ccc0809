//! `status`: the state of a running process.

use serde_json::{Map, Value};

use crate::cli::client::{AdminArgs, AdminClient};
use crate::cli::failure::Failure;
use crate::cli::human_time;
use crate::cli::output::{print, print_json};

/// Show version, roles, backends and backlogs of a running process
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    admin: AdminArgs,
}

pub(crate) async fn execute(args: Args) -> Result<(), Failure> {
    let document = AdminClient::new(&args.admin)?.get("status").await?;
    if args.admin.json { print_json(&document) } else { print(&outline(&document)) }
}

/// An indented outline of every member, so that those of a newer server appear too.
fn outline(document: &Value) -> String {
    let mut out = String::new();
    if let Value::Object(members) = document {
        write_members(&mut out, members, 0);
    }
    out
}

fn write_members(out: &mut String, members: &Map<String, Value>, depth: usize) {
    let indent = "  ".repeat(depth);
    // The value of a `_seconds` member includes its unit.
    let label = |name: &str| name.trim_end_matches("_seconds").replace('_', " ");
    let width = members.iter().filter(|(_, v)| !is_nested(v)).map(|(name, _)| label(name).len()).max().unwrap_or(0);
    for (name, value) in members.iter().filter(|(_, value)| !is_nested(value)) {
        out.push_str(&format!("{indent}{:width$}  {}\n", label(name), scalar(name, value)));
    }
    for (name, value) in members.iter().filter(|(_, value)| is_nested(value)) {
        match value {
            Value::Object(members) => {
                out.push_str(&format!("{indent}{}\n", label(name)));
                write_members(out, members, depth + 1);
            }
            Value::Array(items) => {
                for item in items.iter().filter_map(Value::as_object) {
                    let title = item.get("name").and_then(Value::as_str).unwrap_or_default();
                    out.push_str(format!("{indent}{} {title}", label(name)).trim_end());
                    out.push('\n');
                    let rest: Map<String, Value> =
                        item.iter().filter(|(k, _)| *k != "name").map(|(k, v)| (k.clone(), v.clone())).collect();
                    write_members(out, &rest, depth + 1);
                }
            }
            _ => {}
        }
    }
}

/// Objects, and arrays of objects. A list of words fits on one line.
fn is_nested(value: &Value) -> bool {
    match value {
        Value::Object(_) => true,
        Value::Array(items) => items.iter().any(Value::is_object),
        _ => false,
    }
}

fn scalar(name: &str, value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.chars().filter(|c| !c.is_control()).collect(),
        Value::Array(items) if items.is_empty() => "-".to_owned(),
        Value::Array(items) => items.iter().map(|item| scalar(name, item)).collect::<Vec<_>>().join(", "),
        Value::Number(number) if name.ends_with("_seconds") => {
            number.as_f64().map_or_else(|| number.to_string(), |s| human_time::duration(s as i64))
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_outline_shows_every_member() {
        let status = json!({"version": "0.1.0", "roles": ["gateway", "sink"], "uptime_seconds": 7300.5,
            "backends": {"bus": "embedded"}, "consumers": [{"name": "warehouse-sink", "backlog": 12, "oldest": null}]});
        assert_eq!(
            outline(&status),
            "roles    gateway, sink\nuptime   2h\nversion  0.1.0\n\
             backends\n  bus  embedded\nconsumers warehouse-sink\n  backlog  12\n  oldest   -\n"
        );
    }
}
