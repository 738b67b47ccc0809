//! The log in a bucket: many who commit at once, and requests that fail after they were carried out.

use std::collections::BTreeSet;

use super::tests::{commit, file, partition, settings, store};
use super::*;
use crate::services::s3::{Fault, S3Server};
use crate::warehouse::{ObjectSettings, Warehouse};

async fn open(server: &S3Server) -> Warehouse {
    let objects = ObjectSettings { prefix: Some("raw".to_owned()), ..ObjectSettings::of_test(server) };
    Warehouse::open_objects(objects).await.unwrap().keep_log(settings()).await.unwrap()
}

/// The names of the files that the log adds, and its version.
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

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_whose_answer_is_lost_is_not_repeated() {
    let server = S3Server::start();
    let warehouse = open(&server).await;
    let (bytes, mut names) = (file(0..2), BTreeSet::new());
    for fault in [Fault::FailAfterStoring, Fault::HangAfterStoring, Fault::CloseInAnswer, Fault::SlowDown, Fault::Close]
    {
        let name = store(&warehouse, "shop", &bytes).await;
        let waiting = vec![(partition("shop"), name.clone(), bytes.clone())];
        let waiting = warehouse.begin_commit(waiting).await.unwrap().unwrap();
        server.fail(fault, 1);
        // It may fail, having been carried out or not; or find that it was.
        let _ = waiting.bring_about().await;
        server.heal();
        waiting.bring_about().await.unwrap();
        waiting.bring_about().await.unwrap();
        names.insert(name);
        let (files, version) = table(&server);
        assert_eq!((files.len(), version), (names.len(), names.len() as i64), "{fault:?}");
        assert_eq!(files.into_iter().collect::<BTreeSet<_>>(), names, "{fault:?}");
    }
}
