//! Every route × every role × no token, over real sockets: what is refused, throttled and recorded.
//!
//! The test walks the router's own table, so a new route cannot be missed.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use hyper_util::service::TowerToHyperService;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::admin::route::{Audience, Route, RouteInfo, Verb};
use crate::admin::routes;
use crate::base::network::Networks;
use crate::base::supervisor::Tasks;
use crate::http::raw_client::{RawClient, RawReply};
use crate::http::{Limits, TrustedProxies, serve};
use crate::store::{AdminRole, NewAdminToken, hash_token};

const FIRST: &str = "the-first-admin-of-a-test-0123456789";
const SCRAPER: &str = "the-scraper-of-a-test-0123456789abcd";

/// The admin listener on a socket.
pub(super) struct Listening {
    pub(super) admin: Admin,
    pub(super) address: SocketAddr,
    pub(super) client: RawClient,
    tasks: Tasks,
    stop: CancellationToken,
}

fn asking() -> AccessSettings {
    AccessSettings {
        required: true,
        admin_token: Some(hash_token(FIRST)),
        metrics_token: Some(hash_token(SCRAPER)),
        failures_burst: u32::MAX,
        ..AccessSettings::default()
    }
}

impl Listening {
    pub(super) async fn start(access: AccessSettings) -> Self {
        Self::serve(Admin::with_access(access)).await
    }

    async fn serve(admin: Admin) -> Self {
        Self::serve_behind(admin, TrustedProxies::default()).await
    }

    pub(super) async fn serve_behind(admin: Admin, proxies: TrustedProxies) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (tasks, stop) = (Tasks::default(), CancellationToken::new());
        let service = AdminService::new(admin.router.clone(), proxies, Duration::from_secs(30));
        let service = TowerToHyperService::new(service);
        let serving = serve(listener, service, Limits::default(), stop.clone());
        tasks.spawn(async move {
            serving.await;
        });
        let client = RawClient::connect(address).await;
        Self { admin, address, client, tasks, stop }
    }

    pub(super) async fn send(&mut self, verb: Verb, path: &str, authorization: Option<&str>, body: &str) -> RawReply {
        let verb = format!("{verb:?}").to_uppercase();
        let authorization = authorization.map_or(String::new(), |value| format!("authorization: {value}\r\n"));
        let head = format!(
            "{verb} {path} HTTP/1.1\r\nhost: {}\r\n{authorization}content-length: {}\r\n\r\n",
            self.address,
            body.len()
        );
        self.client.send(head + body).await;
        self.client.reply().await
    }

    pub(super) async fn with_token(&mut self, verb: Verb, path: &str, token: Option<&str>) -> RawReply {
        let authorization = token.map(|token| format!("Bearer {token}"));
        self.send(verb, path, authorization.as_deref(), "").await
    }

    async fn token(&self, name: &str, role: AdminRole) -> String {
        let new = NewAdminToken { name: name.to_owned(), role, expires_at: None };
        self.admin.store.create_admin_token(new).await.unwrap().1
    }

    pub(super) async fn stop(self) {
        self.stop.cancel();
        self.tasks.wait().await;
    }
}

fn text(reply: &RawReply) -> String {
    String::from_utf8_lossy(&reply.body).into_owned()
}

/// Every kind of caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Who {
    Nobody,
    Wrong,
    OtherScheme,
    Expired,
    Revoked,
    Scraper,
    Has(AdminRole),
    First,
}

impl Who {
    const ALL: [Self; 10] = [
        Self::Nobody,
        Self::Wrong,
        Self::OtherScheme,
        Self::Expired,
        Self::Revoked,
        Self::Scraper,
        Self::Has(AdminRole::Viewer),
        Self::Has(AdminRole::Operator),
        Self::Has(AdminRole::Admin),
        Self::First,
    ];

    fn role(self) -> Option<AdminRole> {
        match self {
            Self::Has(role) => Some(role),
            Self::First => Some(AdminRole::Admin),
            _ => None,
        }
    }
}

