//! The chart in `deploy/k8s`: what it renders is what Kubernetes takes, and the binary does with it what the chart counts
//! on. There is no cluster here: each role is started with the arguments and the environment of its pod.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use causality::config::NAMES;
use serde_json::{Value, json};

use crate::harness::{binary, free_port, get, signal, wait_until};
use crate::services::nats::{NatsServer, Version};
use crate::services::postgres::PostgresServer;
use crate::services::s3::{self, S3Server};

/// The oldest and the newest version of Kubernetes that `tests/helm/schemas.py` has schemas of.
const VERSIONS: [&str; 2] = ["1.27", "1.37"];
const ROLES: [&str; 3] = ["gateway", "sink", "reaction"];
/// In addition to the production values: everything that is optional and excludes nothing else.
const EVERYTHING: &str = "
    extraEnv: [{name: AWS_EC2_METADATA_DISABLED, value: 'true'}]
    imagePullSecrets: [{name: registry}]
    adminTls: {secretName: admin-tls}
    gateway:
      tls: {secretName: gateway-tls}
      drain: {preStopSeconds: 5}
      ingress: {enabled: true, className: nginx, hosts: [a.example], tls: [{secretName: a, hosts: [a.example]}]}
      affinity: {podAntiAffinity: {}}
      tolerations: [{key: ingest, operator: Exists}]
      nodeSelector: {pool: ingest}
      priorityClassName: high
    sink: {settings: {WAREHOUSE_RETENTION: 400d, HIVE_METASTORE_URI: 'thrift://m:9083'}, scratch: {storageClassName: fast}}
    migrate: {podAnnotations: {sidecar.istio.io/inject: 'false'}}";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn tool(name: &str) -> Command {
    let path = root().join("target/tools/helm").join(name);
    assert!(path.exists(), "{} is missing: run .ci/setup --tests", path.display());
    Command::new(path)
}

fn helm(arguments: &[&str]) -> Output {
    tool("helm").current_dir(root().join("deploy/k8s/causality")).args(arguments).output().unwrap()
}

/// Renders the chart, as text.
fn template(version: &str, arguments: &[&str]) -> Output {
    helm(&[&["template", "causality", ".", "--namespace", "events", "--kube-version", version], arguments].concat())
}

fn text(output: Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn objects(manifests: &str) -> Vec<Value> {
    let documents = serde_yaml_ng::Deserializer::from_str(manifests);
    let documents = documents.map(|document| serde::Deserialize::deserialize(document).unwrap());
    documents.filter(|object: &Value| !object.is_null()).collect()
}

/// One object by its kind and the end of its name.
fn find<'a>(objects: &'a [Value], kind: &str, name: &str) -> &'a Value {
    let found = |object: &&Value| object["kind"] == kind && object["metadata"]["name"] == format!("causality{name}");
    objects.iter().find(found).unwrap_or_else(|| panic!("no {kind} causality{name}"))
}

/// Gives `manifests` to a program on its standard input.
fn fed(mut command: Command, manifests: &str) -> Output {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), manifests.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

fn kubeconform(version: &str, manifests: &str) -> Output {
    let schemas = root().join("target/tools/helm/schemas").join(version);
    let mut command = tool("kubeconform");
    command.args(["-strict", "-summary", "-skip", "ServiceMonitor,PrometheusRule", "-schema-location"]);
    command.arg(format!("{}/{{{{.ResourceKind}}}}{{{{.KindSuffix}}}}.json", schemas.display()));
    fed(command, manifests)
}

/// The arguments of `helm` for each of the values files, and for the production's with everything else switched on.
fn variants(dir: &Path) -> Vec<(&'static str, Vec<String>)> {
    let everything = dir.join("everything.yaml");
    std::fs::write(&everything, EVERYTHING.replace("\n    ", "\n")).unwrap();
    let files = |files: &[&str]| files.iter().flat_map(|file| ["--values".to_owned(), (*file).to_owned()]).collect();
    vec![
        ("kind", files(&["values-kind.yaml"])),
        ("production", files(&["values-production.yaml"])),
        ("everything", files(&["values-production.yaml", everything.to_str().unwrap()])),
    ]
}

