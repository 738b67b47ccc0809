//! The webhook document of the admin API.
//!
//! Invariant: serialized and debug output shows [`MASK`] in place of every secret, in the auth, the headers and the
//! URL.

use std::collections::BTreeMap;
use std::fmt;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::ser::SerializeMap;
use serde::{Deserialize, Serialize, Serializer};
use uuid::Uuid;

use super::rule::enabled;
use crate::event::FieldError;
use crate::store::audit::{AuditKind, Audited};
use crate::store::secrets::{MASK, looks_secret};

/// A webhook as a person writes it.
#[derive(Clone, PartialEq, Deserialize)]
#[serde(try_from = "WebhookDocument")]
pub struct NewWebhook {
    pub name: String,
    pub url: String,
    pub method: String,
    pub enabled: bool,
    pub timeout_ms: u64,
    pub headers: BTreeMap<String, String>,
    /// 64-bit integers in the body are JSON strings, for receivers that read numbers as doubles.
    pub int64_as_string: bool,
    pub auth: Auth,
}

/// How a request is authenticated: `auth_type` and `auth_config` of the document. Its own serde representation has the
/// secrets in clear text and is only for sealing.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Auth {
    None,
    Basic {
        username: String,
        password: String,
    },
    Bearer {
        token: String,
    },
    Hmac {
        secret: String,
        header: String,
    },
    /// One secret, or two during a rotation: `secret` and `previous_secret`.
    Standard {
        secret: String,
        previous_secret: Option<String>,
    },
}

/// A stored webhook with its secrets in clear text, for the dispatcher; serialization masks them.
#[derive(Clone, PartialEq)]
pub struct Webhook {
    pub id: Uuid,
    pub document: NewWebhook,
    /// Why the product disabled it, if it did.
    pub disabled_reason: Option<String>,
    /// Deliveries that were abandoned since the webhook was last disabled, because too many waited or for too long.
    pub deliveries_given_up: u64,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
}

/// The document field by field, before its auth is assembled, so that errors have exact paths.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WebhookDocument {
    name: String,
    url: String,
    #[serde(default = "method")]
    method: String,
    #[serde(default = "enabled")]
    enabled: bool,
    #[serde(default = "timeout_ms")]
    timeout_ms: u64,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    #[serde(default)]
    int64_as_string: bool,
    #[serde(default)]
    auth_type: AuthType,
    #[serde(default)]
    auth_config: Option<AuthConfig>,
}

#[derive(Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum AuthType {
    #[default]
    None,
    Basic,
    Bearer,
    Hmac,
    Standard,
}

#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct AuthConfig {
    username: Option<String>,
    password: Option<String>,
    token: Option<String>,
    secret: Option<String>,
    previous_secret: Option<String>,
    header: Option<String>,
}

fn method() -> String {
    "POST".to_owned()
}

fn timeout_ms() -> u64 {
    30_000
}

impl TryFrom<WebhookDocument> for NewWebhook {
    type Error = FieldError;

    fn try_from(document: WebhookDocument) -> Result<Self, FieldError> {
        let (webhook, errors) = document.into_webhook();
        errors.into_iter().next().map_or(Ok(webhook), Err)
    }
}

impl WebhookDocument {
    /// The webhook and all errors of its auth; missing secrets are replaced by the mask.
    pub fn into_webhook(self) -> (NewWebhook, Vec<FieldError>) {
        let (auth, errors) = self.auth_config.unwrap_or_default().into_auth(self.auth_type);
        let webhook = NewWebhook {
            name: self.name,
            url: self.url,
            method: self.method,
            enabled: self.enabled,
            timeout_ms: self.timeout_ms,
            headers: self.headers,
            int64_as_string: self.int64_as_string,
            auth,
        };
        (webhook, errors)
    }
}

