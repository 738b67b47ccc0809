//! HTTPS on both ports: events over it, the commands, certificates that change, and starts that are refused.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use crate::harness::{Server, binary, wait_until};
use crate::services::certificates::{Authority, Certificate};

/// What is wrong with a setting, by the exit codes of `sysexits.h`.
const EXIT_CONFIG: i32 = 78;
const NAMES: &str = "IP:127.0.0.1,DNS:localhost";

fn write(dir: &Path, name: &str, certificate: &Certificate) -> (PathBuf, PathBuf) {
    let (chain, key) = (dir.join(format!("{name}.pem")), dir.join(format!("{name}.key")));
    std::fs::write(&chain, &certificate.chain).unwrap();
    std::fs::write(&key, &certificate.key).unwrap();
    (chain, key)
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// One request over HTTPS; the whole answer, or nothing when there is none.
pub(crate) fn ask(address: &str, authority: &Authority, request: &str) -> Option<String> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(authority.file()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let tcp = TcpStream::connect(address).ok()?;
    let session = ClientConnection::new(Arc::new(config), ServerName::try_from("localhost").unwrap()).unwrap();
    let mut stream = StreamOwned::new(session, tcp);
    stream.write_all(request.as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    (!answer.is_empty()).then_some(answer)
}

#[test]
fn events_and_commands_go_over_tls_and_the_certificate_is_exchanged() {
    let dir = tempfile::tempdir().unwrap();
    let (gateway, admin, clients, next) = (Authority::new(), Authority::new(), Authority::new(), Authority::new());
    let (certificate, key) = write(dir.path(), "gateway", &gateway.issue(NAMES));
    let (admin_certificate, admin_key) = write(dir.path(), "admin", &admin.issue(NAMES));
    let (client_certificate, client_key) = write(dir.path(), "client", &clients.issue_client());
    let client_ca = clients.file();
    let server = Server::launch(
        &dir.path().join("server"),
        &[
            ("TLS_CERT_FILE", text(&certificate)),
            ("TLS_KEY_FILE", text(&key)),
            ("ADMIN_TLS_CERT_FILE", text(&admin_certificate)),
            ("ADMIN_TLS_KEY_FILE", text(&admin_key)),
            ("ADMIN_TLS_CLIENT_CA_FILE", text(&client_ca)),
        ],
    );
    let (address, admin_url) = (&server.http[7..], server.admin.replace("http://", "https://"));
    let causality = |arguments: &[&str], own: bool| -> Output {
        let mut command = Command::new(binary());
        command.args(arguments).env_clear().env("CAUSALITY_ADMIN_URL", &admin_url);
        command.env("CAUSALITY_CA_FILE", admin.file());
        if own {
            command.env("CAUSALITY_CERT_FILE", &client_certificate).env("CAUSALITY_KEY_FILE", &client_key);
        }
        command.output().unwrap()
    };
    wait_until("the status is told", || causality(&["status"], true).status.success());
    let refused = causality(&["status"], false);
    let why = String::from_utf8(refused.stderr).unwrap();
    assert!(refused.status.code() == Some(69) && why.contains("--cert-file"), "{why}");

    // The probe of a container knows no authority; the port asks for a client's certificate.
    let probe = |own: bool| {
        let mut command = Command::new(binary());
        command.args(["health", "--ready"]).env_clear().env("CAUSALITY_ADMIN_URL", &admin_url);
        if own {
            command.env("CAUSALITY_CERT_FILE", &client_certificate).env("CAUSALITY_KEY_FILE", &client_key);
        }
        command.output().unwrap().status.code()
    };
    assert_eq!((probe(true), probe(false)), (Some(0), Some(69)));

    let get = "GET /ready HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    let event = r#"{"event":{"appId":"a","deviceId":"d","userLogin":{}}}"#;
    let length = event.len();
    let post = format!(
        "POST /v1/events/ingest HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{event}"
    );
    assert!(ask(address, &gateway, &post).unwrap().starts_with("HTTP/1.1 200"));
    let url = format!("https://{address}");
    let bench = ["bench", "--url", &url, "--count", "500", "--ca-file", text(&gateway.file())].map(str::to_owned);
    let bench = causality(&bench.each_ref().map(String::as_str), false);
    assert!(bench.status.success(), "{}", String::from_utf8_lossy(&bench.stderr));

    // Half of a new pair keeps the old one in use, and is told.
    let exchanged = next.issue(NAMES);
    std::fs::write(&certificate, &exchanged.chain).unwrap();
    wait_until("the mismatch is warned of", || {
        ask(address, &gateway, get).is_some_and(|report| report.contains("tls_key_file") && report.contains("200 OK"))
    });
    std::fs::write(&key, &exchanged.key).unwrap();
    wait_until("the new certificate is shown", || {
        ask(address, &next, get).is_some_and(|report| !report.contains("tls_key_file"))
    });
    assert!(ask(address, &gateway, get).is_none());
    server.expect_quiet_log(&["cannot use the new TLS files"]);
    let log = std::fs::read_to_string(server.dir.join("log.jsonl")).unwrap();
    assert_eq!(log.matches("cannot use the new TLS files").count(), 1, "{log}");
}

#[test]
fn a_wrong_certificate_refuses_the_start_by_its_setting() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    let (certificate, key) = write(dir.path(), "right", &authority.issue(NAMES));
    let (_, other_key) = write(dir.path(), "other", &authority.issue(NAMES));
    let (expired, expired_key) = write(dir.path(), "expired", &authority.issue_expired(NAMES));
    let missing = dir.path().join("missing.pem");
    let ca = authority.file();
    let cases: [(&[(&str, &Path)], &str); 8] = [
        (&[("TLS_CERT_FILE", &certificate)], "tls_key_file is not set"),
        (&[("TLS_KEY_FILE", &key)], "tls_cert_file is not set"),
        (&[("TLS_CERT_FILE", &missing), ("TLS_KEY_FILE", &key)], "tls_cert_file: "),
        (&[("TLS_CERT_FILE", &certificate), ("TLS_KEY_FILE", &other_key)], "tls_key_file: "),
        (&[("TLS_CERT_FILE", &expired), ("TLS_KEY_FILE", &expired_key)], "expired on "),
        (&[("ADMIN_TLS_CERT_FILE", &certificate), ("ADMIN_TLS_KEY_FILE", &certificate)], "admin_tls_key_file: "),
        (&[("ADMIN_TLS_CLIENT_CA_FILE", &ca)], "admin_tls_cert_file is not set"),
        (
            &[("ADMIN_TLS_CERT_FILE", &certificate), ("ADMIN_TLS_KEY_FILE", &key), ("ADMIN_TLS_CLIENT_CA_FILE", &key)],
            "admin_tls_client_ca_file: ",
        ),
    ];
    for (environment, expected) in cases {
        let refused = Command::new(binary())
            .arg("run")
            .env_clear()
            .envs(environment.iter().copied())
            .env("DATA_DIR", dir.path().join("data"))
            .envs([("HTTP_ADDR", "127.0.0.1:0"), ("ADMIN_ADDR", "127.0.0.1:0")])
            .output()
            .unwrap();
        let message = String::from_utf8(refused.stderr).unwrap();
        assert_eq!(refused.status.code(), Some(EXIT_CONFIG), "{expected}: {message}");
        assert!(message.lines().last().unwrap_or_default().contains(expected), "{expected}: {message}");
        assert!(!message.contains("PRIVATE KEY"), "{message}");
    }
}