#[test]
fn what_is_rendered_is_valid_in_the_oldest_and_the_newest_version() {
    let dir = tempfile::tempdir().unwrap();
    for version in VERSIONS {
        let mut manifests = std::fs::read_to_string(root().join("deploy/k8s/kind-servers.yaml")).unwrap();
        for (name, values) in variants(dir.path()) {
            let values: Vec<&str> = values.iter().map(String::as_str).collect();
            text(helm(&[&["lint", "--strict", "."], values.as_slice()].concat()));
            let rendered = text(template(version, &values));
            let monitors = if name == "kind" { "0\n" } else { "2\n" };
            assert_eq!(text(fed(tool("monitoring"), &rendered)), monitors, "{name}");
            manifests.push_str(&format!("\n---\n{rendered}"));
        }
        let checked = text_of(&kubeconform(version, &manifests));
        // The oldest one does not know the sleep before SIGTERM, which one of the values files asks for.
        let invalid = usize::from(version == VERSIONS[0]);
        assert!(checked.contains(&format!("Invalid: {invalid}, Errors: 0, Skipped: 4\n")), "{version}: {checked}");
        assert_eq!(checked.matches("'sleep' not allowed").count(), invalid, "{version}: {checked}");
    }
}

fn text_of(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[test]
fn these_checks_find_mistakes() {
    let manifests = text(template(VERSIONS[1], &["--values", "values-production.yaml"]));
    let mut mistaken = String::new();
    for (kind, right, wrong) in [
        ("Job", "restartPolicy", "restart"),
        ("PodDisruptionBudget", "selector", "select"),
        ("HTTPRoute", "PathPrefix", "Prefix"),
        ("HTTPRoute", "parentRefs", "parents"),
        ("HorizontalPodAutoscaler", "averageUtilization: 70", "averageUtilization: high"),
    ] {
        let of_kind = |manifest: &&str| manifest.contains(&format!("\nkind: {kind}\n")) && manifest.contains(right);
        let manifest = manifests.split("\n---\n").find(of_kind).unwrap();
        mistaken.push_str(&format!("{}\n---\n", manifest.replace(right, wrong)));
    }
    let checked = text_of(&kubeconform(VERSIONS[1], &mistaken));
    assert!(checked.contains("Valid: 0, Invalid: 5, Errors: 0"), "{checked}");
    for (right, wrong) in [("scrapeTimeout", "timeout"), ("record:", "recording:")] {
        assert!(!fed(tool("monitoring"), &manifests.replace(right, wrong)).status.success(), "{wrong}");
    }
}

/// 100 events a second in requests that take 50 ms: five are in flight. Requests of probes do not count.
const EVENTS_IN_FLIGHT: &str = r#"
rule_files: [rules.yml]
evaluation_interval: 15s
tests:
  - interval: 15s
    input_series:
      - {series: 'causality_gateway_events_total{namespace="n", pod="p", verdict="accepted"}', values: 0+1500x40}
      - {series: 'causality_gateway_request_seconds_sum{namespace="n", pod="p", route="batch"}', values: 0+7.5x40}
      - {series: 'causality_gateway_request_seconds_count{namespace="n", pod="p", route="batch"}', values: 0+150x40}
      - {series: 'causality_gateway_request_seconds_sum{namespace="n", pod="p", route="ready"}', values: 0+0x40}
      - {series: 'causality_gateway_request_seconds_count{namespace="n", pod="p", route="ready"}', values: 0+300x40}
    promql_expr_test:
      - expr: causality_gateway_events_in_flight
        eval_time: 8m
        exp_samples: [{labels: 'causality_gateway_events_in_flight{namespace="n", pod="p"}', value: 5}]
"#;

#[test]
fn the_metric_for_scaling_is_the_number_of_events_in_flight() {
    let rendered = objects(&text(template(VERSIONS[1], &["--values", "values-production.yaml"])));
    let metric =
        &find(&rendered, "HorizontalPodAutoscaler", "-gateway")["spec"]["metrics"][0]["pods"]["metric"]["name"];
    let rules = &find(&rendered, "PrometheusRule", "")["spec"];
    assert_eq!(rules["groups"][0]["rules"][0]["record"], *metric);
    assert!(rules.to_string().contains("causality-promises"), "and the alerts are with it");
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("rules.yml"), rules.to_string()).unwrap();
    std::fs::write(dir.path().join("test.yml"), EVENTS_IN_FLIGHT).unwrap();
    text(Command::new("promtool").args(["test", "rules", "test.yml"]).current_dir(dir.path()).output().unwrap());
}

