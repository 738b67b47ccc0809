//! A small client of the admin API: JSON in and out, problem documents as sentences.
//!
//! Invariant: every answer is bounded in size and time. The token is sent as a bearer and never printed.

use std::fmt::Write;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde::Deserialize;
use serde_json::Value;

use super::admin_token;
use super::failure::Failure;
use super::tls::{self, TlsArgs};
use crate::config::{self, Address};

const DEFAULT_ADDRESS: &str = "127.0.0.1:9090";
/// The settings of the listener, by their names in the environment.
const ADMIN_ADDR: &str = "ADMIN_ADDR";
const ADMIN_TLS_CERT_FILE: &str = "ADMIN_TLS_CERT_FILE";
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const RESPONSE_BYTES_MAX: usize = 64 << 20;
/// The largest page that the API gives.
const PAGE_ITEMS_MAX: usize = 1_000;

/// Where the admin API is, and how its answers are shown.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct AdminArgs {
    /// Where the admin API listens; without it ADMIN_ADDR says, in the environment or in --config
    #[arg(long, global = true, env = "CAUSALITY_ADMIN_URL", value_name = "URL", value_parser = http_url,
          help_heading = "Admin API")]
    pub(super) admin_url: Option<String>,
    /// The settings of the process that is asked, for its admin_addr
    #[arg(long, global = true, value_name = "FILE", help_heading = "Admin API")]
    pub(super) config: Option<PathBuf>,
    /// A file with the token that the admin API asks for; without it CAUSALITY_ADMIN_TOKEN says, or
    /// CAUSALITY_ADMIN_TOKEN_FILE, or for a process that the settings name their ADMIN_TOKEN
    #[arg(long, global = true, value_name = "FILE", help_heading = "Admin API")]
    pub(super) admin_token_file: Option<PathBuf>,
    /// The token itself, which every user of this machine can then see in its list of processes
    #[arg(long, global = true, value_name = "TOKEN", conflicts_with = "admin_token_file", help_heading = "Admin API")]
    pub(super) admin_token: Option<String>,
    /// Print JSON, for scripts
    #[arg(long, global = true)]
    pub(super) json: bool,
    #[command(flatten)]
    pub(super) tls: TlsArgs,
}

impl AdminArgs {
    /// Where to look: what the command line says, then the environment, then the settings' file, then their default.
    fn base_url(&self) -> Result<String, Failure> {
        if let Some(url) = &self.admin_url {
            // Not by the parser of the flag, whose refusal repeats the value.
            if url.contains('@') {
                let advice = "--admin-url must not hold a user or password: CAUSALITY_ADMIN_TOKEN gives access";
                return Err(Failure::usage(advice));
            }
            return Ok(url.clone());
        }
        let encrypted = from_environment(ADMIN_TLS_CERT_FILE).is_some();
        self.url_of_settings(from_environment(ADMIN_ADDR).as_deref(), encrypted)
    }

    fn url_of_settings(&self, from_environment: Option<&str>, encrypted: bool) -> Result<String, Failure> {
        let file = match &self.config {
            Some(file) => {
                let loaded = config::load(Some(file), &[]).map_err(|error| Failure::usage(error.to_string()))?;
                Some(loaded.config)
            }
            None => None,
        };
        let encrypted = encrypted || file.as_ref().is_some_and(|config| config.admin_tls_cert_file.is_some());
        let scheme = if encrypted { "https" } else { "http" };
        let address: Address = match (from_environment, file) {
            (Some(text), _) => text
                .parse()
                .map_err(|allowed| Failure::usage(format!("{ADMIN_ADDR} is {text:?}: it must be {allowed}")))?,
            (None, Some(config)) => config.admin_addr,
            (None, None) => return Ok(format!("{scheme}://{DEFAULT_ADDRESS}")),
        };
        if address.port == 0 {
            let advice = "port 0 is any free one: --admin-url says where the process listens, as it says at its start";
            return Err(Failure::usage(format!("{ADMIN_ADDR}: {advice}")));
        }
        Ok(format!("{scheme}://{}", address.to_connect()))
    }
}

