//! The catalog: which messages the stored files hold, and which files are unreadable.

pub(super) mod damaged;
pub(super) mod footers;
