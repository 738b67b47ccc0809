//! Nothing is lost or doubled when clocks disagree by hours: a process's with that of its files and its servers, those
//! of several processes, and a clock that jumps.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use serde_json::json;

use crate::cluster::{Cluster, HEARD_WITHIN, from_environment, kill_parts};
use crate::harness::{Receiver, Server, get, signal, wait_until};
use crate::load::{self, Load};

const HOUR_S: i64 = 3_600;
/// As far as S3 lets the clock of a client be off, less a little.
const SIGNATURE_SKEW_S: i64 = 14 * 60;
/// Kills of the default run for each offset; `CAUSALITY_CHAOS_CYCLES` asks for more.
const KILL_CYCLES: usize = 8;

/// The shim of `clock.c`, compiled once.
static SHIM: LazyLock<PathBuf> = LazyLock::new(|| {
    let library = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("clock-{}.so", std::process::id()));
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/clock.c");
    let status =
        Command::new("cc").args(["-O1", "-shared", "-fPIC", "-o"]).arg(&library).arg(source).arg("-ldl").status();
    assert!(status.expect("run cc").success(), "clock.c does not compile");
    library
});

/// Clocks that are off, for the processes started with its environment.
struct Clock(PathBuf);

/// How a machine stands still.
#[derive(Clone, Copy)]
enum Standstill {
    /// It is suspended: the wall clock and the one that sleep does not stop go on.
    Suspended,
    /// It is a virtual one and paused from outside: every clock stops, and the wall clock is set when it goes on.
    Paused,
}

impl Clock {
    fn off_by(dir: &Path, seconds: i64) -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let clock = Self(dir.join(format!("clock-{}", COUNT.fetch_add(1, Ordering::Relaxed))));
        clock.set(seconds);
        clock
    }

    /// Takes effect at once in running processes.
    fn set(&self, seconds: i64) {
        self.set_each([seconds, 0, 0]);
    }

    /// The wall clock, the monotonic one, and the one that goes on while the machine sleeps.
    fn set_each(&self, seconds: [i64; 3]) {
        use std::os::unix::fs::FileExt;
        // Written in place: the processes have it mapped.
        let file = std::fs::File::options().create(true).truncate(false).write(true).open(&self.0).unwrap();
        let bytes: Vec<u8> = seconds.iter().flat_map(|seconds| seconds.to_ne_bytes()).collect();
        file.write_all_at(&bytes, 0).unwrap();
    }

    fn environment(&self) -> [(&'static str, String); 2] {
        let text = |path: &Path| path.to_str().unwrap().to_owned();
        [("LD_PRELOAD", text(&SHIM)), ("CAUSALITY_TEST_CLOCK", text(&self.0))]
    }
}

/// Makes the files of a directory seem an hour old as soon as they are there.
struct Aging(Arc<AtomicBool>, Option<JoinHandle<()>>);

impl Aging {
    fn of(dir: PathBuf) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                age(&dir);
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        Self(stop, Some(thread))
    }
}

impl Drop for Aging {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
        if let Some(thread) = self.1.take() {
            let _ = thread.join();
        }
    }
}

fn age(dir: &Path) {
    let old = SystemTime::now() - Duration::from_secs(HOUR_S as u64);
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let Ok(metadata) = entry.metadata() else { continue };
        if metadata.is_dir() {
            age(&entry.path());
        } else if metadata.modified().is_ok_and(|modified| modified > old + Duration::from_secs(60))
            && let Ok(file) = std::fs::File::options().write(true).open(entry.path())
        {
            let _ = file.set_modified(old);
        }
    }
}

