//! TLS over real sockets: what clients negotiate with a listener, and how failed handshakes end.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::files::{TlsFile, TlsFiles};
use super::reload::{Reload, Tls};
use crate::base::supervisor::Tasks;
use crate::http::memory::{CONNECTION_BYTES, TLS_CONNECTION_BYTES};
use crate::http::raw_client::RawClient;
use crate::http::tests::{TestServer, quick};
use crate::http::{Drained, Limits, MemoryBudget};
use crate::services::certificates::{Authority, Certificate};

const NAMES: &str = "IP:127.0.0.1,DNS:localhost";

/// A directory with the files of a listener, and the authority that signs them.
struct Site {
    dir: TempDir,
    authority: Authority,
}

impl Site {
    fn new() -> Self {
        let site = Self { dir: tempfile::tempdir().unwrap(), authority: Authority::new() };
        site.write(&site.authority.issue(NAMES));
        site
    }

    fn write(&self, certificate: &Certificate) {
        std::fs::write(self.dir.path().join("tls.pem"), &certificate.chain).unwrap();
        std::fs::write(self.dir.path().join("tls.key"), &certificate.key).unwrap();
    }

    fn files(&self) -> TlsFiles {
        files_in(self.dir.path())
    }

    fn limits(&self, limits: Limits) -> Limits {
        Limits { tls: Some(Tls::load(self.files()).unwrap()), ..limits }
    }

    async fn connect(&self, server: &TestServer, protocol: &[u8]) -> TlsStream<TcpStream> {
        connect(server, config(&self.authority, protocol, None)).await.unwrap()
    }

    async fn client(&self, server: &TestServer) -> RawClient<TlsStream<TcpStream>> {
        RawClient::over(self.connect(server, b"http/1.1").await)
    }
}

fn files_in(dir: &Path) -> TlsFiles {
    TlsFiles { certificate: dir.join("tls.pem"), key: dir.join("tls.key"), client_ca: None }
}

fn config(authority: &Authority, protocol: &[u8], own: Option<&Certificate>) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(authority.file()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let mut config = match own {
        None => builder.with_no_client_auth(),
        Some(own) => {
            let chain = CertificateDer::pem_slice_iter(&own.chain).collect::<Result<_, _>>().unwrap();
            builder.with_client_auth_cert(chain, PrivateKeyDer::from_pem_slice(&own.key).unwrap()).unwrap()
        }
    };
    config.alpn_protocols = vec![protocol.to_vec()];
    config
}

async fn connect(server: &TestServer, config: ClientConfig) -> std::io::Result<TlsStream<TcpStream>> {
    let tcp = TcpStream::connect(server.address).await?;
    let name = ServerName::try_from("localhost").unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, tcp).await
}

/// Sends one request and returns its status, if any.
async fn asks(server: &TestServer, config: ClientConfig) -> Option<u16> {
    let mut client = RawClient::over(connect(server, config).await.ok()?);
    client.try_send("GET /a HTTP/1.1\r\nhost: test\r\n\r\n").await.ok()?;
    client.try_reply().await.map(|reply| reply.status)
}

#[tokio::test]
async fn both_protocols_and_tls_versions_work() {
    let site = Site::new();
    let server = TestServer::start(site.limits(Limits::default())).await;
    let mut client = site.client(&server).await;
    let body = vec![b'x'; 300_000];
    assert_eq!(client.post("/a", "text/plain", &body).await.body, b"/a 300000");
    let stream = site.connect(&server, b"h2").await;
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    Tasks::default().spawn(async move { drop(connection.await) });
    let request = Request::post("https://test/b").body(Full::new(Bytes::from(body))).unwrap();
    let reply = sender.send_request(request).await.unwrap();
    assert_eq!(reply.into_body().collect().await.unwrap().to_bytes(), "/b 300000");
    let old = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS12])
        .unwrap()
        .with_root_certificates({
            let mut roots = RootCertStore::empty();
            roots.add(CertificateDer::from_pem_file(site.authority.file()).unwrap()).unwrap();
            roots
        })
        .with_no_client_auth();
    assert_eq!(asks(&server, old).await, Some(200));
    assert_eq!(asks(&server, config(&site.authority, b"spdy/1", None)).await, None, "nothing in common");
    assert_eq!(server.stop().await, Drained { cut: 0 });
}