#[test]
fn values_that_could_not_work_are_refused_with_what_to_set() {
    let bare = template(VERSIONS[1], &[]);
    let refusal = text_of(&bare);
    assert!(!bare.status.success());
    for missing in ["settings.NATS_URL", "settings.DATABASE_HOST", "settings.S3_BUCKET", "credential SECRETS_KEY"] {
        assert!(refusal.contains(missing), "{refusal}");
    }
    for (set, word) in [
        ("settings.NATS_URLS=x", "NATS_URLS"),
        ("settings.DATABASE_PASSWORD=x", "DATABASE_PASSWORD"),
        ("settings.HTTP_ADDR=:1", "HTTP_ADDR"),
        ("credentials.values.SECRET=x", "SECRET"),
        ("settings.WAREHOUSE_URL=file:///data/lake", "object store"),
        ("gateway.drain.timeoutSeconds=0", "timeoutSeconds"),
        ("gateway.httpRoute.enabled=true", "parentRefs"),
        ("sink.replica=2", "replica"),
    ] {
        let refused = template(VERSIONS[1], &["--values", "values-kind.yaml", "--set", set]);
        assert!(!refused.status.success() && text_of(&refused).contains(word), "{set}: {}", text_of(&refused));
    }
    let monitored = ["--values", "values-kind.yaml", "--set", "serviceMonitor.enabled=true"];
    let refused =
        template(VERSIONS[1], &[&monitored[..], &["--set", "credentials.values.METRICS_TOKEN=null"]].concat());
    assert!(!refused.status.success() && text_of(&refused).contains("METRICS_TOKEN"), "{}", text_of(&refused));
}

/// The settings of a pod as its ConfigMap has them.
fn settings(objects: &[Value], role: &str) -> BTreeMap<String, String> {
    serde_json::from_value(find(objects, "ConfigMap", &format!("-{role}"))["data"].clone()).unwrap()
}

