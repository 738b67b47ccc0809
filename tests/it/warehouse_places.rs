//! Where the files go and as whom, by what the settings, the environment and the AWS profile say.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::harness::{Receiver, Server, binary, post, python, wait_until};
use crate::services::clouds::Cloud;
use crate::services::s3::{ACCESS_KEY, BUCKET, S3Server, SECRET_KEY};

/// Nobody answers there: the machine that runs the tests may be an instance, whose credentials are its own business.
const NO_INSTANCE: (&str, &str) = ("AWS_METADATA_ENDPOINT", "http://127.0.0.1:9");

fn start(dir: &Path, environment: &[(&str, &str)]) -> Server {
    Server::start(dir, &[&[NO_INSTANCE, ("BATCH_FLUSH_INTERVAL", "200ms")], environment].concat())
}

/// One event of app `shop`, to the end of its way.
fn land(server: &Server) {
    let event = json!({"event": {"id": "e1", "appId": "shop", "deviceId": "d", "userLogin": {}}});
    assert_eq!(server.send("/v1/events/ingest", &event).unwrap().0, 200);
    server.wait_drained();
}

/// Exactly that event is below the directory, and in its app's partition.
fn landed_in(dir: &Path) {
    assert!(dir.join("app_id=shop").is_dir(), "{}", dir.display());
    let read: Value = serde_json::from_str(&python("read_parquet.py", &[dir.to_str().unwrap(), "ids"], "")).unwrap();
    assert_eq!((&read["rows"], &read["ids"]), (&json!(1), &json!(["e1"])), "{}", dir.display());
}

fn run(dir: &Path, environment: &[(&str, &str)]) -> Command {
    let mut command = Command::new(binary());
    command.arg("run").env_clear().env("DATA_DIR", dir.join("data"));
    command.envs([("HTTP_ADDR", "127.0.0.1:0"), ("ADMIN_ADDR", "127.0.0.1:0"), ("LOG_FORMAT", "text")]);
    command
        .envs([NO_INSTANCE])
        .envs(environment.iter().copied())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    command
}

/// The exit code and the last words of a start that must fail.
fn refused(environment: &[(&str, &str)]) -> (Option<i32>, String) {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log");
    let mut child = run(dir.path(), environment).stderr(std::fs::File::create(&log).unwrap()).spawn().unwrap();
    let mut code = None;
    wait_until("a start that must fail ends", || {
        code = child.try_wait().unwrap();
        code.is_some()
    });
    let message = std::fs::read_to_string(log).unwrap();
    (code.unwrap().code(), message.lines().last().unwrap_or_default().to_owned())
}

const KEYS: [(&str, &str); 2] = [("S3_ACCESS_KEY_ID", ACCESS_KEY), ("S3_SECRET_ACCESS_KEY", SECRET_KEY)];

#[test]
fn files_go_to_the_directory_that_the_url_names() {
    let dir = tempfile::tempdir().unwrap();
    let lake = dir.path().join("a lake/raw");
    let server = start(dir.path(), &[("WAREHOUSE_URL", &format!("file://{}", lake.display()))]);
    land(&server);
    landed_in(&lake);
    assert!(!server.warehouse().exists(), "nothing is where it is without the setting");
    server.expect_quiet_log(&[]);
}

#[test]
fn a_file_url_is_decoded_and_names_this_machine() {
    let dir = tempfile::tempdir().unwrap();
    let url = format!("file://localhost{}/a%20b%25", dir.path().display());
    let server = start(dir.path(), &[("WAREHOUSE_URL", &url)]);
    land(&server);
    landed_in(&dir.path().join("a b%"));
    for url in ["file://server/share", "file:///a%2", "file://srv"] {
        let (code, message) = refused(&[("WAREHOUSE_URL", url)]);
        assert!(code == Some(64) && message.contains("warehouse_url"), "{url}: {code:?} {message}");
    }
}