#[test]
fn keys_of_every_format_are_read() {
    let site = Site::new();
    for arguments in [
        "genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048",
        "genrsa -traditional 2048",
        "ecparam -name prime256v1 -genkey -noout",
        "genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-384",
        "genpkey -algorithm ED25519",
    ] {
        site.write(&site.authority.issue_with_key(NAMES, arguments));
        let loaded = Tls::load(site.files());
        assert!(loaded.is_ok(), "{arguments}: {:?}", loaded.err());
    }
}

#[test]
fn errors_name_the_file() {
    let site = Site::new();
    let (first, second) = (site.authority.issue(NAMES), site.authority.issue(NAMES));
    let wrong = |certificate: &Certificate| {
        site.write(certificate);
        let error = Tls::load(site.files()).expect_err("a refusal");
        (error.file, error.to_string())
    };
    let of = |chain: &[u8], key: &[u8]| Certificate { chain: chain.to_vec(), key: key.to_vec() };
    let (file, text) = wrong(&of(&first.chain, &second.key));
    assert!(file == TlsFile::Key && text.contains("is not the key of the certificate in"), "{text}");
    let (file, text) = wrong(&site.authority.issue_expired(NAMES));
    assert!(file == TlsFile::Certificate && text.contains("expired on 20"), "{text}");
    let (file, text) = wrong(&of(b"nothing", &first.key));
    assert!(file == TlsFile::Certificate && text.contains("holds no certificate"), "{text}");
    let (file, text) = wrong(&of(&first.chain, b"nothing"));
    assert!(file == TlsFile::Key && text.contains("holds no private key"), "{text}");
    let broken = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let (file, text) = wrong(&of(broken, &first.key));
    assert!(file == TlsFile::Certificate && text.contains("not an X.509 certificate"), "{text}");
    let (file, text) = wrong(&of(&vec![b'x'; 2 << 20], &first.key));
    assert!(file == TlsFile::Certificate && text.contains("too large"), "{text}");
    site.write(&first);
    let pipe = site.dir.path().join("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    for other in [pipe, site.dir.path().to_owned()] {
        let wrong = Tls::load(TlsFiles { certificate: other, ..site.files() }).unwrap_err();
        assert!(wrong.file == TlsFile::Certificate && wrong.to_string().contains("not a regular file"), "{wrong}");
    }
    let missing = Tls::load(TlsFiles { key: site.dir.path().join("none"), ..site.files() }).unwrap_err();
    assert!(missing.file == TlsFile::Key && missing.to_string().contains("cannot be read"), "{missing}");
    let authorities = Some(site.dir.path().join("tls.key"));
    let wrong = Tls::load(TlsFiles { client_ca: authorities, ..site.files() }).unwrap_err();
    assert!(wrong.file == TlsFile::ClientCa && wrong.to_string().contains("holds no certificate"), "{wrong}");
}

