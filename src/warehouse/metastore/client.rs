//! One connection to a metastore, or to the first of several that can be reached.
//!
//! Invariant: a call ends within [`CALL_TIMEOUT`], and a connection is not reused after any error. A call may be sent
//! twice, because an idle connection may turn out to be closed.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use super::error::{Failure, FailureKind, shown};
use super::wire::{self, Reply, Struct, Value, WireError};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Generous, because a metastore checks the directory of each partition that is added.
const CALL_TIMEOUT: Duration = Duration::from_secs(60);
/// The type of a `TApplicationException` for a call that the server does not have.
const UNKNOWN_METHOD: i32 = 1;

/// A call of the metastore, and the exceptions that it declares, in the order of their ids from 1.
pub(super) struct Call {
    pub(super) name: &'static str,
    pub(super) throws: &'static [FailureKind],
}

pub(super) struct Client {
    /// `host:port`.
    addresses: Vec<String>,
    /// The index of the current address, or of the next one to try.
    address_index: usize,
    connection: Option<BufReader<TcpStream>>,
    sequence: i32,
}

impl Client {
    pub(super) fn new(addresses: Vec<String>) -> Self {
        Self { addresses, address_index: 0, connection: None, sequence: 0 }
    }

    /// Makes a call and returns field 0 of its result.
    pub(super) async fn call(&mut self, call: &Call, arguments: Struct) -> Result<Option<Value>, Failure> {
        let deadline = Instant::now() + CALL_TIMEOUT;
        let was_idle = self.connection.is_some();
        let reply = match self.attempt(call, &arguments, deadline).await {
            Err(WireError::Io(error)) if was_idle && error.kind() != io::ErrorKind::TimedOut => {
                self.attempt(call, &arguments, deadline).await
            }
            reply => reply,
        };
        match reply {
            Ok(Reply::Result(fields)) => result(call, fields),
            Ok(Reply::Refused(UNKNOWN_METHOD, _)) => Err(Failure::new(
                FailureKind::Old,
                format!(
                    "{} does not know the call {}: it is older than Hive 4.0.0, and must be updated",
                    self.address(),
                    call.name
                ),
            )),
            Ok(Reply::Refused(_, text)) => Err(Failure::new(
                FailureKind::Refused,
                format!("{} failed in {}: {}", self.address(), call.name, shown(&text)),
            )),
            Err(error) => Err(self.failed(call, error)),
        }
    }

    fn address(&self) -> String {
        format!("thrift://{}", self.addresses[self.address_index])
    }

    async fn attempt(&mut self, call: &Call, arguments: &Struct, deadline: Instant) -> Result<Reply, WireError> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.connect().await?,
        };
        self.sequence = self.sequence.wrapping_add(1);
        let (request, sequence) = (wire::call(call.name, self.sequence, arguments), self.sequence);
        let exchange = async {
            connection.write_all(&request).await?;
            connection.flush().await?;
            wire::read_reply(&mut connection, call.name, sequence).await
        };
        let reply = timeout_at(deadline, exchange).await.unwrap_or_else(|_| Err(timed_out().into()))?;
        self.connection = Some(connection);
        Ok(reply)
    }

    /// Tries each address once, starting with the last one used.
    async fn connect(&mut self) -> io::Result<BufReader<TcpStream>> {
        let mut failed = None;
        for _ in 0..self.addresses.len() {
            let connecting = TcpStream::connect(&self.addresses[self.address_index]);
            let connected = timeout_at(Instant::now() + CONNECT_TIMEOUT, connecting).await;
            match connected.unwrap_or_else(|_| Err(timed_out())) {
                Ok(stream) => {
                    stream.set_nodelay(true)?;
                    return Ok(BufReader::with_capacity(32 * 1024, stream));
                }
                Err(error) => failed = Some(error),
            }
            self.address_index = (self.address_index + 1) % self.addresses.len();
        }
        Err(failed.unwrap_or_else(timed_out))
    }

    fn failed(&mut self, call: &Call, error: WireError) -> Failure {
        let address = self.address();
        // Try another address next time.
        self.address_index = (self.address_index + 1) % self.addresses.len();
        let (kind, text) = match error {
            WireError::Io(error) if error.kind() == io::ErrorKind::TimedOut => {
                (FailureKind::Unreachable, format!("{address} does not answer in time ({})", call.name))
            }
            WireError::Io(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                let text = format!(
                    "{address} closed the connection before it answered {}; a metastore that wants TLS or Kerberos does so",
                    call.name
                );
                (FailureKind::Unreachable, text)
            }
            WireError::Io(error) => (FailureKind::Unreachable, format!("{address} cannot be reached: {error}")),
            WireError::Malformed(what) => {
                let text = format!("{address} is no Hive Metastore, or wants TLS, Kerberos or HTTP: {what}");
                (FailureKind::Protocol, text)
            }
            WireError::TooLarge => {
                let text = format!("{address} answered {} with more than 16 MiB, or too deep", call.name);
                (FailureKind::Protocol, text)
            }
        };
        Failure::new(kind, text)
    }
}

fn timed_out() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "no answer in time")
}

/// Returns field 0 of the result, or the exception that replaces it.
fn result(call: &Call, mut fields: Struct) -> Result<Option<Value>, Failure> {
    if let Some(value) = fields.remove(&0) {
        return Ok(Some(value));
    }
    let Some((id, thrown)) = fields.pop_first() else { return Ok(None) };
    let kind = usize::try_from(id - 1).ok().and_then(|index| call.throws.get(index));
    let text = thrown.as_struct().and_then(|thrown| thrown.get(&1)?.as_text()).unwrap_or("it does not say why");
    let text = format!("it refuses {}: {}", call.name, shown(text));
    Err(Failure::new(kind.copied().unwrap_or(FailureKind::Refused), text))
}
