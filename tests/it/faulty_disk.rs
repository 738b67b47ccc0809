//! A disk that refuses: each system call that the sink makes in the warehouse fails in turn, once or for a while, in
//! the real binary, with `kill -9` and restarts in between. What was answered 200 is there once at the end. And an fsync of
//! the bus or the store fails: the process ends.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::json;

use causality::warehouse::scan_ids;

use crate::cluster::from_environment;
use crate::harness::{PATIENCE, Server, get, post};

/// In the order of the shim's numbers, each with a call that fails once it is done at the end of its name.
const CALLS: [&str; 11] =
    ["rename", "rename, done", "mkdir", "open", "write", "fsync", "link", "unlink", "stat", "readdir", "read"];
const ERRORS: [(&str, i32); 3] = [("EIO", 5), ("EACCES", 13), ("ENOSPC", 28)];
const FSYNC: usize = 5;
const EIO: i32 = 5;
/// The exit code after a failed fsync, and how soon it comes.
const EXIT_IO: i32 = 74;
const SOON: Duration = Duration::from_secs(10);
/// Rounds of the default run; `CAUSALITY_DISK_ROUNDS` asks for more.
const ROUNDS: usize = 33;
const EVENTS: usize = 20;
/// How long a call goes on failing that fails for a while, and how long it is waited for one to fail.
const WHILE: Duration = Duration::from_millis(150);

/// The control file that the shim maps: call, errno, how often, how often it has happened.
struct Control(std::fs::File);

impl Control {
    fn create(path: &Path) -> Self {
        let file = std::fs::File::options().create(true).truncate(true).read(true).write(true).open(path).unwrap();
        file.write_all_at(&[0; 16], 0).unwrap();
        Self(file)
    }

    fn set(&self, place: u64, value: i32) {
        self.0.write_all_at(&value.to_ne_bytes(), place * 4).unwrap();
    }

    /// Makes `call` fail `often`; -1: until it is healed.
    fn fail(&self, call: usize, error: i32, often: i32) {
        self.heal();
        for (place, value) in [(0, call as i32), (1, error), (3, 0), (2, often)] {
            self.set(place, value);
        }
    }

    fn heal(&self) {
        self.set(2, 0);
    }

    fn met(&self) -> i32 {
        let mut bytes = [0; 4];
        self.0.read_exact_at(&mut bytes, 12).unwrap();
        i32::from_ne_bytes(bytes)
    }
}

/// The shim, compiled for this machine.
fn compiled(dir: &Path) -> PathBuf {
    let library = dir.join("faulty_calls.so");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/faulty_calls.c");
    let mut compiler = Command::new("cc");
    compiler.args(["-shared", "-fPIC", "-O1", "-o"]).args([&library, &source]).arg("-ldl");
    let output = compiler.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    library
}

/// Calls fail below this path.
fn start(dir: &Path, root: &str) -> Server {
    let path = |path: PathBuf| path.to_str().unwrap().to_owned();
    let environment = [
        ("LD_PRELOAD", path(compiled(dir))),
        ("FAULTY_CONTROL", path(dir.join("control"))),
        ("FAULTY_ROOT", path(dir.join(root))),
        ("BATCH_FLUSH_INTERVAL", "50ms".to_owned()),
    ];
    Server::start(dir, &environment.each_ref().map(|(name, value)| (*name, value.as_str())))
}

struct Field {
    server: Server,
    control: Control,
    accepted: BTreeSet<String>,
    sent: usize,
    /// How often each call failed.
    met: BTreeMap<&'static str, i32>,
}

impl Field {
    /// Each batch of another app and hour, so that directories are made all the time.
    fn send(&mut self) {
        let first = self.sent;
        self.sent += EVENTS;
        let id = |n: usize| format!("e{n:06}");
        let event = |n: usize| {
            json!({"id": id(n), "appId": format!("app{}", n % 7), "deviceId": "d", "userLogin": {},
                "timestampMs": (1_700_000_000_000_u64 + (n as u64 / 100) * 3_600_000).to_string()})
        };
        let batch: Vec<_> = (first..first + EVENTS).map(event).collect();
        if let Some((200, reply)) = self.server.send("/v1/events/batch", &json!({"events": batch})) {
            assert_eq!(reply["acceptedCount"], EVENTS, "{reply}");
            self.accepted.extend((first..first + EVENTS).map(id));
        }
    }

    /// A failed fsync ends the process, perhaps only a moment later.
    fn revive(&mut self) {
        let url = format!("{}/ready", self.server.admin);
        let (began, mut answer) = (Instant::now(), None);
        while answer.as_ref().is_none_or(|(status, _)| *status != 200) {
            if self.server.has_ended() {
                self.server.relaunch();
            }
            if began.elapsed() > PATIENCE {
                let log = std::fs::read_to_string(self.server.dir.join("log.jsonl")).unwrap();
                let last: Vec<_> = log.lines().rev().take(30).collect();
                panic!("not ready again: {answer:?}\n{}", last.join("\n"));
            }
            std::thread::sleep(Duration::from_millis(20));
            answer = get(&url);
        }
    }