/// Empty counts as unset.
fn from_environment(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|text| !text.trim().is_empty())
}

/// How many of a list are asked for: none is a slip.
pub(super) fn limit(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|limit| *limit > 0).ok_or_else(|| "must be a whole number from 1".to_owned())
}

/// An `http` or `https` URL with a host and no query, its trailing slashes taken off.
pub(super) fn http_url(text: &str) -> Result<String, String> {
    let uri: Uri = text.parse().map_err(|e| format!("not a URL: {e}"))?;
    match (uri.scheme_str(), uri.host(), uri.query()) {
        (Some("http" | "https"), Some(host), None) if !host.is_empty() => Ok(text.trim_end_matches('/').to_owned()),
        _ => Err("must be http://HOST[:PORT] or https://HOST[:PORT]".to_owned()),
    }
}

pub(super) struct AdminClient {
    base_url: String,
    authorization: Option<header::HeaderValue>,
    http: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
}

impl AdminClient {
    pub(super) fn new(args: &AdminArgs) -> Result<Self, Failure> {
        let authorization = match admin_token::of(args, from_environment)? {
            None => None,
            Some(token) => {
                let mut value = header::HeaderValue::try_from(format!("Bearer {}", token.trim()))
                    .map_err(|_| Failure::usage("the admin token holds a character that a header cannot carry"))?;
                value.set_sensitive(true);
                Some(value)
            }
        };
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
        tcp.set_nodelay(true);
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(args.tls.client_config()?)
            .https_or_http()
            .enable_http1()
            .wrap_connector(tcp);
        let http = Client::builder(TokioExecutor::new()).build(connector);
        Ok(Self { base_url: args.base_url()?, authorization, http })
    }

    pub(super) async fn get(&self, path: &str) -> Result<Value, Failure> {
        self.call(Method::GET, path, None).await?.succeed()
    }

    /// `None` when there is no such document.
    pub(super) async fn find(&self, path: &str) -> Result<Option<Value>, Failure> {
        let answer = self.call(Method::GET, path, None).await?;
        if answer.status == StatusCode::NOT_FOUND { Ok(None) } else { answer.succeed().map(Some) }
    }

    /// A document's body, or none: what `POST` does is up to the path.
    pub(super) async fn post(&self, path: &str, document: Option<&Value>) -> Result<Value, Failure> {
        self.call(Method::POST, path, document).await?.succeed()
    }

    /// As [`Self::post`] of a document that may be wrong, which is no failure of the request: what is wrong with it.
    pub(super) async fn post_judged(&self, path: &str, document: &Value) -> Result<Result<Value, Vec<Wrong>>, Failure> {
        let answer = self.call(Method::POST, path, Some(document)).await?;
        if answer.status == StatusCode::UNPROCESSABLE_ENTITY
            && let Ok(problem) = serde_json::from_slice::<Problem>(&answer.body)
            && !problem.errors.is_empty()
        {
            return Ok(Err(problem.errors));
        }
        answer.succeed().map(Ok)
    }

    pub(super) async fn delete(&self, path: &str) -> Result<Value, Failure> {
        self.call(Method::DELETE, path, None).await?.succeed()
    }

    /// Up to `limit` documents of a list, all pages walked; `filters` are query parameters.
    pub(super) async fn list(
        &self,
        collection: &str,
        filters: &[(&str, &str)],
        limit: usize,
    ) -> Result<Vec<Value>, Failure> {
        let mut items: Vec<Value> = Vec::new();
        let mut cursor: Option<String> = None;
        while items.len() < limit {
            let mut path = format!("{collection}?limit={}", (limit - items.len()).min(PAGE_ITEMS_MAX));
            let cursor_filter = cursor.as_deref().map(|cursor| ("cursor", cursor));
            for (name, value) in filters.iter().copied().chain(cursor_filter) {
                let _ = write!(path, "&{name}={}", percent_encoded(value));
            }
            let mut page = self.get(&path).await?;
            let Some(Value::Array(more)) = page.get_mut("items").map(Value::take) else {
                return Err(Failure::failed(format!(
                    "{} answered no list; is it the admin API?",
                    self.url(collection)
                )));
            };
            let is_empty = more.is_empty();
            items.extend(more);
            match page.get("next") {
                // A list that is gone through with filters may have pages without items.
                Some(Value::String(next)) if !is_empty || cursor.as_ref() != Some(next) => cursor = Some(next.clone()),
                _ => break,
            }
        }
        items.truncate(limit);
        Ok(items)
    }