/// The query that the README shows, as it stands there.
#[test]
fn the_query_of_the_readme_finds_the_event_of_the_readme() {
    let readme = include_str!("../../README.md");
    let between = |from: &str, to: &str| readme.split_once(from).unwrap().1.split_once(to).unwrap().0;
    let body = between("application/json' -d '", "}'").to_owned() + "}";
    let query = between("duckdb -c \"", "\"\n");
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path(), &[]);
    for body in [body.clone(), body.replace("EUR", "USD")] {
        let url = format!("{}/v1/events/ingest", server.http);
        assert_eq!(post(&url, body.as_bytes(), "application/json").unwrap().0, 200, "{body}");
    }
    server.wait_drained();
    assert!(query.contains("'causality-data/warehouse/"), "{query}");
    let query = query.replace("causality-data/warehouse", server.warehouse().to_str().unwrap());
    let rows: Value = serde_json::from_str(&python("read_parquet.py", &["", "query"], &query)).unwrap();
    let rows = rows.as_array().unwrap();
    assert!(rows.len() == 1 && rows[0][2] == "purchase_complete", "{rows:?}");
}

#[test]
fn files_go_below_the_prefix_that_the_url_or_the_setting_names() {
    for named in [
        &[("WAREHOUSE_URL", "s3://events/raw/in/")][..],
        &[("WAREHOUSE_URL", "s3a://events/raw/in")],
        &[("S3_BUCKET", BUCKET), ("S3_PREFIX", "/raw/in/")],
    ] {
        let (dir, s3) = (tempfile::tempdir().unwrap(), S3Server::start());
        let server = start(dir.path(), &[&KEYS, named, &[("S3_ENDPOINT", &s3.url())]].concat());
        land(&server);
        landed_in(&s3.bucket().join("raw/in"));
        assert!(!server.warehouse().exists(), "{named:?}");
        server.expect_quiet_log(&[]);
    }
}

/// No name of this machine has a bucket before it, so the requests go through a proxy, which is the endpoint itself:
/// it takes none whose signature is not for that host.
#[test]
fn the_bucket_is_in_the_host_when_it_is_not_to_be_in_the_path() {
    let (dir, s3) = (tempfile::tempdir().unwrap(), S3Server::start_at("s3.test:9000"));
    let places = [("S3_BUCKET", BUCKET), ("S3_ENDPOINT", "http://s3.test:9000"), ("S3_USE_PATH_STYLE", "false")];
    let server = start(dir.path(), &[&KEYS[..], &places, &[("http_proxy", &s3.url())]].concat());
    land(&server);
    landed_in(&s3.bucket());
    for head in s3.heads() {
        assert_eq!(head.header("host"), Some("events.s3.test:9000"), "{head:?}");
        assert!(!head.path.starts_with("/events"), "{head:?}");
    }
    server.expect_quiet_log(&[]);

    let at_address = [("S3_BUCKET", BUCKET), ("S3_ENDPOINT", "http://127.0.0.1:9"), ("S3_USE_PATH_STYLE", "false")];
    let (code, message) = refused(&[&KEYS[..], &at_address].concat());
    assert!(code == Some(78) && message.contains("s3_use_path_style"), "{code:?} {message}");
}

/// The regions that the requests were signed for.
fn regions(s3: &S3Server) -> Vec<String> {
    let region = |head: crate::services::s3::Head| {
        // Credential=KEY/DAY/REGION/s3/aws4_request
        head.header("authorization").unwrap().split('/').nth(2).unwrap().to_owned()
    };
    let mut regions: Vec<String> = s3.heads().into_iter().map(region).collect();
    regions.dedup();
    regions
}

