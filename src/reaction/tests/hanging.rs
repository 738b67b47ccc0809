//! However many endpoints hang, other endpoints are called as quickly as without them.
//!
//! Three dispatchers in one process, each with its own store and one healthy endpoint, next to zero, four or forty
//! hanging ones. Deliveries are measured one by one in turn on each dispatcher, so that other load on the machine
//! affects all three alike.

use std::time::{Duration, Instant};

use tokio::io::AsyncReadExt as _;
use tokio::net::TcpListener;

use super::receiver::Receiver;
use super::{World, dispatcher_settings};
use crate::base::supervisor::Tasks;
use crate::reaction::DispatcherSettings;
use crate::store::Webhook;

const HANGING: [usize; 3] = [0, 4, 40];
/// Pending deliveries of each hanging endpoint: more than its share.
const OWED: usize = 50;
/// Samples for each dispatcher by default; `CAUSALITY_HANGING_SAMPLES` overrides it.
const SAMPLES: usize = 200;
/// With this many samples the 99th percentile is stable enough to check the bound.
const SAMPLES_OF_PROMISE: usize = 2_000;
/// The allowed ratio of the 99th percentile with and without hanging endpoints.
const PROMISED: f64 = 1.10;

struct Measured {
    world: World,
    receiver: Receiver,
    alive: Webhook,
    waits: Vec<Duration>,
}

impl Measured {
    async fn start(hanging: usize) -> Self {
        let world = World::open();
        let receiver = Receiver::start(&world.tasks, |_| (200, None)).await;
        let alive = world.webhook("alive", &receiver.url()).await;
        world.run_dispatcher(DispatcherSettings {
            request_timeout: Duration::from_secs(3_600),
            ..dispatcher_settings()
        });
        let silent = silent(&world.tasks).await;
        for n in 0..hanging {
            let webhook = world.webhook(&format!("hanging {n}"), &format!("http://{silent}/{n}")).await;
            world.add_deliveries(webhook.id, "{}", OWED).await;
        }
        Self { world, receiver, alive, waits: Vec::new() }
    }

    async fn measure(&mut self) {
        let before = self.receiver.all().len();
        let started = Instant::now();
        self.world.add_delivery(self.alive.id, "{}").await;
        let received = self.receiver.wait_for(before + 1).await;
        self.waits.push(received[before].at.saturating_duration_since(started));
    }

    fn percentile(&self, hundredths: usize) -> Duration {
        let mut waits = self.waits.clone();
        waits.sort();
        waits[(waits.len() * hundredths / 100).min(waits.len() - 1)]
    }
}

/// An endpoint that accepts everything and never responds.
async fn silent(tasks: &Tasks) -> std::net::SocketAddr {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let connections = tasks.clone();
    tasks.spawn(async move {
        while let Some(Ok((mut tcp, _))) = connections.stop().run_until_cancelled(listener.accept()).await {
            let stop = connections.stop().clone();
            connections.spawn(async move {
                let mut buffer = [0; 4_096];
                let reading = async { while tcp.read(&mut buffer).await.is_ok_and(|count| count > 0) {} };
                stop.run_until_cancelled(reading).await;
            });
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hanging_endpoints_do_not_raise_the_99th_percentile_of_others() {
    let samples = std::env::var("CAUSALITY_HANGING_SAMPLES").map_or(SAMPLES, |text| text.parse().unwrap());
    let mut all = Vec::new();
    for hanging in HANGING {
        all.push(Measured::start(hanging).await);
    }
    // All hanging endpoints have begun to hang, and connections are open.
    for measured in &mut all {
        for _ in 0..10 {
            measured.measure().await;
        }
        measured.waits.clear();
    }
    for sample in 0..samples {
        // Rotate, so that none is always first after a pause.
        for place in 0..all.len() {
            let turn = (place + sample) % all.len();
            all[turn].measure().await;
        }
    }
    let (none, with) = all.split_first().unwrap();
    let alone = none.percentile(99);
    eprintln!("none hang: p50 {:?}, p99 {alone:?} of {samples}", none.percentile(50));
    for (measured, hanging) in with.iter().zip(&HANGING[1..]) {
        let (p50, p99) = (measured.percentile(50), measured.percentile(99));
        let ratio = p99.as_secs_f64() / alone.as_secs_f64();
        eprintln!("{hanging} hang: p50 {p50:?}, p99 {p99:?} of {samples}, {ratio:.3} times");
        if samples >= SAMPLES_OF_PROMISE {
            assert!(ratio < PROMISED, "{hanging} hang: p99 {p99:?}, and {alone:?} without them");
        } else {
            // This is the second longest of two hundred, on a busy machine.
            let bound = alone * 3 + Duration::from_millis(100);
            assert!(p99 < bound, "{hanging} hang: p99 {p99:?}, and {alone:?} without them");
        }
    }
}