    fn url(&self, path: &str) -> String {
        format!("{}/api/admin/{path}", self.base_url)
    }

    async fn call(&self, method: Method, path: &str, document: Option<&Value>) -> Result<Answer, Failure> {
        let mut request = Request::builder()
            .method(method)
            .uri(self.url(path))
            .header(header::USER_AGENT, concat!("causality/", env!("CARGO_PKG_VERSION")))
            .header(header::ACCEPT, "application/json, application/problem+json");
        if let Some(authorization) = &self.authorization {
            request = request.header(header::AUTHORIZATION, authorization);
        }
        let body = match document {
            None => Bytes::new(),
            Some(document) => {
                request = request.header(header::CONTENT_TYPE, "application/json");
                Bytes::from(document.to_string())
            }
        };
        let request =
            request.body(Full::new(body)).map_err(|error| Failure::usage(format!("cannot ask {path}: {error}")))?;
        let exchange = async {
            let response = self.http.request(request).await.map_err(|error| match tls::advice(&error) {
                Some(advice) => Failure::unreachable(format!(
                    "cannot reach the admin API at {}: {}; {advice}",
                    self.base_url,
                    causes(&error)
                )),
                None => self.unreachable(&causes(&error)),
            })?;
            let status = response.status();
            let body = Limited::new(response.into_body(), RESPONSE_BYTES_MAX)
                .collect()
                .await
                .map_err(|error| Failure::failed(format!("the answer to {path} broke off: {error}")))?;
            Ok(Answer { status, body: body.to_bytes() })
        };
        match tokio::time::timeout(REQUEST_TIMEOUT, exchange).await {
            Ok(answer) => answer,
            Err(_) => Err(self.unreachable(&format!("no answer within {} s", REQUEST_TIMEOUT.as_secs()))),
        }
    }

    fn unreachable(&self, why: &str) -> Failure {
        Failure::unreachable(format!(
            "cannot reach the admin API at {}: {why}; is `causality run` running there? (--admin-url, CAUSALITY_ADMIN_URL or ADMIN_ADDR says where to look)",
            self.base_url
        ))
    }
}

/// One thing that the server finds wrong.
#[derive(Debug, Deserialize)]
pub(super) struct Wrong {
    /// RFC 6901, into the document that was sent.
    pub(super) pointer: String,
    pub(super) detail: String,
}

#[derive(Deserialize)]
struct Problem {
    errors: Vec<Wrong>,
}

/// An answer whose body was read whole.
struct Answer {
    status: StatusCode,
    body: Bytes,
}

impl Answer {
    /// The document of a 2xx; any other answer as a failure.
    fn succeed(self) -> Result<Value, Failure> {
        if !self.status.is_success() {
            return Err(problem(self.status, &self.body));
        }
        if self.body.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&self.body).map_err(|error| {
            Failure::failed(format!("the server's answer is not JSON ({error}); is it the admin API?"))
        })
    }
}

/// What a listener of ours says that has no such path at all: the gateway of every path of the admin API.
const NO_SUCH_PATH: &str = "There is nothing at this path.";