/// The `Authorization` header of each caller.
async fn authorizations(listening: &Listening) -> Vec<(Who, Option<String>)> {
    let store = &listening.admin.store;
    let past = jiff::Timestamp::now() - jiff::SignedDuration::from_secs(60);
    let expired = NewAdminToken { name: "old".to_owned(), role: AdminRole::Admin, expires_at: Some(past) };
    let expired = store.create_admin_token(expired).await.unwrap().1;
    let revoked = listening.token("gone", AdminRole::Admin).await;
    assert!(store.revoke_admin_token("gone").await.unwrap());
    let mut all = Vec::new();
    for who in Who::ALL {
        let token = match who {
            Who::Nobody => None,
            Who::Wrong => Some(format!("cadm_{}", "0".repeat(64))),
            Who::OtherScheme => Some(FIRST.to_owned()),
            Who::Expired => Some(expired.clone()),
            Who::Revoked => Some(revoked.clone()),
            Who::Scraper => Some(SCRAPER.to_owned()),
            Who::Has(role) => Some(listening.token(role.text(), role).await),
            Who::First => Some(FIRST.to_owned()),
        };
        let scheme = if who == Who::OtherScheme { "Basic" } else { "Bearer" };
        all.push((who, token.map(|token| format!("{scheme} {token}"))));
    }
    all
}

fn every_route() -> Vec<RouteInfo> {
    let process = routes::process_routes().iter().map(Route::info).collect::<Vec<_>>();
    let api = routes::api_routes().iter().map(Route::info).collect::<Vec<_>>();
    let pages = routes::page_routes().iter().map(Route::info).collect::<Vec<_>>();
    [process, api, pages].concat()
}

