//! TLS and credentials for NATS: what connects, and what is refused with the setting to change.

use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine as _};
use nkeys::KeyPair;
use serde_json::{Value, json};

use super::refused;
use crate::bus::conformance::{nats_settings, publish_numbers};
use crate::bus::{Bus, BusErrorKind, NatsSettings};
use crate::services::certificates::Authority;
use crate::services::nats::{NatsServer, Version};

/// Long enough for a server that is reachable.
const TIMEOUT: Duration = Duration::from_secs(3);

fn encrypted(server: &NatsServer, ca_file: Option<PathBuf>) -> NatsSettings {
    let url = format!("tls://127.0.0.1:{}", server.port()).into();
    NatsSettings { url, ca_file, timeout: TIMEOUT, ..nats_settings(server) }
}

async fn works(settings: NatsSettings) {
    let bus = Bus::connect_nats(settings).await.unwrap_or_else(|error| panic!("{:?}", error));
    publish_numbers(&bus, 0..3).await;
    bus.close().await;
}

async fn names(settings: NatsSettings, setting: &str) {
    let (kind, text) = refused(settings).await;
    assert!(kind == BusErrorKind::Refused && text.contains(setting), "{kind:?} {text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_is_verified_and_a_refusal_names_the_setting() {
    let (ours, other) = (Authority::new(), Authority::new());
    let users = r#"authorization { user: a, password: "b/c" }"#;
    let server = NatsServer::start_tls(Version::Newest, &ours.issue("IP:127.0.0.1,DNS:localhost"), users);
    let right = encrypted(&server, Some(ours.file()));
    let with_user = |url: &str| NatsSettings { url: url.replace("://", "://a:b%2Fc@").into(), ..right.clone() };
    works(with_user(&right.url)).await;
    works(with_user(&right.url.replace("127.0.0.1", "localhost"))).await;
    // The server requires TLS, so it is used regardless of the scheme.
    works(with_user(&right.url.replace("tls://", "nats://"))).await;

    names(right.clone(), "nats_url").await;
    names(NatsSettings { ca_file: None, ..right.clone() }, "nats_ca_file").await;
    names(NatsSettings { ca_file: Some(other.file()), ..right.clone() }, "nats_ca_file").await;
    let dir = tempfile::tempdir().unwrap();
    let garbage = dir.path().join("ca.pem");
    std::fs::write(&garbage, "not a certificate\n").unwrap();
    for file in [garbage, dir.path().join("missing.pem")] {
        names(NatsSettings { ca_file: Some(file), ..right.clone() }, "nats_ca_file").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_of_another_host_and_a_server_without_tls_are_refused() {
    let ours = Authority::new();
    let server = NatsServer::start_tls(Version::Oldest, &ours.issue("DNS:elsewhere.example"), "");
    names(encrypted(&server, Some(ours.file())), "nats_url").await;
    let itself = NatsServer::start_tls(Version::Newest, &ours.itself(), "");
    names(encrypted(&itself, Some(ours.file())), "of its own").await;
    let plain = NatsServer::start(Version::Newest);
    names(encrypted(&plain, Some(ours.file())), "tls://").await;
}

/// An operator's account with one user, as on a server run by somebody else.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_creds_file_is_a_user_of_its_account() {
    let [operator, account, system] = [KeyPair::new_operator(), KeyPair::new_account(), KeyPair::new_account()];
    // The server requires a system account, which must not have streams.
    let preload = [(&account, -1), (&system, 0)].map(|(account, storage)| {
        let limits = json!({"subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true,
            "conn": -1, "leaf": -1, "mem_storage": storage, "disk_storage": storage, "streams": storage,
            "consumer": storage});
        let claims = json!({"type": "account", "version": 2, "limits": limits});
        format!("{}: {}", account.public_key(), token(&operator, account, claims))
    });
    let configuration = format!(
        "operator: {}\nsystem_account: {}\nresolver: MEMORY\nresolver_preload: {{\n{}\n}}",
        token(&operator, &operator, json!({"type": "operator", "version": 2})),
        system.public_key(),
        preload.join("\n")
    );
    let server = NatsServer::start_with(Version::Newest, &configuration);
    let dir = tempfile::tempdir().unwrap();
    let with =
        |file: PathBuf| NatsSettings { credentials_file: Some(file), timeout: TIMEOUT, ..nats_settings(&server) };
    works(with(credentials(dir.path(), "right", &account))).await;
    names(with(credentials(dir.path(), "stranger", &KeyPair::new_account())), "nats_credentials_file").await;
    names(nats_settings(&server), "nats_credentials_file").await;
    let garbage = dir.path().join("garbage");
    std::fs::write(&garbage, "no credentials\n").unwrap();
    for file in [garbage, dir.path().join("missing")] {
        names(with(file), "nats_credentials_file").await;
    }
}

/// A file as `nsc` writes it, for a new user signed by `account`.
fn credentials(dir: &Path, name: &str, account: &KeyPair) -> PathBuf {
    let user = KeyPair::new_user();
    let permissions =
        json!({"type": "user", "version": 2, "pub": {}, "sub": {}, "subs": -1, "data": -1, "payload": -1});
    let (token, seed) = (token(account, &user, permissions), user.seed().unwrap());
    let path = dir.join(name);
    let text = format!(
        "-----BEGIN NATS USER JWT-----\n{token}\n------END NATS USER JWT------\n\n\
         -----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
    );
    std::fs::write(&path, text).unwrap();
    path
}

/// A signed claim about `subject`.
fn token(issuer: &KeyPair, subject: &KeyPair, claim: Value) -> String {
    let body = json!({"jti": subject.public_key(), "iat": 1_700_000_000, "iss": issuer.public_key(),
        "name": "test", "sub": subject.public_key(), "nats": claim});
    let part = |value: Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
    let signed = format!("{}.{}", part(json!({"typ": "JWT", "alg": "ed25519-nkey"})), part(body));
    let signature = issuer.sign(signed.as_bytes()).unwrap();
    format!("{signed}.{}", BASE64_URL_SAFE_NO_PAD.encode(signature))
}
