//! The log in a bucket: concurrent committers, and requests that fail after taking effect.

use std::collections::BTreeSet;
use std::time::Duration;

use super::action::{self, Action};
use super::log::{self, LOG};
use super::tests::{commit, file, partition, settings, store};
use crate::services::s3::{Fault, S3Server};
use crate::warehouse::{ObjectSettings, Warehouse};

async fn open(server: &S3Server) -> Warehouse {
    let objects = ObjectSettings { prefix: Some("raw".to_owned()), ..ObjectSettings::of_test(server) };
    Warehouse::open_objects(objects).await.unwrap().keep_log(settings()).await.unwrap()
}

/// The names of the files that the log adds, and the version.
fn table(server: &S3Server) -> (Vec<String>, i64) {
    let log = server.bucket().join("raw").join(LOG);
    let (mut files, mut version) = (Vec::new(), 0);
    while let Ok(text) = std::fs::read(log.join(log::commit_name(version))) {
        let actions = action::decode(&text).unwrap();
        files.extend(actions.iter().filter_map(Action::file).map(|(path, _)| path.to_owned()));
        version += 1;
    }
    (files.iter().map(|path| path.rsplit('/').next().unwrap().to_owned()).collect(), version - 1)
}

#[tokio::test(flavor = "multi_thread")]
async fn eight_sinks_commit_to_one_bucket() {
    const COMMITS: usize = 10;
    let server = S3Server::start();
    let bytes = file(0..2);
    let one = async || {
        let warehouse = open(&server).await;
        let mut names = Vec::new();
        for _ in 0..COMMITS {
            let name = store(&warehouse, "shop", &bytes).await;
            commit(&warehouse, &[("shop", &name, &bytes)]).await;
            names.push(name);
        }
        names
    };
    let began = std::time::Instant::now();
    let names = futures_util::future::join_all((0..8).map(|_| one())).await.concat();
    let rate = names.len() as f64 / began.elapsed().as_secs_f64();
    println!("{rate:.0} commits a second");
    let (files, version) = table(&server);
    assert_eq!(version, 8 * COMMITS as i64, "one commit each");
    assert_eq!(files.len(), names.len(), "each file once");
    assert_eq!(files.into_iter().collect::<BTreeSet<_>>(), names.into_iter().collect());
}

/// Every way in which the put of a commit may end without a truthful response.
const FAULTS: [Fault; 11] = [
    Fault::FailAfterStoring,
    Fault::HangAfterStoring,
    Fault::Hang,
    Fault::CloseInAnswer,
    Fault::SlowDown,
    Fault::Close,
    Fault::StoreLate,
    Fault::Conflict { done: false },
    Fault::Conflict { done: true },
    Fault::Precondition { done: false },
    Fault::Precondition { done: true },
];
/// Longer than the delay of a request that takes effect late.
const LATEST: Duration = Duration::from_millis(500);

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_whose_answer_is_lost_is_not_repeated() {
    let server = S3Server::start();
    let warehouse = open(&server).await;
    let (bytes, mut names) = (file(0..2), BTreeSet::new());
    for fault in FAULTS {
        let name = store(&warehouse, "shop", &bytes).await;
        let waiting = vec![(partition("shop"), name.clone(), bytes.clone())];
        let waiting = warehouse.begin_commit(waiting).await.unwrap().unwrap();
        let met = server.faulty_writes();
        server.fail(fault, 1);
        let healed = async {
            tokio::time::sleep(LATEST).await;
            server.heal();
        };
        // It may fail with or without having taken effect, or find that it had.
        let _ = tokio::join!(waiting.ensure_committed(), healed);
        assert!(server.faulty_writes() > met, "{fault:?}");
        waiting.ensure_committed().await.unwrap();
        waiting.ensure_committed().await.unwrap();
        tokio::time::sleep(LATEST).await;
        names.insert(name);
        let (files, version) = table(&server);
        assert_eq!((files.len(), version), (names.len(), names.len() as i64), "{fault:?}");
        assert_eq!(files.into_iter().collect::<BTreeSet<_>>(), names, "{fault:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn four_sinks_in_a_failing_bucket_lose_and_duplicate_nothing() {
    const COMMITS: usize = 3;
    let server = S3Server::start();
    let bytes = file(0..2);
    let sinks = [open(&server).await, open(&server).await, open(&server).await, open(&server).await];
    let one = async |warehouse: &Warehouse| {
        let mut names = Vec::new();
        for _ in 0..COMMITS {
            let name = Warehouse::new_file_name();
            while !matches!(warehouse.store(&partition("shop"), &name, bytes.clone(), || true).await, Ok(true)) {}
            let file = vec![(partition("shop"), name.clone(), bytes.clone())];
            let waiting = warehouse.begin_commit(file).await.unwrap().unwrap();
            while waiting.ensure_committed().await.is_err() {}
            names.push(name);
        }
        names
    };
    let mut all = BTreeSet::new();
    for fault in FAULTS {
        server.fail(fault, 3);
        all.extend(futures_util::future::join_all(sinks.iter().map(&one)).await.concat());
        server.heal();
        tokio::time::sleep(LATEST).await;
        let (files, _) = table(&server);
        assert_eq!(files.len(), all.len(), "{fault:?}: each file once");
        assert_eq!(files.into_iter().collect::<BTreeSet<_>>(), all, "{fault:?}");
    }
}