#[test]
fn the_region_is_the_settings_or_the_environments_or_the_profiles() {
    let home = home_with(&[("config", "[default]\nregion = from-profile\n")]);
    let (setting, profile) = (("S3_REGION", "from-setting"), ("HOME", home.path().to_str().unwrap()));
    let (usual, fallback) = (("AWS_REGION", "from-usual"), ("AWS_DEFAULT_REGION", "from-default"));
    for (environment, region) in [
        (&[setting, usual, fallback, profile][..], "from-setting"),
        (&[usual, fallback, profile], "from-usual"),
        (&[fallback, profile], "from-default"),
        (&[("AWS_REGION", ""), profile], "from-profile"),
        (&[], "us-east-1"),
    ] {
        let (dir, s3) = (tempfile::tempdir().unwrap(), S3Server::start());
        let places = [("S3_ENDPOINT", s3.url()), ("S3_BUCKET", BUCKET.to_owned())];
        let places = places.each_ref().map(|(name, value)| (*name, value.as_str()));
        let _server = start(dir.path(), &[&KEYS[..], &places, environment].concat());
        assert_eq!(regions(&s3), [region], "{environment:?}");
    }
}

/// AWS answers so where the bucket is in another region.
#[test]
fn a_wrong_region_is_named() {
    let elsewhere = Receiver::answering(|_| 301);
    let places = [("S3_ENDPOINT", elsewhere.url.as_str()), ("S3_BUCKET", BUCKET), ("AWS_REGION", "eu-west-7")];
    let (code, message) = refused(&[&KEYS[..], &places].concat());
    assert_eq!(code, Some(78), "{message}");
    assert!(message.contains("s3_region") && message.contains("eu-west-7"), "{message}");
}

/// A home directory with AWS profile files.
fn home_with(files: &[(&str, &str)]) -> tempfile::TempDir {
    let home = tempfile::tempdir().unwrap();
    std::fs::create_dir(home.path().join(".aws")).unwrap();
    for (name, text) in files {
        std::fs::write(home.path().join(".aws").join(name), text).unwrap();
    }
    home
}

/// What session tokens came with the requests.
fn tokens(s3: &S3Server) -> Vec<Option<String>> {
    let mut tokens: Vec<Option<String>> =
        s3.heads().iter().map(|head| head.header("x-amz-security-token").map(str::to_owned)).collect();
    tokens.dedup();
    tokens
}

/// Each source of credentials alone, and none with the session token of another.
#[test]
fn credentials_come_from_the_settings_the_environment_a_profile_or_the_instance() {
    let keys = format!("aws_access_key_id = {ACCESS_KEY}\naws_secret_access_key = {SECRET_KEY}\n");
    let profiles = format!("[default]\naws_access_key_id = other\naws_secret_access_key = x\n[ci]\n{keys}");
    let home = home_with(&[("credentials", &profiles)]);
    let with_token = home_with(&[("credentials", &format!("[default]\n{keys}aws_session_token = of-profile\n"))]);
    let (home, with_token) = (home.path().to_str().unwrap(), with_token.path().to_str().unwrap());
    let instance = Cloud::instance(ACCESS_KEY, SECRET_KEY, "of-instance");
    let (id, secret) = (("AWS_ACCESS_KEY_ID", ACCESS_KEY), ("AWS_SECRET_ACCESS_KEY", SECRET_KEY));
    let stray = ("AWS_SESSION_TOKEN", "stray");
    let others = [("AWS_ACCESS_KEY_ID", "other"), ("AWS_SECRET_ACCESS_KEY", "x"), stray, ("HOME", home)];
    for (environment, token) in [
        ([&KEYS[..], &others].concat(), None),
        (vec![id, secret, ("HOME", home)], None),
        (vec![id, secret, ("AWS_SESSION_TOKEN", "")], None),
        (vec![id, secret, ("AWS_SESSION_TOKEN", "of-environment")], Some("of-environment")),
        (vec![("HOME", home), ("AWS_PROFILE", "ci"), stray], None),
        (vec![("HOME", with_token), stray, ("AWS_ACCESS_KEY_ID", "")], Some("of-profile")),
        (vec![("AWS_METADATA_ENDPOINT", instance.url.as_str())], Some("of-instance")),
    ] {
        let (dir, s3) = (tempfile::tempdir().unwrap(), S3Server::start());
        // Half of them find the endpoint where other clients do.
        let endpoint = if token.is_some() { "AWS_ENDPOINT_URL" } else { "S3_ENDPOINT" };
        let places = [("WAREHOUSE_URL", "s3://events/raw"), (endpoint, &s3.url())];
        let server = start(dir.path(), &[&places, &environment[..]].concat());
        land(&server);
        landed_in(&s3.bucket().join("raw"));
        assert_eq!(tokens(&s3), [token.map(str::to_owned)], "{environment:?}");
        server.expect_quiet_log(&[]);
    }
}

