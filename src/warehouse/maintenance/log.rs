//! The log that maintenance depends on.

use crate::warehouse::WarehouseError;
use crate::warehouse::delta::Delta;
use crate::warehouse::error::WarehouseErrorKind;
use crate::warehouse::handle::Shared;

/// The Delta log, if it names all stored files. Fails with the reason otherwise: files can only be replaced in such a
/// log.
pub(in crate::warehouse) fn complete_log(shared: &Shared) -> Result<&Delta, WarehouseError> {
    let refused = |why: &str| WarehouseError::caused(WarehouseErrorKind::Refused, "replace files", why.to_owned());
    let delta = shared.delta.get().ok_or_else(|| refused("it takes a Delta log: set delta_enabled to true"))?;
    if delta.has_adopted() {
        return Ok(delta);
    }
    Err(refused("the Delta log does not have the files from before it yet: wait for that, or run causality lake init"))
}
