//! The steps that all ingest APIs share, from the request body to the outcome of each event.

pub(crate) mod not_stored;
pub(crate) mod outcome;
pub(crate) mod pipeline;
pub(crate) mod refusals;
