//! One worker per partition: a small file beside the files, which its owner rewrites as long as it works.
//!
//! ```text
//! _compaction/{app}.{hour}.lease    {"job": "0198…", "beat": 7}
//! ```
//!
//! It is in the warehouse and not in the bus, so that `causality lake compact`, which has no bus, takes part. Nothing
//! depends on it but that no work is done twice: two workers of one partition, one of which stood still for longer than its
//! lease, meet in the log, where the second commit finds its inputs gone. No clocks of two machines are compared:
//! a lease is over when somebody has seen it unchanged for [`LEASE`] by his own.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::warehouse::WarehouseError;
use crate::warehouse::error::WarehouseErrorKind;
use crate::warehouse::layout::Partition;
use crate::warehouse::storage::{Listed, Objects};

/// Where leases and files in the making are. Query engines skip names that begin with an underscore.
pub(super) const DIRECTORY: &str = "_compaction";
/// A lease that was not renewed for this long is over.
pub(super) const LEASE: Duration = Duration::from_secs(30);
const RENEWED_AFTER: Duration = Duration::from_secs(7);
const END: &str = ".lease";

#[derive(Deserialize, Serialize)]
struct Content {
    job: Uuid,
    beat: u64,
}

/// The leases of others that were seen, and since when by this process's own clock.
#[derive(Debug, Default)]
pub(in crate::warehouse) struct SeenLeases(Mutex<HashMap<String, (Listed, Instant)>>);

impl SeenLeases {
    /// Whether the lease was seen unchanged for long enough.
    fn is_over(&self, lease: &Listed) -> bool {
        let now = Instant::now();
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (before, since) = seen.entry(lease.name.clone()).or_insert_with(|| (lease.clone(), now));
        if before != lease {
            (*before, *since) = (lease.clone(), now);
        }
        now.duration_since(*since) >= LEASE
    }

    /// Forgets those that are not there any more.
    fn keep(&self, leases: &[Listed]) {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        seen.retain(|name, _| leases.iter().any(|lease| lease.name == *name));
    }
}

/// A lease of ours. It is given back when it is released, and else when others have waited for it.
#[derive(Debug)]
pub(in crate::warehouse) struct Lease {
    name: String,
    job: Uuid,
    beat: u64,
    renewed_at: Instant,
}

impl Lease {
    /// None when somebody else has it.
    pub(in crate::warehouse) fn acquire(
        objects: &Objects,
        seen: &SeenLeases,
        partition: &Partition,
        job: Uuid,
    ) -> Result<Option<Self>, WarehouseError> {
        let name = format!("{}.{}{END}", partition.app_id, partition.hour);
        let lease = Self { name, job, beat: 0, renewed_at: Instant::now() };
        for _ in 0..2 {
            if objects.create(DIRECTORY, &lease.name, &lease.content()?)? {
                return Ok(Some(lease));
            }
            let there = leases(objects)?.into_iter().find(|there| there.name == lease.name);
            match there {
                Some(there) if seen.is_over(&there) => objects.remove(DIRECTORY, &there.name)?,
                Some(_) => return Ok(None),
                None => {}
            }
        }
        Ok(None)
    }

    /// Renews the lease when it is time to. False when somebody else has it now.
    pub(in crate::warehouse) fn keep(&mut self, objects: &Objects) -> Result<bool, WarehouseError> {
        if self.renewed_at.elapsed() < RENEWED_AFTER {
            return Ok(true);
        }
        if !self.is_ours(objects)? {
            return Ok(false);
        }
        self.beat += 1;
        self.renewed_at = Instant::now();
        objects.store(DIRECTORY, &self.name, &self.content()?, || true).map(|_| true)
    }

    pub(in crate::warehouse) fn is_ours(&self, objects: &Objects) -> Result<bool, WarehouseError> {
        Ok(job_of(objects, &self.name)? == Some(self.job))
    }

    pub(in crate::warehouse) fn release(self, objects: &Objects) -> Result<(), WarehouseError> {
        if self.is_ours(objects)? { objects.remove(DIRECTORY, &self.name) } else { Ok(()) }
    }

    fn content(&self) -> Result<Bytes, WarehouseError> {
        let text = serde_json::to_vec(&Content { job: self.job, beat: self.beat });
        text.map(Bytes::from).map_err(|error| WarehouseError::caused(WarehouseErrorKind::Encode, "write lease", error))
    }
}

fn leases(objects: &Objects) -> Result<Vec<Listed>, WarehouseError> {
    let mut files = objects.list(DIRECTORY)?;
    files.retain(|file| file.name.ends_with(END));
    Ok(files)
}

/// None when there is no such lease, or it says something else.
fn job_of(objects: &Objects, name: &str) -> Result<Option<Uuid>, WarehouseError> {
    let text = objects.read_whole(DIRECTORY, name)?;
    Ok(text.and_then(|text| serde_json::from_slice::<Content>(&text).ok()).map(|content| content.job))
}

/// The jobs that may still run: those whose leases are not over.
pub(super) fn running(objects: &Objects, seen: &SeenLeases) -> Result<Vec<Uuid>, WarehouseError> {
    let leases = leases(objects)?;
    seen.keep(&leases);
    let mut jobs = Vec::new();
    for lease in leases {
        if !seen.is_over(&lease) {
            jobs.extend(job_of(objects, &lease.name)?);
        }
    }
    Ok(jobs)
}
