//! Waking those who wait for changes, in this process and in others.

use tokio::sync::watch;

/// Whom a commit wakes, in every process that listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wake {
    None,
    /// Those who hold compiled rules.
    Changes,
    /// Those who send deliveries.
    Work,
    Both,
}

impl Wake {
    pub(super) fn sql(self) -> Option<&'static str> {
        match self {
            Self::None => None,
            Self::Changes => Some("NOTIFY causality_changes"),
            Self::Work => Some("NOTIFY causality_work"),
            Self::Both => Some("NOTIFY causality_changes; NOTIFY causality_work"),
        }
    }
}

pub(super) fn bump(channel: &watch::Sender<u64>) {
    channel.send_modify(|version| *version += 1);
}
