//! A client of the admin API: JSON in and out, problem documents as sentences.
//!
//! Invariant: every response is bounded in size and time. The token is sent as a bearer token and never printed.

use std::fmt::Write;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use serde_json::Value;

use super::args::{AdminArgs, from_environment};
use super::tls;
use super::token;
use crate::cli::failure::Failure;

const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const RESPONSE_BYTES_MAX: usize = 64 << 20;
/// The largest page that the API gives.
const PAGE_ITEMS_MAX: usize = 1_000;

pub(crate) struct AdminClient {
    base_url: String,
    authorization: Option<header::HeaderValue>,
    http: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
}

impl AdminClient {
    /// Sends no token and accepts any certificate.
    pub(crate) fn for_probe(args: &AdminArgs) -> Result<Self, Failure> {
        Self::with(args, tls::accepting_any(args.tls.client_config()?), None)
    }

    pub(crate) fn new(args: &AdminArgs) -> Result<Self, Failure> {
        let authorization = match token::of(args, from_environment)? {
            None => None,
            Some(token) => {
                let mut value = header::HeaderValue::try_from(format!("Bearer {}", token.trim()))
                    .map_err(|_| Failure::usage("the admin token holds a character that a header cannot carry"))?;
                value.set_sensitive(true);
                Some(value)
            }
        };
        Self::with(args, args.tls.client_config()?, authorization)
    }

    fn with(
        args: &AdminArgs,
        tls: rustls::ClientConfig,
        authorization: Option<header::HeaderValue>,
    ) -> Result<Self, Failure> {
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
        tcp.set_nodelay(true);
        let connector =
            HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1().wrap_connector(tcp);
        let http = Client::builder(TokioExecutor::new()).build(connector);
        Ok(Self { base_url: args.base_url()?, authorization, http })
    }

    /// Requests `/health` or `/ready`, which are outside of the API. The document may have any status.
    pub(crate) async fn probe(&self, path: &str, timeout: Duration) -> Result<(StatusCode, Value), Failure> {
        let url = format!("{}{path}", self.base_url);
        let answer = tokio::time::timeout(timeout, self.send(Method::GET, &url, None)).await;
        let answer = answer.map_err(|_| self.unreachable(&format!("no answer within {} s", timeout.as_secs())))??;
        let document = serde_json::from_slice(&answer.body).map_err(|error| {
            Failure::failed(format!("{url} answered {}, not JSON ({error}); is it the admin port?", answer.status))
        })?;
        Ok((answer.status, document))
    }

    pub(crate) async fn get(&self, path: &str) -> Result<Value, Failure> {
        self.call(Method::GET, path, None).await?.succeed()
    }

    /// `None` if there is no such document.
    pub(crate) async fn find(&self, path: &str) -> Result<Option<Value>, Failure> {
        let answer = self.call(Method::GET, path, None).await?;
        if answer.status == StatusCode::NOT_FOUND { Ok(None) } else { answer.succeed().map(Some) }
    }

    /// Sends a document, or no body. The meaning of `POST` depends on the path.
    pub(crate) async fn post(&self, path: &str, document: Option<&Value>) -> Result<Value, Failure> {
        self.call(Method::POST, path, document).await?.succeed()
    }

    /// Like [`Self::post`], for a document that may be invalid: returns its errors instead of a failure.
    pub(crate) async fn post_for_validation(
        &self,
        path: &str,
        document: &Value,
    ) -> Result<Result<Value, Vec<InvalidField>>, Failure> {
        let answer = self.call(Method::POST, path, Some(document)).await?;
        if answer.status == StatusCode::UNPROCESSABLE_ENTITY
            && let Ok(problem) = serde_json::from_slice::<Problem>(&answer.body)
            && !problem.errors.is_empty()
        {
            return Ok(Err(problem.errors));
        }
        answer.succeed().map(Ok)
    }

    pub(crate) async fn delete(&self, path: &str) -> Result<Value, Failure> {
        self.call(Method::DELETE, path, None).await?.succeed()
    }

    /// Up to `limit` documents of a list, over all pages. `filters` are query parameters.
    pub(crate) async fn list(
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
                // A filtered list may have pages without items.
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

    async fn call(&self, method: Method, path: &str, document: Option<&Value>) -> Result<Response, Failure> {
        self.send(method, &self.url(path), document).await
    }

    async fn send(&self, method: Method, url: &str, document: Option<&Value>) -> Result<Response, Failure> {
        let mut request = Request::builder()
            .method(method)
            .uri(url)
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
            request.body(Full::new(body)).map_err(|error| Failure::usage(format!("cannot ask {url}: {error}")))?;
        let exchange = async {
            let received = self.http.request(request).await.map_err(|error| match tls::advice(&error) {
                Some(advice) => Failure::unreachable(format!(
                    "cannot reach the admin API at {}: {}; {advice}",
                    self.base_url,
                    causes(&error)
                )),
                None => self.unreachable(&causes(&error)),
            })?;
            let status = received.status();
            let body = Limited::new(received.into_body(), RESPONSE_BYTES_MAX)
                .collect()
                .await
                .map_err(|error| Failure::failed(format!("the answer to {url} broke off: {error}")))?;
            Ok(Response { status, body: body.to_bytes() })
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

/// One error in a document.
#[derive(Debug, Deserialize)]
pub(crate) struct InvalidField {
    /// JSON pointer (RFC 6901) into the document that was sent.
    pub(crate) pointer: String,
    pub(crate) detail: String,
}

#[derive(Deserialize)]
struct Problem {
    errors: Vec<InvalidField>,
}

/// A response with its whole body.
struct Response {
    status: StatusCode,
    body: Bytes,
}

impl Response {
    /// The document of a 2xx response. Any other status is a failure.
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

/// The detail that our listeners send for an unknown path, such as the gateway for every path of the admin API.
const NO_SUCH_PATH: &str = "There is nothing at this path.";

/// `title: detail`, then one line per entry of `errors`, and advice for some statuses.
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

/// The innermost source of an error: the outermost one of a connect error says next to nothing.
fn causes(error: &dyn std::error::Error) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}

/// Encodes everything but unreserved characters (RFC 3986), so that a name may contain a slash.
pub(crate) fn percent_encoded(text: &str) -> String {
    const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
    utf8_percent_encode(text, RESERVED).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::ExitStatus;
    use crate::cli::client::scripted_peer::ScriptedPeer;

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
    }

    #[test]
    fn a_list_has_all_pages_up_to_the_limit() {
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
    fn names_are_encoded_in_paths() {
        assert_eq!(percent_encoded("big purchase/é-1.2_~"), "big%20purchase%2F%C3%A9-1.2_~");
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
