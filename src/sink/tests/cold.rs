//! Rows in many more partitions than files may be open.

use std::collections::HashSet;
use std::path::Path;
use std::time::{Duration, Instant};

use super::{Bench, NEVER, event, ids_of, now_ms, settings};
use crate::bus::LeaseGrant;
use crate::event::proto::EventEnvelope;
use crate::sink::Settings;
use crate::sink::open::{Limits, OpenBatches, Reason};
use crate::warehouse::{Compression, EncodeSettings, Encoder};

const HOUR_MS: i64 = 3_600_000;

/// `times` rows for each of `hours` hours of one app.
fn spread(hours: i64, times: usize) -> Vec<EventEnvelope> {
    let at = |hour: i64| now_ms() - (hour + 1) * HOUR_MS;
    let round = |time: usize| (0..hours).map(move |hour| event("shop", format!("{time}-{hour}"), at(hour)));
    (0..times).flat_map(round).collect()
}

fn parquet_files(dir: &Path) -> usize {
    let count = |entry: std::fs::DirEntry| match entry.file_type().unwrap().is_dir() {
        true => parquet_files(&entry.path()),
        false => usize::from(entry.path().extension().is_some_and(|extension| extension == "parquet")),
    };
    std::fs::read_dir(dir).unwrap().flatten().map(count).sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_are_gathered_into_few_files_under_renewed_leases() {
    const HOURS: i64 = 60;
    let bench = Bench::new();
    let ack_wait = Duration::from_millis(800);
    let flush_interval = Duration::from_millis(500);
    let running = bench.start(Settings { open_partitions_max: 8, ack_wait, flush_interval, ..settings() });
    let all = spread(HOURS, 12);
    for some in all.chunks(HOURS as usize) {
        bench.publish(some).await;
        tokio::time::sleep(Duration::from_millis(150)).await;
    }
    // Longer than a lease.
    bench.wait_for_rows(all.len()).await;
    running.stop().await;
    assert_eq!((bench.ids(), bench.backlog().await), (ids_of(&all), 0));
    let files = parquet_files(&bench.root());
    assert!(files < all.len() / 3, "{files} files for {} rows", all.len());
}

#[tokio::test]
async fn memory_is_bounded_and_the_largest_partitions_are_written_first() {
    let bench = Bench::new();
    let mut all = spread(400, 3);
    all.extend(spread(20, 30).into_iter().map(|event| EventEnvelope { id: format!("more-{}", event.id), ..event }));
    for some in all.chunks(300) {
        bench.publish(some).await;
    }
    let (deliveries, _subscription) = bench.fetch(all.len(), NEVER).await;
    let limits = Limits {
        rows_max: usize::MAX,
        file_bytes_max: usize::MAX,
        age_max: NEVER,
        open_bytes_max: 300_000,
        open_partitions_max: 2,
        ack_wait: NEVER,
    };
    let encode =
        EncodeSettings { compression: Compression::Snappy, row_group_rows_max: 1_000, stream: "EVENTS".into() };
    let mut batches = OpenBatches::new(limits, Encoder::new(encode).unwrap());
    let mut closed = Vec::new();
    let mut most = 0;
    for some in deliveries.chunks(100) {
        let taken = batches.take(some, &LeaseGrant::since(Instant::now()), &HashSet::new()).unwrap();
        closed.extend(taken.closed);
        most = most.max(batches.memory_bytes());
    }
    assert!(most <= 300_000, "{most} bytes");
    let by_memory: Vec<_> = closed.iter().filter(|closed| closed.reason == Reason::Memory).collect();
    assert!(!by_memory.is_empty() && by_memory[0].receipts.len() > 1, "{} files", by_memory.len());
    let mut stored: Vec<u64> = closed.iter().flat_map(|closed| &closed.receipts).map(|one| one.sequence).collect();
    while !batches.is_empty() {
        let taken = batches.close_all().unwrap();
        assert!(taken.closed.len() <= 260 && taken.lapsed_rows == 0 && taken.unreadable.is_empty());
        stored.extend(taken.closed.iter().flat_map(|closed| &closed.receipts).map(|one| one.sequence));
    }
    stored.sort_unstable();
    assert_eq!(stored, (1..=all.len() as u64).collect::<Vec<_>>());
    assert_eq!(batches.memory_bytes(), 0);
}

#[tokio::test]
async fn a_partition_with_many_rows_gets_a_file_and_redelivered_rows_are_dropped() {
    let bench = Bench::new();
    let mut all = spread(3, 1);
    all.extend((0..1_200).map(|n| event("busy", format!("busy-{n}"), now_ms())));
    bench.publish(&all).await;
    let (deliveries, _subscription) = bench.fetch(all.len(), NEVER).await;
    let limits = Limits {
        rows_max: usize::MAX,
        file_bytes_max: usize::MAX,
        age_max: NEVER,
        open_bytes_max: usize::MAX,
        open_partitions_max: 2,
        ack_wait: NEVER,
    };
    let encode =
        EncodeSettings { compression: Compression::Snappy, row_group_rows_max: 9_000, stream: "EVENTS".into() };
    let mut batches = OpenBatches::new(limits, Encoder::new(encode).unwrap());
    let leased = LeaseGrant::since(Instant::now());
    let taken = batches.take(&deliveries, &leased, &HashSet::new()).unwrap();
    let closed: Vec<_> = taken.closed.iter().map(|closed| (closed.reason, closed.receipts.len())).collect();
    assert_eq!((closed, batches.len(), batches.cold_partitions()), (vec![(Reason::Partitions, 1)], 2, 1));
    assert_eq!(batches.rows(), all.len() - 1);
    let mut again = deliveries[2].clone();
    again.delivery_count = 2;
    let taken = batches.take(&[again], &leased, &HashSet::new()).unwrap();
    assert_eq!((taken.lapsed_rows, batches.rows()), (1, all.len() - 1), "the gathered one was forgotten");
}