/// Run it with `UPDATE_DOCS=1` to write the list anew.
#[test]
fn the_schema_names_exactly_the_settings_that_the_chart_does_not_make() {
    let (dir, path) = (tempfile::tempdir().unwrap(), root().join("deploy/k8s/causality/values.schema.json"));
    let text_of_schema = std::fs::read_to_string(&path).unwrap();
    let (before, list) = text_of_schema.split_once("\"settings\": {").unwrap();
    let (middle, list) = list.split_once("\"enum\": [").unwrap();
    let (list, after) = list.split_once("\n        ]").unwrap();
    let schema: Value = serde_json::from_str(&text_of_schema).unwrap();
    let credentials = schema.pointer("/definitions/credentialName/enum").unwrap().clone();
    let credentials: BTreeSet<String> = serde_json::from_value(credentials).unwrap();
    let (_, values) = variants(dir.path()).pop().unwrap();
    let rendered = objects(&text(template(VERSIONS[1], &values.iter().map(String::as_str).collect::<Vec<_>>())));
    let made: BTreeSet<_> = ROLES.iter().flat_map(|role| settings(&rendered, role).into_keys()).collect();
    let listed: BTreeSet<String> = serde_json::from_str(&format!("[{list}]")).unwrap();
    let names = NAMES.iter().map(|name| name.to_ascii_uppercase());
    // With the CA, probes of Kubernetes would be refused. What a variant sets, or what may be a secret, is in the list
    // only where somebody put it there.
    let wanted: BTreeSet<String> = names
        .filter(|name| name != "ADMIN_TLS_CLIENT_CA_FILE")
        .filter(|name| listed.contains(name) || !(made.contains(name) || credentials.contains(name)))
        .collect();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        let lines: Vec<_> = wanted.iter().map(|name| format!("\n          \"{name}\"")).collect();
        let written = format!("{before}\"settings\": {{{middle}\"enum\": [{}\n        ]{after}", lines.join(","));
        std::fs::write(&path, written).unwrap();
    } else {
        assert_eq!(listed, wanted, "UPDATE_DOCS=1 cargo test --test it kubernetes::the_schema writes it");
    }
}

fn seconds(duration: &str) -> u64 {
    duration.strip_suffix('s').unwrap().parse().unwrap()
}

#[test]
fn every_pod_is_restricted_and_has_the_time_it_needs_to_stop() {
    let dir = tempfile::tempdir().unwrap();
    for (name, values) in variants(dir.path()) {
        let rendered = objects(&text(template(VERSIONS[1], &values.iter().map(String::as_str).collect::<Vec<_>>())));
        for object in &rendered {
            let pod = match object["kind"].as_str().unwrap() {
                "Deployment" | "Job" => &object["spec"]["template"]["spec"],
                "Pod" => &object["spec"],
                _ => continue,
            };
            let (of_pod, of_container) = (&pod["securityContext"], &pod["containers"][0]["securityContext"]);
            assert_eq!(of_pod["runAsNonRoot"], true);
            assert_eq!(of_pod["seccompProfile"]["type"], "RuntimeDefault");
            assert_eq!(of_container["allowPrivilegeEscalation"], false);
            assert_eq!(of_container["readOnlyRootFilesystem"], true);
            assert_eq!(of_container["capabilities"], json!({"drop": ["ALL"]}));
            assert_eq!(
                (&pod["enableServiceLinks"], &pod["automountServiceAccountToken"]),
                (&json!(false), &json!(false))
            );
        }
        for role in ROLES {
            let environment = settings(&rendered, role);
            let pod = &find(&rendered, "Deployment", &format!("-{role}"))["spec"]["template"]["spec"];
            let sleep = pod["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"].as_u64().unwrap_or(0);
            let stop = sleep + seconds(&environment["SHUTDOWN_DELAY"]) + seconds(&environment["SHUTDOWN_TIMEOUT"]);
            let grace = pod["terminationGracePeriodSeconds"].as_u64().unwrap();
            assert!(grace >= stop + 5, "{name}, {role}: {grace} s for {stop} s");
            // Each port answers for itself, and clients of a gateway are at the one of the events.
            let (port, key) =
                if role == "gateway" { ("http", "TLS_KEY_FILE") } else { ("admin", "ADMIN_TLS_KEY_FILE") };
            let scheme = if environment.contains_key(key) { "HTTPS" } else { "HTTP" };
            for probe in ["startupProbe", "livenessProbe", "readinessProbe"] {
                let probed = &pod["containers"][0][probe]["httpGet"];
                assert_eq!((&probed["port"], &probed["scheme"]), (&json!(port), &json!(scheme)), "{name}, {role}");
            }
        }
    }
    let linked = Command::new(binary()).arg("config").env("DATABASE_PORT", "tcp://10.0.0.1:5432").output().unwrap();
    assert_eq!(linked.status.code(), Some(64), "a Service called database would no longer be in the way");
}

