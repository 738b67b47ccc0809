//! The product as several processes on a real NATS, a real PostgreSQL and a real S3 endpoint: what
//! is promised when any of them is killed, stands still, or is away.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use causality::reaction::claim_lease;

use crate::harness::{PATIENCE, Receiver, Server, get, signal, wait_until};
use crate::load::{self, Acknowledged, Load};
use crate::services::nats::{NatsServer, Version};
use crate::services::postgres::PostgresServer;
use crate::services::s3::{self, S3Server};

/// Kills of the default run; `CAUSALITY_CHAOS_CYCLES` asks for more.
const KILL_CYCLES: usize = 12;
/// One of each kind.
const KILL_CYCLES_SYNCING: usize = 8;
/// Rounds of standing still; `CAUSALITY_FREEZE_ROUNDS` asks for more.
const FREEZE_ROUNDS: usize = 1;
/// Further rounds while no claim has lapsed: a dispatcher may have had nothing on its way when it was frozen.
const FREEZE_ROUNDS_MORE: usize = 3;
/// Other processes hear of a rule by a notification: soon, and not before the one that took it answers.
pub(crate) const HEARD_WITHIN: Duration = Duration::from_secs(2);
/// The lease of the consumers here.
const ACK_WAIT: Duration = Duration::from_secs(3);
/// Of a webhook; the lease of a claimed delivery follows from it.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(1);

pub(crate) struct Cluster {
    nats: NatsServer,
    pub(crate) postgres: PostgresServer,
    pub(crate) s3: S3Server,
    pub(crate) database: String,
    dir: tempfile::TempDir,
    environment: Vec<(String, String)>,
}

impl Cluster {
    pub(crate) fn start(more: &[(&str, &str)]) -> Self {
        Self::start_via(more, |port| port)
    }

    /// As deployed: the server of NATS syncs what it stores before it acknowledges it.
    pub(crate) fn start_syncing(more: &[(&str, &str)]) -> Self {
        let nats = NatsServer::start_with(Version::Newest, "#jetstream\n  sync_interval: always");
        Self::start_on(nats, more, |port| port)
    }

    /// The processes reach each server through the port that `via` names for its own.
    pub(crate) fn start_via(more: &[(&str, &str)], via: impl FnMut(u16) -> u16) -> Self {
        Self::start_on(NatsServer::start(Version::Newest), more, via)
    }

    fn start_on(nats: NatsServer, more: &[(&str, &str)], mut via: impl FnMut(u16) -> u16) -> Self {
        let postgres = PostgresServer::start();
        let s3 = S3Server::start();
        let database = postgres.database();
        let mut through = |url: String, port: u16| url.replace(&format!(":{port}"), &format!(":{}", via(port)));
        let own = [
            ("NATS_URL", through(nats.url(), nats.port())),
            ("NATS_ACK_WAIT", format!("{}s", ACK_WAIT.as_secs())),
            ("NATS_TIMEOUT", "2s".to_owned()),
            ("NATS_RECONNECT_WAIT", "200ms".to_owned()),
            ("DATABASE_URL", through(postgres.url(&database), postgres.port())),
            ("DATABASE_CONNECT_TIMEOUT", "2s".to_owned()),
            ("DATABASE_STATEMENT_TIMEOUT", "10s".to_owned()),
            ("SECRETS_KEY", "0f".repeat(32)),
            ("S3_ENDPOINT", through(s3.url(), s3.port())),
            ("S3_BUCKET", s3::BUCKET.to_owned()),
            ("S3_ACCESS_KEY_ID", s3::ACCESS_KEY.to_owned()),
            ("S3_SECRET_ACCESS_KEY", s3::SECRET_KEY.to_owned()),
            ("BATCH_FLUSH_INTERVAL", "200ms".to_owned()),
            ("DISPATCHER_REQUEST_TIMEOUT", format!("{}s", REQUEST_TIMEOUT.as_secs())),
            ("BATCH_FETCH_BATCH_SIZE", "2000".to_owned()),
            // Whatever is promised holds with several in one process, too.
            ("BATCH_WORKER_COUNT", "2".to_owned()),
            ("ENGINE_MAX_CONCURRENT_EVALUATIONS", "2".to_owned()),
        ];
        let more = more.iter().map(|(name, value)| (*name, (*value).to_owned()));
        let environment = own.into_iter().chain(more).map(|(name, value)| (name.to_owned(), value)).collect();
        Self { nats, postgres, s3, database, dir: tempfile::tempdir().unwrap(), environment }
    }

