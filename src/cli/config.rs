//! `causality config`: the effective settings and where each came from.

use std::fmt::Write;

use super::run::Layers;
use super::{Failure, output};

/// Print the effective settings, secrets redacted, and where each value came from
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    pub layers: Layers,
    /// Print JSON: {"name": {"value", "source"}}
    #[arg(long)]
    pub json: bool,
}

pub fn execute(args: &Args) -> Result<(), Failure> {
    let loaded = args.layers.load()?;
    let rows = loaded.config.show().into_iter().map(|(name, value)| (name, value, loaded.source(name)));
    if args.json {
        let all: serde_json::Map<_, _> = rows
            .map(|(name, value, source)| (name.to_owned(), serde_json::json!({"value": value, "source": source})))
            .collect();
        return output::print_json(&all);
    }
    let mut text = String::new();
    for (name, value, source) in rows {
        // The output is a file that `run --config` can read, so unset settings are comments.
        let line = match value {
            Some(value) => format!("{name} = {value:?}"),
            None => format!("# {name} is not set"),
        };
        let _ = writeln!(text, "{line:<48} # {source}");
    }
    output::print(&text)
}
