//! Finds messages that are to be erased, some at a time, beside everything else.
//!
//! Invariant: what is looked at is committed, and what matches has left the file and the memory when it is answered. Knows
//! nothing of whose a message is.

use std::sync::Arc;
use std::time::Instant;

use super::file;
use super::queue::Chore;
use super::shared::{READ_BYTES, Shared};
use crate::bus::BusError;
use crate::bus::batch::FLAG_ERASED;
use crate::bus::erase::{ErasePredicate, EraseSpan, Erased};

pub(super) async fn erase(shared: &Arc<Shared>, span: EraseSpan, matches: &ErasePredicate) -> Result<Erased, BusError> {
    let through = span.through.min(*shared.head.borrow());
    let mut erased = Erased { scanned_through: span.after, reached: span.after, messages: 0 };
    let until = Instant::now() + span.time_max;
    let mut looked_at = 0;
    while erased.scanned_through < through && looked_at < span.messages_max && Instant::now() < until {
        let (from, matches) = (erased.scanned_through + 1, matches.clone());
        let (sequences, to) = shared
            .blocking(move |shared, connection| {
                let groups = file::read_groups(connection, &shared.path, from, READ_BYTES)?;
                // What is not stored any more is passed over.
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
            erased.messages += shared.chore(|reply| Chore::Erase { sequences, reply }).await?;
        }
        looked_at += to + 1 - from;
        erased.scanned_through = to;
    }
    // What is asked for beyond the end is not there.
    if erased.scanned_through >= through {
        erased.scanned_through = span.through;
    }
    erased.reached = erased.scanned_through;
    Ok(erased)
}