impl AuthConfig {
    fn into_auth(mut self, auth_type: AuthType) -> (Auth, Vec<FieldError>) {
        let mut errors = Vec::new();
        let mut required = |value: Option<String>, field: &str| {
            value.unwrap_or_else(|| {
                errors.push(FieldError::new(format!("/auth_config/{field}"), "is required by this auth_type"));
                MASK.to_owned()
            })
        };
        let auth = match auth_type {
            AuthType::None => Auth::None,
            AuthType::Basic => Auth::Basic {
                username: required(self.username.take(), "username"),
                password: required(self.password.take(), "password"),
            },
            AuthType::Bearer => Auth::Bearer { token: required(self.token.take(), "token") },
            AuthType::Hmac => Auth::Hmac {
                secret: required(self.secret.take(), "secret"),
                header: self.header.take().unwrap_or_else(|| "X-Signature".to_owned()),
            },
            AuthType::Standard => Auth::Standard {
                secret: required(self.secret.take(), "secret"),
                previous_secret: self.previous_secret.take(),
            },
        };
        let left = [
            ("username", self.username),
            ("password", self.password),
            ("token", self.token),
            ("secret", self.secret),
            ("previous_secret", self.previous_secret),
            ("header", self.header),
        ];
        for (field, _) in left.into_iter().filter(|(_, value)| value.is_some()) {
            let detail = format!("is not a field of auth_type `{}`", auth.kind());
            errors.push(FieldError::new(format!("/auth_config/{field}"), detail));
        }
        (auth, errors)
    }
}

impl Auth {
    /// The document's `auth_type`.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Basic { .. } => "basic",
            Self::Bearer { .. } => "bearer",
            Self::Hmac { .. } => "hmac",
            Self::Standard { .. } => "standard",
        }
    }

    /// Every field that may hold a secret.
    pub(in crate::store) fn secrets_mut(&mut self) -> Vec<(&'static str, &mut String)> {
        match self {
            Self::None => Vec::new(),
            Self::Basic { username, password } => vec![("username", username), ("password", password)],
            Self::Bearer { token } => vec![("token", token)],
            Self::Hmac { secret, .. } => vec![("secret", secret)],
            Self::Standard { secret, previous_secret } => {
                let mut secrets = vec![("secret", secret)];
                secrets.extend(previous_secret.as_mut().map(|secret| ("previous_secret", secret)));
                secrets
            }
        }
    }

    /// The document's `auth_config` with masked secrets.
    fn masked_config(&self) -> BTreeMap<&'static str, &str> {
        match self {
            Self::None => BTreeMap::new(),
            Self::Basic { username, password } => {
                // Many services take the key as the user name, with an empty or dummy password.
                let is_key = password.is_empty() || looks_secret(username);
                let username = if is_key { MASK } else { username.as_str() };
                BTreeMap::from([("username", username), ("password", MASK)])
            }
            Self::Bearer { .. } => BTreeMap::from([("token", MASK)]),
            Self::Hmac { header, .. } => BTreeMap::from([("header", header.as_str()), ("secret", MASK)]),
            Self::Standard { previous_secret, .. } => {
                let mut config = BTreeMap::from([("secret", MASK)]);
                config.extend(previous_secret.as_ref().map(|_| ("previous_secret", MASK)));
                config
            }
        }
    }
}

impl NewWebhook {
    fn write_fields<M: SerializeMap>(&self, map: &mut M) -> Result<(), M::Error> {
        map.serialize_entry("name", &self.name)?;
        map.serialize_entry("url", &self.masked_url())?;
        map.serialize_entry("method", &self.method)?;
        map.serialize_entry("enabled", &self.enabled)?;
        map.serialize_entry("timeout_ms", &self.timeout_ms)?;
        map.serialize_entry("headers", &self.masked_headers())?;
        map.serialize_entry("int64_as_string", &self.int64_as_string)?;
        map.serialize_entry("auth_type", self.auth.kind())?;
        map.serialize_entry("auth_config", &self.auth.masked_config())
    }
}

impl Serialize for NewWebhook {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        self.write_fields(&mut map)?;
        map.end()
    }
}

impl Serialize for Webhook {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("id", &self.id)?;
        self.document.write_fields(&mut map)?;
        map.serialize_entry("disabled_reason", &self.disabled_reason)?;
        map.serialize_entry("deliveries_given_up", &self.deliveries_given_up)?;
        map.serialize_entry("created_at", &self.created_at)?;
        map.serialize_entry("updated_at", &self.updated_at)?;
        map.end()
    }
}

impl fmt::Debug for Auth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?}", self.kind(), self.masked_config())
    }
}

impl fmt::Debug for NewWebhook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Headers and the URL may hold credentials too.
        f.debug_struct("NewWebhook")
            .field("name", &self.name)
            .field("method", &self.method)
            .field("enabled", &self.enabled)
            .field("timeout_ms", &self.timeout_ms)
            .field("headers", &self.headers.keys().collect::<Vec<_>>())
            .field("auth", &self.auth)
            .finish()
    }
}

