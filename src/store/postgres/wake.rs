//! Waking watchers in this process and in others.

use tokio::sync::watch;

/// Which watchers a commit wakes, in every listening process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wake {
    None,
    /// Those that keep compiled rules.
    Changes,
    /// Those that send deliveries.
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
