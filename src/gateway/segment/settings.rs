//! What `@segment/analytics-next` asks of its CDN host before it sends: where to send to, and what to load. It is told
//! this very host, and nothing to load.

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HOST};
use http::request::Parts;
use http::{HeaderValue, Response};
use http_body_util::Full;
use serde_json::json;

pub(super) fn reply(head: &Parts, tls: bool) -> Response<Full<Bytes>> {
    let key = head.uri.path().split('/').nth(3).unwrap_or_default();
    let host = head.uri.authority().map(|authority| authority.as_str().to_owned()).or_else(|| {
        let host = head.headers.get(HOST)?;
        host.to_str().ok().map(str::to_owned)
    });
    // Whoever lies about it only leads himself astray.
    let by_proxy = head.headers.get("x-forwarded-proto").is_some_and(|proto| proto.as_bytes().starts_with(b"https"));
    let all = json!({"enabled": true, "integrations": {}});
    let settings = json!({
        "integrations": {
            "Segment.io": {
                "apiKey": key,
                "apiHost": format!("{}/v1", host.unwrap_or_default()),
                "protocol": if tls || by_proxy { "https" } else { "http" },
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
    reply.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("public, max-age=120"));
    reply
}
