//! What the clock asks of a sink.

use std::time::Instant;

use tracing::warn;

use super::Sink;
use crate::base::clock;
use crate::metrics;

impl Sink {
    /// Renews leases and closes what is old enough. A job that runs meanwhile comes first.
    pub(super) async fn wake(&mut self) {
        self.renew_alone().await;
        let Some(batches) = &mut self.batches else { return };
        self.woke_at = Some(Instant::now());
        let mut lapsed = Vec::new();
        for (slot, lease, receipts) in batches.leases_due(Instant::now()) {
            if lease.renew(&self.acker, receipts).await.is_err() && !lease.is_kept(clock::now()) {
                lapsed.push(slot);
            }
        }
        let mut rows: usize = lapsed.into_iter().map(|slot| batches.give_up(slot)).sum();
        if let Some((lease, receipts)) = batches.cold_lease_due(Instant::now())
            && lease.renew(&self.acker, &receipts).await.is_err()
            && !lease.is_kept(clock::now())
        {
            rows += batches.give_up_cold();
        }
        if rows > 0 {
            warn!(rows, "rows given up: the leases of their messages lapsed");
            metrics::sink_lapsed_rows(rows as u64);
        }
        let room = self.has_room_to_write();
        self.start_job(move |batches| batches.close_old(Instant::now(), room));
    }
}
