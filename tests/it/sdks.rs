//! The clients that people have, as their registries have them, with nothing changed but their host: what each of them
//! can send is found in the files by an independent reader, once, although answers are lost and the server is killed.
//!
//! They come with `.ci/setup --tests`, in `target/sdks` and `target/python`. What they do is in the scripts beside this.

mod losing;

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::{PATIENCE, Server, free_port, python, wait_until};
use losing::Losing;

/// Those that send Segment's calls, and those that send CloudEvents.
const SEGMENT: [&str; 6] = [
    "analytics-go",
    "analytics-next",
    "analytics-next-batching",
    "analytics-node",
    "rudder-sdk-node",
    "segment-analytics-python",
];
const CLOUD_EVENTS: [&str; 2] = ["cloudevents-npm", "cloudevents-pypi"];

/// A script of `tests/it/sdks` that runs.
struct Script {
    name: &'static str,
    child: Child,
    input: ChildStdin,
    output: std::sync::mpsc::Receiver<String>,
}

impl Script {
    fn start(name: &'static str, mut command: Command, arguments: &[&str]) -> Self {
        let command = command.args(arguments).env("NODE_PATH", in_target("sdks/node_modules"));
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (input, lines) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()).lines());
        let (sender, output) = std::sync::mpsc::channel();
        std::thread::spawn(move || lines.map_while(Result::ok).try_for_each(|line| sender.send(line)));
        Self { name, child, input, output }
    }

    fn node(script: &'static str, arguments: &[&str]) -> Self {
        // Of PyPI where there was none.
        let own = in_target("python/bin/node");
        let mut command = Command::new(if own.exists() { own } else { "node".into() });
        command.arg(scripts().join(script));
        Self::start(script, command, arguments)
    }

    fn python(client: &'static str, arguments: &[&str]) -> Self {
        let mut command = Command::new(in_target("python/bin/python"));
        command.arg(scripts().join("clients.py")).arg(client);
        Self::start(client, command, arguments)
    }

    fn read(&self) -> String {
        let line = self.output.recv_timeout(2 * PATIENCE);
        line.unwrap_or_else(|error| panic!("{} says nothing: {error}; is .ci/setup --tests done?", self.name))
    }

    /// Has it send no more numbered calls.
    fn enough(&mut self) {
        self.input.write_all(b"enough\n").unwrap();
    }

    fn end(self) {
        let Self { name, mut child, input, .. } = self;
        drop(input);
        assert!(child.wait().unwrap().success(), "{name}");
    }
}

fn scripts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/sdks")
}

fn in_target(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("target").join(path)
}

/// A server that asks for keys and lets pages of `localhost:port` send; and a key.
fn start(dir: &Path, page_port: u16) -> (Server, String) {
    let origin = format!("http://localhost:{page_port}");
    let settings = [("AUTH_ENABLED", "true"), ("CORS_ALLOWED_ORIGINS", &*origin), ("CORS_ALLOW_CREDENTIALS", "true")];
    let server = Server::start(dir, &settings);
    let key = server.admin_create("/keys", &json!({"app_id": "shop", "name": "sdks"}));
    (server, key["key"].as_str().unwrap().to_owned())
}

fn stored(server: &Server) -> u64 {
    server.admin_get("/status")["bus"]["last_sequence"].as_u64().unwrap()
}

