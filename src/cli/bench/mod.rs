//! `bench`: a load generator cheap enough to share a machine with what it measures, and an auditor
//! of what became of the events.
//!
//! Invariant: what is reported as accepted was answered with 2xx and a verdict of "accepted".

mod args;
mod clock;
mod connection;
mod driver;
mod flights;
mod histogram;
mod hooks;
mod identity;
mod load;
mod marks;
mod patch;
mod pool;
mod random;
mod report;
mod request;
mod sample;
mod segment;
mod session;
mod stock;
mod tally;
mod verdict;
mod verify;

use super::failure::Failure;
use super::output::{print, print_json};
use args::Api;
pub(super) use args::Args;
use connection::Target;
use stock::STOCK_EVENTS_MAX;

/// Runs to the end, or to Ctrl-C, and prints the result.
pub(super) async fn execute(args: Args) -> Result<(), Failure> {
    // Before the load, since a wrong directory looks like lost events after it.
    if let Some(dir) = args.verify.as_deref().filter(|dir| !dir.is_dir()) {
        return Err(Failure::usage(format!("--verify {}: there is no such directory", dir.display())));
    }
    // Not by the parser of the flag, whose refusal repeats the value.
    if [Some(&args.url), args.baseline_url.as_ref()].into_iter().flatten().any(Target::has_user) {
        return Err(Failure::usage(
            "--url and --baseline-url must not hold a user or password: --api-key gives access",
        ));
    }
    if args.encoding.is_some() && args.count.is_some_and(|count| count > STOCK_EVENTS_MAX) {
        return Err(Failure::usage(format!("--encoding takes a --count of at most {STOCK_EVENTS_MAX}")));
    }
    if args.api == Api::Segment && (args.binary || args.webhook_listen.is_some()) {
        return Err(Failure::usage("--api segment goes with neither --binary nor --webhook-listen"));
    }
    let report = session::run(&args).await?;
    if args.admin.json {
        print_json(&report)?
    } else {
        print(&report.page())?
    }
    report.judge()
}