    pub(crate) fn role(&self, role: &'static str, number: usize) -> Server {
        self.role_with(role, number, &[])
    }

    pub(crate) fn role_with(&self, role: &'static str, number: usize, more: &[(&str, String)]) -> Server {
        let more = more.iter().map(|(name, value)| ((*name).to_owned(), value.clone()));
        let environment: Vec<(String, String)> = self.environment.iter().cloned().chain(more).collect();
        Server::start_role(&self.process_dir(role, number), role, &environment)
    }

    /// A start that ends by itself, with these settings in place of the cluster's.
    pub(crate) fn start_refused(&self, role: &str, changes: &[(&str, &str)]) -> std::process::Output {
        std::process::Command::new(crate::harness::binary())
            .args(["run", "--role", role])
            .env_clear()
            .envs(self.environment.iter().cloned())
            .env("HTTP_ADDR", "127.0.0.1:0")
            .env("ADMIN_ADDR", "127.0.0.1:0")
            .env("DATA_DIR", self.dir.path().join("refused"))
            .envs(changes.iter().copied())
            .output()
            .unwrap()
    }

    fn process_dir(&self, role: &str, number: usize) -> PathBuf {
        self.dir.path().join(format!("{role}-{number}"))
    }

    /// Where the Parquet files are.
    pub(crate) fn bucket(&self) -> PathBuf {
        self.s3.bucket()
    }

    /// Of some of the messages, how many came in an atomic batch, and how many were looked at.
    pub(crate) fn in_batches(&self) -> (usize, usize) {
        self.nats.in_batches("CAUSALITY_EVENTS")
    }

    /// Waits until nothing is owed to anybody, as the reaction sees it.
    pub(crate) fn wait_settled(&self, reaction: &Server) {
        reaction.wait_drained();
        wait_until("no delivery is owed any more", || {
            let owed = "SELECT count(*) FROM deliveries WHERE due_at IS NOT NULL";
            self.postgres.sql(&self.database, owed) == "0"
                && self.postgres.sql(&self.database, "SELECT count(*) FROM outbox") == "0"
        });
        wait_until("no file that was stored late has to be settled", || {
            !std::fs::read_dir(self.s3.bucket().join("_late")).is_ok_and(|marks| marks.count() > 0)
        });
    }

    /// Every promise, after the fact.
    pub(crate) fn check(&self, receiver: &Receiver, acknowledged: &Acknowledged) {
        load::check_warehouse(&self.s3.bucket(), acknowledged);
        load::check_deliveries(receiver, acknowledged);
        let records = self.postgres.sql(
            &self.database,
            "SELECT count(*) || ' ' || count(DISTINCT event_id) || ' ' || count(*) FILTER (WHERE status = 'delivered')
             FROM deliveries",
        );
        let counts: Vec<usize> = records.split(' ').map(|count| count.parse().unwrap()).collect();
        assert!(counts[0] == counts[1] && counts[1] == counts[2], "deliveries, events, delivered: {records}");
        let wanted = acknowledged.iter().filter(|id| load::matching(id)).count();
        assert!(counts[0] >= wanted, "{records}, and {wanted} matching events were acknowledged");
    }
}

/// What the processes complained of, when a test fails.
impl Drop for Cluster {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        for process in std::fs::read_dir(self.dir.path()).into_iter().flatten().flatten() {
            let log = std::fs::read_to_string(process.path().join("log.jsonl")).unwrap_or_default();
            let loud = log.lines().filter(|line| line.contains("WARN") || line.contains("ERROR"));
            for line in loud.take(40) {
                eprintln!("{}: {line}", process.file_name().display());
            }
        }
    }
}

