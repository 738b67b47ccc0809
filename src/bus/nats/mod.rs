//! The NATS engine: the bus on JetStream, shared by several processes.
//!
//! Invariants: those of the bus. The guarantees of one process hold whatever the others do, since all shared state
//! (streams, consumers, deduplication) lives on the server.

mod failed;
mod shared;

mod connection;
mod topology;

mod dead_letter;
mod erase;
mod input;
mod input_room;
mod progress;
mod retention;

mod chunks;
mod consume;
mod publish;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use async_nats::jetstream::{self, context::ContextBuilder};
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use self::connection::calls::Calls;
use self::connection::link::Link;
use self::consume::trials;
use self::failed::failed;
use self::publish::chooser::Chooser;
use self::publish::{atomic, messages, original, queue};
use self::shared::Shared;
use self::topology::consumers::{self, RequiredConsumer};
use self::topology::reconciler;
use self::topology::state::{Topology, stream_id};
use self::topology::streams::{self, StreamRole};
use super::erase::{DeadLetterPredicate, ErasePredicate, EraseSpan, Erased, ErasedDeadLetters};
use super::input::{KeptInput, RefusedInput};
use super::subject::Filter;
use super::{
    Batch, BusError, BusErrorKind, BusStatus, ConsumerSpec, DeadLetter, NatsSettings, Original, Published,
    StreamStorage,
};
use crate::base::supervisor::Tasks;

pub(super) use self::chunks::{ChunkAcker, ChunkSubscription};
pub(super) use self::consume::acker::Acker;
pub(super) use self::consume::subscription::Subscription;

/// The oldest supported server.
const SERVER_MIN: (i64, i64, i64) = (2, 10, 0);
/// The first server with atomic batches.
const SERVER_ATOMIC: (i64, i64, i64) = (2, 12, 0);
/// The timeout of a liveness check.
const PING_ANSWER_MAX: Duration = Duration::from_secs(3);

#[derive(Clone)]
pub(crate) struct Engine(Arc<Shared>);

impl Engine {
    pub(super) async fn connect(settings: NatsSettings) -> Result<Self, BusError> {
        let covered = settings.subjects.iter().map(|subject| Filter::parse(subject)).collect::<Result<_, _>>()?;
        let (client, link) = Link::connect(&settings).await?;
        let version = client.server_info().version;
        let at_least = |(major, minor, patch)| client.is_server_compatible(major, minor, patch);
        if !at_least(SERVER_MIN) {
            let text = format!("the server of nats_url is version {version}; 2.10 or later is needed");
            return Err(BusError::caused(BusErrorKind::Refused, "connect to NATS", text));
        }
        let context = ContextBuilder::new().timeout(settings.timeout).build(client.clone());
        let atomic = at_least(SERVER_ATOMIC);
        let infos = streams::reconcile(&context, &settings, atomic).await?;
        let (calls, answers) = Calls::open(&client).await?;
        let tasks = Tasks::default();
        let (receiving, over) = (calls.clone().receive(answers), link.clone());
        tasks.spawn(async move {
            // Subscriptions outlive any one connection: they end with the client.
            receiving.await;
            over.mark_ended();
        });
        let failed = |error: jetstream::context::GetStreamError| failed("read stream", error);
        tracing::info!(version, stream = settings.stream, "connected to NATS");
        let chooser = Chooser::new(settings.publish, atomic);
        let (batches, jobs) = queue::queue();
        let shared = Arc::new(Shared {
            stream: context.get_stream(&settings.stream).await.map_err(failed)?,
            dead_letters: context.get_stream(&settings.dead_letter_stream).await.map_err(failed)?,
            chunks: context.get_stream(settings.chunk_stream()).await.map_err(failed)?,
            topology: Arc::new(Topology::new(stream_id(&infos[2]))),
            context,
            atomic,
            settings,
            client,
            link,
            calls,
            covered,
            input_room: Mutex::default(),
            in_flight: Semaphore::new(messages::IN_FLIGHT_BYTES_MAX),
            reading: Semaphore::new(1),
            trial_turn: Arc::new(Semaphore::new(1)),
            open_trials: Mutex::default(),
            chooser,
            batches,
            full: Mutex::default(),
            blocked_by: Mutex::default(),
            is_full: AtomicBool::new(false),
            closing: CancellationToken::new(),
            tasks,
        });
        for _ in 0..atomic::BATCHES_AT_ONCE {
            shared.run_until_closed(atomic::commit_queued(Arc::downgrade(&shared), jobs.clone()));
        }
        shared.run_until_closed(reconciler::keep(Arc::downgrade(&shared), infos));
        let engine = Self(shared);
        if let [(_, Some(warning)), _] = engine.warnings() {
            tracing::warn!(warning, "NATS");
        }
        Ok(engine)
    }

