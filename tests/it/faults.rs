//! Faults of the network between the processes and each of their servers: what clients see
//! meanwhile, and that everything goes on by itself soon after the end.

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::cluster::{Cluster, HEARD_WITHIN, from_environment, readiness, resident_mib, ureq_head};
use crate::harness::{Receiver, Server, get, wait_until};
use crate::load::{self, Load};
use crate::services::proxy::{Fault, Proxy};

/// Length of each fault in the default run, and what asks for more.
const FAULT_SECONDS: usize = 2;
const SECONDS_ASKED: &str = "CAUSALITY_FAULT_SECONDS";
/// How soon after a fault's end everything goes on.
const RESUME_MAX: Duration = Duration::from_secs(10);
/// How soon something gets through when everything is slow: a commit takes many round trips.
const SLOW_MAX: Duration = Duration::from_secs(30);
/// How much longer is waited, to tell late from never.
const LATE_MAX: Duration = Duration::from_secs(50);
/// How soon a client has its answer, whatever the network does: twice `NATS_TIMEOUT`, and a little.
const ANSWER_MAX: Duration = Duration::from_secs(11);
/// Requests at once, their events, and about the size of each of these.
const FLOOD_REQUESTS: usize = 8;
const FLOOD_EVENTS: usize = 1_000;
const FLOOD_EVENT_BYTES: usize = 900;
/// They are megabytes, and an unoptimized build reads them.
const FLOOD_ANSWER_MAX: Duration = Duration::from_secs(15);
/// What each process may take.
const RESIDENT_MIB_MAX: u64 = 250;
const LATENCY: Duration = Duration::from_millis(300);
/// The rest of each of the load's threads between two requests: faults are tested here, not throughput.
const PACE: Duration = Duration::from_millis(100);
/// What must have come to count as going on.
const EVENTS: usize = 200;
const FILES: usize = 4;
const WEBHOOKS: usize = 4;

/// A server as `/ready` names it, and who needs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Backend {
    Nats,
    Postgres,
    Warehouse,
}

const BACKENDS: [Backend; 3] = [Backend::Nats, Backend::Postgres, Backend::Warehouse];

impl Backend {
    fn component(self) -> &'static str {
        match self {
            Self::Nats => "nats",
            Self::Postgres => "postgres",
            Self::Warehouse => "warehouse",
        }
    }

    fn needed_by(self, role: &str) -> bool {
        match self {
            Self::Nats => true,
            Self::Postgres => role == "reaction",
            Self::Warehouse => role == "sink",
        }
    }
}

struct Field {
    cluster: Cluster,
    /// In the order of [`BACKENDS`].
    proxies: Vec<Proxy>,
    /// The gateway first.
    processes: Vec<(&'static str, Server)>,
    receiver: Receiver,
    load: Load,
    /// A line for each fault: what came how long after its end.
    table: Vec<String>,
    /// What was late each time.
    late: Vec<String>,
}

/// Times that a fault is put in the default run before what is late counts as late: the machine may be busy with
/// other tests. Whoever asks for longer faults has it to himself: there what is late once is late.
const ATTEMPTS_MAX: usize = 3;

/// What has come so far.
struct Mark {
    at: Instant,
    /// Acknowledged events, files, webhooks.
    came: [usize; 3],
    /// What each process has done.
    done: Vec<f64>,
}

const ENOUGH: [usize; 3] = [EVENTS, FILES, WEBHOOKS];
/// The last is the slowest of the processes.
const KINDS: [&str; 4] = ["ingest", "parquet", "webhooks", "everybody"];

impl Field {
    fn start() -> Self {
        let mut proxies = Vec::new();
        // The timeouts are the product's own: it is their sum that must be short enough.
        let settings = [
            ("NATS_TIMEOUT", "5s"),
            ("NATS_RECONNECT_WAIT", "1s"),
            ("NATS_ACK_WAIT", "10s"),
            // Fewer files than elsewhere: who has lost the bus looks into all of the last minutes.
            ("BATCH_FLUSH_INTERVAL", "1s"),
            ("DATABASE_CONNECT_TIMEOUT", "5s"),
            ("DATABASE_STATEMENT_TIMEOUT", "5s"),
        ];
        let cluster = Cluster::start_via(&settings, |port| {
            proxies.push(Proxy::start(port));
            proxies[proxies.len() - 1].port()
        });
        let receiver = Receiver::start();
        let roles = ["gateway", "sink", "sink", "reaction", "reaction"];
        let processes: Vec<_> =
            roles.into_iter().enumerate().map(|(number, role)| (role, cluster.role(role, number))).collect();
        processes[3].1.admin_create("/webhooks", &json!({"name": "ops", "url": receiver.url}));
        processes[3].1.admin_create("/rules", &load::rule("ops"));
        std::thread::sleep(HEARD_WITHIN);
        let load = Load::start_keyed_paced(&[&processes[0].1.http], PACE);
        Self { cluster, proxies, processes, receiver, load, table: Vec::new(), late: Vec::new() }
    }