/// What stands behind the ports of one process that plays all roles.
pub(crate) enum Backends {
    Embedded,
    Servers(Box<Cluster>),
}

impl Backends {
    pub(crate) fn servers() -> Self {
        Self::Servers(Box::new(Cluster::start(&[])))
    }

    pub(crate) fn start(&self, dir: &Path, environment: &[(&str, &str)]) -> Server {
        let servers = match self {
            Self::Embedded => &[][..],
            Self::Servers(cluster) => &cluster.environment[..],
        };
        let servers = servers.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let all: Vec<(&str, &str)> = servers.chain(environment.iter().copied()).collect();
        Server::start(dir, &all)
    }

    /// Where the Parquet files are.
    pub(crate) fn warehouse(&self, server: &Server) -> PathBuf {
        match self {
            Self::Embedded => server.warehouse(),
            Self::Servers(cluster) => cluster.s3.bucket(),
        }
    }
}

pub(crate) fn from_environment(name: &str, default: usize) -> usize {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}

/// The most memory that the running process ever took; none where no `/proc` tells.
pub(crate) fn resident_mib(server: &Server) -> Option<u64> {
    if !cfg!(target_os = "linux") {
        eprintln!("the memory of process {} is not looked at: there is no /proc", server.pid());
        return None;
    }
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("the process runs");
    Some(line.trim().trim_end_matches("kB").trim().parse::<u64>().unwrap() / 1024)
}

pub(crate) fn readiness(server: &Server) -> (u16, Value) {
    let (status, body) = get(&format!("{}/ready", server.admin)).expect("the probe answers whatever happens");
    (status, serde_json::from_str(&body).unwrap())
}

#[test]
fn kill_9_of_any_part_loses_and_doubles_nothing() {
    kill_any_part(&mut Cluster::start(&[]), KILL_CYCLES);
}

/// A server that syncs is published to in atomic batches.
#[test]
fn kill_9_of_any_part_with_a_syncing_server_loses_and_doubles_nothing() {
    let mut cluster = Cluster::start_syncing(&[]);
    kill_any_part(&mut cluster, KILL_CYCLES_SYNCING);
    let (batches, looked_at) = cluster.in_batches();
    eprintln!("of {looked_at} messages {batches} came in an atomic batch");
    assert!(batches > looked_at / 2, "of {looked_at} messages {batches} came in an atomic batch");
}

fn kill_any_part(cluster: &mut Cluster, cycles: usize) {
    let receiver = Receiver::start();
    let mut servers: Vec<Server> = ["gateway", "gateway", "sink", "sink", "reaction", "reaction"]
        .into_iter()
        .enumerate()
        .map(|(number, role)| cluster.role(role, number))
        .collect();
    servers[4].admin_create("/webhooks", &json!({"name": "ops", "url": receiver.url}));
    servers[4].admin_create("/rules", &load::rule("ops"));
    std::thread::sleep(HEARD_WITHIN);
    let load = Load::start_keyed(&[&servers[0].http, &servers[1].http]);
    kill_parts(cluster, &mut servers, from_environment("CAUSALITY_CHAOS_CYCLES", cycles));
    let before = load.acknowledged();
    wait_until("load goes on after the last kill", || load.acknowledged() > before + 500);
    assert!(load.sent_again() > 0, "no kill left a request unanswered");
    let acknowledged = load.stop();
    for server in &servers {
        server.wait_ready();
    }
    cluster.wait_settled(&servers[5]);
    for mut server in servers {
        assert!(server.terminate(Duration::from_secs(35)).success(), "log in {}", server.dir.display());
    }
    cluster.check(&receiver, &acknowledged);
}