    pub(super) fn stream_id(&self) -> String {
        self.0.topology.stream_id()
    }

    pub(super) async fn publish(&self, batch: Batch) -> Vec<Result<Published, BusError>> {
        if let Err(error) = self.0.check_open("publish messages") {
            return vec![Err(error); batch.len()];
        }
        self.0.publish(batch).await
    }

    pub(super) async fn originals<T>(
        &self,
        wanted: &[Original],
        read: fn(&[u8]) -> Option<T>,
    ) -> Result<Vec<Option<T>>, BusError> {
        self.0.check_open("read messages")?;
        original::find(&self.0, wanted, read).await
    }

    pub(super) async fn subscribe(&self, spec: ConsumerSpec) -> Result<Subscription, BusError> {
        let filter = self.ensure_consumer(&spec).await?;
        Subscription::open(self.0.clone(), &self.0.settings.stream, spec, (filter, true)).await
    }

    pub(super) async fn subscribe_to_chunks(&self, spec: ConsumerSpec) -> Result<ChunkSubscription, BusError> {
        let filter = self.ensure_consumer(&spec).await?;
        ChunkSubscription::open(self.0.clone(), spec, filter).await
    }

    fn admit(&self, spec: &ConsumerSpec) -> Result<Filter, BusError> {
        self.0.check_open("subscribe")?;
        let filter = Filter::parse(&spec.filter)?;
        if spec.name.is_empty() || spec.name.contains(['.', '*', '>', ' ', '/', '\\']) {
            let text = format!("{:?} cannot be a consumer's name on NATS (consumer_name)", spec.name);
            return Err(BusError::caused(BusErrorKind::Invalid, "name consumer", text));
        }
        Ok(filter)
    }

    /// Creates or updates the durable consumer. Returns its filter.
    pub(super) async fn ensure_consumer(&self, spec: &ConsumerSpec) -> Result<Filter, BusError> {
        let filter = self.admit(spec)?;
        let (role, required) = if spec.coarse_acks {
            let subject = self.0.settings.chunk_subject(&spec.name);
            (StreamRole::Chunks, RequiredConsumer::of(spec, &subject, spec.pending_max.min(chunks::PENDING_MAX)))
        } else {
            // With a filter, the server walks over all subjects of a block to find the next matching message: with a
            // thousand subjects 15 µs (2.15) or 88 µs (2.10) each, against 2 µs without. If most messages match, it is
            // cheaper to receive and skip the others.
            let filter = if spec.matches_most { "" } else { &spec.filter };
            (StreamRole::Events, RequiredConsumer::of(spec, filter, spec.pending_max))
        };
        consumers::ensure_consumer(self.0.stream_of(role), &required).await?;
        self.0.topology.require(role, required);
        Ok(filter)
    }

    /// Returns once reconnecting was abandoned.
    pub(super) async fn until_reconnects_exhausted(&self) -> BusError {
        self.0.link.until_reconnects_exhausted().await
    }

    pub(super) async fn ping(&self) -> Result<(), BusError> {
        self.0.check_open("reach NATS")?;
        self.0.link.check(&self.0.client, "reach NATS")?;
        let limit = self.0.settings.timeout.min(PING_ANSWER_MAX);
        if let Err(error) = self.0.round_trip_within(limit).await {
            self.0.link.not_back(&self.0.client, limit).await;
            return Err(error);
        }
        if let Some(why) = self.0.topology.trouble() {
            return Err(BusError::caused(BusErrorKind::Unavailable, "use NATS", why));
        }
        self.0.stream_info_within(limit).await.map(|_| ())
    }