#[test]
fn clients_lose_and_double_nothing_when_answers_are_lost_and_the_server_is_killed() {
    let dir = tempfile::tempdir().unwrap();
    let page_port = free_port();
    let (mut server, key) = start(dir.path(), page_port);
    let address = server.http.strip_prefix("http://").unwrap().to_owned();
    let proxies: Vec<Losing> = (0..8).map(|_| Losing::start(address.clone())).collect();
    let to = |proxy: usize| [proxies[proxy].url.as_str(), key.as_str()];
    let in_page = [to(3)[0], &key, &page_port.to_string()];
    let mut scripts = vec![
        Script::node("analytics-node.js", &to(0)),
        Script::node("rudder-sdk-node.js", &to(1)),
        Script::node("cloudevents.js", &to(2)),
        Script::node("browser.js", &in_page),
        Script::start("analytics-go", Command::new(in_target("sdks/analytics-go")), &to(4)),
        Script::python("segment-analytics-python", &to(5)),
        Script::python("cloudevents-pypi", &to(6)),
        Script::python("opentelemetry-pypi", &to(7)),
    ];
    for script in &scripts {
        assert_eq!(script.read(), "ready", "{}", script.name);
    }
    for _ in 0..2 {
        // Under load, and with answers on their way.
        let before = stored(&server);
        wait_until("events are stored", || stored(&server) > before + 200);
        server.kill_and_restart();
    }
    let answered = Instant::now();
    wait_until("every client had an answer lost", || proxies.iter().all(|proxy| proxy.lost() > 0));
    assert!(answered.elapsed() < PATIENCE);
    scripts.iter_mut().for_each(Script::enough);
    let counts: Vec<u64> = scripts.iter().map(|script| script.read().parse().unwrap()).collect();
    let [node, rudder, cloud, page, go, segment, cloud_of_python, logs] = counts[..] else { panic!("{counts:?}") };
    let counted = json!([
        ["analytics-go", go],
        ["analytics-next", page],
        ["analytics-next-batching", page],
        ["analytics-node", node],
        ["cloudevents-npm", cloud],
        ["cloudevents-pypi", cloud_of_python],
        ["opentelemetry-pypi", logs],
        ["rudder-sdk-node", rudder],
        ["segment-analytics-python", segment],
    ]);
    // What the pages sent while they went away is behind all else.
    let total = counts.iter().sum::<u64>() + page + (6 * SEGMENT.len() + 4 * CLOUD_EVENTS.len()) as u64 + 2;
    wait_until(&format!("{total} events are stored"), || stored(&server) >= total);
    scripts.into_iter().for_each(Script::end);
    assert!(server.terminate(Duration::from_secs(35)).success());

    let query = |columns: &str, filter: &str| rows(&server, columns, filter);
    assert_eq!(query("user_id, count(*)", "event_type = 'counted' GROUP BY ALL"), counted);
    let number = "CAST(coalesce(payload_json ->> '$.properties.number', \
                  payload_json ->> '$.properties.attributes.number') AS DOUBLE)";
    let distinct = format!("user_id, count(DISTINCT {number}), count(DISTINCT idempotency_key) - count(*)");
    let rows_of_count = counted.as_array().unwrap().iter().map(|of| json!([of[0], of[1], 0])).collect::<Value>();
    assert_eq!(query(&distinct, "event_type = 'counted' GROUP BY ALL"), rows_of_count);
    assert_eq!(query("user_id, event_type, count(*)", "event_type <> 'counted' GROUP BY ALL"), kinds());
    // Of the clients whose clocks are two hours late, too.
    let in_time = "bool_and(received_at_ms - timestamp_ms BETWEEN -1000 AND 120000), min(app_id), max(app_id)";
    assert_eq!(query(in_time, "true"), json!([[true, "shop", "shop"]]));
}

/// What each client sends beside numbered calls.
fn kinds() -> Value {
    let mut kinds = Vec::new();
    for user in SEGMENT {
        let kinds_of_each =
            [("alias", 1), ("group", 1), ("leaving", 1), ("profile_update", 1), ("purchase_complete", 1), ("view", 2)];
        for (kind, count) in kinds_of_each {
            if kind != "leaving" || user.starts_with("analytics-next") {
                kinds.push((user, kind, count));
            }
        }
    }
    kinds.extend(CLOUD_EVENTS.map(|user| (user, "order.paid", 4)));
    kinds.sort_unstable();
    json!(kinds)
}

#[test]
fn a_page_of_another_origin_sends_by_every_means_that_browsers_have() {
    let dir = tempfile::tempdir().unwrap();
    let page_port = free_port();
    let (mut server, key) = start(dir.path(), page_port);
    let page = Script::node("page.js", &[&server.http, &key, &page_port.to_string()]);
    let results: Value = serde_json::from_str(&page.read()).unwrap();
    // After a preflight: JSON and a key need one.
    let answered = json!([200, true]);
    let expected = json!({"simple": answered, "credentials": answered, "keepalive": answered, "beacon": true,
        "refused": "Failed to fetch"});
    assert_eq!(results, expected);
    wait_until("what was sent while the page went away is stored", || stored(&server) >= 6);
    page.end();
    assert!(server.terminate(Duration::from_secs(35)).success());
    let number = "CAST(coalesce(payload_json ->> '$.properties.number', \
                  payload_json ->> '$.int_params.number') AS INTEGER)";
    let numbers = rows(&server, &format!("{number}, event_type"), "true");
    assert_eq!(numbers, json!([[1, "page"], [2, "page"], [3, "page"], [4, "beacon"], [5, "page"], [6, "beacon"]]));
}

/// What an independent reader finds in the files.
fn rows(server: &Server, columns: &str, filter: &str) -> Value {
    let files = format!("{}/**/events_*.parquet", server.warehouse().display());
    let query = format!("SELECT {columns} FROM read_parquet('{files}') WHERE {filter} ORDER BY ALL");
    serde_json::from_str(&python("read_parquet.py", &["", "query"], &query)).unwrap()
}
