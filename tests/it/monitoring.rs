//! Alerts and dashboards by a real Prometheus and a real Alertmanager: Debian's packages, which `.ci/setup --tests` installs.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::harness::{PATIENCE, Receiver, Server, free_port, get, wait_until};

const ALERTS: &str = "deploy/k8s/causality/files/alerts.yml";
const CONFIG: &str = "deploy/prometheus/prometheus.yml";
const TOKEN: &str = "a-token-for-the-server-that-scrapes-0123";

fn root(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn tool(name: &str) -> Command {
    let found = std::env::split_paths(&std::env::var_os("PATH").unwrap()).any(|dir| dir.join(name).exists());
    assert!(found, "{name} is missing: run .ci/setup --tests");
    Command::new(name)
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&said));
}

fn text(path: &str) -> String {
    std::fs::read_to_string(root(path)).unwrap()
}

/// The text with one part replaced that must be there.
fn with(text: &str, from: &str, to: &str) -> String {
    assert!(text.contains(from), "{from}");
    text.replace(from, to)
}

/// What follows this word in each line that begins with it.
fn named<'t>(text: &'t str, word: &str) -> Vec<&'t str> {
    text.lines().filter_map(|line| line.trim_start().trim_start_matches("- ").strip_prefix(word)).collect()
}