/// `title: detail`, then a line for every entry of `errors`; what to do where the status says it.
fn problem(status: StatusCode, body: &[u8]) -> Failure {
    let document: Value = serde_json::from_slice(body).unwrap_or(Value::Null);
    let reason = status.canonical_reason().unwrap_or("error");
    let mut message = document["title"].as_str().map_or_else(|| format!("{} {reason}", status.as_u16()), str::to_owned);
    if let Some(detail) = document["detail"].as_str().filter(|detail| !detail.is_empty()) {
        let _ = write!(message, ": {detail}");
    }
    if status == StatusCode::UNAUTHORIZED {
        message.push_str("; CAUSALITY_ADMIN_TOKEN, CAUSALITY_ADMIN_TOKEN_FILE or --admin-token-file gives a token");
    }
    if status == StatusCode::NOT_FOUND && document["detail"] == NO_SUCH_PATH {
        message.push_str("; is this the gateway's port? The admin API has its own, by default 9090 (--admin-url)");
    }
    for error in document["errors"].as_array().into_iter().flatten() {
        let pointer = error["pointer"].as_str().filter(|pointer| !pointer.is_empty()).unwrap_or("/");
        let _ = write!(message, "\n  {pointer}: {}", error["detail"].as_str().unwrap_or("invalid"));
    }
    Failure::failed(message)
}

/// An error with its sources, since the outermost of a connect error says next to nothing.
fn causes(error: &dyn std::error::Error) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}

/// RFC 3986: everything but the unreserved characters, so that a name may hold a slash.
pub(super) fn percent_encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(byte as char);
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