impl fmt::Debug for Webhook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Webhook").field("id", &self.id).field("document", &self.document).finish_non_exhaustive()
    }
}

impl Audited for Webhook {
    const KIND: AuditKind = AuditKind::Webhook;

    fn id(&self) -> Uuid {
        self.id
    }

    fn name(&self) -> &str {
        &self.document.name
    }

    fn has_other_secrets(&self, before: &Self) -> bool {
        let (new, old) = (&self.document, &before.document);
        // If the masked forms differ, the difference is visible.
        let hidden = |differ: bool, shown_alike: bool| differ && shown_alike;
        hidden(new.auth != old.auth, format!("{:?}", new.auth) == format!("{:?}", old.auth))
            || hidden(new.url != old.url, new.masked_url() == old.masked_url())
            || hidden(new.headers != old.headers, new.masked_headers() == old.masked_headers())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn omitted_members_get_their_defaults() {
        let read: NewWebhook = serde_json::from_value(json!({"name": "ops", "url": "http://x"})).unwrap();
        let expected = json!({"name": "ops", "url": "http://x", "method": "POST", "enabled": true,
            "timeout_ms": 30000, "headers": {}, "int64_as_string": false, "auth_type": "none", "auth_config": {}});
        assert_eq!(serde_json::to_value(&read).unwrap(), expected);

        let hmac = json!({"name": "ops", "url": "u", "auth_type": "hmac", "auth_config": {"secret": "s"}});
        let hmac: NewWebhook = serde_json::from_value(hmac).unwrap();
        assert_eq!(hmac.auth, Auth::Hmac { secret: "s".into(), header: "X-Signature".into() });
    }

    #[test]
    fn no_output_shows_a_secret() {
        for auth in [
            Auth::Basic { username: "u".into(), password: "hunter2".into() },
            Auth::Basic { username: "hunter2".into(), password: String::new() },
            Auth::Basic { username: "key-hunter2hunter2hunter2".into(), password: "x".into() },
            Auth::Bearer { token: "hunter2".into() },
            Auth::Hmac { secret: "hunter2".into(), header: "X".into() },
            Auth::Standard { secret: "hunter2".into(), previous_secret: Some("hunter2".into()) },
        ] {
            let webhook = NewWebhook {
                name: "ops".into(),
                url: "https://hooks.example.com/hook?token=hunter2".into(),
                method: "POST".into(),
                enabled: true,
                timeout_ms: 1,
                headers: BTreeMap::from([("Authorization".into(), "hunter2".into()), ("X-Env".into(), "prod".into())]),
                int64_as_string: false,
                auth: auth.clone(),
            };
            assert!(!format!("{webhook:?}{auth:?}").contains("hunter2"));
            let shown = serde_json::to_value(&webhook).unwrap();
            assert!(!shown.to_string().contains("hunter2"), "{shown}");
            assert_eq!(shown["url"], "https://hooks.example.com/hook?token=***");
            assert_eq!(shown["headers"], json!({"Authorization": MASK, "X-Env": "prod"}));
            assert!(shown["auth_config"].to_string().contains(MASK));
        }
    }

    #[test]
    fn an_auth_config_must_match_its_type() {
        for (document, pointer) in [
            (json!({"auth_type": "hmac", "auth_config": {}}), &["/auth_config/secret"][..]),
            (json!({"auth_type": "basic", "auth_config": {"username": "u"}}), &["/auth_config/password"]),
            (
                json!({"auth_type": "basic", "auth_config": {"token": "t", "header": "h"}}),
                &["/auth_config/username", "/auth_config/password", "/auth_config/token", "/auth_config/header"],
            ),
            (json!({"auth_type": "bearer", "auth_config": {"token": "t", "secret": "s"}}), &["/auth_config/secret"]),
            (json!({"auth_config": {"header": "X"}}), &["/auth_config/header"]),
        ] {
            let mut whole = json!({"name": "n", "url": "u"});
            whole.as_object_mut().unwrap().append(&mut document.as_object().unwrap().clone());
            let document: WebhookDocument = serde_json::from_value(whole).unwrap();
            let errors = document.into_webhook().1;
            assert_eq!(errors.iter().map(|error| error.pointer.as_str()).collect::<Vec<_>>(), pointer);
        }
    }
}
