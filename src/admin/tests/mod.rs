//! The whole router over the real store and the real embedded bus.

mod access;
mod audit;
mod documents;
mod erasures;
mod facing;
mod operations;
mod sets;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use http::{Method, Request, StatusCode};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tempfile::TempDir;
use tower_service::Service;

use super::*;
use crate::bus::{self, Batch, Bus, ConsumerSpec, Subscription};
use crate::event::FieldError;
use crate::store::{self, Store};

struct Admin {
    router: Router,
    store: Store,
    bus: Bus,
    _dir: TempDir,
}

struct Reply {
    status: StatusCode,
    headers: http::HeaderMap,
    text: String,
}

impl Reply {
    fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {}", self.text))
    }

    /// The pointer and detail of the problem's only error.
    fn error(&self) -> (String, String) {
        let problem = self.json();
        assert_eq!(self.headers["content-type"], "application/problem+json");
        assert_eq!(problem["status"], self.status.as_u16());
        assert_eq!(problem["errors"].as_array().map(Vec::len), Some(1), "{problem}");
        let text = |field: &str| problem["errors"][0][field].as_str().unwrap().to_owned();
        (text("pointer"), text("detail"))
    }
}

/// Stands in for the reaction's compiler: refuses paths that contain `bad`.
const CHECKS: Checks = Checks {
    rule: |rule| match rule.conditions.iter().position(|condition| condition.path.contains("bad")) {
        Some(index) => vec![FieldError::new(format!("/conditions/{index}/path"), "is not a JSONPath")],
        None => Vec::new(),
    },
    anomaly: |config| match config.config.get("path") {
        Some(path) if path == "bad" => vec![FieldError::new("/config/path", "is not a JSONPath")],
        _ => Vec::new(),
    },
    webhook: |webhook| match webhook.url.starts_with("http") {
        true => Vec::new(),
        false => vec![FieldError::new("/url", "must be an http or https URL")],
    },
};

impl Admin {
    fn new() -> Self {
        Self::with_access(AccessSettings::default())
    }

    fn with_access(access: AccessSettings) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let settings =
            store::SqliteSettings { dir: dir.path().to_owned(), secrets_key: None, secrets_key_replaced: false };
        Self::asking(Store::open_sqlite(settings).unwrap(), dir, access)
    }

    /// Another process's API over the same store.
    fn another_process(&self) -> Self {
        Self::over(self.store.clone(), tempfile::tempdir().unwrap())
    }

    fn over(store: Store, dir: TempDir) -> Self {
        Self::asking(store, dir, AccessSettings::default())
    }

    fn asking(store: Store, dir: TempDir, access: AccessSettings) -> Self {
        let bus = Bus::open_embedded(bus::EmbeddedSettings {
            dir: dir.path().to_owned(),
            bytes_max: 64 << 20,
            age_max: Duration::from_secs(3_600),
            dead_letter_age_max: Duration::from_secs(3_600),
            dedup_window: Duration::from_secs(600),
            tail_bytes_max: 1 << 20,
        })
        .unwrap();
        let state = State {
            bus: bus.clone(),
            store: store.clone(),
            checks: CHECKS,
            access: Access::new(access, Some(store.clone())),
            settings: Arc::new(Settings { loopback: true, gateway_document: Some(json!({})), ..Settings::default() }),
            probes: Probes {
                ready: Arc::new(|| (false, json!({"status": "unready", "components": {}}))),
                metrics: Arc::new(|| "causality_ready 0\n".to_owned()),
                status: Arc::new(|| json!({"version": "1.2.3", "roles": ["all"]})),
            },
        };
        Self { router: router(state), store, bus, _dir: dir }
    }

    async fn send(&self, request: Request<Body>) -> Reply {
        let (head, body) = self.router.clone().call(request).await.unwrap().into_parts();
        let text = String::from_utf8(body.collect().await.unwrap().to_bytes().to_vec()).unwrap();
        Reply { status: head.status, headers: head.headers, text }
    }

    async fn call(&self, method: Method, path: &str, body: impl ToString) -> Reply {
        let request = Request::builder().method(method).uri(path).header("host", "localhost:9090");
        let request = request.header("content-type", "application/json").body(Body::from(body.to_string()));
        self.send(request.unwrap()).await
    }

    async fn get(&self, path: &str) -> Reply {
        let request = Request::get(path).header("host", "127.0.0.1:9090").body(Body::empty()).unwrap();
        self.send(request).await
    }

    async fn post(&self, path: &str, body: Value) -> Reply {
        self.call(Method::POST, path, body).await
    }

    /// Publishes messages and dead-letters all of them.
    async fn dead_letter(&self, filter: &str, messages: &[(&str, Vec<u8>)]) -> Subscription {
        let spec = ConsumerSpec {
            name: "giver-up".to_owned(),
            filter: filter.to_owned(),
            matches_most: false,
            coarse_acks: false,
            ack_wait: Duration::from_secs(30),
            max_deliver: 3,
            pending_max: 100,
        };
        let mut subscription = self.bus.subscribe(spec).await.unwrap();
        let mut batch = Batch::new();
        for (subject, payload) in messages {
            batch.push(subject, None, |out| out.extend_from_slice(payload));
        }
        for published in self.bus.publish(batch).await {
            published.unwrap();
        }
        let mut received = Vec::new();
        while received.len() < messages.len() {
            received.extend(subscription.fetch(10, 1 << 20).await.unwrap());
        }
        for delivery in &received {
            subscription.acker().dead_letter(delivery.receipt, "cannot be decoded").await.unwrap();
        }
        subscription
    }

    async fn count(&self, path: &str) -> usize {
        self.get(path).await.json()["items"].as_array().unwrap().len()
    }
}

const WEBHOOKS: &str = "/api/admin/webhooks";
const RULES: &str = "/api/admin/rules";
const ANOMALIES: &str = "/api/admin/anomalies";

fn ops() -> Value {
    json!({"name": "ops", "url": "https://ops.example.com/hook", "headers": {"X-Env": "prod"},
        "auth_type": "hmac", "auth_config": {"secret": "s3cret", "header": "X-Signature"}})
}