#[test]
fn kill_9_with_files_an_hour_from_the_clock_loses_and_doubles_nothing() {
    for offset in [HOUR_S, -HOUR_S] {
        let dir = tempfile::tempdir().unwrap();
        let clock = Clock::off_by(dir.path(), offset).environment();
        let mut environment: Vec<(&str, &str)> = clock.iter().map(|(name, value)| (*name, value.as_str())).collect();
        environment.push(("BATCH_FLUSH_INTERVAL", "10ms"));
        let mut server = Server::start(dir.path(), &environment);
        let receiver = Receiver::start();
        server.admin_create("/webhooks", &json!({"name": "ops", "url": receiver.url}));
        server.admin_create("/rules", &load::rule("ops"));
        let load = Load::start_keyed(&[&server.http]);
        for cycle in 0..from_environment("CAUSALITY_CHAOS_CYCLES", KILL_CYCLES) {
            std::thread::sleep(Duration::from_millis(40 + 97 * (cycle as u64 % 7)));
            server.kill_and_restart();
        }
        let before = load.acknowledged();
        wait_until("load goes on after the last kill", || load.acknowledged() > before + 500);
        let acknowledged = load.stop();
        server.wait_drained();
        wait_settled(&server);
        assert!(server.terminate(Duration::from_secs(35)).success());
        load::check_warehouse(&server.warehouse(), &acknowledged);
        load::check_deliveries(&receiver, &acknowledged);
    }
}

/// The servers of NATS and PostgreSQL have the right time and no process has; the files of the bucket seem an hour old.
#[test]
fn kill_9_in_a_cluster_with_clocks_an_hour_apart_loses_and_doubles_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let offset = |role| if role == "sink" { SIGNATURE_SKEW_S } else { HOUR_S };
    let clock = |role, sign: i64| Clock::off_by(dir.path(), sign * offset(role)).environment();
    let mut cluster = Cluster::start(&[]);
    let _aging = Aging::of(cluster.bucket());
    let receiver = Receiver::start();
    let mut servers: Vec<Server> = ["gateway", "gateway", "sink", "sink", "reaction", "reaction"]
        .into_iter()
        .enumerate()
        .map(|(number, role)| cluster.role_with(role, number, &clock(role, 1 - 2 * (number as i64 % 2))))
        .collect();
    servers[4].admin_create("/webhooks", &json!({"name": "ops", "url": receiver.url}));
    servers[4].admin_create("/rules", &load::rule("ops"));
    std::thread::sleep(HEARD_WITHIN);
    let load = Load::start_keyed(&[&servers[0].http, &servers[1].http]);
    kill_parts(&mut cluster, &mut servers, from_environment("CAUSALITY_CHAOS_CYCLES", KILL_CYCLES));
    let before = load.acknowledged();
    wait_until("load goes on after the last kill", || load.acknowledged() > before + 500);
    let acknowledged = load.stop();
    servers.iter().for_each(Server::wait_ready);
    cluster.wait_settled(&servers[5]);
    for mut server in servers {
        assert!(server.terminate(Duration::from_secs(35)).success(), "log in {}", server.dir.display());
    }
    cluster.check(&receiver, &acknowledged);
}

/// Work goes on while the clock jumps by hours, forwards and back: events land, and what is to be tried again is tried
/// again soon, not when the clock has caught up.
#[test]
fn a_clock_that_jumps_by_hours_delays_and_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Clock::off_by(dir.path(), 0);
    let shim = clock.environment();
    let mut environment: Vec<(&str, &str)> = shim.iter().map(|(name, value)| (*name, value.as_str())).collect();
    environment.push(("BATCH_FLUSH_INTERVAL", "50ms"));
    environment.push(("DISPATCHER_INITIAL_BACKOFF", "500ms"));
    let server = Server::start(dir.path(), &environment);
    // The first attempt of every fourth delivery fails: too few for the endpoint to be taken for dead.
    let seen = Mutex::new(BTreeSet::new());
    let receiver = Receiver::answering(move |request| {
        let id = request.header("webhook-id").unwrap();
        let fails = id.ends_with(['0', '4', '8', 'c']) && seen.lock().unwrap().insert(id.to_owned());
        if fails { 500 } else { 200 }
    });
    server.admin_create("/webhooks", &json!({"name": "ops", "url": receiver.url}));
    server.admin_create("/rules", &load::rule("ops"));
    let load = Load::start_keyed_paced(&[&server.http], Duration::from_millis(100));
    let jumps = [3 * HOUR_S, 0, -3 * HOUR_S, 0];
    for offset in jumps {
        let (before, hooks) = (load.acknowledged(), receiver.count());
        wait_until(&format!("load goes on before {offset} s"), || load.acknowledged() > before + 400);
        wait_until(&format!("webhooks are called before {offset} s"), || receiver.count() > hooks + 10);
        clock.set(offset);
    }
    let before = load.acknowledged();
    wait_until("load goes on after the last jump", || load.acknowledged() > before + 400);
    let acknowledged = load.stop();
    server.wait_drained();
    wait_settled(&server);
    wait_until("no row waits for its file", || server.admin_get("/status")["sink"]["open_rows"] == 0);
    load::check_warehouse(&server.warehouse(), &acknowledged);
    load::check_deliveries(&receiver, &acknowledged);
}