#[test]
fn the_binary_knows_every_variable_and_each_role_has_no_others_secrets() {
    let dir = tempfile::tempdir().unwrap();
    for (name, values) in variants(dir.path()) {
        let rendered = objects(&text(template(VERSIONS[1], &values.iter().map(String::as_str).collect::<Vec<_>>())));
        for role in ROLES {
            let mut environment = settings(&rendered, role);
            let secret = credentials(&rendered, role);
            assert!(secret.contains("METRICS_TOKEN"), "{name}, {role}");
            assert_eq!(secret.contains("SECRETS_KEY") && secret.contains("ADMIN_TOKEN"), role == "reaction", "{name}");
            assert_eq!(secret.contains("S3_SECRET_ACCESS_KEY"), role == "sink" && name == "kind", "{name}, {role}");
            // Only what removes old partitions writes to the audit log.
            assert_eq!(secret.contains("DATABASE_PASSWORD"), role != "sink" || name == "everything", "{name}, {role}");
            assert_eq!(
                environment.contains_key("DATABASE_HOST"),
                secret.contains("DATABASE_PASSWORD"),
                "{name}, {role}"
            );
            let made_up = secret.into_iter().enumerate().map(|(number, name)| (name, format!("{number:064x}")));
            environment.extend(made_up);
            let shown =
                Command::new(binary()).args(["config", "--json"]).env_clear().envs(&environment).output().unwrap();
            let shown: Value = serde_json::from_str(&text(shown)).unwrap();
            for variable in environment.keys() {
                let source = &shown[variable.to_ascii_lowercase()]["source"];
                assert_eq!(*source, format!("environment {variable}"), "{name}, {role}");
            }
        }
    }
}

/// The names of the credentials of a pod.
fn credentials(objects: &[Value], role: &str) -> BTreeSet<String> {
    let (kind, pod) = if role == "migrate" { ("Job", "migrate") } else { ("Deployment", role) };
    let container = &find(objects, kind, &format!("-{pod}"))["spec"]["template"]["spec"]["containers"][0];
    let secret = container["env"].as_array().unwrap().iter().filter(|entry| entry["valueFrom"].is_object());
    secret.map(|entry| entry["name"].as_str().unwrap().to_owned()).collect()
}

/// A container of the chart as a process of this machine.
struct Container {
    child: Child,
    /// By the names of the ports.
    ports: BTreeMap<String, u16>,
    environment: BTreeMap<String, String>,
    spec: Value,
    grace: Duration,
}

impl Container {
    /// The variables of the container, with Secrets read, and free ports in the place of those of a pod.
    fn of(rendered: &[Value], kind: &str, name: &str, data: PathBuf) -> Self {
        let pod = &find(rendered, kind, name)["spec"]["template"]["spec"];
        let spec = pod["containers"][0].clone();
        let mut environment = BTreeMap::new();
        for from in spec["envFrom"].as_array().into_iter().flatten() {
            let map = from["configMapRef"]["name"].as_str().unwrap();
            let data = find(rendered, "ConfigMap", &map["causality".len()..])["data"].clone();
            environment.extend(serde_json::from_value::<BTreeMap<String, String>>(data).unwrap());
        }
        for entry in spec["env"].as_array().unwrap() {
            let at = &entry["valueFrom"]["secretKeyRef"];
            let value = match at["name"].as_str() {
                None => &entry["value"],
                Some(secret) => {
                    &find(rendered, "Secret", &secret["causality".len()..])["stringData"][at["key"].as_str().unwrap()]
                }
            };
            environment.insert(entry["name"].as_str().unwrap().to_owned(), value.as_str().unwrap().to_owned());
        }
        let mut ports = BTreeMap::new();
        for port in spec["ports"].as_array().into_iter().flatten() {
            let (name, own) = (port["name"].as_str().unwrap(), free_port());
            let address = environment.get_mut(&format!("{}_ADDR", name.to_ascii_uppercase())).unwrap();
            assert_eq!(*address, format!(":{}", port["containerPort"]), "it listens where it is probed");
            *address = format!(":{own}");
            ports.insert(name.to_owned(), own);
        }
        if let Some(directory) = environment.get_mut("DATA_DIR") {
            assert_eq!(spec["volumeMounts"][0]["mountPath"], directory.as_str());
            *directory = data.display().to_string();
        }
        let child = Self::command(&spec["args"], &environment).stderr(Stdio::null()).spawn().unwrap();
        let grace = Duration::from_secs(pod["terminationGracePeriodSeconds"].as_u64().unwrap_or(0));
        Self { child, ports, environment, spec, grace }
    }