#[cfg(test)]
impl AdminArgs {
    /// Of a server at this URL.
    pub(super) fn at(url: &str) -> Self {
        Self {
            admin_url: Some(url.to_owned()),
            config: None,
            admin_token: None,
            admin_token_file: None,
            json: false,
            tls: TlsArgs::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::ExitStatus;
    use crate::cli::scripted_peer::ScriptedPeer;

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
    }

    #[test]
    fn a_list_is_all_its_pages_up_to_the_limit() {
        let peer = ScriptedPeer::start(&[
            ("200 OK", r#"{"items":[1,2],"next":"a b"}"#),
            ("200 OK", r#"{"items":[3,4],"next":"c"}"#),
            ("200 OK", r#"{"items":[5],"next":null}"#),
            ("200 OK", r#"{"items":[1,2,3],"next":"x"}"#),
            ("200 OK", r#"[]"#),
        ]);
        let args = AdminArgs { admin_token: Some("t0ken".into()), ..AdminArgs::at(&peer.url) };
        block_on(async {
            let client = AdminClient::new(&args).unwrap();
            assert_eq!(client.list("rules", &[("status", "x&y")], 2_000).await.unwrap(), [1, 2, 3, 4, 5]);
            assert_eq!(client.list("rules", &[], 2).await.unwrap(), [1, 2]);
            let other = client.list("rules", &[], 2).await.unwrap_err().to_string();
            assert!(other.contains("is it the admin API?"), "{other}");
        });
        let requests = peer.requests();
        assert!(
            requests[0].starts_with("GET /api/admin/rules?limit=1000&status=x%26y HTTP/1.1\r\n"),
            "{}",
            requests[0]
        );
        assert!(requests[1].starts_with("GET /api/admin/rules?limit=1000&status=x%26y&cursor=a%20b HTTP/1.1\r\n"));
        assert!(requests[3].starts_with("GET /api/admin/rules?limit=2 HTTP/1.1\r\n"));
        assert!(requests[0].contains("authorization: Bearer t0ken\r\n"));
    }

    #[test]
    fn a_problem_document_reads_as_sentences() {
        let body = br#"{"title":"Unprocessable Entity","status":422,"detail":"the rule is not valid",
            "errors":[{"pointer":"/conditions/0/path","detail":"is not a JSONPath"},{"pointer":"","detail":"odd"}]}"#;
        let failure = problem(StatusCode::UNPROCESSABLE_ENTITY, body);
        assert_eq!(
            failure.to_string(),
            "Unprocessable Entity: the rule is not valid\n  /conditions/0/path: is not a JSONPath\n  /: odd"
        );
        assert_eq!(failure.status, ExitStatus::Failed);
        assert_eq!(problem(StatusCode::BAD_GATEWAY, b"<html>").to_string(), "502 Bad Gateway");
        assert!(problem(StatusCode::UNAUTHORIZED, b"").to_string().contains("CAUSALITY_ADMIN_TOKEN"));
        assert_eq!(problem(StatusCode::FORBIDDEN, b"").to_string(), "403 Forbidden");
        let gateway = br#"{"title":"Not Found","status":404,"detail":"There is nothing at this path."}"#;
        assert!(problem(StatusCode::NOT_FOUND, gateway).to_string().contains("is this the gateway's port?"));
    }

    #[test]
    fn names_travel_in_paths() {
        assert_eq!(percent_encoded("big purchase/é-1.2_~"), "big%20purchase%2F%C3%A9-1.2_~");
    }

    #[test]
    fn the_settings_say_where_to_look_unless_the_command_line_does() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("causality.toml");
        std::fs::write(&file, "admin_addr = \"10.1.2.3:7001\"\n").unwrap();
        let args = |config: bool| AdminArgs {
            admin_url: None,
            config: config.then(|| file.clone()),
            admin_token: None,
            admin_token_file: None,
            json: false,
            tls: TlsArgs::default(),
        };
        let url =
            |args: AdminArgs, environment| args.url_of_settings(environment, false).map_err(|error| error.to_string());
        for (environment, config, expected) in [
            (None, false, "http://127.0.0.1:9090"),
            (None, true, "http://10.1.2.3:7001"),
            (Some("localhost:7002"), true, "http://localhost:7002"),
            (Some(":7003"), false, "http://127.0.0.1:7003"),
            (Some("0.0.0.0:7003"), false, "http://127.0.0.1:7003"),
            (Some("[::]:7003"), false, "http://[::1]:7003"),
            (Some("[2001:db8::1]:7003"), false, "http://[2001:db8::1]:7003"),
        ] {
            assert_eq!(url(args(config), environment).as_deref(), Ok(expected));
        }
        assert_eq!(args(false).url_of_settings(None, true).unwrap(), "https://127.0.0.1:9090");
        let (certificate, key) = ("admin_tls_cert_file = \"c\"", "admin_tls_key_file = \"k\"");
        std::fs::write(&file, format!("admin_addr = \"10.1.2.3:7001\"\n{certificate}\n{key}\n")).unwrap();
        assert_eq!(url(args(true), None).as_deref(), Ok("https://10.1.2.3:7001"));
        assert!(url(args(false), Some("7003")).unwrap_err().contains("ADMIN_ADDR is \"7003\": it must be host:port"));
        assert!(url(args(false), Some(":0")).unwrap_err().contains("--admin-url"));
        std::fs::write(&file, "admin_adr = \"10.1.2.3:7001\"\n").unwrap();
        assert_eq!(args(true).url_of_settings(None, false).unwrap_err().status, ExitStatus::Usage);
        assert_eq!(AdminArgs::at("http://a:1").base_url().unwrap(), "http://a:1");
        let refused = AdminArgs::at("http://u:hunter2@a:1").base_url().unwrap_err();
        assert!(refused.status == ExitStatus::Usage && !refused.to_string().contains("hunter2"), "{refused}");
    }

    #[test]
    fn urls_are_checked_before_use() {
        assert_eq!(http_url("http://127.0.0.1:9090/"), Ok("http://127.0.0.1:9090".to_owned()));
        assert_eq!(http_url("https://ops.example.com/x"), Ok("https://ops.example.com/x".to_owned()));
        for wrong in ["", "nonsense", "127.0.0.1:9090", "ftp://a", "http://", "/path", "http://a/?q=1"] {
            assert!(http_url(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_address_without_a_server_is_unreachable() {
        let unused = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let args = AdminArgs::at(&format!("http://{unused}"));
        let failure = block_on(AdminClient::new(&args).unwrap().get("status")).unwrap_err();
        assert_eq!(failure.status, ExitStatus::Unreachable);
        let message = failure.to_string();
        assert!(message.starts_with(&format!("cannot reach the admin API at http://{unused}: ")), "{message}");
        assert!(message.contains("is `causality run` running there?"), "{message}");
    }
}
