//! The conformance suite over PostgreSQL, and what only this engine promises.

use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use crate::services::postgres::PostgresServer;
use crate::store::conformance::conformance_suite;
use crate::store::*;

conformance_suite!(fresh);

/// One cluster for all that run at the same time: it takes seconds to make.
fn cluster() -> Arc<PostgresServer> {
    static SHARED: Mutex<Weak<PostgresServer>> = Mutex::new(Weak::new());
    let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
    shared.upgrade().unwrap_or_else(|| {
        let server = Arc::new(PostgresServer::start());
        *shared = Arc::downgrade(&server);
        server
    })
}

fn settings(server: &PostgresServer, database: &str) -> PostgresSettings {
    PostgresSettings {
        url: Some(server.url(database)),
        host: String::new(),
        port: 5432,
        user: String::new(),
        password: None,
        database: String::new(),
        ssl_mode: SslMode::Prefer,
        ca_file: None,
        connections_max: 8,
        idle_connections_max: 4,
        connection_lifetime_max: Duration::from_secs(300),
        connect_timeout: Duration::from_secs(10),
        statement_timeout: Duration::from_secs(30),
        secrets_key: Some("0f".repeat(32)),
        migrate: false,
    }
}

async fn fresh() -> (Store, Arc<PostgresServer>) {
    let server = cluster();
    let database = server.database();
    (Store::connect_postgres(settings(&server, &database)).await.unwrap(), server)
}