/// Somebody who names a profile means its credentials and no other.
#[test]
fn a_profile_without_keys_is_named() {
    let sso = "[default]\nsso_session = corp\n[profile ci]\nrole_arn = arn:aws:iam::1:role/ci\n";
    let home = home_with(&[("config", sso)]);
    let places = [("WAREHOUSE_URL", "s3://events"), ("HOME", home.path().to_str().unwrap())];
    for (profile, wanted) in [("ci", "role_arn"), ("gone", "no file has")] {
        let (code, message) = refused(&[&places[..], &[("AWS_PROFILE", profile)]].concat());
        assert_eq!(code, Some(78), "{message}");
        assert!(message.contains(wanted) && message.contains(profile) && message.contains("AWS_PROFILE"), "{message}");
    }

    let (dir, s3) = (tempfile::tempdir().unwrap(), S3Server::start());
    let instance = Cloud::instance(ACCESS_KEY, SECRET_KEY, "t");
    let more = [("S3_ENDPOINT", s3.url()), ("AWS_METADATA_ENDPOINT", instance.url.clone())];
    let more = more.each_ref().map(|(name, value)| (*name, value.as_str()));
    let server = start(dir.path(), &[&places[..], &more].concat());
    let log = std::fs::read_to_string(server.dir.join("log.jsonl")).unwrap();
    assert!(log.contains("WARN") && log.contains("sso_session") && log.contains("default"), "{log}");
}

/// Without any credentials the machine itself is asked, which hardly anybody expects.
#[test]
fn a_machine_without_credentials_says_what_to_set() {
    let dir = tempfile::tempdir().unwrap();
    let mut child = run(dir.path(), &[("WAREHOUSE_URL", "s3://events")]).spawn().unwrap();
    let lines = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
    let waiting: Vec<String> = lines.filter(|line| line.contains("cannot be reached yet")).take(1).collect();
    child.kill().unwrap();
    child.wait().unwrap();
    let names = ["no credentials are set", "s3_access_key_id", "AWS_ACCESS_KEY_ID", "AWS_PROFILE"];
    assert!(names.iter().all(|name| waiting[0].contains(name)), "{waiting:?}");
}

/// The probe was written and taken away, and after it the event's file below the prefix, which is in the Delta log.
fn landed_at(cloud: &Cloud, container: &str) {
    let asked = cloud.asked();
    let log = format!("{container}/raw/_delta_log/");
    let condition = format!("{container}/raw/.causality-condition");
    let put = asked.iter().filter(|asked| asked.method == "PUT" && asked.path != condition);
    let (commits, put): (Vec<_>, Vec<_>) = put.partition(|asked| asked.path.starts_with(&log));
    let removed = asked.iter().filter(|asked| asked.method == "DELETE" || asked.query.contains("comp=batch"));
    let probe = format!("{container}/raw/.causality-probe");
    assert!(put[0].path == probe && put[0].body.is_empty(), "{:?}", put[0]);
    assert!(removed.count() == 1 && asked[0].method == "GET", "{asked:?}");
    let [_, file] = put[..] else { panic!("{} objects", put.len()) };
    let partition = format!("{container}/raw/app_id=shop/year=");
    assert!(file.path.starts_with(&partition) && file.path.ends_with(".parquet"), "{}", file.path);
    let [begun, added] = commits[..] else { panic!("{} commits", commits.len()) };
    assert!(begun.path.ends_with("00000000000000000000.json") && added.path.ends_with("00000000000000000001.json"));
    let (commit, name) = (String::from_utf8(added.body.to_vec()).unwrap(), file.path.rsplit('/').next().unwrap());
    assert!(commit.contains("\"add\"") && commit.contains(name), "{commit}");
    // As it was sent, it is a file.
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(file.path.strip_prefix(&format!("{container}/raw/")).unwrap());
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, &file.body).unwrap();
    landed_in(dir.path());
}

