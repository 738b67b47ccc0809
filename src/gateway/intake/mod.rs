//! What all ways in share, from the body of a request to the outcome of each of its events.

pub(crate) mod not_stored;
pub(crate) mod outcome;
pub(crate) mod pipeline;
pub(crate) mod refusals;
