//! Reading connections, lent to queries on tokio's blocking threads.

use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};
use rusqlite::Connection;
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;

use super::database::Database;
use super::error::{Fault, FileError};

/// Prepared statements cached per connection.
const PREPARED_STATEMENTS_MAX: usize = 64;

pub struct Readers {
    database: Arc<Database>,
    idle: Mutex<Vec<Connection>>,
    /// Idle connections that are kept open.
    kept_max: usize,
    /// A permit for each query that may run at the same time. Closed with the database.
    queries: Arc<Semaphore>,
}

impl Readers {
    /// Opens connections when they are needed, and keeps `kept_max` open. Any number of queries run at the same time.
    pub fn on_demand(database: Arc<Database>, kept_max: usize) -> Self {
        Self { database, idle: Mutex::default(), kept_max, queries: Arc::new(Semaphore::new(Semaphore::MAX_PERMITS)) }
    }

    /// Opens `count` connections now. As many queries run at the same time, also when the files have been moved away.
    pub fn open(database: Arc<Database>, count: usize) -> Result<Self, FileError> {
        let opened = (0..count).map(|_| {
            let reader = database.open_reader()?;
            reader.set_prepared_statement_cache_capacity(PREPARED_STATEMENTS_MAX);
            Ok(reader)
        });
        let idle = Mutex::new(opened.collect::<Result<_, FileError>>()?);
        Ok(Self { database, idle, kept_max: count, queries: Arc::new(Semaphore::new(count)) })
    }

    /// Runs a query on a blocking thread. The outer error is that of the reader.
    pub async fn read<T: Send + 'static>(
        self: &Arc<Self>,
        query: impl FnOnce(&Connection) -> T + Send + 'static,
    ) -> Result<T, FileError> {
        self.database.check_fsync()?;
        let closed = |_| FileError { fault: Fault::Closed, text: "the readers are closed".to_owned() };
        let permit = self.queries.clone().acquire_owned().await.map_err(closed)?;
        let readers = self.clone();
        let reading = spawn_blocking(move || {
            let idle = readers.lock().pop();
            let connection = idle.map_or_else(|| readers.database.open_reader(), Ok)?;
            let answer = query(&connection);
            let mut idle = readers.lock();
            if idle.len() < readers.kept_max && !readers.queries.is_closed() {
                idle.push(connection);
            }
            drop((idle, permit));
            Ok(answer)
        });
        reading.await.map_err(FileError::other)?
    }

    /// Closes the idle connections, and those in use after their query. No others are opened.
    pub fn close(&self) {
        self.queries.close();
        self.lock().clear();
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Connection>> {
        self.idle.lock()
    }
}
