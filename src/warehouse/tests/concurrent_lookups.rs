//! Many concurrent look-ups in one partition.

use futures_util::future::try_join_all;
use http::Method;

use super::fenced_writes::{Place, id_of, name, partition, store};
use crate::services::s3::S3Server;
use crate::warehouse::*;

const FILES: u32 = 20;
const ROWS: u64 = 10;
/// As many concurrent look-ups as when a sink with a few workers restarts.
const CROWD: usize = 12;

/// After an outage, a sink runs all of its look-ups concurrently. If each read every file, the first result would take as
/// long as all of them together.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crowd_reads_each_file_once() {
    let server = S3Server::start();
    let place = Place::S3(server);
    let writer = place.open().await;
    for n in 0..FILES {
        let first = u64::from(n) * ROWS + 1;
        store(&writer, n, first..first + ROWS).await;
    }
    let warehouse = place.open().await;
    let (before, partition) = (reads(&place), partition());
    let footers = try_join_all((0..CROWD).map(|_| warehouse.footers(&partition))).await.unwrap();
    assert!(footers.iter().all(|footers| footers.may_hold(u64::from(FILES) * ROWS)));
    let of_footers = reads(&place) - before;
    assert!(of_footers <= FILES as usize, "{of_footers} reads of {FILES} footers");

    let sequences = 1..=u64::from(FILES) * ROWS;
    let rows: Vec<RowId> = sequences.map(|sequence| RowId { sequence, id: id_of(sequence) }).collect();
    let confirmed = try_join_all(footers.into_iter().map(|footers| warehouse.confirm(footers, rows.clone()))).await;
    assert!(confirmed.unwrap().into_iter().flatten().all(|held| held));
    let of_ids = reads(&place) - before - of_footers;
    assert!(of_ids <= FILES as usize, "{of_ids} reads of the ids of {FILES} files");
}

/// GET requests for data files.
fn reads(place: &Place) -> usize {
    let Place::S3(server) = place else { unreachable!() };
    let is_read = |method: &Method, path: &str| *method == Method::GET && path.contains(&name(0)[..7]);
    server.heads().iter().filter(|head| is_read(&head.method, &head.path)).count()
}