    /// Conditions that an operator should know about although everything works.
    pub(super) fn warnings(&self) -> [(&'static str, Option<String>); 2] {
        let (most, wanted) = (self.0.payload_max(), self.0.settings.event_bytes_max);
        let limit = self.0.client.max_payload();
        let small = (most < wanted).then(|| {
            format!(
                "the NATS server takes messages of {limit} bytes (its max_payload), so events of more than {most} bytes are \
                 refused although max_event_bytes allows {wanted}: raise the one or lower the other"
            )
        });
        [("nats max_payload", small), ("nats lost", self.0.topology.lost())]
    }

    /// Why a 2xx promises less than an event on disk, as far as the streams show.
    pub(super) fn durability_warning(&self) -> Option<&'static str> {
        match (self.0.settings.storage, self.0.settings.replicas) {
            (_, 2..) => None,
            (StreamStorage::Memory, _) => {
                Some("a stream in memory on one server loses everything when that server ends")
            }
            (StreamStorage::File, _) => Some(
                "one server holds each event: unless its configuration says sync_interval: always, a power cut can lose the last two minutes of accepted events",
            ),
        }
    }

    pub(super) async fn status(&self) -> Result<BusStatus, BusError> {
        self.0.check_open("read bus status")?;
        self.0.link.check(&self.0.client, "read bus status")?;
        retention::status(&self.0).await
    }

    pub(super) async fn dead_letter_count(&self) -> Result<u64, BusError> {
        self.0.check_open("count dead letters")?;
        self.0.link.check(&self.0.client, "count dead letters")?;
        dead_letter::count(&self.0).await
    }

    pub(super) async fn dead_letters(&self, before: Option<u64>, limit: usize) -> Result<Vec<DeadLetter>, BusError> {
        self.0.check_open("list dead letters")?;
        dead_letter::list(&self.0, before, limit).await
    }

    pub(super) async fn dead_letter(&self, id: u64) -> Result<Option<DeadLetter>, BusError> {
        self.0.check_open("read dead letter")?;
        dead_letter::find(&self.0, id).await
    }

    pub(super) async fn replay_dead_letter(&self, id: u64) -> Result<bool, BusError> {
        self.0.check_open("replay dead letter")?;
        dead_letter::replay(&self.0, id).await
    }

    pub(super) async fn delete_dead_letter(&self, id: u64) -> Result<bool, BusError> {
        self.0.check_open("delete dead letter")?;
        dead_letter::delete(&self.0, id).await
    }

    pub(super) async fn purge_dead_letters(&self, before_ms: Option<i64>) -> Result<u64, BusError> {
        self.0.check_open("purge dead letters")?;
        dead_letter::purge(&self.0, before_ms).await
    }

    pub(super) async fn purge_acknowledged(&self) -> Result<u64, BusError> {
        self.0.check_open("purge stream")?;
        self.0.link.check(&self.0.client, "purge stream")?;
        retention::purge_acknowledged(&self.0).await
    }

    pub(super) async fn erase(&self, span: EraseSpan, matches: &ErasePredicate) -> Result<Erased, BusError> {
        erase::erase(&self.0, span, matches).await
    }

    pub(super) async fn erase_dead_letters(
        &self,
        matches: &DeadLetterPredicate<'_>,
        time_max: Duration,
    ) -> Result<ErasedDeadLetters, BusError> {
        erase::erase_dead_letters(&self.0, matches, time_max).await
    }

    pub(super) async fn keep_input(&self, inputs: Vec<RefusedInput>, bytes_max: u64) -> Result<KeptInput, BusError> {
        input::keep(&self.0, inputs, bytes_max).await
    }

    pub(super) async fn resubmit_input(
        &self,
        id: u64,
        batch: Batch,
    ) -> Result<Option<Vec<Result<Published, BusError>>>, BusError> {
        input::resubmit(&self.0, id, batch).await
    }

    pub(super) async fn amend_input(&self, id: u64, input: RefusedInput) -> Result<bool, BusError> {
        input::amend(&self.0, id, input).await
    }

    pub(super) async fn input_counts(&self, subjects_max: usize) -> Result<Vec<(String, u64)>, BusError> {
        input::counts(&self.0, subjects_max).await
    }

    pub(super) async fn close(&self) {
        trials::withdraw_all(&self.0).await;
        self.0.closing.cancel();
        // Ends subscriptions, and flushes what was sent if the server is reachable.
        let _ = tokio::time::timeout(self.0.settings.timeout, self.0.client.drain()).await;
        let _ = tokio::time::timeout(self.0.settings.timeout, self.0.tasks.wait()).await;
    }
}
