//! Rate limiting: token buckets, the table that bounds their number, and the headers of replies.

pub(crate) mod fields;
pub(crate) mod limits;
pub(crate) mod rate;
pub(crate) mod settings;
pub(crate) mod table;
