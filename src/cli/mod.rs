//! The command line: its syntax, and the commands that are clients of a running process.
//!
//! Invariant: every command except `run`, `config`, `migrate`, `import`, `lake` and `openapi` talks to the product over
//! HTTP like any other client, so it works the same against a remote machine. Must not know the bus, nor how a role works.

mod failure;
mod human_time;
mod output;
mod table;

pub mod config;
pub mod import;
pub mod lake;
pub mod migrate;
pub mod openapi;
pub mod run;

mod admin;
mod bench;
mod client;

use clap::{Parser, Subcommand};

pub use admin::apply;
use admin::{audit, dead_letters, deliveries, documents, health, keys, status, tokens};
pub use failure::{ExitStatus, Failure};

/// Takes in app events over HTTP, keeps every one it accepts, lands them as Parquet and reacts to
/// them in milliseconds.
#[derive(Debug, Parser)]
#[command(name = "causality", version, max_term_width = 100, after_long_help = EXAMPLES)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

const EXAMPLES: &str = "\
Examples:
  causality run                          everything in one process, data in ./causality-data
  causality run --role sink              one role, on NATS, PostgreSQL and S3
  causality apply -f rules.yaml          create or replace webhooks, rules and anomaly configs
  causality rules list                   what is configured
  causality deliveries list --status dead_letter
  causality bench --duration 10s         how fast is it here?

Exit codes: 0 done, 1 failed, 64 wrong usage or configuration,
69 server unreachable, 78 a server does not accept what the settings say.";

#[derive(Debug, Subcommand)]
pub enum Command {
    Run(run::Args),
    Config(config::Args),
    Migrate(migrate::Args),
    Lake(lake::Args),
    Import(Box<import::Args>),
    Openapi(openapi::Args),
    #[command(flatten)]
    Client(Box<ClientCommand>),
}

/// The commands that need no configuration of their own: they ask a running process.
#[derive(Debug, Subcommand)]
pub enum ClientCommand {
    Apply(apply::Args),
    /// List, show and delete rules: which events call which webhooks
    Rules(documents::Args),
    /// List, show and delete webhooks: whom rules and anomalies call
    Webhooks(documents::Args),
    /// List, show and delete anomaly configs: what counts as unusual
    Anomalies(documents::Args),
    Deliveries(deliveries::Args),
    DeadLetters(dead_letters::Args),
    Keys(Box<keys::Args>),
    Tokens(tokens::Args),
    Audit(audit::Args),
    Status(status::Args),
    Health(health::Args),
    Bench(Box<bench::Args>),
}

impl Cli {
    /// Parses the process's arguments. On `Err`, the output has been printed: help or version (status 0), or a usage
    /// error (64).
    pub fn from_process_args() -> Result<Self, ExitStatus> {
        Self::try_parse().map_err(|error| {
            // If the pipe is closed, there is nobody left to read it.
            let _ = error.print();
            exit_status(&error)
        })
    }
}

fn exit_status(error: &clap::Error) -> ExitStatus {
    if error.use_stderr() { ExitStatus::Usage } else { ExitStatus::Ok }
}

