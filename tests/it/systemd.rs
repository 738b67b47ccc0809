//! The units of deploy/systemd as systemd reads them, and what they promise against the settings.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::harness::binary;

const UNITS: [&str; 6] = [
    "causality.service",
    "causality.socket",
    "causality@gateway.service",
    "causality@gateway.socket",
    "causality@reaction.service",
    "causality@sink.service",
];

/// In tenths, as `systemd-analyze security --threshold` takes it.
const EXPOSURE_MAX: &str = "20";

fn sources() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/systemd")
}

/// The units, with the binary under test instead of the installed one, which `verify` would miss.
fn units() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let drop_ins = "causality@gateway.service.d";
    std::fs::create_dir(dir.path().join(drop_ins)).unwrap();
    for name in ["causality.service", "causality@.service", "causality.socket", "causality@gateway.socket"] {
        let text = std::fs::read_to_string(sources().join(name)).unwrap();
        let text = text.replace("ExecStart=/usr/bin/causality ", &format!("ExecStart={} ", binary().display()));
        std::fs::write(dir.path().join(name), text).unwrap();
    }
    let drop_in = Path::new(drop_ins).join("socket.conf");
    std::fs::copy(sources().join(&drop_in), dir.path().join(&drop_in)).unwrap();
    dir
}

fn analyze(dir: &Path, arguments: &[&str]) -> (bool, String) {
    let output = Command::new("systemd-analyze").current_dir(dir).args(arguments).env("SYSTEMD_COLORS", "0").output();
    let output = output.expect("systemd-analyze (`.ci/setup --tests` installs it)");
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&text).into_owned())
}

#[test]
fn the_units_are_valid() {
    let dir = units();
    for unit in UNITS {
        let (_, text) = analyze(dir.path(), &["verify", "--man=no", &format!("./{unit}")]);
        // It also warns of other units of this machine.
        let about_ours: Vec<_> = text.lines().filter(|line| line.contains("causality")).collect();
        assert!(about_ours.is_empty(), "{unit}: {about_ours:#?}");
    }
    let file = dir.path().join("causality.service");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace("Type=notify", "Type=notified")).unwrap();
    let (_, text) = analyze(dir.path(), &["verify", "--man=no", "./causality.service"]);
    assert!(text.contains("notified"), "a mistake is found: {text}");
}

#[test]
fn the_services_are_confined() {
    let dir = units();
    for service in ["causality.service", "causality@.service"] {
        let check = ["security", "--offline=yes", "--no-pager", "--threshold", EXPOSURE_MAX, service];
        let (confined, text) = analyze(dir.path(), &check);
        assert!(confined, "{service}: {text}");
    }
    let file = dir.path().join("causality.service");
    std::fs::write(&file, "[Service]\nExecStart=/bin/true\n").unwrap();
    let check = ["security", "--offline=yes", "--no-pager", "--threshold", EXPOSURE_MAX, "causality.service"];
    assert!(!analyze(dir.path(), &check).0, "a service that is not confined is found");
}

#[test]
fn the_two_services_differ_only_in_their_role() {
    let lines = |name: &str| -> Vec<String> {
        let text = std::fs::read_to_string(sources().join(name)).unwrap();
        text.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect()
    };
    let (all, role) = (lines("causality.service"), lines("causality@.service"));
    let only_all: Vec<_> = all.iter().filter(|line| !role.contains(line)).map(String::as_str).collect();
    let only_role: Vec<_> = role.iter().filter(|line| !all.contains(line)).map(String::as_str).collect();
    assert_eq!(
        only_all,
        [
            "Description=causality: ingests events, writes them as Parquet and reacts to them",
            "Sockets=causality.socket",
            "ExecStart=/usr/bin/causality run --config ${CREDENTIALS_DIRECTORY}/causality.toml",
            "Also=causality.socket",
        ]
    );
    assert_eq!(
        only_role,
        [
            "Description=causality: role %i",
            "EnvironmentFile=-/etc/causality/%i.env",
            "ExecStart=/usr/bin/causality run --role %i --config ${CREDENTIALS_DIRECTORY}/causality.toml",
        ]
    );
}

/// What the packages install is accepted, and the drain of its settings ends before systemd kills the process.
#[test]
fn the_installed_settings_fit_the_units() {
    let dir = tempfile::tempdir().unwrap();
    let template = std::fs::read_to_string(sources().join("causality.toml")).unwrap();
    let text = template.replace("@ADMIN_TOKEN@", &"a".repeat(64)).replace("@SECRETS_KEY@", &"b".repeat(64));
    let file = dir.path().join("causality.toml");
    std::fs::write(&file, text).unwrap();
    let output = Command::new(binary()).env_clear().args(["config", "--config"]).arg(&file).output().unwrap();
    let printed = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let settings: toml::Table = printed.parse().unwrap();
    let seconds = |name: &str| -> u64 {
        let text = settings[name].as_str().unwrap();
        text.strip_suffix('s').unwrap_or_else(|| panic!("{name} in seconds: {text}")).parse().unwrap()
    };
    let drain = Duration::from_secs(seconds("shutdown_delay") + seconds("shutdown_timeout"));
    let service = std::fs::read_to_string(sources().join("causality.service")).unwrap();
    let stop = service.lines().find_map(|line| line.strip_prefix("TimeoutStopSec=")).unwrap();
    assert!(Duration::from_secs(stop.parse().unwrap()) >= drain + Duration::from_secs(10), "{stop} for {drain:?}");
    let socket = std::fs::read_to_string(sources().join("causality.socket")).unwrap();
    let address = settings["http_addr"].as_str().unwrap();
    assert!(socket.lines().any(|line| line == format!("ListenStream={address}")), "{address}");
}

#[test]
fn both_packages_install_the_same_files() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let manifest: toml::Table = std::fs::read_to_string(root.join("Cargo.toml")).unwrap().parse().unwrap();
    let metadata = &manifest["package"]["metadata"];
    let text = |value: &toml::Value| value.as_str().unwrap().to_owned();
    let debian = metadata["deb"]["assets"].as_array().unwrap().iter();
    let debian = debian.map(|asset| [text(&asset[0]), format!("/{}", text(&asset[1])), text(&asset[2])]);
    let mut debian: Vec<_> = debian.collect();
    // That is `license-file` in the other.
    debian.push(["LICENSE", "/usr/share/doc/causality/copyright", "644"].map(str::to_owned));
    let rpm = metadata["generate-rpm"]["assets"].as_array().unwrap();
    let configured: Vec<_> =
        rpm.iter().filter(|asset| asset.get("config").is_some()).map(|a| text(&a["dest"])).collect();
    let debian_configured: Vec<_> = metadata["deb"]["conf-files"].as_array().unwrap().iter().map(text).collect();
    assert_eq!(debian_configured, configured);
    let rpm: Vec<_> = rpm.iter().map(|asset| ["source", "dest", "mode"].map(|key| text(&asset[key]))).collect();
    assert_eq!(debian, rpm);
    for [source, ..] in &rpm {
        assert!(source == "target/release/causality" || root.join(source).is_file(), "{source}");
    }
    for source in std::fs::read_dir(sources()).unwrap() {
        let name = format!("deploy/systemd/{}", source.unwrap().file_name().to_str().unwrap());
        assert!(rpm.iter().any(|[source, ..]| source.starts_with(&name)), "{name} is in no package");
    }
}
