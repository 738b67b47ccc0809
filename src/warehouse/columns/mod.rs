//! The columns of a file: their schema, and how an event or a stored row fills them.

mod define;
pub(super) mod origin;
pub(super) mod table;

pub(super) mod schema;

pub(super) mod promoted;

pub(super) mod row;

pub(super) mod device;
pub(super) mod kind;
pub(super) mod promoted_values;
pub(super) mod row_group;