/// Kills two gateways, two sinks, two reactions, NATS and PostgreSQL in turn.
pub(crate) fn kill_parts(cluster: &mut Cluster, servers: &mut [Server], cycles: usize) {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    for cycle in 0..cycles {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        std::thread::sleep(Duration::from_millis(200 + (state >> 33) % 800));
        match cycle % 8 {
            6 => {
                cluster.nats.kill9();
                cluster.nats.restart();
            }
            7 => {
                cluster.postgres.kill9();
                cluster.postgres.restart();
            }
            // Sinks and reactions first, so that a short run has met each kind.
            victim => servers[(victim + 2) % 6].kill_and_restart(),
        }
    }
}

/// A process that stands still for longer than its leases, of messages and of deliveries, wakes up believing that
/// they are its own.
#[test]
fn standing_still_longer_than_the_lease_loses_and_doubles_nothing() {
    let longest_lease = (2 * ACK_WAIT).max(claim_lease(REQUEST_TIMEOUT));
    let cluster = Cluster::start(&[]);
    let receiver = Receiver::slow(REQUEST_TIMEOUT / 4);
    let gateway = cluster.role("gateway", 0);
    let servers: Vec<Server> = ["sink", "sink", "reaction", "reaction"]
        .into_iter()
        .enumerate()
        .map(|(number, role)| cluster.role(role, number))
        .collect();
    servers[2].admin_create("/webhooks", &json!({"name": "ops", "url": receiver.url}));
    servers[2].admin_create("/rules", &load::rule("ops"));
    std::thread::sleep(HEARD_WITHIN);
    // No more webhooks than one process can call while the other one stands still.
    let load = Load::start_keyed_paced(&[&gateway.http], Duration::from_millis(100));
    let rounds = from_environment("CAUSALITY_FREEZE_ROUNDS", FREEZE_ROUNDS);
    for round in 0..rounds + FREEZE_ROUNDS_MORE {
        // What a frozen dispatcher has on its way, another one has to take over: without that nothing is shown.
        if round >= rounds && receiver.repeated() > 0 {
            break;
        }
        let (before, hooks) = (load.acknowledged(), receiver.count());
        wait_until("load goes on", || load.acknowledged() > before + 2_000);
        wait_until("webhooks are called", || receiver.count() > hooks + 20);
        let frozen = [&servers[round % 2], &servers[2 + round % 2]];
        frozen.iter().for_each(|server| signal(server.pid(), "STOP"));
        std::thread::sleep(longest_lease + Duration::from_secs(1));
        frozen.iter().for_each(|server| signal(server.pid(), "CONT"));
        std::thread::sleep(ACK_WAIT / 2);
    }
    let acknowledged = load.stop();
    for server in &servers {
        server.wait_ready();
    }
    cluster.wait_settled(&servers[2]);
    drop(gateway);
    for mut server in servers {
        assert!(server.terminate(Duration::from_secs(35)).success(), "log in {}", server.dir.display());
    }
    cluster.check(&receiver, &acknowledged);
    let taken_over = receiver.repeated();
    eprintln!("deliveries attempted more than once: {taken_over}");
    assert!(taken_over > 0, "no claim lapsed");
}

