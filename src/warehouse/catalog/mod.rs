//! Which messages the stored files hold.

pub(super) mod damaged;
pub(super) mod footers;
