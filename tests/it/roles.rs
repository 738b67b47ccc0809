//! Two of the roles in one process and the third in another: each does what its roles say, and nothing else.

use std::time::Duration;

use serde_json::{Value, json};

use crate::cluster::{Cluster, readiness};
use crate::harness::{Receiver, Server, get, post, python, wait_until};

const EVENTS: usize = 20;
/// Each role with a component of its readiness and a counter that are there where the role is, and only there.
const SIGNS: [(&str, &str, &str); 3] = [
    ("gateway", "bus", "causality_gateway_events_total"),
    ("sink", "warehouse", "causality_sink_rows_total"),
    ("reaction", "postgres", "causality_reaction_matches_total"),
];

#[test]
fn any_two_roles_share_a_process_and_leave_the_third_to_another() {
    for (pair, single) in [("gateway,sink", "reaction"), ("sink,reaction", "gateway"), ("reaction,gateway", "sink")] {
        let cluster = Cluster::start(&[]);
        let receiver = Receiver::start();
        let processes = [(pair, cluster.role(pair, 0)), (single, cluster.role(single, 1))];
        let with = |role| &processes.iter().find(|(roles, _)| roles.contains(role)).unwrap().1;
        let reaction = with("reaction");
        reaction.admin_create("/webhooks", &json!({"name": "ops", "url": receiver.url}));
        reaction.admin_create("/rules", &json!({"name": "all", "actions": {"webhooks": ["ops"]}}));
        let event = json!({"appId": "a", "deviceId": "d", "userLogin": {}});
        let (status, reply) =
            with("gateway").send("/v1/events/batch", &json!({"events": vec![event; EVENTS]})).unwrap();
        assert_eq!((status, &reply["acceptedCount"]), (200, &json!(EVENTS)), "{pair}: {reply}");
        receiver.wait_for("/", EVENTS);
        wait_until("all rows are stored", || counted(with("sink"), "causality_sink_rows_total") == EVENTS as f64);
        cluster.wait_settled(reaction);
        processes.iter().for_each(|(roles, server)| check_faces(roles, server));
        for (roles, mut server) in processes {
            assert!(server.terminate(Duration::from_secs(35)).success(), "{roles}, log in {}", server.dir.display());
            server.expect_quiet_log(&[]);
        }
        let read = python("read_parquet.py", &[cluster.bucket().to_str().unwrap(), "ids"], "");
        assert_eq!(serde_json::from_str::<Value>(&read).unwrap()["rows"], EVENTS, "{pair}");
        assert_eq!(receiver.count(), EVENTS, "{pair}");
    }
}

/// What a process shows to those who look after it.
fn check_faces(roles: &str, server: &Server) {
    assert_eq!(get(&format!("{}/health", server.admin)).unwrap().0, 200);
    let (status, report) = readiness(server);
    assert_eq!(status, 200, "{roles}: {report}");
    for (role, component, counter) in SIGNS {
        let plays = roles.contains(role);
        assert_eq!(report["components"][component] == "ok", plays, "{roles}: {component}, {report}");
        assert_eq!(counted(server, counter) == EVENTS as f64, plays, "{roles}: {counter}");
    }
    let taken = post(&format!("{}/v1/events/ingest", server.http), b"{}", "application/json").map(|reply| reply.0);
    assert_eq!(taken, roles.contains("gateway").then_some(400), "{roles}");
    let administered = get(&format!("{}/api/admin/rules", server.admin)).unwrap().0;
    assert_eq!(administered == 200, roles.contains("reaction"), "{roles}: {administered}");
}

/// The sum of a counter over its labels; 0 where there is none.
fn counted(server: &Server, counter: &str) -> f64 {
    let (status, text) = get(&format!("{}/metrics", server.admin)).unwrap();
    assert_eq!(status, 200);
    let lines = text.lines().filter(|line| line.starts_with(counter));
    lines.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).sum()
}