    fn command(arguments: &Value, environment: &BTreeMap<String, String>) -> Command {
        let arguments: Vec<String> = serde_json::from_value(arguments.clone()).unwrap();
        let mut command = Command::new(binary());
        command.args(arguments).env_clear().envs(environment).stdin(Stdio::null()).stdout(Stdio::null());
        command
    }

    /// Another command in the container, as `kubectl exec` runs it.
    fn exec(&self, arguments: &[&str]) -> String {
        text(Command::new(binary()).args(arguments).env_clear().envs(&self.environment).output().unwrap())
    }

    /// What a probe of the chart gets.
    fn probe(&self, name: &str) -> Option<u16> {
        let get_this = &self.spec[name]["httpGet"];
        let port = self.ports[get_this["port"].as_str().unwrap()];
        get(&format!("http://127.0.0.1:{port}{}", get_this["path"].as_str().unwrap())).map(|(status, _)| status)
    }

    fn wait_ready(&self) {
        let named = &self.spec["name"];
        wait_until(&format!("{named} has started"), || self.probe("startupProbe") == Some(200));
        wait_until(&format!("{named} is ready"), || self.probe("readinessProbe") == Some(200));
        assert_eq!(self.probe("livenessProbe"), Some(200), "{named}");
    }

    /// A metric, summed over its labels.
    fn metric(&self, name: &str) -> f64 {
        let url = format!("http://127.0.0.1:{}/metrics", self.ports["admin"]);
        assert_eq!(get(&url).unwrap().0, 401, "metrics ask for a token");
        let token = format!("Bearer {}", self.environment["METRICS_TOKEN"]);
        let text = ureq::get(url).header("authorization", token).call().unwrap().body_mut().read_to_string().unwrap();
        let lines = text.lines().filter(|line| line.starts_with(name));
        lines.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).sum()
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        // It may have ended already; then there is nothing to do.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn each_role_starts_works_and_stops_as_its_pod_says() {
    let (nats, postgres, s3) = (NatsServer::start(Version::Newest), PostgresServer::start(), S3Server::start());
    let (database, dir) = (postgres.database(), tempfile::tempdir().unwrap());
    let url = postgres.url(&database);
    let (user, password) = url["postgres://".len()..].split_once('@').unwrap().0.split_once(':').unwrap();
    let sets = [
        format!("settings.NATS_URL={}", nats.url()),
        "settings.DATABASE_HOST=127.0.0.1".to_owned(),
        format!("settings.DATABASE_PORT={}", postgres.port()),
        format!("settings.DATABASE_NAME={database}"),
        format!("settings.DATABASE_USER={user}"),
        format!("credentials.values.DATABASE_PASSWORD={password}"),
        format!("settings.S3_ENDPOINT={}", s3.url()),
        format!("settings.S3_BUCKET={}", s3::BUCKET),
        format!("credentials.values.S3_ACCESS_KEY_ID={}", s3::ACCESS_KEY),
        format!("credentials.values.S3_SECRET_ACCESS_KEY={}", s3::SECRET_KEY),
        "settings.BATCH_FLUSH_INTERVAL=1s".to_owned(),
        // To be measured in a test: 5 s, a drain of 3 s, and a grace period of 13 s.
        "gateway.drain.delaySeconds=5".to_owned(),
        "gateway.drain.timeoutSeconds=3".to_owned(),
    ];
    let mut arguments = vec!["--values", "values-kind.yaml"];
    arguments.extend(sets.iter().flat_map(|set| ["--set", set.as_str()]));
    let rendered = objects(&text(template(VERSIONS[1], &arguments)));
    let start = |kind: &str, name: &str| Container::of(&rendered, kind, &format!("-{name}"), dir.path().join(name));

