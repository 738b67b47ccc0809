//! One run of the load generator, from the first connection to the last check.

use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use futures_util::future::try_join_all;
use indicatif::{ProgressBar, ProgressStyle};
use rustls::ClientConfig;
use tokio_util::sync::CancellationToken;

use super::args::{Api, Args};
use super::connection::{Connection, Target};
use super::driver;
use super::load::{Load, Slice};
use super::pool::{BodyFormat, Pool, PoolOptions};
use super::prepared_bodies::PreparedBodies;
use super::report::{Compressed, Report, ServerReport};
use super::round_trips::RoundTrips;
use super::run_ids::RunTag;
use super::tally::Tally;
use super::verify::{MatchBy, Verification, verify};
use super::webhook_listener::{Listener, Registration};
use crate::base::supervisor::Tasks;
use crate::cli::client::tls;
use crate::cli::failure::Failure;
use crate::cli::output::note;

/// The app if the API key determines it.
const APP_DEFAULT: &str = "bench-shop";
const DURATION_DEFAULT: Duration = Duration::from_secs(10);
const PROGRESS_PERIOD: Duration = Duration::from_millis(250);
const WEBHOOKS_PERIOD: Duration = Duration::from_millis(50);
/// The exit status of a process that Ctrl-C ended.
const INTERRUPTED: i32 = 130;

/// The results of one server over all its slices.
#[derive(Default)]
struct ServerRun {
    tally: Tally,
    elapsed: Duration,
}

pub(super) async fn run(args: &Args) -> Result<Report, Failure> {
    let started_ns = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64);
    let run = RunTag::new(args.seed, started_ns);
    let load = Arc::new(prepare(args, run)?);
    let event_bytes = load.pool.event_bytes();
    let compressed = load.prepared.as_ref().map(|prepared| Compressed {
        encoding: prepared.encoding.name(),
        event_bytes: prepared.bytes() / args.count.unwrap_or(1).max(1) as usize,
    });
    let interrupts = Tasks::new(load.stop.clone());
    let stop = load.stop.clone();
    interrupts.spawn(async move {
        if tokio::signal::ctrl_c().await.is_ok() {
            stop.cancel();
        }
        if tokio::signal::ctrl_c().await.is_ok() {
            std::process::exit(INTERRUPTED);
        }
    });

    let tls = Arc::new(args.admin.tls.client_config()?);
    check_reachable(&args.url, &tls).await?;
    if let Some(baseline) = &args.baseline_url {
        check_reachable(baseline, &tls).await?;
    }
    let hooks = WebhookRun::start(args, run).await?;
    let cpu_before = processor_time();
    let measured = measure(args, &load, &tls, &hooks).await;
    let cpu = processor_time().zip(cpu_before).map(|(after, before)| after.saturating_sub(before));
    let webhooks = hooks.finish(args.verify_timeout, &load.stop).await;
    let (target, baseline) = measured?;
    let verification = verify_warehouse(args, run, &load, &target.tally).await?;

    let sent = load.next_event.load(Relaxed).min(load.count.unwrap_or(u64::MAX)).max(1);
    let target_report = ServerReport::new(&args.url.url, target.elapsed, &target.tally);
    let baseline = args.baseline_url.as_ref().map(|url| ServerReport::new(&url.url, baseline.elapsed, &baseline.tally));
    Ok(Report {
        seed: args.seed,
        event_bytes,
        compressed,
        batch_events: load.batch_events,
        connections: load.connections,
        percent_of_baseline: baseline
            .as_ref()
            .filter(|baseline| baseline.events_per_second > 0.0)
            .map(|baseline| (target_report.events_per_second / baseline.events_per_second * 1e3).round() / 10.0),
        target: target_report,
        baseline,
        generator_cpu_us_per_event: cpu.map(|cpu| (cpu.as_secs_f64() * 1e8 / sent as f64).round() / 100.0),
        webhooks,
        verification,
    })
}

