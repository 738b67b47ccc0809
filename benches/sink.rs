//! The sink from NATS to S3 as a share of the sink from the embedded bus to a directory: rows a
//! second while a backlog drains, in alternating slices of one run, with the processor time of each.
//!
//! `CAUSALITY_BENCH_EVENTS` is how many events a slice drains, `CAUSALITY_BENCH_SLICES` how many
//! slices of each kind there are. The S3 endpoint (s3s-fs, which signs and hashes what it takes) and
//! the nats-server run on the same machine: on few cores they take their time from the sink, as no
//! servers elsewhere would. That is why their processor time is printed beside the sink's.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use causality::bus::{Bus, EmbeddedSettings};
use causality::sink::{self, Settings, SinkStatus};
use causality::warehouse::{ObjectSettings, Warehouse, scan_ids};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

mod backlog;
#[allow(dead_code, reason = "each user has its own part")]
#[path = "../tests/services/mod.rs"]
mod services;
mod shop;

use backlog::{BATCH, nats_settings, publish};
use services::nats::{NatsServer, Version};
use services::s3::{ACCESS_KEY, BUCKET, S3Server, SECRET_KEY};

/// As in the product.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const EVENTS: u64 = 1_000_000;
const SLICES: usize = 3;
/// Set for the process that is the S3 endpoint.
const SERVE_S3: &str = "CAUSALITY_BENCH_SERVE_S3";
/// The share of the embedded sink's rows a second that is wanted.
const FLOOR_PERCENT: f64 = 60.0;

/// What draining one backlog took.
#[derive(Clone, Copy, Default)]
struct Drained {
    seconds: f64,
    sink_seconds: f64,
    nats_seconds: f64,
    s3_seconds: f64,
}

fn main() {
    if std::env::var_os(SERVE_S3).is_some() {
        return serve_s3();
    }
    causality::base::memory::tune();
    let from_environment = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().expect("a number"));
    let events = from_environment("CAUSALITY_BENCH_EVENTS").unwrap_or(EVENTS).next_multiple_of(BATCH);
    let slices = from_environment("CAUSALITY_BENCH_SLICES").map_or(SLICES, |slices| slices as usize);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let (nats, s3) = (NatsServer::start(Version::Newest), S3Process::start());
    let remote = runtime.block_on(Bus::connect_nats(nats_settings(nats.url(), events * slices as u64))).unwrap();
    let (mut embedded, mut servers) = (Vec::new(), Vec::new());
    for slice in 0..slices {
        embedded.push(drain_embedded(&runtime, events));
        servers.push(drain_servers(&runtime, events, &remote, (&nats, &s3), &format!("slice-{slice}")));
        println!("slice {slice}: {}", line("embedded", events, embedded[slice]));
        println!("slice {slice}: {}", line("NATS to S3", events, servers[slice]));
    }
    runtime.block_on(remote.close());
    let (embedded, servers) = (mean(&embedded), mean(&servers));
    println!("{}", line("embedded bus to a directory", events, embedded));
    println!("{}", line("NATS to S3", events, servers));
    let percent = 100.0 * embedded.seconds / servers.seconds;
    println!(
        "NATS to S3 drains {percent:.0} % of the rows a second of the embedded sink (floor {FLOOR_PERCENT:.0} %); by \
         the sink's own processor time {:.0} %",
        100.0 * embedded.sink_seconds / servers.sink_seconds
    );
}

fn line(name: &str, events: u64, drained: Drained) -> String {
    let Drained { seconds, sink_seconds, nats_seconds, s3_seconds } = drained;
    format!(
        "{name}: {:.0} rows/s, {seconds:.2} s for {events} rows; processor: sink {sink_seconds:.2} s, nats-server \
         {nats_seconds:.2} s, S3 endpoint {s3_seconds:.2} s",
        events as f64 / seconds
    )
}

fn mean(all: &[Drained]) -> Drained {
    let mean = |of: fn(&Drained) -> f64| all.iter().map(of).sum::<f64>() / all.len() as f64;
    Drained {
        seconds: mean(|one| one.seconds),
        sink_seconds: mean(|one| one.sink_seconds),
        nats_seconds: mean(|one| one.nats_seconds),
        s3_seconds: mean(|one| one.s3_seconds),
    }
}

