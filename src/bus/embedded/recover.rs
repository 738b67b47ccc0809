//! Restores the consumers from the file when it is opened.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use rusqlite::Connection;

use super::consumer::{Consumer, trial_logs};
use super::file;
use crate::bus::BusError;
use crate::bus::subject::Filter;

pub(super) fn consumers(
    connection: &Connection,
    path: &Path,
    last: u64,
) -> Result<BTreeMap<String, Arc<Consumer>>, BusError> {
    let rows = file::read_consumers(connection).map_err(|error| file::failure(path, "read consumers", error))?;
    let mut consumers = BTreeMap::new();
    for (name, filter, position) in rows {
        let damaged = |what: &str| file::corrupt(path, "recover consumer", format!("{what} of consumer {name}"));
        let compiled = Filter::parse(&filter).map_err(|_| damaged("the filter"))?;
        let window = position.recover().filter(|window| window.next() <= last + 1);
        let window = window.ok_or_else(|| damaged("the position"))?;
        let log = trial_logs::read(connection, &name).map_err(|error| file::failure(path, "read consumers", error))?;
        let mut log = log.ok_or_else(|| damaged("the record of suspects"))?;
        log.forget(window.floor(), &[]);
        consumers.insert(name.clone(), Consumer::new(name, (filter, compiled), window, log));
    }
    Ok(consumers)
}
