//! `bench`: a load generator cheap enough to share a machine with the server that it measures, and a check that no
//! event was lost.
//!
//! Invariant: an event counts as accepted only after a 2xx response with the outcome "accepted".

mod args;
mod connection;
mod driver;
mod histogram;
mod load;
mod number_set;
mod patch;
mod pool;
mod prepared_bodies;
mod random;
mod report;
mod request;
mod response;
mod round_trips;
mod run_ids;
mod sample;
mod segment;
mod session;
mod tally;
mod verify;
mod webhook_listener;

use super::failure::Failure;
use super::output::{print, print_json};
use args::Api;
pub(super) use args::Args;
use connection::Target;
use prepared_bodies::PREPARED_EVENTS_MAX;

/// Runs to its end or until Ctrl-C, and prints the result.
pub(super) async fn execute(args: Args) -> Result<(), Failure> {
    // Before the load: a wrong directory would look like lost events afterwards.
    if let Some(dir) = args.verify.as_deref().filter(|dir| !dir.is_dir()) {
        return Err(Failure::usage(format!("--verify {}: there is no such directory", dir.display())));
    }
    // Not checked by the flag's value parser, whose error would repeat the value.
    if [Some(&args.url), args.baseline_url.as_ref()].into_iter().flatten().any(Target::has_user) {
        return Err(Failure::usage(
            "--url and --baseline-url must not hold a user or password: --api-key gives access",
        ));
    }
    if args.encoding.is_some() && args.count.is_some_and(|count| count > PREPARED_EVENTS_MAX) {
        return Err(Failure::usage(format!("--encoding takes a --count of at most {PREPARED_EVENTS_MAX}")));
    }
    if args.api == Api::Segment && (args.binary || args.webhook_listen.is_some()) {
        return Err(Failure::usage("--api segment goes with neither --binary nor --webhook-listen"));
    }
    let report = session::run(&args).await?;
    if args.admin.json {
        print_json(&report)?
    } else {
        print(&report.text())?
    }
    report.check()
}