/// A path of the route at which nothing exists.
fn place(path: &str) -> String {
    path.replace("{id}", "0190a2b4-7c1e-7000-8000-3f2a9c1b4d5e")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_route_answers_only_authorized_callers() {
    let mut listening = Listening::start(asking()).await;
    let everybody = authorizations(&listening).await;
    let routes = every_route();
    assert!(routes.len() > 40, "{}", routes.len());
    for route in &routes {
        for (who, authorization) in &everybody {
            let path = place(&route.path);
            let reply = listening.send(route.verb, &path, authorization.as_deref(), "").await;
            let case = format!("{:?} {path} by {who:?}: {} {:?}", route.verb, reply.status, text(&reply));
            let least = match route.audience {
                Audience::Anyone | Audience::Page => None,
                Audience::Metrics if *who == Who::Scraper => None,
                Audience::Metrics => Some(AdminRole::Viewer),
                Audience::Role(role) => Some(role),
            };
            match (least, who.role()) {
                (None, _) => assert!(!matches!(reply.status, 401 | 403 | 404), "{case}"),
                (Some(_), None) => {
                    assert_eq!(reply.status, 401, "{case}");
                    let challenge = reply.header("www-authenticate").unwrap();
                    assert!(challenge.starts_with("Bearer realm="), "{case}");
                    assert_eq!(challenge.contains("invalid_token"), *who != Who::Nobody, "{case}");
                    assert_eq!(reply.header("content-type"), Some("application/problem+json"));
                }
                (Some(least), Some(role)) if role < least => {
                    assert_eq!(reply.status, 403, "{case}");
                    assert!(reply.header("www-authenticate").unwrap().contains("insufficient_scope"), "{case}");
                    let detail = reply.json()["detail"].as_str().unwrap().to_owned();
                    assert!(detail.contains(&format!("the role {}", least.text())), "{case}");
                }
                _ => assert!(!matches!(reply.status, 401 | 403 | 429 | 500), "{case}"),
            }
        }
    }
    // Unknown paths require a token too; only then do they answer 404.
    for path in ["/", "/api", "/api/admin", "/api/admin/nothing", "/api/admin/rules/a/b", "/console"] {
        assert_eq!(listening.with_token(Verb::Get, path, None).await.status, 401, "{path}");
        assert_eq!(listening.with_token(Verb::Get, path, Some(FIRST)).await.status, 404, "{path}");
    }
    assert_eq!(listening.with_token(Verb::Put, "/api/admin/status", None).await.status, 401);
    let other = listening.with_token(Verb::Put, "/api/admin/status", Some(FIRST)).await;
    assert_eq!((other.status, other.header("allow")), (405, Some("GET,HEAD")));
    listening.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn loopback_needs_no_token_without_an_admin_token() {
    let mut listening = Listening::start(AccessSettings::default()).await;
    for route in every_route() {
        let reply = listening.with_token(route.verb, &place(&route.path), None).await;
        assert!(!matches!(reply.status, 401 | 403 | 500), "{:?} {}: {}", route.verb, route.path, reply.status);
    }
    listening.stop().await;
}

/// The documentation contains this table.
#[test]
fn the_documentation_has_every_route_with_its_role() {
    let documented = include_str!("../../../docs/admin.md");
    let mut seen = BTreeSet::new();
    for route in every_route() {
        let least = match route.audience {
            Audience::Anyone | Audience::Page => "anyone",
            Audience::Metrics => "viewer, or the metrics token",
            Audience::Role(role) => role.text(),
        };
        let row = format!("| `{} {}` | {least} |", format!("{:?}", route.verb).to_uppercase(), route.path);
        assert!(documented.lines().any(|line| line == row), "docs/admin.md has no row\n{row}");
        assert!(seen.insert(row), "a route is listed twice");
    }
    let rows =
        documented.lines().filter(|line| line.starts_with("| `") && line.contains("` | ") && line.contains(" /"));
    assert_eq!(rows.count(), seen.len(), "docs/admin.md has a route that is gone");
}

/// The table is the only way into the router.
#[test]
fn all_routes_come_from_the_table() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/admin");
    let mut folders = vec![root];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            if path.is_dir() && name != "tests" {
                folders.push(path);
                continue;
            }
            if !name.ends_with(".rs") || name == "routes.rs" {
                continue;
            }
            let text = std::fs::read_to_string(&path).unwrap();
            // One route answers for a process that does not serve the API.
            let allowed = usize::from(name == "router.rs");
            assert_eq!(text.matches(".route(").count(), allowed, "{name} makes a route of its own");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readiness_shows_details_to_authenticated_callers() {
    let mut listening = Listening::start(asking()).await;
    let viewer = listening.token("v", AdminRole::Viewer).await;
    for (token, details) in [(None, false), (Some("wrong"), false), (Some(viewer.as_str()), true), (Some(FIRST), true)]
    {
        let reply = listening.with_token(Verb::Get, "/ready", token).await;
        assert_eq!((reply.status, reply.json().get("components").is_some()), (503, details), "{token:?}");
        assert_eq!(reply.json()["status"], "unready");
    }
    listening.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metrics_may_be_open() {
    let mut listening = Listening::start(AccessSettings { metrics_open: true, ..asking() }).await;
    assert_eq!(listening.with_token(Verb::Get, "/metrics", None).await.status, 200);
    assert_eq!(listening.with_token(Verb::Get, "/api/admin/status", Some(SCRAPER)).await.status, 401);
    listening.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoked_token_is_refused_immediately_in_every_process() {
    let mut one = Listening::start(asking()).await;
    let other = Admin::asking(one.admin.store.clone(), tempfile::tempdir().unwrap(), asking());
    let mut other = Listening::serve(other).await;
    let created = one
        .send(
            Verb::Post,
            "/api/admin/tokens",
            Some(&format!("Bearer {FIRST}")),
            &json!({"name": "ops", "role": "operator", "expires_at": "2100-01-01T00:00:00Z"}).to_string(),
        )
        .await;
    assert_eq!((created.status, created.header("cache-control")), (201, Some("no-store")));
    let token = created.json()["token"].as_str().unwrap().to_owned();
    assert!(crate::store::is_token(&token));
    for listening in [&mut one, &mut other] {
        assert_eq!(listening.with_token(Verb::Get, "/api/admin/rules", Some(&token)).await.status, 200);
    }
    let listed = one.with_token(Verb::Get, "/api/admin/tokens", Some(FIRST)).await;
    assert!(!text(&listed).contains(&token) && listed.json()["items"][0]["last_used_at"].is_string());
    assert_eq!(one.with_token(Verb::Delete, "/api/admin/tokens/ops", Some(FIRST)).await.status, 204);
    for listening in [&mut one, &mut other] {
        assert_eq!(listening.with_token(Verb::Get, "/api/admin/rules", Some(&token)).await.status, 401);
    }
    one.stop().await;
    other.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn guesses_are_throttled_without_locking_others_out() {
    let mut listening = Listening::start(AccessSettings { failures_burst: 3, ..asking() }).await;
    assert_eq!(listening.with_token(Verb::Get, "/api/admin/rules", Some(FIRST)).await.status, 200);
    let late = listening.token("late", AdminRole::Admin).await;
    for index in 0..3 {
        let guess = format!("{index}{}", "x".repeat(40));
        assert_eq!(listening.with_token(Verb::Get, "/api/admin/rules", Some(&guess)).await.status, 401);
    }
    let slowed = listening.with_token(Verb::Get, "/api/admin/rules", Some("guess")).await;
    assert_eq!(slowed.status, 429);
    assert!((1..=7).contains(&slowed.header("retry-after").unwrap().parse::<u32>().unwrap()));
    // Tokens of the store cannot be guessed: a valid one is admitted even when it was never seen here, and known ones
    // keep working.
    let near = format!("{}{}", &late[..late.len() - 1], if late.ends_with('0') { '1' } else { '0' });
    for (token, status) in [(&late, 200), (&near, 429), (&late, 200)] {
        assert_eq!(listening.with_token(Verb::Get, "/api/admin/rules", Some(token)).await.status, status);
    }
    assert_eq!(listening.with_token(Verb::Get, "/api/admin/rules", Some(FIRST)).await.status, 200);
    assert_eq!(listening.with_token(Verb::Get, "/health", None).await.status, 200);
    let records = listening.with_token(Verb::Get, "/api/admin/audit?kind=access", Some(FIRST)).await.json();
    let reasons: Vec<&Value> =
        records["items"].as_array().unwrap().iter().map(|item| &item["after"]["reasons"]).collect();
    let sum = |reason: &str| reasons.iter().filter_map(|counts| counts[reason].as_u64()).sum::<u64>();
    assert_eq!((reasons.len(), sum("invalid"), sum("throttled")), (2, 3, 2), "{records}");
    assert_eq!(records["items"][0]["after"]["addresses"], json!(["127.0.0.1"]));
    // ADMIN_TOKEN could be guessed: when it is new to a process, it waits like any other.
    let other = Admin::asking(
        listening.admin.store.clone(),
        tempfile::tempdir().unwrap(),
        AccessSettings { failures_burst: 1, ..asking() },
    );
    let mut other = Listening::serve(other).await;
    for (token, status) in [("guess", 401), (FIRST, 429), (late.as_str(), 200)] {
        assert_eq!(other.with_token(Verb::Get, "/api/admin/rules", Some(token)).await.status, status);
    }
    other.stop().await;
    listening.stop().await;
}

/// A proxy's client is not throttled for the guesses of another, and the log tells them apart.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn behind_a_trusted_proxy_the_client_is_throttled() {
    let admin = Admin::with_access(AccessSettings { failures_burst: 1, ..asking() });
    let mut listening = Listening::serve_behind(admin, TrustedProxies(Networks::loopback())).await;
    for (client, token, status) in [
        ("203.0.113.1", "wrong", 401),
        ("203.0.113.1", "wrong", 429),
        ("203.0.113.2", "wrong", 401),
        ("203.0.113.3", FIRST, 415),
    ] {
        let lines = format!("Bearer {token}\r\nx-forwarded-for: {client}\r\ncontent-type: text/plain");
        let reply = listening.send(Verb::Post, "/api/admin/rules", Some(&lines), "{}").await;
        assert_eq!(reply.status, status, "{client} {token}");
    }
    let lines = format!("Bearer {FIRST}\r\nx-forwarded-for: 203.0.113.3");
    assert_eq!(listening.send(Verb::Post, "/api/admin/rules", Some(&lines), r#"{"name": "r"}"#).await.status, 201);
    let log = listening.with_token(Verb::Get, "/api/admin/audit?kind=rule", Some(FIRST)).await.json();
    assert_eq!(log["items"][0]["address"], "203.0.113.3");
    listening.stop().await;
}

/// An operator who repairs the store needs a token that is valid without it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn configured_tokens_work_without_the_store() {
    let mut listening = Listening::start(asking()).await;
    let viewer = listening.token("v", AdminRole::Viewer).await;
    assert_eq!(listening.with_token(Verb::Get, "/api/admin/status", Some(&viewer)).await.status, 200);
    listening.admin.store.close().await;
    for (path, token, status) in [
        ("/api/admin/status", viewer.as_str(), 503),
        ("/api/admin/status", FIRST, 200),
        ("/api/admin/status", "wrong", 401),
        ("/metrics", SCRAPER, 200),
        ("/metrics", viewer.as_str(), 503),
        ("/ready", viewer.as_str(), 503),
    ] {
        let reply = listening.with_token(Verb::Get, path, Some(token)).await;
        assert_eq!(reply.status, status, "{path} with {token}");
        assert!(status != 503 || path == "/ready" || reply.header("retry-after").is_some(), "{path}");
    }
    listening.stop().await;
}

/// No malformed credential is taken for a token, and none is echoed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn malformed_credentials_are_refused() {
    let mut listening = Listening::start(asking()).await;
    let lower = format!("bearer {FIRST}");
    let accepted = listening.send(Verb::Get, "/api/admin/status", Some(&lower), "").await;
    assert_eq!(accepted.status, 200, "the scheme is read in any case");
    let (long, digest) = (format!("Bearer {}", "hunter2".repeat(4_000)), hash_token(FIRST));
    let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    for value in [
        "",
        "Bearer",
        "Bearer ",
        FIRST,
        &format!("Token {FIRST}"),
        &format!("Bearer {FIRST}hunter2"),
        &format!("Bearer {}", &FIRST[1..]),
        &format!("Bearer {FIRST}\r\nauthorization: Bearer {FIRST}"),
        &format!("Bearer {digest}"),
        &format!("Bearer {}", FIRST.to_uppercase()),
        "Bearer h\u{fc}nter2",
        &long,
    ] {
        let reply = listening.send(Verb::Get, "/api/admin/status", Some(value), "").await;
        assert_eq!(reply.status, 401, "{value:?}");
        assert!(!text(&reply).contains("nter2") && !text(&reply).contains(FIRST));
    }
    // Nor is a token in another place.
    let path = format!("/api/admin/status?access_token={FIRST}&token={FIRST}");
    assert_eq!(listening.with_token(Verb::Get, &path, None).await.status, 401);
    listening.stop().await;
}

#[tokio::test]
async fn an_invalid_token_document_is_refused() {
    let admin = Admin::new();
    for (document, pointer) in [
        (json!({"name": "a"}), "/role"),
        (json!({"role": "viewer"}), "/name"),
        (json!({"name": "a", "role": "root"}), "/role"),
        (json!({"name": "ADMIN_TOKEN", "role": "viewer"}), "/name"),
        (json!({"name": "loopback", "role": "viewer"}), "/name"),
        (json!({"name": "a", "role": "viewer", "expires_at": "hunter2"}), "/expires_at"),
        (json!({"name": "a", "role": "viewer", "expires_at": "2020-01-01T00:00:00Z"}), "/expires_at"),
        (json!({"name": "a", "role": "viewer", "token": "mine"}), "/token"),
    ] {
        let refused = admin.post("/api/admin/tokens", document.clone()).await;
        assert_eq!((refused.status.as_u16(), refused.error().0.as_str()), (422, pointer), "{document}");
        assert!(!refused.text.contains("hunter2"));
    }
    assert_eq!(admin.count("/api/admin/tokens").await, 0);
    assert_eq!(admin.count("/api/admin/audit").await, 0);
}
