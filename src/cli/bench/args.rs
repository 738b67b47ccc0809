//! The arguments of `bench`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::connection::Target;
use super::prepared_bodies::Encoding;
use crate::base::duration;
use crate::cli::client::AdminArgs;

/// Measure how many events per second a server takes, and check what became of them
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Sends realistic events of all 29 kinds, the same for the same seed, under the app ids bench-shop,
bench-news and so on. Without --rate every connection sends its next request as soon as the last is
answered. With --rate the requests follow a schedule, and latency counts from the scheduled moment, so
that a server that stalls cannot hide it; the schedule's clock ticks in milliseconds.
With --encoding all bodies are made and compressed before the first is sent, which takes about as long as
sending them, so that what is measured is the server and not the compressing; they are kept in memory.

Examples:
  causality bench                                      batches of 100 over 8 connections, for 10 s
  causality bench --batch 1 --connections 64           single events
  causality bench --duration 60s --verify causality-data/warehouse
  causality bench --rate 1000 --batch 1 --connections 16 --webhook-listen 127.0.0.1:0 --setup-webhook
  causality bench --baseline-url http://127.0.0.1:8081 against a second server, in turns
  causality bench --count 2000000 --encoding gzip      bodies that the server inflates
  causality bench --api segment                        the same events as messages of Segment's API
  causality bench --url https://localhost:8443 --ca-file ca.pem --connections 64

Exit codes: 0 done; 1 nothing was accepted, or events were lost or doubled, or webhooks are missing;
64 wrong usage; 69 server unreachable.")]
pub struct Args {
    /// The gateway to send to
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8080", value_parser = Target::parse)]
    pub(super) url: Target,
    /// Events in a request; 1 sends single-event requests
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..=1_000))]
    pub(super) batch: u64,
    /// Connections, each with one request at a time
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u64).range(1..=4_096))]
    pub(super) connections: u64,
    /// Threads that the connections are spread over
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=64))]
    pub(super) threads: u64,
    /// How long to send, such as 10s or 1m30s [default: 10s]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(super) duration: Option<Duration>,
    /// How many events to send, instead of a duration
    #[arg(long, value_name = "N", conflicts_with = "duration", value_parser = clap::value_parser!(u64).range(1..=1 << 40))]
    pub(super) count: Option<u64>,
    /// Events per second to send, evenly; as fast as possible when left out
    #[arg(long, value_name = "EVENTS_PER_S", value_parser = rate)]
    pub(super) rate: Option<f64>,
    /// Send protobuf bodies instead of JSON
    #[arg(long)]
    pub(super) binary: bool,
    /// Compress the bodies
    #[arg(long, value_enum, requires = "count")]
    pub(super) encoding: Option<Encoding>,
    /// The requests to send: the gateway's own, or batches of Segment's API
    #[arg(long, value_enum, default_value_t = Api::Native)]
    pub(super) api: Api,
    /// Give every event an idempotency key, which makes it safe to resend after a broken connection
    #[arg(long)]
    pub(super) idempotency_keys: bool,
    /// What the events are made from
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(super) seed: u64,
    /// How many apps the events come from
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=1_000))]
    pub(super) apps: u64,
    /// The app ids to use, instead of a number of made-up ones; may be repeated
    #[arg(long = "app", value_name = "APP_ID", conflicts_with = "apps")]
    pub(super) app_ids: Vec<String>,
    /// Sent as X-API-Key; unless --app says otherwise, the events then carry no app id
    #[arg(long, value_name = "KEY", env = "CAUSALITY_API_KEY", hide_env_values = true)]
    pub(super) api_key: Option<String>,
    /// A second server to compare with: both get the same load in turns
    #[arg(long, value_name = "URL", value_parser = Target::parse, conflicts_with = "count")]
    pub(super) baseline_url: Option<Target>,
    /// How long a turn is, with --baseline-url
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = duration)]
    pub(super) slice: Duration,
    /// How long to rest after a turn, so that the one server's remaining work does not weigh on the other
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = duration)]
    pub(super) rest: Duration,
    /// Afterwards, count the accepted events in this warehouse directory
    #[arg(long, value_name = "DIR")]
    pub(super) verify: Option<PathBuf>,
    /// How long to wait for the last events to reach the warehouse, or to come back as webhooks
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = duration)]
    pub(super) verify_timeout: Duration,
    /// Receive webhooks on this address and measure how long each event takes to come back
    #[arg(long, value_name = "ADDR", requires = "rate")]
    pub(super) webhook_listen: Option<SocketAddr>,
    /// Register that webhook and a rule that matches every event, and remove both afterwards
    #[arg(long, requires = "webhook_listen")]
    pub(super) setup_webhook: bool,
    #[command(flatten)]
    pub(super) admin: AdminArgs,
}

/// Whose requests are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Api {
    Native,
    Segment,
}

/// Names unlikely to be confused with a real app.
const APP_NAMES: [&str; 3] = ["bench-shop", "bench-news", "bench-games"];

impl Args {
    pub(super) fn app_ids(&self) -> Vec<String> {
        if !self.app_ids.is_empty() {
            return self.app_ids.clone();
        }
        if self.api_key.is_some() {
            return vec![String::new()];
        }
        let name =
            |n: usize| APP_NAMES.get(n).map_or_else(|| format!("bench-app-{}", n + 1), |name| (*name).to_owned());
        (0..self.apps as usize).map(name).collect()
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    duration::parse(text).ok_or_else(|| "must read like 10s, 500ms or 1m30s".to_owned())
}

fn rate(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(rate) if rate.is_finite() && rate > 0.0 => Ok(rate),
        _ => Err("must be a number above 0".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_rates_are_read() {
        for (text, ms) in [("10s", 10_000), ("500ms", 500), ("1m30s", 90_000), ("1h", 3_600_000)] {
            assert_eq!(duration(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for wrong in ["", "10", "-1s", "soon"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
        assert_eq!(rate("0.5"), Ok(0.5));
        assert!(["0", "-1", "inf", "NaN", "x"].iter().all(|wrong| rate(wrong).is_err()));
    }
}
