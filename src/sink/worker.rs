//! The workers of a process: loops that share the consumer, each with its share of the memory.

use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::error::SinkError;
use super::isolated;
use super::pipeline::Sink;
use super::settings::Settings;
use super::status::{SinkStatus, WorkerStatus};
use crate::bus::{Bus, ConsumerSpec, SINK_CONSUMER};
use crate::metrics;
use crate::warehouse::Warehouse;

/// The subjects that the consumer reads.
pub(super) const FILTER: &str = "events.>";

/// One of the sink loops of a process. Cheap to clone; must not run twice at the same time.
#[derive(Clone)]
pub struct Worker {
    pub(super) settings: Settings,
    bus: Bus,
    warehouse: Warehouse,
    status: WorkerStatus,
    pub(super) writers: Arc<Semaphore>,
}

/// The configured number of workers, each with its share of the memory. All of them report to `status`.
pub fn workers(settings: Settings, bus: &Bus, warehouse: &Warehouse, status: &SinkStatus) -> Vec<Worker> {
    let writers = Arc::new(Semaphore::new(settings.max_concurrent_writes.max(1)));
    let count = settings.workers.max(1);
    let share = |whole: usize| (whole / count).max(1);
    metrics::sink_limits(settings.flush_interval, settings.memory_bytes_max);
    let settings = Settings {
        memory_bytes_max: share(settings.memory_bytes_max),
        open_partitions_max: share(settings.open_partitions_max),
        fetch_messages_max: share(settings.fetch_messages_max),
        fetch_bytes_max: share(settings.fetch_bytes_max),
        ..settings
    };
    let worker = |_| Worker {
        settings: settings.clone(),
        bus: bus.clone(),
        warehouse: warehouse.clone(),
        status: status.worker(),
        writers: writers.clone(),
    };
    (0..count).map(worker).collect()
}

impl Settings {
    /// The durable consumer that all sinks share.
    pub fn consumer(&self) -> ConsumerSpec {
        ConsumerSpec {
            name: SINK_CONSUMER.to_owned(),
            filter: FILTER.to_owned(),
            matches_most: true,
            coarse_acks: true,
            ack_wait: self.ack_wait,
            max_deliver: self.max_deliver,
            pending_max: self.pending_max,
        }
    }
}

impl Worker {
    /// Runs until `stop`, then takes the remaining messages from the bus, stores everything and returns.
    pub async fn run(self, stop: CancellationToken) -> Result<(), SinkError> {
        let Self { settings, bus, warehouse, status, writers } = self;
        let subscription = bus.subscribe(settings.consumer()).await?;
        // From here on, the subscription is all that the sink uses of the bus.
        drop(bus);
        let mut sink = Sink::new(settings, warehouse, status.clone(), writers, subscription)?;
        sink.tidy(stop.clone());
        status.update(|figures| figures.running = true);
        let ended = sink.run(&stop).await;
        if ended.as_ref().is_err_and(|error| !error.is_of_messages()) {
            isolated::withdraw(sink.acker()).await;
        }
        status.stopped();
        ended
    }
}