/// With a backend away clients get 503 with `Retry-After`, readiness names it, and work resumes by itself.
#[test]
fn a_backend_that_is_away_is_named_and_waited_for() {
    let mut cluster = Cluster::start(&[]);
    let receiver = Receiver::start();
    let (gateway, sink, reaction) = (cluster.role("gateway", 0), cluster.role("sink", 0), cluster.role("reaction", 0));
    reaction.admin_create("/webhooks", &json!({"name": "ops", "url": receiver.url}));
    reaction.admin_create("/rules", &load::rule("ops"));
    let load = Load::start_keyed(&[&gateway.http]);
    wait_until("load runs", || load.acknowledged() > 500);
    let unready = |server: &Server, component: &str| {
        wait_until(&format!("readiness names {component}"), || {
            let (status, report) = readiness(server);
            status == 503 && report["components"][component] != "ok" && !report["components"][component].is_null()
        });
    };
    let body = json!({"event": {"appId": "a", "deviceId": "d", "userLogin": {}}}).to_string();

    cluster.nats.kill9();
    unready(&gateway, "nats");
    unready(&sink, "nats");
    let refused = ureq_head(&format!("{}/v1/events/ingest", gateway.http), &body);
    assert_eq!(refused.0, 503);
    assert!(refused.1.is_some_and(|after| after.parse::<u32>().is_ok()), "Retry-After is there");
    std::thread::sleep(Duration::from_secs(3));
    cluster.nats.restart();
    let (back, before) = (Instant::now(), load.acknowledged());
    wait_until("ingest resumes", || load.acknowledged() > before + 200);
    assert!(back.elapsed() < Duration::from_secs(30), "resumed after {:?}", back.elapsed());

    cluster.postgres.kill9();
    unready(&reaction, "postgres");
    let before = load.acknowledged();
    wait_until("events are taken without the store", || load.acknowledged() > before + 200);
    cluster.postgres.restart();
    reaction.wait_ready();
    let hooks = receiver.all().len();
    wait_until("webhooks resume", || receiver.all().len() > hooks);

    cluster.s3.stop();
    unready(&sink, "warehouse");
    let before = load.acknowledged();
    wait_until("events are taken without the warehouse", || load.acknowledged() > before + 200);
    cluster.s3.restart();
    sink.wait_ready();

    let acknowledged = load.stop();
    cluster.wait_settled(&reaction);
    let peaks: Vec<u64> = [&gateway, &sink, &reaction].into_iter().filter_map(resident_mib).collect();
    assert!(peaks.iter().all(|mib| *mib < 250), "gateway, sink, reaction: {peaks:?} MiB");
    for mut server in [gateway, sink, reaction] {
        assert!(server.terminate(Duration::from_secs(35)).success());
    }
    cluster.check(&receiver, &acknowledged);
}

/// The status and `Retry-After` of a post.
pub(crate) fn ureq_head(url: &str, body: &str) -> (u16, Option<String>) {
    let agent = ureq::Agent::config_builder().http_status_as_error(false).timeout_global(Some(PATIENCE)).build();
    let agent = ureq::Agent::from(agent);
    let response = agent.post(url).header("content-type", "application/json").send(body).unwrap();
    let after = response.headers().get("retry-after").map(|value| value.to_str().unwrap().to_owned());
    (response.status().as_u16(), after)
}

/// What cannot work ends the start with the setting's name; what may work later is waited for.
#[test]
fn a_wrong_backend_setting_ends_the_start_and_is_named() {
    let cluster = Cluster::start(&[]);
    let wrong_password = cluster.postgres.url(&cluster.database).replace("opensesame", "wrong");
    let wrong_database = cluster.postgres.url("nowhere");
    let older = cluster.postgres.database();
    cluster.postgres.sql(
        &older,
        "CREATE TABLE schema_migrations (version integer PRIMARY KEY, name text NOT NULL, applied_at timestamptz);
         INSERT INTO schema_migrations VALUES (99, 'later', now())",
    );
    let newer = cluster.postgres.url(&older);
    for (role, changes, wanted, code) in [
        ("reaction", vec![("DATABASE_URL", wrong_password.as_str())], "database_password", 78),
        ("reaction", vec![("DATABASE_URL", wrong_database.as_str())], "database_name", 78),
        ("reaction", vec![("DATABASE_URL", newer.as_str())], "schema version 99", 78),
        ("sink", vec![("S3_BUCKET", "nowhere")], "s3_bucket", 78),
        ("sink", vec![("S3_SECRET_ACCESS_KEY", "wrong")], "s3_secret_access_key", 78),
        ("gateway", vec![("NATS_STREAM_REPLICAS", "3")], "nats_stream_", 78),
        ("gateway", vec![("NATS_CREDENTIALS_FILE", "/nowhere.creds")], "nats_credentials_file", 78),
    ] {
        let started = Instant::now();
        let output = cluster.start_refused(role, &changes);
        let message = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{changes:?}: {message}");
        let last = message.lines().last().unwrap_or_default();
        assert!(last.contains(wanted), "{changes:?}: {message}");
        assert!(!message.contains("opensesame"), "{message}");
        assert!(started.elapsed() < PATIENCE);
    }
}
