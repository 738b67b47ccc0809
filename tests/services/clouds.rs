//! What no test can have for real: Google Cloud Storage, Azure Blob Storage, and the metadata service
//! of an EC2 instance, as far as the warehouse speaks to them.

use std::sync::{Arc, Mutex};

use axum::body::Body;
use axum::http::{HeaderMap, Response};
use bytes::Bytes;

/// A request as it came, its path unescaped.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) query: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

/// A server on a free port that keeps what it is asked; stops when dropped.
pub(crate) struct Cloud {
    pub(crate) url: String,
    asked: Arc<Mutex<Vec<Asked>>>,
    _runtime: tokio::runtime::Runtime,
}

impl Cloud {
    pub(crate) fn answering(answer: impl Fn(&Asked) -> Response<Body> + Send + Sync + 'static) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let asked: Arc<Mutex<Vec<Asked>>> = Arc::default();
        let (keep, answer) = (asked.clone(), Arc::new(answer));
        let app = axum::Router::new().fallback(move |request: axum::extract::Request| {
            let (keep, answer) = (keep.clone(), answer.clone());
            async move {
                let (head, body) = request.into_parts();
                let one = Asked {
                    method: head.method.to_string(),
                    path: unescaped(head.uri.path()),
                    query: unescaped(head.uri.query().unwrap_or_default()),
                    headers: head.headers,
                    body: axum::body::to_bytes(body, 16 << 20).await.unwrap(),
                };
                let answered = answer(&one);
                keep.lock().unwrap().push(one);
                answered
            }
        });
        runtime.spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self { url, asked, _runtime: runtime }
    }

    /// Cloud Storage, by its XML interface.
    pub(crate) fn google() -> Self {
        Self::answering(|asked| match asked.method.as_str() {
            "GET" => text(200, "<ListBucketResult></ListBucketResult>"),
            "PUT" => stored(200),
            "DELETE" => text(204, ""),
            _ => text(405, ""),
        })
    }

    /// Blob Storage.
    pub(crate) fn azure() -> Self {
        Self::answering(|asked| match asked.method.as_str() {
            "GET" => text(200, "<EnumerationResults><Blobs></Blobs></EnumerationResults>"),
            "PUT" => stored(201),
            "POST" if asked.query.contains("comp=batch") => {
                let body = "--b\r\nContent-Type: application/http\r\nContent-ID: 0\r\n\r\n\
                            HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n\r\n--b--\r\n";
                let answer = Response::builder().status(202).header("content-type", "multipart/mixed; boundary=b");
                answer.body(body.into()).unwrap()
            }
            _ => text(405, ""),
        })
    }

    /// The metadata service of an instance whose role has these credentials.
    pub(crate) fn instance(key_id: &'static str, secret: &'static str, token: &'static str) -> Self {
        Self::answering(move |asked| {
            let role = "/latest/meta-data/iam/security-credentials/";
            if (asked.method.as_str(), asked.path.as_str()) == ("PUT", "/latest/api/token") {
                return text(200, "session");
            }
            if asked.headers.get("x-aws-ec2-metadata-token").is_none_or(|session| session != "session") {
                return text(401, "");
            }
            match asked.path.strip_prefix(role) {
                Some("") => text(200, "sink"),
                Some("sink") => text(
                    200,
                    &serde_json::json!({"AccessKeyId": key_id, "SecretAccessKey": secret, "Token": token,
                        "Expiration": "2100-01-01T00:00:00Z"})
                    .to_string(),
                ),
                _ => text(404, ""),
            }
        })
    }

    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }
}

fn text(status: u16, body: &str) -> Response<Body> {
    Response::builder().status(status).body(body.to_owned().into()).unwrap()
}

fn stored(status: u16) -> Response<Body> {
    Response::builder().status(status).header("etag", "\"1\"").body(Body::empty()).unwrap()
}

fn unescaped(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, others @ ..] = rest {
        let escaped = others.get(..2).filter(|_| *first == b'%').and_then(|hex| std::str::from_utf8(hex).ok());
        let escaped = escaped.and_then(|hex| u8::from_str_radix(hex, 16).ok());
        bytes.push(escaped.unwrap_or(*first));
        rest = if escaped.is_some() { &others[2..] } else { others };
    }
    String::from_utf8(bytes).unwrap()
}
