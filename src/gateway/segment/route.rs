//! The paths of Segment's API.

use http::Method;

use crate::event::segment::Call;

/// An operation of Segment's API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SegmentRoute {
    Message(Call),
    Batch,
    /// Metrics of browser SDKs; not stored.
    OwnMetrics,
    /// What `analytics-next` requests from its CDN at start.
    Settings,
}

impl SegmentRoute {
    /// The paths in OpenAPI notation.
    pub(crate) const PATHS: [(&str, Self); 17] = [
        ("/v1/batch", Self::Batch),
        ("/v1/track", Self::Message(Call::Track)),
        ("/v1/identify", Self::Message(Call::Identify)),
        ("/v1/page", Self::Message(Call::Page)),
        ("/v1/screen", Self::Message(Call::Screen)),
        ("/v1/group", Self::Message(Call::Group)),
        ("/v1/alias", Self::Message(Call::Alias)),
        ("/v1/import", Self::Batch),
        ("/v1/b", Self::Batch),
        ("/v1/t", Self::Message(Call::Track)),
        ("/v1/i", Self::Message(Call::Identify)),
        ("/v1/p", Self::Message(Call::Page)),
        ("/v1/s", Self::Message(Call::Screen)),
        ("/v1/g", Self::Message(Call::Group)),
        ("/v1/a", Self::Message(Call::Alias)),
        ("/v1/m", Self::OwnMetrics),
        ("/v1/projects/{writeKey}/settings", Self::Settings),
    ];

    pub(crate) fn of(path: &str) -> Option<Self> {
        let fixed = Self::PATHS.iter().find(|(known, _)| *known == path).map(|(_, segment_route)| *segment_route);
        fixed.or_else(|| {
            let key = path.strip_prefix("/v1/projects/")?.strip_suffix("/settings")?;
            (!key.is_empty() && !key.contains('/')).then_some(Self::Settings)
        })
    }

    pub(crate) fn method(self) -> Method {
        if self == Self::Settings { Method::GET } else { Method::POST }
    }
}