#[tokio::test]
async fn new_certificates_are_used_and_broken_ones_are_not() {
    let (first, second) = (Site::new(), Site::new());
    // As in Kubernetes: a link to a directory, replaced atomically.
    let secret = tempfile::tempdir().unwrap();
    let point_to = |site: &Site| {
        let (new, link) = (secret.path().join("new"), secret.path().join("data"));
        std::os::unix::fs::symlink(site.dir.path(), &new).unwrap();
        std::fs::rename(new, link).unwrap();
    };
    point_to(&first);
    let tls = Tls::load(files_in(&secret.path().join("data"))).unwrap();
    let server = TestServer::start(Limits { tls: Some(tls.clone()), ..Limits::default() }).await;
    let mut open = first.client(&server).await;
    assert!(matches!(tls.reload(), Reload::Unchanged));

    point_to(&second);
    assert!(matches!(tls.reload(), Reload::Changed { certificate: true, client_ca: false }));
    assert!(matches!(tls.reload(), Reload::Unchanged));
    assert_eq!(asks(&server, config(&first.authority, b"http/1.1", None)).await, None);
    assert_eq!(asks(&server, config(&second.authority, b"http/1.1", None)).await, Some(200));
    assert_eq!(open.get("/a").await.status, 200, "an open connection keeps what it began with");

    std::fs::write(second.dir.path().join("tls.key"), "half").unwrap();
    assert!(matches!(tls.reload(), Reload::Unchanged), "it may be written right now");
    assert!(tls.fault().is_none());
    assert!(matches!(tls.reload(), Reload::Failed(_)));
    assert!(matches!(tls.reload(), Reload::Unchanged), "told once");
    assert_eq!(tls.fault().unwrap().file, TlsFile::Key);
    assert_eq!(asks(&server, config(&second.authority, b"http/1.1", None)).await, Some(200));
    std::fs::remove_file(second.dir.path().join("tls.pem")).unwrap();
    assert!(matches!(tls.reload(), Reload::Unchanged));
    assert!(matches!(tls.reload(), Reload::Failed(_)));
    assert_eq!(tls.fault().unwrap().file, TlsFile::Certificate);

    point_to(&first);
    assert!(matches!(tls.reload(), Reload::Changed { certificate: true, client_ca: false }));
    assert!(tls.fault().is_none());
    assert_eq!(asks(&server, config(&first.authority, b"http/1.1", None)).await, Some(200));
}

#[test]
fn reload_reports_what_changed() {
    let (site, other) = (Site::new(), Site::new());
    let (clients, others) = (Authority::new(), Authority::new());
    let files = TlsFiles { client_ca: Some(clients.file()), ..site.files() };
    let tls = Tls::load(files.clone()).unwrap();
    let copy = |from: std::path::PathBuf, to: &std::path::Path| std::fs::copy(from, to).unwrap();
    let client_ca = files.client_ca.as_deref().unwrap();
    copy(others.file(), client_ca);
    assert!(matches!(tls.reload(), Reload::Changed { certificate: false, client_ca: true }));
    copy(other.files().certificate, &files.certificate);
    copy(other.files().key, &files.key);
    assert!(matches!(tls.reload(), Reload::Changed { certificate: true, client_ca: false }));
    site.write(&site.authority.issue(NAMES));
    copy(site.authority.file(), client_ca);
    assert!(matches!(tls.reload(), Reload::Changed { certificate: true, client_ca: true }));
    assert!(matches!(tls.reload(), Reload::Unchanged));
}

#[tokio::test]
async fn client_certificates_are_required_if_an_authority_is_set() {
    let (site, others) = (Site::new(), Authority::new());
    let clients = Authority::new();
    let files = TlsFiles { client_ca: Some(clients.file()), ..site.files() };
    let server = TestServer::start(Limits { tls: Some(Tls::load(files).unwrap()), ..Limits::default() }).await;
    let asks_as = |own: Option<Certificate>| {
        let config = config(&site.authority, b"http/1.1", own.as_ref());
        let server = &server;
        async move { asks(server, config).await }
    };
    assert_eq!(asks_as(Some(clients.issue_client())).await, Some(200));
    assert_eq!(asks_as(Some(others.issue_client())).await, None);
    assert_eq!(asks_as(Some(clients.issue(NAMES))).await, None, "a server's certificate");
    assert_eq!(asks_as(None).await, None);
}

#[tokio::test]
async fn plain_http_gets_an_explanation() {
    let site = Site::new();
    let server = TestServer::start(site.limits(quick())).await;
    let reply = server.client().await.get("/a").await;
    assert_eq!((reply.status, reply.header("connection")), (400, Some("close")));
    assert!(reply.json()["detail"].as_str().unwrap().contains("HTTPS"));
    let mut other = server.client().await;
    other.send([0x80, 1, 2, 3]).await;
    assert!(other.closed().await);
}