    fn round(&mut self, number: usize) {
        let (call, (_, error)) = (number % CALLS.len(), ERRORS[number / CALLS.len() % ERRORS.len()]);
        let (lasting, kills, early) = (number % 2 == 1, number.is_multiple_of(3), number.is_multiple_of(5));
        if early {
            // What is on the bus already meets the fault when it comes again.
            self.send();
            self.server.kill();
            self.control.fail(call, error, if lasting { -1 } else { 1 });
            self.server.relaunch();
        } else {
            self.control.fail(call, error, if lasting { -1 } else { 1 });
            self.send();
        }
        let began = Instant::now();
        while self.control.met() == 0 && began.elapsed() < WHILE {
            std::thread::sleep(Duration::from_millis(5));
        }
        if lasting {
            std::thread::sleep(WHILE);
        }
        self.send();
        *self.met.entry(CALLS[call]).or_default() += self.control.met();
        if kills {
            // In the middle of it.
            self.server.kill();
            self.control.heal();
            self.server.relaunch();
        }
        self.control.heal();
        self.revive();
    }

    fn check(&self, number: usize) {
        self.server.wait_drained();
        let mut rows = BTreeMap::<String, usize>::new();
        scan_ids(&self.server.warehouse(), |id| *rows.entry(id.to_owned()).or_default() += 1).unwrap();
        let place = || format!("after round {number}: log in {}", self.server.dir.display());
        let doubled: Vec<_> = rows.iter().filter(|(_, count)| **count > 1).take(5).collect();
        assert!(doubled.is_empty(), "doubled {}: {doubled:?}", place());
        let lost: Vec<_> = self.accepted.iter().filter(|id| !rows.contains_key(*id)).take(5).collect();
        assert!(lost.is_empty(), "lost {}: {lost:?}", place());
    }
}

#[test]
fn whatever_call_fails_nothing_is_lost_or_doubled() {
    let dir = tempfile::tempdir().unwrap();
    let control = Control::create(&dir.path().join("control"));
    let server = start(dir.path(), "data/warehouse");
    let mut field = Field { server, control, accepted: BTreeSet::new(), sent: 0, met: BTreeMap::new() };
    let rounds = from_environment("CAUSALITY_DISK_ROUNDS", ROUNDS);
    for number in 0..rounds {
        field.round(number);
        if number % 11 == 10 {
            field.check(number);
        }
    }
    field.check(rounds);
    println!("{} events accepted over {rounds} rounds; calls failed: {:?}", field.accepted.len(), field.met);
    assert!(field.accepted.len() > rounds * EVENTS / 2);
}

fn event(id: &str) -> serde_json::Value {
    json!({"event": {"id": id, "appId": "a", "deviceId": "d", "userLogin": {}}})
}

/// One call fails; a retry would succeed although Linux has dropped the pages.
#[test]
fn a_failed_fsync_of_the_bus_or_the_store_ends_the_process_and_nothing_is_accepted() {
    type Work = fn(&Server);
    let publish: Work = |server| {
        let answer = server.send("/v1/events/ingest", &event("lost"));
        assert!(answer.as_ref().is_none_or(|(status, _)| *status == 503), "{answer:?}");
    };
    let create: Work = |server| {
        let webhook = json!({"name": "w", "url": "http://127.0.0.1:9"}).to_string();
        let answer = post(&format!("{}/api/admin/webhooks", server.admin), webhook.as_bytes(), "application/json");
        assert!(answer.as_ref().is_none_or(|(status, _)| *status == 503), "{answer:?}");
    };
    // The writer copies its log when the process stops; the rest of it is busy stopping then.
    let stop: Work = |server| crate::harness::signal(server.pid(), "TERM");
    for (database, work) in [("bus.db", publish), ("store.db", create), ("bus.db", stop), ("store.db", stop)] {
        let dir = tempfile::tempdir().unwrap();
        let control = Control::create(&dir.path().join("control"));
        let mut server = start(dir.path(), &format!("data/{database}"));
        assert_eq!(server.send("/v1/events/ingest", &event("kept")).unwrap().0, 200);
        server.admin_create("/webhooks", &json!({"name": "kept", "url": "http://127.0.0.1:9"}));
        server.wait_drained();
        control.fail(FSYNC, EIO, 1);
        work(&server);
        assert_eq!(server.wait_for_exit(SOON).code(), Some(EXIT_IO), "{database}");
        assert_eq!(control.met(), 1, "{database}");
        let log = std::fs::read_to_string(server.dir.join("log.jsonl")).unwrap();
        let said: Vec<_> = log.lines().filter(|line| line.contains("fsync failed: the process ends")).collect();
        assert!(said.len() == 1 && said[0].contains(database), "{said:?}");
        // The next process reads what is really there.
        server.restart();
        assert_eq!(server.admin_get("/webhooks/kept")["name"], "kept");
        assert_eq!(server.send("/v1/events/ingest", &event("next")).unwrap().0, 200);
    }
}
