//! Timed work of a sink: renewing leases and closing old files.

use std::time::Instant;

use tracing::warn;

use super::pipeline::Sink;
use crate::base::clock;
use crate::metrics;

impl Sink {
    /// Renews leases and closes files that are old enough. Does nothing while a job owns the batches.
    pub(super) async fn wake(&mut self) {
        self.renew_isolated().await;
        let Some(batches) = &mut self.batches else { return };
        self.woke_at = Some(Instant::now());
        let mut lapsed = Vec::new();
        for (slot, lease, receipts) in batches.leases_due(Instant::now()) {
            if lease.renew(&self.acker, receipts).await.is_err() && !lease.must_keep(clock::now()) {
                lapsed.push(slot);
            }
        }
        let mut rows: usize = lapsed.into_iter().map(|slot| batches.drop_batch(slot)).sum();
        if let Some((lease, receipts)) = batches.cold_lease_due(Instant::now())
            && lease.renew(&self.acker, &receipts).await.is_err()
            && !lease.must_keep(clock::now())
        {
            rows += batches.drop_cold();
        }
        if rows > 0 {
            warn!(rows, "rows given up: the leases of their messages lapsed");
            metrics::sink_lapsed_rows(rows as u64);
        }
        let room = self.has_room_to_write();
        self.start_job(move |batches| batches.close_old(Instant::now(), room));
    }
}
