//! What no test can have for real: Google Cloud Storage, Azure Blob Storage, and the metadata service
//! of an EC2 instance, as far as the warehouse speaks to them.

use std::collections::BTreeMap;
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
        let objects = Kept::default();
        Self::answering(move |asked| match asked.method.as_str() {
            "GET" if asked.query.contains("prefix=") => objects.list(asked, |key, bytes| {
                format!(
                    "<Contents><Key>{key}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified>\
                     <Size>{bytes}</Size><ETag>\"1\"</ETag></Contents>"
                )
            }),
            "GET" => objects.get(asked),
            "PUT" => {
                let must_be_new = asked.headers.get("x-goog-if-generation-match").is_some_and(|value| value == "0");
                if objects.put(asked, must_be_new) { stored(200) } else { text(412, "") }
            }
            "DELETE" => text(if objects.remove(asked) { 204 } else { 404 }, ""),
            _ => text(405, ""),
        })
    }

    /// Blob Storage.
    pub(crate) fn azure() -> Self {
        let objects = Kept::default();
        Self::answering(move |asked| match asked.method.as_str() {
            "GET" if asked.query.contains("comp=list") => objects.list(asked, |key, bytes| {
                format!(
                    "<Blob><Name>{key}</Name><Properties><Last-Modified>Thu, 01 Jan 2026 00:00:00 GMT</Last-Modified>\
                     <Content-Length>{bytes}</Content-Length><Content-Type>application/octet-stream</Content-Type>\
                     <Etag>\"1\"</Etag></Properties></Blob>"
                )
            }),
            "GET" => objects.get(asked),
            "PUT" => {
                let must_be_new = asked.headers.get("if-none-match").is_some_and(|value| value == "*");
                if objects.put(asked, must_be_new) { stored(201) } else { text(409, "") }
            }
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

/// The objects of a cloud, by the path that they are asked for with: the container and the key.
#[derive(Default)]
struct Kept(Mutex<BTreeMap<String, Bytes>>);

impl Kept {
    /// False when it must be new and is not.
    fn put(&self, asked: &Asked, must_be_new: bool) -> bool {
        let mut objects = self.0.lock().unwrap();
        if must_be_new && objects.contains_key(&asked.path) {
            return false;
        }
        objects.insert(asked.path.clone(), asked.body.clone());
        true
    }

    fn remove(&self, asked: &Asked) -> bool {
        self.0.lock().unwrap().remove(&asked.path).is_some()
    }

    /// A range, as the warehouse asks for it.
    fn get(&self, asked: &Asked) -> Response<Body> {
        let objects = self.0.lock().unwrap();
        let Some(object) = objects.get(&asked.path) else { return text(404, "") };
        let range = asked.headers.get("range").unwrap().to_str().unwrap();
        let (from, to) = range.strip_prefix("bytes=").unwrap().split_once('-').unwrap();
        let (from, end) = (from.parse().unwrap(), to.parse().map_or(object.len(), |to: usize| to + 1));
        let answer = Response::builder().status(206).header("etag", "\"1\"");
        let answer = answer.header("last-modified", "Thu, 01 Jan 2026 00:00:00 GMT");
        let answer = answer.header("content-range", format!("bytes {from}-{}/{}", end - 1, object.len()));
        answer.body(object.slice(from..end).into()).unwrap()
    }

    /// Those below the prefix, and where there is a delimiter none that is deeper.
    fn list(&self, asked: &Asked, object: impl Fn(&str, usize) -> String) -> Response<Body> {
        let parameter =
            |name: &str| asked.query.split('&').find_map(|pair| pair.strip_prefix(name)).unwrap_or_default();
        let (prefix, is_flat) = (parameter("prefix="), !parameter("delimiter=").is_empty());
        let mut listed = String::new();
        for (path, bytes) in &*self.0.lock().unwrap() {
            let Some(key) = path.strip_prefix(&format!("{}/", asked.path)) else { continue };
            if key.strip_prefix(prefix).is_some_and(|below| !(is_flat && below.contains('/'))) {
                listed.push_str(&object(key, bytes.len()));
            }
        }
        match asked.query.contains("comp=list") {
            true => text(200, &format!("<EnumerationResults><Blobs>{listed}</Blobs></EnumerationResults>")),
            false => text(200, &format!("<ListBucketResult>{listed}</ListBucketResult>")),
        }
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