    let mut migrate = start("Job", "migrate");
    assert!(migrate.child.wait().unwrap().success(), "the hook of an install");
    let [mut gateway, mut sink, mut reaction] = ROLES.map(|role| start("Deployment", role));
    [&gateway, &sink, &reaction].into_iter().for_each(Container::wait_ready);

    let created = reaction.exec(&["keys", "create", "--app", "demo", "--name", "me", "--json"]);
    let key = serde_json::from_str::<Value>(&created).unwrap()["key"].as_str().unwrap().to_owned();
    let ingest = format!("http://127.0.0.1:{}/v1/events/ingest", gateway.ports["http"]);
    let event = json!({"event": {"appId": "demo", "deviceId": "d", "userLogin": {}}});
    let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
    let send = || agent.post(&ingest).header("X-API-Key", &key).send_json(&event).unwrap().status().as_u16();
    wait_until("the gateway knows the key", || send() == 200);
    wait_until("the sink stores the event", || sink.metric("causality_sink_rows_total") >= 1.0);
    for part in ["events_total", "request_seconds_sum{route=\"ingest\"", "request_seconds_count{route=\"ingest\""] {
        let name = format!("causality_gateway_{part}");
        assert!(gateway.metric(&name) > 0.0, "{name}, of which the rule for scaling is made");
    }
    for (pod, container, port) in [("gateway", &gateway, "http"), ("admin", &reaction, "admin")] {
        let test = &find(&rendered, "Pod", &format!("-test-{pod}"))["spec"]["containers"][0]["args"];
        let mut arguments: Vec<String> = serde_json::from_value(test.clone()).unwrap();
        let url = arguments.last_mut().unwrap();
        assert!(url.starts_with(&format!("http://causality-{pod}:")), "{url}");
        *url = format!("http://127.0.0.1:{}", container.ports[port]);
        assert_eq!(Container::command(&json!(arguments), &BTreeMap::new()).status().unwrap().code(), Some(0), "{pod}");
    }

    // A client that does not finish its request is in the way of the drain.
    let mut slow = std::net::TcpStream::connect(("127.0.0.1", gateway.ports["http"])).unwrap();
    let head = "POST /v1/events/ingest HTTP/1.1\r\nhost: t\r\nx-api-key: KEY\r\ncontent-length: 100\r\n\r\n{";
    std::io::Write::write_all(&mut slow, head.replace("KEY", &key).as_bytes()).unwrap();
    let told = Instant::now();
    signal(gateway.child.id(), "TERM");
    wait_until("the gateway is unready", || gateway.probe("readinessProbe") == Some(503));
    assert_eq!((gateway.probe("livenessProbe"), send()), (Some(200), 200), "and serves on");
    ended(&mut gateway, told);
    assert!(told.elapsed() >= Duration::from_secs(5), "the delay");
    for container in [&mut sink, &mut reaction] {
        let told = Instant::now();
        signal(container.child.id(), "TERM");
        ended(container, told);
    }
}

/// The container ends, in order and before it would be killed.
fn ended(container: &mut Container, told: Instant) {
    let named = &container.spec["name"];
    wait_until(&format!("{named} ends"), || container.child.try_wait().unwrap().is_some());
    assert!(container.child.wait().unwrap().success(), "{named}");
    assert!(told.elapsed() < container.grace, "{named}: {:?}", told.elapsed());
}
