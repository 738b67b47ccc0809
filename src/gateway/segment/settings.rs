//! The settings that `@segment/analytics-next` fetches from its CDN host at start: where to send, and what to load. The
//! reply names this host and no integrations.

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HOST};
use http::request::Parts;
use http::{HeaderValue, Response};
use http_body_util::Full;
use serde_json::json;

use crate::http::{ForwardedTarget, Scheme};

pub(crate) fn reply(head: &Parts, tls: bool, forwarded_target: ForwardedTarget) -> Response<Full<Bytes>> {
    let key = head.uri.path().split('/').nth(3).unwrap_or_default();
    let own = || head.uri.authority().map(|authority| authority.as_str().to_owned());
    let named = || head.headers.get(HOST)?.to_str().ok().map(str::to_owned);
    let host = forwarded_target.host.or_else(own).or_else(named).unwrap_or_default();
    let is_https = forwarded_target.scheme.map_or(tls, |scheme| scheme == Scheme::Https);
    let all = json!({"enabled": true, "integrations": {}});
    let settings = json!({
        "integrations": {
            "Segment.io": {
                "apiKey": key,
                "apiHost": format!("{host}/v1"),
                "protocol": if is_https { "https" } else { "http" },
                "unbundledIntegrations": [],
                "addBundledMetadata": true,
                "maybeBundledConfigIds": {},
                "versionSettings": {"version": "4.4.7", "componentTypes": ["browser"]},
            }
        },
        "plan": {"track": {"__default": all}, "identify": {"__default": {"enabled": true}}, "group": {"__default": {"enabled": true}}},
        "edgeFunction": {},
        "analyticsNextEnabled": true,
        "middlewareSettings": {},
        "enabledMiddleware": {},
        "metrics": {"sampleRate": 0},
        "legacyVideoPluginsEnabled": false,
        "remotePlugins": [],
    });
    let mut reply = Response::new(Full::new(settings.to_string().into()));
    reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    // The reply depends on proxy headers that shared caches do not know about.
    reply.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("private, max-age=120"));
    reply
}
