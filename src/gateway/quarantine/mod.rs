//! The quarantine: refused input on its way to the dead letters.

pub(crate) mod keep;
pub(crate) mod pending;