/// A service account that asks for no token, at another address than Google's.
fn google_account(url: &str) -> Value {
    json!({"gcs_base_url": url, "disable_oauth": true, "client_email": "", "private_key": "", "private_key_id": ""})
}

#[test]
fn files_go_to_google_cloud_storage() {
    let (dir, cloud) = (tempfile::tempdir().unwrap(), Cloud::google());
    let file = dir.path().join("account.json");
    std::fs::write(&file, google_account(&cloud.url).to_string()).unwrap();
    let account = ("GOOGLE_SERVICE_ACCOUNT", file.to_str().unwrap());
    let place = ("WAREHOUSE_URL", "gs://events/raw");
    let server = start(dir.path(), &[place, account]);
    land(&server);
    landed_at(&cloud, "/events");
    server.expect_quiet_log(&[]);

    let (code, message) = refused(&[place, account, ("GOOGLE_ALLOW_HTTP", "no")]);
    assert!(code == Some(78) && message.contains("GOOGLE_ALLOW_HTTP"), "{code:?} {message}");
}

#[test]
fn files_go_to_azure() {
    let (dir, cloud) = (tempfile::tempdir().unwrap(), Cloud::azure());
    let environment = [
        ("WAREHOUSE_URL", "az://events/raw"),
        ("AZURE_STORAGE_ACCOUNT_NAME", "shop"),
        ("AZURE_STORAGE_ACCOUNT_KEY", "aHVudGVyMg=="),
        ("AZURE_STORAGE_ENDPOINT", cloud.url.as_str()),
        ("AZURE_ALLOW_HTTP", "1"),
    ];
    let server = start(dir.path(), &environment);
    land(&server);
    landed_at(&cloud, "/events");
    for asked in cloud.asked() {
        let signed = asked.headers["authorization"].to_str().unwrap();
        assert!(signed.starts_with("SharedKey shop:"), "{signed}");
    }
    server.expect_quiet_log(&[]);

    let (code, message) = refused(&environment[..4]);
    assert!(code == Some(78) && message.contains("AZURE_ALLOW_HTTP"), "{code:?} {message}");
}

/// Each store names what its users set, and no setting of another.
#[test]
fn advice_names_what_the_store_is_set_up_with() {
    let (denies, empty) = (Receiver::answering(|_| 403), Receiver::answering(|_| 404));
    let azure = |environment: &[(&str, &str)]| {
        let common = [
            ("WAREHOUSE_URL", "az://events"),
            ("AZURE_STORAGE_ACCOUNT_KEY", "aHVudGVyMg=="),
            ("AZURE_ALLOW_HTTP", "true"),
        ];
        refused(&[&common, environment].concat())
    };
    let google = |receiver: &Receiver| {
        let key = google_account(&receiver.url).to_string();
        refused(&[("WAREHOUSE_URL", "gs://events"), ("GOOGLE_SERVICE_ACCOUNT_KEY", &key)])
    };
    let account = ("AZURE_STORAGE_ACCOUNT_NAME", "shop");
    for ((code, message), wanted) in [
        (azure(&[]), "AZURE_STORAGE_ACCOUNT_NAME"),
        (azure(&[account, ("AZURE_STORAGE_ENDPOINT", &denies.url)]), "AZURE_STORAGE_ACCOUNT_KEY"),
        (azure(&[account, ("AZURE_STORAGE_ENDPOINT", &empty.url)]), "is there a container \"events\""),
        (google(&denies), "GOOGLE_SERVICE_ACCOUNT"),
        (google(&empty), "is there a bucket \"events\"? (warehouse_url)"),
        (
            refused(&[("WAREHOUSE_URL", "gs://events"), ("GOOGLE_SERVICE_ACCOUNT", "/nowhere")]),
            "GOOGLE_SERVICE_ACCOUNT",
        ),
    ] {
        assert_eq!(code, Some(78), "{message}");
        assert!(message.contains(wanted) && !message.contains("s3_"), "{message}");
    }
}