fn prepare(args: &Args, run: RunTag) -> Result<Load, Failure> {
    let options = PoolOptions {
        format: match args.api {
            Api::Segment => BodyFormat::Segment,
            Api::Native if args.binary => BodyFormat::Binary,
            Api::Native => BodyFormat::Json,
        },
        seed: args.seed,
        app_ids: args.app_ids(),
        idempotency_keys: args.idempotency_keys,
    };
    if args.api_key.as_deref().is_some_and(|key| !key.chars().all(|c| c.is_ascii_graphic())) {
        return Err(Failure::usage("the API key holds a character that a header cannot carry"));
    }
    let mut load = Load {
        pool: Pool::render(&options, run).map_err(Failure::failed)?,
        batch_events: args.batch as usize,
        connections: args.connections as usize,
        threads: args.threads.min(args.connections) as usize,
        api_key: args.api_key.clone(),
        app_id: options.app_ids.first().filter(|app| !app.is_empty()).map_or(APP_DEFAULT, String::as_str).to_owned(),
        prepared: None,
        // Messages of Segment's API always have one.
        idempotency_keys: args.idempotency_keys || args.api == Api::Segment,
        rate: args.rate,
        count: args.count,
        stop: CancellationToken::new(),
        next_event: AtomicU64::new(0),
        accepted: AtomicU64::new(0),
    };
    if let Some((encoding, count)) = args.encoding.zip(args.count) {
        note(&format!("Compressing the bodies of {count} events"));
        let prepared = PreparedBodies::prepare(&load.pool, encoding, (count, load.batch_events), load.single());
        load.prepared = Some(prepared.map_err(|error| Failure::failed(format!("cannot compress: {error}")))?);
    }
    Ok(load)
}

/// Fails early if the server cannot be reached, instead of measuring that.
async fn check_reachable(target: &Target, tls: &Arc<ClientConfig>) -> Result<(), Failure> {
    let security = target.security(tls);
    let connected = async { Connection::open(target.resolve().await?, security.as_ref()).await };
    connected.await.map(drop).map_err(|error| {
        let advice = tls::advice(&error).unwrap_or("is `causality run` running there?");
        Failure::unreachable(format!("cannot reach the gateway at {}: {error}; {advice}", target.url))
    })
}

/// Runs the load against the target alone, or in turns against it and the baseline.
async fn measure(
    args: &Args,
    load: &Arc<Load>,
    tls: &Arc<ClientConfig>,
    hooks: &WebhookRun,
) -> Result<(ServerRun, ServerRun), Failure> {
    let (mut target, mut baseline) = (ServerRun::default(), ServerRun::default());
    let duration = args.duration.unwrap_or(DURATION_DEFAULT);
    let progress = Progress::new(args, duration);
    let Some(baseline_url) = &args.baseline_url else {
        let length = args.count.is_none().then_some(duration);
        slice(load, (&args.url, tls), length, hooks.round_trips.clone(), &mut target, &progress).await?;
        return Ok((target, baseline));
    };
    let mut left = duration;
    while !left.is_zero() && !load.stop.is_cancelled() {
        let length = left.min(args.slice);
        for (url, share, round_trips) in
            [(&args.url, &mut target, hooks.round_trips.clone()), (baseline_url, &mut baseline, None)]
        {
            slice(load, (url, tls), Some(length), round_trips, share, &progress).await?;
            load.stop.run_until_cancelled(tokio::time::sleep(args.rest)).await;
        }
        left -= length;
    }
    Ok((target, baseline))
}

async fn slice(
    load: &Arc<Load>,
    (target, tls): (&Target, &Arc<ClientConfig>),
    length: Option<Duration>,
    round_trips: Option<Arc<RoundTrips>>,
    share: &mut ServerRun,
    progress: &Progress,
) -> Result<(), Failure> {
    let address = target.resolve().await;
    let address = address.map_err(|error| Failure::unreachable(format!("cannot resolve {}: {error}", target.url)))?;
    let started = Instant::now();
    let slice = Arc::new(Slice {
        target: target.clone(),
        address,
        security: target.security(tls),
        started,
        until: length.map(|length| started + length),
        next_slot: AtomicU64::new(0),
        round_trips,
    });
    let workers = (0..load.threads).map(|thread| {
        let (load, slice) = (load.clone(), slice.clone());
        tokio::task::spawn_blocking(move || driver::work(&load, &slice, thread))
    });
    let mut workers = try_join_all(workers);
    let mut ticks = tokio::time::interval(PROGRESS_PERIOD);
    let tallies = loop {
        tokio::select! {
            tallies = &mut workers => break tallies,
            _ = ticks.tick() => progress.show(load),
        }
    };
    share.elapsed += started.elapsed();
    for tally in tallies.map_err(|error| Failure::failed(format!("a worker ended early: {error}")))? {
        share.tally.merge(&tally.map_err(|error| Failure::failed(format!("cannot start a worker: {error}")))?);
    }
    Ok(())
}

