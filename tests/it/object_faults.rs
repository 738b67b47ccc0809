//! Sinks on an S3 endpoint that stores and does not say so, cuts connections, refuses, hangs: what is
//! promised while it does and after.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::cluster::{Cluster, from_environment, resident_mib};
use crate::harness::{Receiver, Server, get, wait_until};
use crate::load::{self, Load};
use crate::services::s3::{Fault, S3Server};

/// The promise: work resumes within this time of a fault's end, without help.
const RESUME_MAX: Duration = Duration::from_secs(10);
/// What a process may take at most, with all of its backends in trouble.
const RESIDENT_MIB_MAX: u64 = 250;
/// How long each fault lasts in the default run, of every second request and then of all; `CAUSALITY_FAULT_SECONDS`
/// asks for more.
const FAULT: Duration = Duration::from_millis(700);
/// How often each fault comes in the default run; `CAUSALITY_FAULT_ROUNDS` asks for more.
const ROUNDS: usize = 1;
const FAULTS: [Fault; 4] =
    [Fault::FailAfterStoring, Fault::CloseInRequest, Fault::HangAfterStoring, Fault::CloseInAnswer];

#[test]
fn an_object_store_that_fails_in_every_way_loses_and_doubles_nothing() {
    let cluster = Cluster::start(&[]);
    let receiver = Receiver::start();
    let (gateway, reaction) = (cluster.role("gateway", 0), cluster.role("reaction", 0));
    let mut sinks = [cluster.role("sink", 0), cluster.role("sink", 1)];
    reaction.admin_create("/webhooks", &json!({"name": "ops", "url": receiver.url}));
    reaction.admin_create("/rules", &load::rule("ops"));
    let load = Load::start_keyed(&[&gateway.http]);
    let seconds = from_environment("CAUSALITY_FAULT_SECONDS", 0);
    let lasting = if seconds > 0 { Duration::from_secs(seconds as u64) } else { FAULT };
    let faults = FAULTS.repeat(from_environment("CAUSALITY_FAULT_ROUNDS", ROUNDS));
    let mut peaks = Vec::new();
    for (round, fault) in faults.into_iter().enumerate() {
        let (s3, met) = (&cluster.s3, cluster.s3.faulty_writes());
        // Reads later: whoever looks for what came again would not come to write.
        s3.fail(fault, 2);
        wait_until("writes meet the fault", || s3.faulty_writes() > met);
        s3.fail_reads(fault, 2);
        let victim = &mut sinks[round % 2];
        // Its messages come again to both sinks, which look for them in a store that fails.
        peaks.extend(resident_mib(victim));
        victim.kill();
        std::thread::sleep(lasting);
        fail_everything(s3, fault, 1);
        std::thread::sleep(lasting);
        let before = load.acknowledged();
        wait_until("events are taken meanwhile", || load.acknowledged() > before + 200);
        s3.heal();
        let (healed, stored) = (Instant::now(), stored_rows(&sinks[1 - round % 2]));
        wait_until("files are stored again", || stored_rows(&sinks[1 - round % 2]) > stored);
        assert!(healed.elapsed() < RESUME_MAX, "{fault:?}: resumed after {:?}", healed.elapsed());
        sinks[round % 2].restart();
    }
    let acknowledged = load.stop();
    sinks.iter().for_each(Server::wait_ready);
    cluster.wait_settled(&reaction);
    peaks.extend(sinks.iter().chain([&gateway]).filter_map(resident_mib));
    assert!(peaks.iter().all(|mib| *mib < RESIDENT_MIB_MAX), "sinks and gateway: {peaks:?} MiB");
    for mut server in sinks.into_iter().chain([gateway, reaction]) {
        assert!(server.terminate(Duration::from_secs(35)).success(), "log in {}", server.dir.display());
    }
    cluster.check(&receiver, &acknowledged);
}

fn fail_everything(s3: &S3Server, fault: Fault, every: u32) {
    s3.fail(fault, every);
    s3.fail_reads(fault, every);
}

/// Rows of files that the process knows to be stored.
fn stored_rows(sink: &Server) -> u64 {
    let (_, text) = get(&format!("{}/metrics", sink.admin)).unwrap();
    let counts = text.lines().filter(|line| line.starts_with("causality_sink_rows_total"));
    counts.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum::<f64>() as u64
}