/// A Prometheus with the repository's configuration, and its Alertmanager; both look every second.
struct Prometheus {
    url: String,
    alertmanager: String,
    children: [Child; 2],
    _dir: tempfile::TempDir,
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Prometheus {
    fn start(targets: &[&Server], alerts: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (own, alertmanager) = (free_port(), free_port());
        let targets: Vec<_> = targets.iter().map(|server| server.admin.trim_start_matches("http://")).collect();
        let token = dir.path().join("token");
        std::fs::write(&token, TOKEN).unwrap();
        let config = with(&text(CONFIG), "15s", "1s");
        let config = with(&config, r#""alertmanager:9093""#, &format!(r#""127.0.0.1:{alertmanager}""#));
        let config = with(&config, "/run/secrets/metrics_token", token.to_str().unwrap());
        let config = with(&config, r#"["gateway:9090", "sink:9090", "reaction:9090"]"#, &json!(targets).to_string());
        let config = with(&config, "localhost:9090", &format!("127.0.0.1:{own}"));
        std::fs::write(dir.path().join("prometheus.yml"), config).unwrap();
        std::fs::write(dir.path().join("alerts.yml"), with(alerts, "interval: 30s", "interval: 1s")).unwrap();
        let start = |mut command: Command, log: &str| {
            let log = std::fs::File::create(dir.path().join(log)).unwrap();
            command.current_dir(dir.path()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap()
        };
        let mut command = tool("prometheus");
        command.args(["--config.file=prometheus.yml", "--storage.tsdb.path=data"]);
        command.arg(format!("--web.listen-address=127.0.0.1:{own}"));
        let prometheus = start(command, "prometheus.log");
        let mut command = tool("prometheus-alertmanager");
        command.arg(format!("--config.file={}", root("deploy/alertmanager/alertmanager.yml").display()));
        command.args(["--storage.path=alerts", "--cluster.listen-address="]);
        command.arg(format!("--web.listen-address=127.0.0.1:{alertmanager}"));
        let children = [prometheus, start(command, "alertmanager.log")];
        let url = |port| format!("http://127.0.0.1:{port}");
        let started = Self { url: url(own), alertmanager: url(alertmanager), children, _dir: dir };
        for url in [&started.url, &started.alertmanager] {
            wait_until(&format!("{url} is ready"), || {
                get(&format!("{url}/-/ready")).is_some_and(|(status, _)| status == 200)
            });
        }
        started
    }

    /// The values of an instant query; the error of one that is refused.
    fn query(&self, query: &str) -> Result<Vec<Value>, String> {
        let query = utf8_percent_encode(query, NON_ALPHANUMERIC);
        let (_, text) = get(&format!("{}/api/v1/query?query={query}", self.url)).unwrap();
        let mut reply: Value = serde_json::from_str(&text).unwrap();
        match reply["data"]["result"].take() {
            Value::Array(found) => Ok(found),
            _ => Err(text),
        }
    }

    /// The names of the alerts that fire, each with one of its labels.
    fn firing(&self, label: &str) -> Vec<String> {
        let found = self.query(r#"ALERTS{alertstate="firing"}"#).unwrap();
        let named = |one: &Value, label: &str| one["metric"][label].as_str().unwrap_or_default().to_owned();
        let mut names: Vec<_> = found.iter().map(|one| named(one, "alertname") + " " + &named(one, label)).collect();
        names.sort();
        names
    }
}

/// The queries of all dashboards: dashboard, panel and query.
fn dashboard_queries() -> Vec<(String, String)> {
    let mut queries = Vec::new();
    for entry in std::fs::read_dir(root("deploy/grafana/dashboards")).unwrap() {
        let path = entry.unwrap().path();
        let dashboard: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        for panel in dashboard["panels"].as_array().unwrap() {
            for target in panel["targets"].as_array().unwrap() {
                let query = target["expr"].as_str().unwrap().replace("$__rate_interval", "1m");
                queries.push((format!("{}: {}", path.display(), panel["title"]), query));
            }
        }
    }
    assert!(queries.len() > 60, "the dashboards were found");
    queries
}

/// Some sample of the result is a number: a quantile of nothing is NaN.
fn has_data(found: &[Value]) -> bool {
    found.iter().any(|one| one["value"][1].as_str().is_some_and(|value| value != "NaN"))
}

#[test]
fn files_are_in_step() {
    run(Command::new("python3").arg(root("deploy/grafana/generate.py")).arg("--check"));
    let (all, tests, runbooks) = (text(ALERTS), text("deploy/prometheus/alerts_test.yml"), text("docs/runbooks.md"));
    let alerts = named(&all, "alert: ");
    assert!(alerts.len() > 20, "the alerts were found");
    let (links, sections) = (named(&all, "runbook_url: "), named(&runbooks, "## "));
    for (alert, link) in alerts.iter().zip(&links) {
        assert_eq!(*link, format!("docs/runbooks.md#{}", alert.to_lowercase()));
        assert!(sections.contains(alert), "docs/runbooks.md has no section {alert}");
        assert!(named(&tests, "name: ").contains(alert), "alerts_test.yml does not test {alert}");
        let fires = format!(r#"{{labels: '{{alertname="{alert}"}}', value: 1}}"#);
        assert!(tests.contains(&fires), "alerts_test.yml never has {alert} fire");
    }
    assert_eq!(alerts.len(), links.len(), "a runbook each");
    let sections: Vec<_> = sections.into_iter().filter(|section| section.starts_with("Causality")).collect();
    assert_eq!(sections.len(), alerts.len(), "no section of an alert that is gone");
}

#[test]
fn rules_pass_their_tests() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("alerts.yml"), text(ALERTS)).unwrap();
    std::fs::write(dir.path().join("token"), TOKEN).unwrap();
    std::fs::write(dir.path().join("prometheus.yml"), with(&text(CONFIG), "/run/secrets/metrics_token", "token"))
        .unwrap();
    std::fs::copy(root("deploy/prometheus/alerts_test.yml"), dir.path().join("alerts_test.yml")).unwrap();
    for arguments in [["check", "config", "prometheus.yml"], ["test", "rules", "alerts_test.yml"]] {
        run(tool("promtool").args(arguments).current_dir(dir.path()));
    }
    run(tool("amtool").arg("check-config").arg(root("deploy/alertmanager/alertmanager.yml")));
}

#[test]
fn every_query_of_the_dashboards_finds_data() {
    let dir = tempfile::tempdir().unwrap();
    let environment = [
        ("BATCH_FLUSH_INTERVAL", "200ms"),
        ("QUARANTINE", "true"),
        ("METRICS_TOKEN", TOKEN),
        ("WEBHOOK_ALLOWED_NETWORKS", "loopback"),
    ];
    let alerts = text(ALERTS);
    let server = Server::start(dir.path(), &environment);
    let prometheus = Prometheus::start(&[&server], &alerts);
    let receiver = Receiver::answering(|request| if request.path == "/broken" { 500 } else { 200 });
    for name in ["good", "broken"] {
        server.admin_create("/webhooks", &json!({"name": name, "url": format!("{}/{name}", receiver.url)}));
    }
    server.admin_create("/rules", &json!({"name": "all", "actions": {"webhooks": ["good", "broken"]}}));
    let failing = json!({"name": "failing", "expression": "event.custom_event.properties.missing == 1", "actions": {"webhooks": ["good"]}});
    server.admin_create("/rules", &failing);

    let event =
        json!({"appId": "a", "deviceId": "d", "customEvent": {"eventName": "trial", "properties": {"there": 1}}});
    let mut queries = dashboard_queries();
    let started = Instant::now();
    while !queries.is_empty() {
        assert!(started.elapsed() < PATIENCE, "no data, log in {}: {queries:#?}", dir.path().display());
        let (status, reply) = server.send("/v1/events/batch", &json!({"events": [event, {"appId": "a"}]})).unwrap();
        assert_eq!((status, &reply["acceptedCount"]), (200, &json!(1)), "{reply}");
        std::thread::sleep(Duration::from_millis(500));
        queries.retain(|(_, query)| !has_data(&prometheus.query(query).unwrap()));
    }
    assert_eq!(prometheus.firing("name"), ["CausalityRulesFail failing"]);
    // Each part that an alert compares, too, so that a misspelt metric does not stay silent for ever.
    for selector in alerts.split(|letter: char| !(letter.is_alphanumeric() || letter == '_' || letter == ':')) {
        let is_metric = selector.starts_with("causality_");
        let lazy = [
            "causality_tls_certificate_not_after_timestamp_seconds",
            "causality_task_restarts_total",
            "causality_warehouse_unreadable_files",
            "causality_hive_waiting_partitions",
            "causality_lake_due_partitions",
        ];
        if is_metric && !lazy.contains(&selector) {
            assert!(!prometheus.query(selector).unwrap().is_empty(), "{selector}");
        }
    }
}

#[test]
fn a_role_that_is_killed_is_an_alert() {
    let cluster = Cluster::start(&[("METRICS_TOKEN", TOKEN), ("METRICS_OPEN", "false")]);
    let (gateway, mut sink) = (cluster.role("gateway", 0), cluster.role("sink", 0));
    let quick: String = text(ALERTS)
        .lines()
        .map(|line| line.split_once("for: ").map_or(line.to_owned(), |(indent, _)| format!("{indent}for: 5s")) + "\n")
        .collect();
    let prometheus = Prometheus::start(&[&gateway, &sink], &quick);
    wait_until("both roles are seen", || prometheus.query("causality_role == 1").unwrap().len() == 2);
    std::thread::sleep(Duration::from_secs(5));
    assert_eq!(prometheus.firing("role"), [""; 0]);
    sink.kill();
    let alerts = |query: &str| -> Vec<Value> {
        let (_, text) = get(&format!("{}/api/v2/alerts{query}", prometheus.alertmanager)).unwrap();
        serde_json::from_str(&text).unwrap()
    };
    wait_until("Alertmanager has both alerts", || alerts("").len() == 2);
    let mut seen: Vec<_> =
        alerts("").iter().map(|alert| alert["labels"]["alertname"].as_str().unwrap().to_owned()).collect();
    seen.sort();
    assert_eq!(seen, ["CausalityRoleMissing", "CausalityTargetDown"]);
    let active = alerts("?inhibited=false");
    assert_eq!(active.len(), 1, "the missing role explains the target: {active:#?}");
    assert_eq!((&active[0]["labels"]["role"], &active[0]["receivers"][0]["name"]), (&json!("sink"), &json!("pager")));
    sink.restart();
    wait_until("the alert is over", || prometheus.firing("role").is_empty());
}