#[tokio::test]
async fn stalled_handshakes_time_out() {
    let site = Site::new();
    let memory = MemoryBudget::new(4 << 20);
    let limits = Limits { handshake_timeout: Duration::from_millis(200), memory: memory.clone(), ..Limits::default() };
    let server = TestServer::start(site.limits(limits)).await;
    let silent = server.client().await;
    let mut slow = server.client().await;
    slow.send([22, 3, 1, 2, 0, 1]).await;
    let start = Instant::now();
    assert!(slow.closed().await);
    assert!(start.elapsed() >= Duration::from_millis(190), "{:?}", start.elapsed());
    let least = CONNECTION_BYTES + TLS_CONNECTION_BYTES;
    until(|| memory.bytes_used() == least, "the silent connection holds no handshake").await;
    drop(silent);
    until(|| memory.bytes_used() == 0, "all is given back").await;
}

#[tokio::test]
async fn slow_handshakes_do_not_block_others() {
    let site = Site::new();
    let server = TestServer::start(site.limits(Limits::default())).await;
    let mut slow = Vec::new();
    for _ in 0..600 {
        let mut client = server.client().await;
        client.send([22, 3, 1, 2, 0, 1]).await;
        slow.push(client);
    }
    let start = Instant::now();
    for _ in 0..5 {
        assert_eq!(asks(&server, config(&site.authority, b"http/1.1", None)).await, Some(200));
    }
    assert!(start.elapsed() < Duration::from_secs(9), "before they time out: {:?}", start.elapsed());
}

#[tokio::test]
async fn incomplete_records_are_counted_and_evicted() {
    let site = Site::new();
    let memory = MemoryBudget::new(2 << 20);
    let limits = Limits { memory: memory.clone(), idle_timeout: Duration::from_secs(60), ..Limits::default() };
    let server = TestServer::start(site.limits(limits)).await;
    let mut slow = Vec::new();
    for _ in 0..50 {
        let mut client = site.client(&server).await;
        assert_eq!(client.get("/a").await.status, 200);
        // Application data of 16 KiB, without its last byte.
        let mut tcp = client.into_inner().into_inner().0;
        let mut record = vec![23, 3, 3, 0x40, 0];
        record.extend(vec![0; (16 << 10) - 1]);
        tcp.write_all(&record).await.unwrap();
        slow.push(tcp);
    }
    let least = CONNECTION_BYTES + TLS_CONNECTION_BYTES;
    until(|| memory.bytes_used() >= 50 * (least + (16 << 10)), "records in the making are counted").await;
    tokio::time::sleep(Duration::from_millis(600)).await;
    let body = vec![0; 1_000_000];
    assert_eq!(site.client(&server).await.post("/a", "text/plain", body).await.status, 200);
    drop(slow);
    until(|| memory.bytes_used() == 0, "all is given back").await;
}

#[tokio::test]
async fn unread_replies_time_out() {
    let site = Site::new();
    let memory = MemoryBudget::new(64 << 20);
    let server = TestServer::start(site.limits(Limits { memory: memory.clone(), ..quick() })).await;
    let mut client = site.client(&server).await;
    client.send("GET /big HTTP/1.1\r\nhost: test\r\n\r\n").await;
    until(|| memory.bytes_used() > 1 << 20, "the reply is on its way").await;
    until(|| memory.bytes_used() == 0, "and is cut").await;
    let patient = TestServer::start(site.limits(Limits::default())).await;
    let mut reader = site.client(&patient).await;
    assert_eq!(reader.get("/big").await.body.len(), crate::http::tests::BIG_REPLY_BYTES);
}

#[tokio::test]
async fn idle_tls_connections_are_closed_gracefully() {
    let site = Site::new();
    let server = TestServer::start(site.limits(quick())).await;
    let mut stream = site.connect(&server, b"http/1.1").await;
    stream.write_all(b"GET /a HTTP/1.1\r\nhost: test\r\n\r\n").await.unwrap();
    let mut reply = Vec::new();
    // An end without close_notify would be an error.
    stream.read_to_end(&mut reply).await.unwrap();
    assert!(reply.starts_with(b"HTTP/1.1 200"));
}

async fn until(mut holds: impl FnMut() -> bool, what: &str) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < Duration::from_secs(10), "{what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
