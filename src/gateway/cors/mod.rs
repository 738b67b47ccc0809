//! CORS: which web pages may send events.

pub(crate) mod origins;
pub(crate) mod pages;
pub(crate) mod settings;
