//! Pending requests and their answers, many on one subscription.
//!
//! Invariant: a call ends when all its answers have arrived, when it times out, or when the connection is lost. Nothing
//! of it is kept then, so unanswered requests do not pile up.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_nats::{Client, Message, Subscriber};
use futures_util::StreamExt;
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

use super::link::Link;
use crate::bus::nats::failed::failed;
use crate::bus::{BusError, BusErrorKind};

/// The calls of one client.
#[derive(Debug)]
pub(crate) struct Calls {
    inbox: String,
    next: AtomicU64,
    open: Mutex<HashMap<u64, Arc<Call>>>,
}

/// Requests that are awaited together.
#[derive(Debug)]
struct Call {
    state: Mutex<State>,
    done: Notify,
}

#[derive(Debug)]
struct State {
    answers: Vec<Option<Message>>,
    missing: usize,
}

/// A call until it ends; dropping it forgets it.
pub(crate) struct PendingCall<'a> {
    calls: &'a Calls,
    id: u64,
    call: Arc<Call>,
    /// Subscribed before the first request was sent.
    connections: watch::Receiver<u64>,
}

impl Calls {
    pub(crate) async fn open(client: &Client) -> Result<(Arc<Self>, Subscriber), BusError> {
        let inbox = client.new_inbox();
        let answers =
            client.subscribe(format!("{inbox}.*.*")).await.map_err(|error| failed("subscribe to answers", error))?;
        Ok((Arc::new(Self { inbox, next: AtomicU64::new(1), open: Mutex::default() }), answers))
    }

    /// Distributes answers until the client is closed.
    pub(crate) async fn receive(self: Arc<Self>, mut answers: Subscriber) {
        while let Some(message) = answers.next().await {
            let tokens = message.subject.as_str().strip_prefix(&self.inbox).and_then(|rest| rest[1..].split_once('.'));
            let Some((id, index)) = tokens else { continue };
            let (Ok(id), Ok(index)) = (id.parse::<u64>(), index.parse::<usize>()) else { continue };
            let call = self.open.lock().get(&id).cloned();
            // Nothing waits for the answer of a call that has ended.
            if let Some(call) = call {
                call.answered(index, message);
            }
        }
    }

    /// Opens a call with the given number of requests, at least one.
    pub(crate) fn call(&self, link: &Link, requests: usize) -> PendingCall<'_> {
        let connections = link.connections();
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let answers = (0..requests).map(|_| None).collect();
        let call = Arc::new(Call { state: Mutex::new(State { answers, missing: requests }), done: Notify::new() });
        self.open.lock().insert(id, call.clone());
        PendingCall { calls: self, id, call, connections }
    }
}

impl Call {
    fn answered(&self, index: usize, message: Message) {
        let mut state = self.state.lock();
        match state.answers.get_mut(index) {
            Some(answer) if answer.is_none() => *answer = Some(message),
            _ => return,
        }
        state.missing -= 1;
        if state.missing == 0 {
            self.done.notify_one();
        }
    }
}

impl PendingCall<'_> {
    /// The reply subject of one request of the call.
    pub(crate) fn reply_to(&self, index: usize) -> String {
        format!("{}.{}.{index}", self.calls.inbox, self.id)
    }

    /// This request was not sent: it gets no answer.
    pub(crate) fn cancel(&self, index: usize) {
        let mut state = self.call.state.lock();
        if state.answers.get(index).is_some_and(Option::is_none) {
            state.missing -= 1;
        }
        if state.missing == 0 {
            self.call.done.notify_one();
        }
    }

    /// Waits for all answers. Missing answers are `None`; the second value is the reason.
    pub(crate) async fn answers(
        mut self,
        client: &Client,
        link: &Link,
        timeout: Duration,
    ) -> (Vec<Option<Message>>, Option<BusError>) {
        let why = tokio::select! {
            biased;
            () = self.call.done.notified() => {
                link.answered();
                None
            }
            _ = self.connections.changed() => Some("the connection to NATS was lost before the answer"),
            () = tokio::time::sleep(timeout) => {
                link.unanswered(client).await;
                Some("NATS did not answer within nats_timeout")
            }
        };
        let why = why.map(|why| BusError::caused(BusErrorKind::Unavailable, "wait for NATS", why));
        let answers = std::mem::take(&mut self.call.state.lock().answers);
        (answers, why)
    }
}

impl Drop for PendingCall<'_> {
    fn drop(&mut self) {
        self.calls.open.lock().remove(&self.id);
    }
}