fn drain_embedded(runtime: &Runtime, events: u64) -> Drained {
    let parent = std::env::var_os("BENCH_DIR").map_or_else(std::env::temp_dir, Into::into);
    let dir = TempDir::new_in(parent).unwrap();
    let settings = EmbeddedSettings {
        dir: dir.path().join("bus"),
        bytes_max: 64 << 30,
        age_max: Duration::from_secs(86_400),
        dead_letter_age_max: Duration::from_secs(86_400),
        dedup_window: Duration::from_secs(600),
        tail_bytes_max: 16 << 20,
    };
    let entered = runtime.enter();
    let bus = Bus::open_embedded(settings).unwrap();
    drop(entered);
    let warehouse = Warehouse::open_local(dir.path().join("warehouse")).unwrap();
    runtime.block_on(publish(&bus, events));
    let drained = drain(runtime, &bus, &warehouse, None);
    runtime.block_on(bus.close());
    assert_stored(&dir.path().join("warehouse"), events);
    drained
}

fn drain_servers(
    runtime: &Runtime,
    events: u64,
    bus: &Bus,
    servers: (&NatsServer, &S3Process),
    prefix: &str,
) -> Drained {
    let settings = ObjectSettings {
        endpoint: Some(servers.1.url.as_str().into()),
        region: Some("us-east-1".to_owned()),
        bucket: Some(BUCKET.to_owned()),
        access_key_id: Some(ACCESS_KEY.to_owned()),
        secret_access_key: Some(SECRET_KEY.into()),
        path_style: Some(true),
        prefix: Some(prefix.to_owned()),
        ..ObjectSettings::default()
    };
    let warehouse = runtime.block_on(Warehouse::open_objects(settings)).unwrap();
    runtime.block_on(publish(bus, events));
    let drained = drain(runtime, bus, &warehouse, Some(servers));
    assert_stored(&servers.1.bucket.join(prefix), events);
    drained
}

/// Lets a sink that was told to stop take everything that is on the bus.
fn drain(runtime: &Runtime, bus: &Bus, warehouse: &Warehouse, servers: Option<(&NatsServer, &S3Process)>) -> Drained {
    let mut settings = Settings { stop_budget: Duration::from_secs(3_600).into(), ..Settings::default() };
    if servers.is_some() {
        settings.fetch_bytes_max = sink::SERVER_FETCH_BYTES_MAX;
    }
    let processor = || Drained {
        seconds: 0.0,
        sink_seconds: processor_seconds(std::process::id()),
        nats_seconds: servers.map_or(0.0, |(nats, _)| processor_seconds(nats.pid())),
        s3_seconds: servers.map_or(0.0, |(_, s3)| processor_seconds(s3.child.id())),
    };
    let (before, began) = (processor(), Instant::now());
    runtime.block_on(async {
        let stop = CancellationToken::new();
        stop.cancel();
        // Once more when the bus was slow to begin.
        while backlog(bus).await > 0 {
            let (settings, status) = (settings.clone(), SinkStatus::new());
            for worker in sink::workers(settings, bus, warehouse, &status) {
                worker.run(stop.clone()).await.unwrap();
            }
        }
    });
    let (seconds, after) = (began.elapsed().as_secs_f64(), processor());
    Drained {
        seconds,
        sink_seconds: after.sink_seconds - before.sink_seconds,
        nats_seconds: after.nats_seconds - before.nats_seconds,
        s3_seconds: after.s3_seconds - before.s3_seconds,
    }
}

/// Messages that the sink has not acknowledged; all of them before it has ever run.
async fn backlog(bus: &Bus) -> u64 {
    let consumers = bus.status().await.unwrap().consumers;
    if consumers.is_empty() { u64::MAX } else { consumers.iter().map(|consumer| consumer.backlog).sum() }
}

fn assert_stored(root: &Path, events: u64) {
    let mut rows = 0;
    let files = scan_ids(root, |_| rows += 1).unwrap();
    assert_eq!(rows, events, "rows in {files} files");
}

/// Processor time of a process so far; 0 where `/proc` is not.
fn processor_seconds(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
    let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<f64>().ok()).unwrap_or(0.0);
    (ticks(11) + ticks(12)) / 100.0
}

/// The S3 endpoint in a process of its own, so that its processor time is told from the sink's.
struct S3Process {
    child: Child,
    url: String,
    bucket: PathBuf,
}

impl S3Process {
    fn start() -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        let mut child =
            command.env(SERVE_S3, "1").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("this program");
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut line = || lines.next().expect("a line").expect("text");
        let (url, bucket) = (line(), PathBuf::from(line()));
        Self { child, url, bucket }
    }
}

/// It ends, and removes its directory, when its standard input does.
impl Drop for S3Process {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

fn serve_s3() {
    let server = S3Server::start();
    println!("{}\n{}", server.url(), server.bucket().display());
    let mut nothing = Vec::new();
    let _ = std::io::stdin().read_to_end(&mut nothing);
}
