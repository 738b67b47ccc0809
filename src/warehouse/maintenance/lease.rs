//! One worker per partition: a small file in the warehouse that the worker keeps rewriting.
//!
//! ```text
//! _compaction/{app}.{hour}.lease    {"job": "0198…", "beat": 7}
//! ```
//!
//! The lease is in the warehouse and not in the bus, so that `causality lake compact`, which has no bus, can take part. It
//! only saves duplicate work: if a worker stalls for longer than its lease and another one takes over, they meet in the
//! log, where the second commit finds its inputs gone. Clocks of two machines are never compared: a lease has expired when
//! a process has seen it unchanged for [`LEASE`] by its own clock.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::warehouse::WarehouseError;
use crate::warehouse::error::WarehouseErrorKind;
use crate::warehouse::layout::Partition;
use crate::warehouse::storage::{Listed, Objects};

/// The directory of leases and incomplete files. Query engines skip names that begin with an underscore.
pub(super) const DIRECTORY: &str = "_compaction";
/// A lease expires when it is not renewed for this long.
pub(super) const LEASE: Duration = Duration::from_secs(30);
const RENEW_INTERVAL: Duration = Duration::from_secs(7);
const SUFFIX: &str = ".lease";

#[derive(Deserialize, Serialize)]
struct Content {
    job: Uuid,
    beat: u64,
}

/// The leases of others that this process has seen, and since when by its own clock.
#[derive(Debug, Default)]
pub(in crate::warehouse) struct SeenLeases(Mutex<HashMap<String, (Listed, Instant)>>);

impl SeenLeases {
    /// Whether the lease was seen unchanged for [`LEASE`].
    fn is_expired(&self, lease: &Listed) -> bool {
        let now = Instant::now();
        let mut seen = self.0.lock();
        let (before, since) = seen.entry(lease.name.clone()).or_insert_with(|| (lease.clone(), now));
        if before != lease {
            (*before, *since) = (lease.clone(), now);
        }
        now.duration_since(*since) >= LEASE
    }

    /// Forgets leases that no longer exist.
    fn retain(&self, leases: &[Listed]) {
        let mut seen = self.0.lock();
        seen.retain(|name, _| leases.iter().any(|lease| lease.name == *name));
    }
}

/// A lease of this process. It ends when it is released, or when others have waited for it to expire.
#[derive(Debug)]
pub(in crate::warehouse) struct Lease {
    name: String,
    job: Uuid,
    beat: u64,
    renewed_at: Instant,
}

impl Lease {
    /// Returns `None` if another worker holds the lease.
    pub(in crate::warehouse) fn acquire(
        objects: &Objects,
        seen: &SeenLeases,
        partition: &Partition,
        job: Uuid,
    ) -> Result<Option<Self>, WarehouseError> {
        let name = format!("{}.{}{SUFFIX}", partition.app_id, partition.hour);
        let lease = Self { name, job, beat: 0, renewed_at: Instant::now() };
        for _ in 0..2 {
            if objects.create(DIRECTORY, &lease.name, &lease.content()?)? {
                return Ok(Some(lease));
            }
            let there = leases(objects)?.into_iter().find(|there| there.name == lease.name);
            match there {
                Some(there) if seen.is_expired(&there) => objects.remove(DIRECTORY, &there.name)?,
                Some(_) => return Ok(None),
                None => {}
            }
        }
        Ok(None)
    }

    /// Renews the lease if it is due. Returns false if another worker holds it now.
    pub(in crate::warehouse) fn renew(&mut self, objects: &Objects) -> Result<bool, WarehouseError> {
        if self.renewed_at.elapsed() < RENEW_INTERVAL {
            return Ok(true);
        }
        if !self.is_ours(objects)? {
            return Ok(false);
        }
        self.beat += 1;
        self.renewed_at = Instant::now();
        objects.store(DIRECTORY, &self.name, &self.content()?, || true).map(|_| true)
    }

    /// The id of the job that holds the lease.
    pub(super) fn job(&self) -> Uuid {
        self.job
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

/// Runs `work` under the partition's lease. Returns `None` if another worker holds it.
pub(in crate::warehouse) fn with_lease<T>(
    objects: &Objects,
    seen: &SeenLeases,
    partition: &Partition,
    work: impl FnOnce(&mut Lease) -> T,
) -> Result<Option<T>, WarehouseError> {
    let Some(mut lease) = Lease::acquire(objects, seen, partition, Uuid::now_v7())? else { return Ok(None) };
    let done = work(&mut lease);
    if let Err(error) = lease.release(objects) {
        tracing::debug!(%error, "the lease of a partition was not given back, it ends by itself");
    }
    Ok(Some(done))
}

fn leases(objects: &Objects) -> Result<Vec<Listed>, WarehouseError> {
    let mut files = objects.list(DIRECTORY)?;
    files.retain(|file| file.name.ends_with(SUFFIX));
    Ok(files)
}

/// Returns `None` if there is no such lease, or its content is not understood.
fn job_of(objects: &Objects, name: &str) -> Result<Option<Uuid>, WarehouseError> {
    let text = objects.read_whole(DIRECTORY, name)?;
    Ok(text.and_then(|text| serde_json::from_slice::<Content>(&text).ok()).map(|content| content.job))
}

/// The jobs that may still be running: those whose leases have not expired.
pub(super) fn running_jobs(objects: &Objects, seen: &SeenLeases) -> Result<Vec<Uuid>, WarehouseError> {
    let leases = leases(objects)?;
    seen.retain(&leases);
    let mut jobs = Vec::new();
    for lease in leases {
        if !seen.is_expired(&lease) {
            jobs.extend(job_of(objects, &lease.name)?);
        }
    }
    Ok(jobs)
}