impl ClientCommand {
    /// Runs the command to its end on its own runtime; blocks. Prints its result. The caller prints a failure to stderr
    /// and exits with its status.
    pub fn execute(self) -> Result<(), Failure> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| Failure::failed(format!("cannot start the runtime: {error}")))?;
        runtime.block_on(async {
            match self {
                Self::Apply(args) => apply::execute(args).await,
                Self::Rules(args) => documents::execute(args, &documents::RULES).await,
                Self::Webhooks(args) => documents::execute(args, &documents::WEBHOOKS).await,
                Self::Anomalies(args) => documents::execute(args, &documents::ANOMALIES).await,
                Self::Deliveries(args) => deliveries::execute(args).await,
                Self::DeadLetters(args) => dead_letters::execute(args).await,
                Self::Keys(args) => keys::execute(*args).await,
                Self::Tokens(args) => tokens::execute(args).await,
                Self::Audit(args) => audit::execute(args).await,
                Self::Status(args) => status::execute(args).await,
                Self::Health(args) => health::execute(args).await,
                Self::Bench(args) => bench::execute(*args).await,
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn parse(line: &str) -> Result<Cli, ExitStatus> {
        Cli::try_parse_from(line.split_whitespace()).map_err(|error| exit_status(&error))
    }

    #[test]
    fn the_command_tree_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_documented_command_parses() {
        for line in [
            "causality run",
            "causality run --role gateway,sink --config c.toml --data-dir /tmp/d",
            "causality config --config c.toml",
            "causality migrate --config c.toml",
            "causality openapi",
            "causality lake init",
            "causality lake init --config c.toml --data-dir /tmp/d",
            "causality import a.jsonl.gz b.csv --app shop --column sku=customEvent.properties.sku --column x=",
            "causality import - --format segment --app shop --rejects r.jsonl --dry-run --data-dir d",
            "causality lake compact",
            "causality lake compact --app shop --from 7d --to 2026-01-31T09:00:00Z --dry-run --config c.toml",
            "causality lake vacuum --data-dir /tmp/d",
            "causality lake erase --device d1 --app shop --wait 5m --json --data-dir /tmp/d",
            "causality lake erase --user u1 --lake-only --config c.toml",
            "causality lake erase --user u1 --dry-run",
            "causality lake expire --app shop --dry-run --config c.toml",
            "causality lake status --json",
            "causality openapi gateway",
            "causality openapi admin",
            "causality apply -f a.yaml -f dir -f -",
            "causality apply --dry-run -f a.yaml",
            "causality apply -f a.yaml --json --admin-url https://example.com --admin-token t",
            "causality rules list --json",
            "causality rules --json list --limit 5",
            "causality webhooks get ops",
            "causality anomalies delete 0190a2b4-0000-7000-8000-000000000000",
            "causality deliveries list --status dead_letter --webhook ops --rule r --event e --limit 10",
            "causality deliveries retry 0190a2b4-0000-7000-8000-000000000000",
            "causality deliveries retry --since 2026-01-31T09:00:00Z --until 2026-01-31T10:00:00Z --webhook ops",
            "causality dead-letters replay 7",
            "causality deliveries retry --since 1h30m --until 30m",
            "causality deliveries retry --since 2026-01-31",
            "causality rules list --config causality.toml",
            "causality dead-letters purge --before 2026-01-31T09:00:00Z",
            "causality dead-letters purge --before 7d",
            "causality dead-letters purge",
            "causality keys get ci",
            "causality keys create --app shop --name ci",
            "causality keys create --app shop --name ci --expires 90d --requests-per-second 5 --burst 9",
            "causality keys create --app shop --name ci --expires 2100-01-31",
            "causality keys list",
            "causality tokens create --name ops --role operator --expires 90d",
            "causality tokens create --name ci --role viewer --expires 2100-01-31",
            "causality tokens list --admin-token-file t",
            "causality tokens get ops",
            "causality tokens delete ops ci",
            "causality audit --since 7d --actor ops --kind rule --limit 5",
            "causality status",
            "causality health",
            "causality health --ready --admin-url https://a:1",
            "causality bench",
            "causality bench --url http://127.0.0.1:1 --batch 1 --connections 64 --count 1000 --seed 7 --apps 2",
            "causality status --admin-url https://a:1 --ca-file ca.pem --cert-file c.pem --key-file c.key",
            "causality bench --url https://a --ca-file ca.pem --baseline-url http://a",
            "causality bench --duration 1m30s --rate 5000 --binary --idempotency-keys --verify data --json",
            "causality bench --rate 1000 --webhook-listen 127.0.0.1:0 --setup-webhook",
        ] {
            assert!(parse(line).is_ok(), "{line}");
        }
    }

    #[test]
    fn mistakes_exit_with_usage_and_help_with_ok() {
        for line in [
            "causality",
            "causality fly",
            "causality run --port 1",
            "causality import",
            "causality import a.jsonl --format xml",
            "causality import a.csv --column sku",
            "causality keys create --app shop",
            "causality apply",
            "causality tokens create --name ops --role root",
            "causality tokens create --name ops --role admin --expires yesterday",
            "causality audit --since yesterday",
            "causality deliveries list --status lost",
            "causality deliveries list --limit 0",
            "causality deliveries retry",
            "causality deliveries retry 7 --since 2026-01-31T09:00:00Z",
            "causality deliveries retry --since yesterday",
            "causality deliveries retry --since 1",
            "causality dead-letters purge --before yesterday",
            "causality rules list --admin-url nonsense",
            "causality lake compact --app ../x",
            "causality lake erase",
            "causality lake erase --device",
            "causality lake erase --device a --user b",
            "causality lake erase --device a --wait soon",
            "causality lake compact --from yesterday",
            "causality bench --batch 0",
            "causality bench --duration 10s --count 5",
            "causality bench --webhook-listen 127.0.0.1:0",
        ] {
            assert_eq!(parse(line).err(), Some(ExitStatus::Usage), "{line}");
        }
        assert_eq!(parse("causality --help").err(), Some(ExitStatus::Ok));
        assert_eq!(parse("causality bench --help").err(), Some(ExitStatus::Ok));
        assert_eq!(parse("causality --version").err(), Some(ExitStatus::Ok));
    }
}
