//! Parse, run, exit code. Everything else is in the library.

use std::process::ExitCode;

use causality::cli::{self, Cli, Command};

/// Allocation is a large part of parsing events; mimalloc took less time and less memory
/// than the system's allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    causality::base::memory::tune();
    let cli = match Cli::from_process_args() {
        Ok(cli) => cli,
        Err(status) => return status.into(),
    };
    let ended = match cli.command {
        Command::Run(args) => cli::run::execute(args),
        Command::Config(args) => cli::config::execute(&args),
        Command::Migrate(args) => cli::migrate::execute(&args),
        Command::Lake(args) => cli::lake::execute(&args),
        Command::Import(args) => cli::import::execute(*args),
        Command::Openapi(args) => cli::openapi::execute(&args),
        Command::Client(command) => command.execute(),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("causality: {failure}");
            failure.status.into()
        }
    }
}