/// Nothing is deleted in the main job: a bucket where that is not possible will do.
#[test]
fn a_bucket_from_which_nothing_can_be_deleted_will_do() {
    for status in [501, 405, 403, 200] {
        let (dir, s3) = (tempfile::tempdir().unwrap(), S3Server::start());
        s3.refuse_deletes(status);
        let places = [("S3_ENDPOINT", s3.url()), ("S3_BUCKET", BUCKET.to_owned())];
        let places = places.each_ref().map(|(name, value)| (*name, value.as_str()));
        let server = start(dir.path(), &[&KEYS[..], &places].concat());
        land(&server);
        landed_in(&s3.bucket());
        let log = std::fs::read_to_string(server.dir.join("log.jsonl")).unwrap();
        assert!(log.contains("objects cannot be deleted"), "{status}: {log}");
        server.expect_quiet_log(&["objects cannot be deleted"]);
    }
}

/// The bulk request is not everywhere.
#[test]
fn one_object_is_deleted_by_one_plain_request() {
    let (dir, s3) = (tempfile::tempdir().unwrap(), S3Server::start());
    let places = [("S3_ENDPOINT", s3.url()), ("S3_BUCKET", BUCKET.to_owned())];
    let places = places.each_ref().map(|(name, value)| (*name, value.as_str()));
    let server = start(dir.path(), &[&KEYS[..], &places].concat());
    assert!(!s3.bucket().join(".causality-probe").exists(), "the probe is taken away");
    assert!(s3.heads().iter().all(|head| head.method != "POST"), "{:?}", s3.heads());
    server.expect_quiet_log(&[]);
}

/// S3 takes no request whose time is off, and says so with the status of wrong credentials.
#[test]
fn a_clock_that_is_off_is_named() {
    let (dir, s3) = (tempfile::tempdir().unwrap(), S3Server::start());
    s3.refuse(403, "RequestTimeTooSkewed");
    let places = [("S3_ENDPOINT", s3.url()), ("S3_BUCKET", BUCKET.to_owned())];
    let places = places.each_ref().map(|(name, value)| (*name, value.as_str()));
    let server = Server::launch(dir.path(), &[&KEYS[..], &places, &[NO_INSTANCE]].concat());
    let log = || std::fs::read_to_string(dir.path().join("log.jsonl")).unwrap_or_default();
    wait_until("the clock is named", || log().contains("clock"));
    assert!(!log().contains("credentials"), "{}", log());
    // Clocks are set right without anybody who restarts.
    s3.heal();
    server.wait_ready();
}

/// What stands behind a `?` may open the container for everybody who reads the log.
#[test]
fn a_url_with_a_signature_is_refused_and_not_shown() {
    for url in ["az://events/raw?sv=1&sig=hunter2", "s3://events#hunter2", "file:///tmp/x?hunter2"] {
        let (code, message) = refused(&[("WAREHOUSE_URL", url)]);
        assert_eq!(code, Some(64), "{message}");
        assert!(message.contains("warehouse_url") && !message.contains("hunter2"), "{message}");
    }
}