    fn set(&self, backend: Backend, fault: Fault) {
        let place = BACKENDS.iter().position(|known| *known == backend).unwrap();
        self.proxies[place].set(fault);
    }

    fn mark(&self) -> Mark {
        Mark { done: self.done(), came: self.came(), at: Instant::now() }
    }

    fn came(&self) -> [usize; 3] {
        [self.load.acknowledged(), files(&self.cluster.bucket()), self.receiver.count()]
    }

    fn done(&self) -> Vec<f64> {
        self.processes.iter().map(|(role, server)| done(role, server)).collect()
    }

    /// How long each kind of work took to go on since `mark`; none within `patience`.
    fn progress(&self, mark: &Mark, patience: Duration) -> [Option<Duration>; 4] {
        let mut took = [None; 4];
        while took.contains(&None) && mark.at.elapsed() < patience {
            for (kind, came) in self.came().into_iter().enumerate() {
                if took[kind].is_none() && came >= mark.came[kind] + ENOUGH[kind] {
                    took[kind] = Some(mark.at.elapsed());
                }
            }
            if took[3].is_none() && self.done().iter().zip(&mark.done).all(|(now, before)| now > before) {
                took[3] = Some(mark.at.elapsed());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        took
    }

    /// Puts a fault, again while something is late after it.
    fn put(&mut self, fault: impl Fn(&mut Self) -> Vec<String>) {
        let attempts_max = if std::env::var_os(SECONDS_ASKED).is_some() { 1 } else { ATTEMPTS_MAX };
        let mut late = fault(self);
        for _ in 1..attempts_max {
            if late.is_empty() {
                return;
            }
            late = fault(self);
        }
        self.late.append(&mut late);
    }

    /// Notes how long after `mark` everything went on; answers what was late.
    fn expect_progress(&mut self, what: &str, mark: &Mark, limit: Duration) -> Vec<String> {
        let mut late = Vec::new();
        let took = self.progress(mark, limit + LATE_MAX);
        let mut line = format!("{what:<20}");
        for (kind, took) in KINDS.into_iter().zip(took) {
            let text = took.map_or_else(|| "never".to_owned(), |took| format!("{:.1} s", took.as_secs_f64()));
            line.push_str(&format!(" {kind} {text:<6}"));
            if took.is_none_or(|took| took > limit) {
                late.push(format!("{what}: {kind} after {text}"));
            }
        }
        let peaks: Vec<u64> = self.processes.iter().filter_map(|(_, server)| resident_mib(server)).collect();
        line.push_str(&format!(" peaks {peaks:?} MiB"));
        eprintln!("{line}");
        self.table.push(line);
        assert!(peaks.iter().all(|mib| *mib < RESIDENT_MIB_MAX), "{what}: {peaks:?} MiB");
        late
    }

    /// Nothing may stop when everything is merely slow.
    fn slow(&mut self, backend: Backend, lasting: Duration) -> Vec<String> {
        self.set(backend, Fault::Latency(LATENCY));
        let mark = self.mark();
        let late = self.expect_progress(&format!("{backend:?} slow"), &mark, SLOW_MAX);
        std::thread::sleep(lasting.saturating_sub(mark.at.elapsed()));
        self.set(backend, Fault::None);
        late
    }

    /// A fault that takes the server away for a while.
    fn away(&mut self, backend: Backend, fault: Fault, lasting: Duration) -> Vec<String> {
        let (began, before) = (Instant::now(), self.load.acknowledged());
        self.set(backend, fault);
        if backend == Backend::Nats {
            self.expect_refusal();
        }
        if fault == Fault::Stall {
            self.flood();
        }
        for (role, server) in self.processes.iter().filter(|(role, _)| backend.needed_by(role)) {
            wait_until(&format!("the {role} names {} during {fault:?}", backend.component()), || {
                let (status, report) = readiness(server);
                let state = &report["components"][backend.component()];
                status == 503 && !state.is_null() && state != "ok"
            });
        }
        if backend != Backend::Nats {
            wait_until("events are taken without it", || self.load.acknowledged() > before + EVENTS);
        }
        std::thread::sleep(lasting.saturating_sub(began.elapsed()));
        let mark = self.mark();
        self.set(backend, Fault::None);
        let late = self.expect_progress(&format!("{backend:?} {fault:?}"), &mark, RESUME_MAX);
        self.settle();
        late
    }

    /// The fault is over as soon as it has happened.
    fn half_open(&mut self, backend: Backend) -> Vec<String> {
        let mark = self.mark();
        self.set(backend, Fault::HalfOpen);
        let late = self.expect_progress(&format!("{backend:?} half-open"), &mark, RESUME_MAX);
        self.settle();
        late
    }

    fn settle(&self) {
        self.processes.iter().for_each(|(_, server)| server.wait_ready());
    }

    fn expect_refusal(&self) {
        let url = format!("{}/v1/events/ingest", self.processes[0].1.http);
        let body = json!({"event": {"appId": "a", "deviceId": "d", "userLogin": {}}}).to_string();
        // What was on its way when the fault began may be answered well still.
        wait_until("a client is refused", || {
            let asked = Instant::now();
            let (status, retry_after) = ureq_head(&url, &body);
            assert!(asked.elapsed() < ANSWER_MAX, "answered after {:?}", asked.elapsed());
            assert!(status == 200 || status == 503, "{status}");
            assert!(status == 200 || retry_after.is_some_and(|after| after.parse::<u32>().is_ok()), "Retry-After");
            status == 503
        });
    }
}

impl Field {
    /// More than the connection to the bus takes in while nobody reads from it: everybody is answered all the same.
    fn flood(&self) {
        let url = format!("{}/v1/events/batch", self.processes[0].1.http);
        let event = json!({"appId": "a", "deviceId": "d", "screenView": {"screenName": "x".repeat(FLOOD_EVENT_BYTES)}});
        let body = json!({"events": vec![event; FLOOD_EVENTS]}).to_string();
        std::thread::scope(|scope| {
            for _ in 0..FLOOD_REQUESTS {
                scope.spawn(|| {
                    let asked = Instant::now();
                    let (status, retry_after) = ureq_head(&url, &body);
                    assert_eq!((status, retry_after.is_some()), (503, true), "after {:?}", asked.elapsed());
                    assert!(asked.elapsed() < FLOOD_ANSWER_MAX, "answered after {:?}", asked.elapsed());
                });
            }
        });
    }
}

/// How much a process has done, by its own account: events, rows, matches.
fn done(role: &str, server: &Server) -> f64 {
    let counter = match role {
        "gateway" => r#"causality_gateway_events_total{verdict="accepted"}"#,
        "sink" => "causality_sink_rows_total",
        _ => "causality_reaction_matches_total",
    };
    let (_, text) = get(&format!("{}/metrics", server.admin)).expect("metrics are served whatever happens");
    let lines = text.lines().filter(|line| line.starts_with(counter));
    lines.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).sum()
}

fn files(dir: &Path) -> usize {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.file_type() {
            Ok(kind) if kind.is_dir() => files(&entry.path()),
            _ => usize::from(entry.path().extension().is_some_and(|extension| extension == "parquet")),
        })
        .sum()
}

#[test]
fn faults_of_the_network_are_sat_out_and_work_resumes_within_ten_seconds() {
    let lasting = Duration::from_secs(from_environment(SECONDS_ASKED, FAULT_SECONDS) as u64);
    let mut field = Field::start();
    let mark = field.mark();
    let _ = field.expect_progress("no fault", &mark, RESUME_MAX);
    for backend in BACKENDS {
        field.put(|field| field.slow(backend, lasting));
        field.put(|field| field.away(backend, Fault::Reset, lasting));
        field.put(|field| field.away(backend, Fault::Blackhole, lasting));
        field.put(|field| field.half_open(backend));
        if backend == Backend::Nats {
            field.put(|field| field.away(backend, Fault::Stall, lasting));
        }
    }
    let Field { cluster, proxies, processes, receiver, load, table, late } = field;
    let acknowledged = load.stop();
    cluster.wait_settled(&processes[3].1);
    for (role, mut server) in processes {
        assert!(server.terminate(Duration::from_secs(35)).success(), "{role}, log in {}", server.dir.display());
    }
    drop(proxies);
    cluster.check(&receiver, &acknowledged);
    assert!(late.is_empty(), "{}\nlate:\n{}", table.join("\n"), late.join("\n"));
}
