//! `causality config`: the effective settings and where each came from.

use std::fmt::Write;

use serde_json::json;

use super::run::Layers;
use super::{Failure, output};
use crate::base::settings::Shown;

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
    if args.json {
        let member = |shown: Shown| (shown.name.to_owned(), json!({"value": shown.value, "source": shown.source}));
        let all: serde_json::Map<_, _> = loaded.shown.into_iter().map(member).collect();
        return output::print_json(&all);
    }
    let mut text = String::new();
    for Shown { name, value, source } in loaded.shown {
        // The output is a file that `run --config` can read, so unset settings are comments.
        let line = match value {
            Some(value) => format!("{name} = {value:?}"),
            None => format!("# {name} is not set"),
        };
        let _ = writeln!(text, "{line:<48} # {source}");
    }
    output::print(&text)
}
