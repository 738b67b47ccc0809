//! Erases messages: scans the file in steps while the bus keeps running.
//!
//! Invariant: only committed messages are scanned, and matching ones have left the file and the memory when the call
//! returns. Knows nothing of who a message is about.

use std::sync::Arc;
use std::time::Instant;

use super::file;
use super::queue::Command;
use super::shared::{READ_BYTES, Shared};
use crate::bus::BusError;
use crate::bus::batch::FLAG_ERASED;
use crate::bus::erase::{ErasePredicate, EraseSpan, Erased};

pub(super) async fn erase(shared: &Arc<Shared>, span: EraseSpan, matches: &ErasePredicate) -> Result<Erased, BusError> {
    let through = span.through.min(*shared.head.borrow());
    let mut erased = Erased { scanned_through: span.after, reached: span.after, messages: 0 };
    let until = Instant::now() + span.time_max;
    let mut scanned = 0;
    while erased.scanned_through < through && scanned < span.messages_max && Instant::now() < until {
        let (from, matches) = (erased.scanned_through + 1, matches.clone());
        let (sequences, to) = shared
            .blocking(move |shared, connection| {
                let groups = file::read_groups(connection, shared.path(), from, READ_BYTES)?;
                // Skips messages that are no longer stored.
                let to = groups.back().map_or(through, |group| group.last_sequence()).min(through);
                let mut found = Vec::new();
                for group in &groups {
                    for sequence in group.first_sequence.max(from)..=group.last_sequence().min(to) {
                        let Some(layout) = group.layout(sequence) else { continue };
                        let data = group.data();
                        if layout.flags & FLAG_ERASED == 0 && matches(&data[layout.subject], &data[layout.payload]) {
                            found.push(sequence);
                        }
                    }
                }
                Ok((found, to))
            })
            .await?;
        if !sequences.is_empty() {
            erased.messages += shared.command(|reply| Command::Erase { sequences, reply }).await?;
        }
        scanned += to + 1 - from;
        erased.scanned_through = to;
    }
    // Beyond the end there is nothing.
    if erased.scanned_through >= through {
        erased.scanned_through = span.through;
    }
    erased.reached = erased.scanned_through;
    Ok(erased)
}
