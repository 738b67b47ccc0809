//! Rate limits of callers: token buckets, the table that bounds them, and the headers that replies carry.

pub(crate) mod fields;
pub(crate) mod limits;
pub(crate) mod rate;
pub(crate) mod table;
