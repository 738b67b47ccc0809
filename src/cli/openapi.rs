//! `causality openapi`: prints the OpenAPI documents. Needs no running process.

use clap::ValueEnum;

use super::{Failure, output};
use crate::app;

/// Print the OpenAPI document of an API, for clients and code generators
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Which API
    #[arg(default_value = "gateway")]
    pub api: Api,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Api {
    /// What takes in events
    Gateway,
    /// Webhooks, rules, keys and the rest
    Admin,
}

pub fn execute(args: &Args) -> Result<(), Failure> {
    output::print_json(&match args.api {
        Api::Gateway => app::gateway_document(),
        Api::Admin => app::admin_document(),
    })
}