/// The webhook part of a run, if any.
struct WebhookRun {
    round_trips: Option<Arc<RoundTrips>>,
    listener: Option<Listener>,
    registration: Option<Registration>,
}

impl WebhookRun {
    async fn start(args: &Args, run: RunTag) -> Result<Self, Failure> {
        let Some(address) = args.webhook_listen else {
            return Ok(Self { round_trips: None, listener: None, registration: None });
        };
        let round_trips = Arc::new(RoundTrips::default());
        let listener = Listener::start(address, run, round_trips.clone()).await?;
        let registration = if args.setup_webhook {
            Some(Registration::create(&args.admin, run, &listener.url).await?)
        } else {
            note(&format!("Webhooks are received at {}", listener.url));
            None
        };
        Ok(Self { round_trips: Some(round_trips), listener: Some(listener), registration })
    }

    /// Waits for outstanding webhooks, then removes what was set up.
    async fn finish(self, timeout: Duration, stop: &CancellationToken) -> Option<super::report::WebhookReport> {
        let round_trips = self.round_trips?;
        let deadline = Instant::now() + timeout;
        while round_trips.missing() > 0 && Instant::now() < deadline && !stop.is_cancelled() {
            stop.run_until_cancelled(tokio::time::sleep(WEBHOOKS_PERIOD)).await;
        }
        if let Some(registration) = self.registration {
            registration.remove().await;
        }
        if let Some(listener) = self.listener {
            listener.stop().await;
        }
        Some((&round_trips.summary()).into())
    }
}

async fn verify_warehouse(
    args: &Args,
    run: RunTag,
    load: &Load,
    tally: &Tally,
) -> Result<Option<Verification>, Failure> {
    let Some(dir) = args.verify.clone() else { return Ok(None) };
    // Ctrl-C during the load ends the load. The check of the events accepted so far still runs; a second Ctrl-C ends
    // the process.
    let interrupted_before = load.stop.is_cancelled();
    let (numbers, timeout, stop) = (tally.accepted_numbers.clone(), args.verify_timeout, load.stop.clone());
    let stopped = move || !interrupted_before && stop.is_cancelled();
    let match_by = if args.api == Api::Segment { MatchBy::IdempotencyKey } else { MatchBy::Id };
    let check = tokio::task::spawn_blocking(move || verify(&dir, (run, match_by), &numbers, timeout, stopped));
    let checked = check.await.map_err(|error| Failure::failed(format!("the check ended early: {error}")))?;
    checked.map(Some).map_err(|error| Failure::failed(format!("cannot verify the warehouse: {error}")))
}

/// A progress bar on a terminal, nothing elsewhere.
struct Progress {
    bar: ProgressBar,
    started: Instant,
    counted: bool,
}

impl Progress {
    fn new(args: &Args, duration: Duration) -> Self {
        let servers = if args.baseline_url.is_some() { 2 } else { 1 };
        let total = args.count.unwrap_or((duration * servers).as_millis() as u64);
        let visible = !args.admin.json && std::io::stderr().is_terminal();
        let bar = if visible { ProgressBar::new(total) } else { ProgressBar::hidden() };
        if let Ok(style) = ProgressStyle::with_template("{elapsed:>4} [{bar:32}] {msg}") {
            bar.set_style(style.progress_chars("=> "));
        }
        Self { bar, started: Instant::now(), counted: args.count.is_some() }
    }

    fn show(&self, load: &Load) {
        let (accepted, elapsed) = (load.accepted.load(Relaxed), self.started.elapsed());
        self.bar.set_position(if self.counted { accepted } else { elapsed.as_millis() as u64 });
        self.bar.set_message(format!("{:.0} events/s", accepted as f64 / elapsed.as_secs_f64().max(0.001)));
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// User and system time of this process. `None` without `/proc`.
fn processor_time() -> Option<Duration> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // After the name in parentheses, which may contain spaces: fields 14 and 15 of proc(5), which counts from 1 with
    // the name as the second, in hundredths of a second.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let ticks: u64 = fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?;
    Some(Duration::from_millis(ticks * 10))
}