/// An event that a client sends again is stored once, also when the clock was set by hours in between.
#[test]
fn a_clock_that_jumps_makes_no_idempotency_key_be_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Clock::off_by(dir.path(), 0);
    let shim = clock.environment();
    let environment: Vec<(&str, &str)> = shim.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let server = Server::start(dir.path(), &environment);
    let send = |key: &str| {
        let event =
            json!({"app_id": "shop", "device_id": "d", "idempotency_key": key, "screen_view": {"screen_name": "home"}});
        let (status, reply) = server.send("/v1/events/ingest", &json!({ "event": event })).expect("an answer");
        assert_eq!(status, 200, "{reply}");
        reply["duplicate"] == true
    };
    assert!(!send("a"));
    for (offset, key) in [(3 * HOUR_S, "b"), (-3 * HOUR_S, "c"), (0, "d")] {
        clock.set(offset);
        assert!(send("a"), "the clock is off by {offset} s");
        assert!(!send(key));
    }
}

/// A sink's machine stands still for longer than the lease, and its monotonic clock with it: another sink gets the same
/// messages, and holds them in a batch of its own when the first one goes on.
#[test]
fn a_sink_whose_machine_stood_still_stores_nothing_that_another_one_has() {
    /// Longer than the lease in a cluster of tests.
    const STANDS_STILL_S: i64 = 4;
    let cluster = Cluster::start(&[("BATCH_FLUSH_INTERVAL", "5s")]);
    let gateway = cluster.role("gateway", 0);
    let clock = Clock::off_by(cluster.bucket().parent().unwrap(), 0);
    let suspended = cluster.role_with("sink", 0, &clock.environment());
    let (other, reaction) = (cluster.role("sink", 1), cluster.role("reaction", 0));
    let load = Load::start_keyed_paced(&[&gateway.http], Duration::from_millis(200));
    let open_batches = |server: &Server| {
        let (_, text) = get(&format!("{}/metrics", server.admin)).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix("causality_sink_open_batches "));
        line.map_or(0.0, |count| count.parse::<f64>().unwrap())
    };
    let mut stood_still_s = 0;
    for standstill in [Standstill::Suspended, Standstill::Paused] {
        wait_until("both hold rows", || open_batches(&suspended) > 0.0 && open_batches(&other) > 0.0);
        signal(suspended.pid(), "STOP");
        std::thread::sleep(Duration::from_millis(STANDS_STILL_S as u64 * 1_000 + 50));
        stood_still_s += STANDS_STILL_S;
        let boot = if matches!(standstill, Standstill::Paused) { -STANDS_STILL_S } else { 0 };
        clock.set_each([0, -stood_still_s, boot]);
        signal(suspended.pid(), "CONT");
        // What both held is stored by then.
        std::thread::sleep(Duration::from_secs(6));
    }
    let acknowledged = load.stop();
    let servers = [&suspended, &other];
    servers.iter().for_each(|server| server.wait_ready());
    reaction.wait_drained();
    let log = std::fs::read_to_string(suspended.dir.join("log.jsonl")).unwrap();
    assert_eq!(log.matches("the machine stood still").count(), 2, "log in {}", suspended.dir.display());
    load::check_warehouse(&cluster.bucket(), &acknowledged);
    for mut server in [gateway, suspended, other, reaction] {
        assert!(server.terminate(Duration::from_secs(35)).success(), "log in {}", server.dir.display());
    }
}

fn wait_settled(server: &Server) {
    wait_until("no delivery is owed any more", || {
        ["pending", "in_progress"].iter().all(|status| {
            server.admin_get(&format!("/deliveries?status={status}&limit=1"))["items"].as_array().unwrap().is_empty()
        })
    });
}
