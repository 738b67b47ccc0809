//! A TCP proxy in front of a server, whose network can be made to fail while it runs.
//!
//! Invariants: a connection that lost bytes once stays silent for ever, as behind a middlebox that
//! forgot it: its client must find that out alone. What is held back is bounded by connection.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

/// Bytes that are passed on at a time, and how many of these pieces wait on one way of a connection.
const PIECE_BYTES_MAX: usize = 64 << 10;
const PIECES_MAX: usize = 64;
/// What the operating system takes from a client that nobody reads from.
const RECEIVE_BUFFER_BYTES: u32 = 64 << 10;

/// What the network does, to connections that there are and to those that come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    None,
    /// Everything arrives this much later, or up to half as much again, in its order.
    Latency(Duration),
    /// Connections are reset, new ones as soon as they are made.
    Reset,
    /// Bytes of both directions vanish; connections stay open, and new ones are made and never answered.
    Blackhole,
    /// Nothing is taken any more and nothing is lost: whoever sends is held up, and goes on after the end.
    Stall,
    /// The connections that there are lose their server without a word, as when its host crashed; new ones work.
    HalfOpen,
}

/// A running proxy; when it is dropped all its connections end.
pub(crate) struct Proxy {
    port: u16,
    fault: watch::Sender<Fault>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Proxy {
    /// In front of the server at this port of this machine.
    pub(crate) fn start(upstream: u16) -> Self {
        let (fault, seen) = watch::channel(Fault::None);
        let (stop, stopped) = oneshot::channel();
        let (bound, port) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let listener = listen();
                bound.send(listener.local_addr().unwrap().port()).unwrap();
                tokio::select! {
                    () = serve(listener, upstream, seen) => {}
                    _ = stopped => {}
                }
            });
        });
        let port = port.recv().unwrap();
        Self { port, fault, stop: Some(stop), thread: Some(thread) }
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// From now on the network does this.
    pub(crate) fn set(&self, fault: Fault) {
        self.fault.send_replace(fault);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

fn listen() -> TcpListener {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(RECEIVE_BUFFER_BYTES).unwrap();
    socket.bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    socket.listen(1_024).unwrap()
}

async fn serve(listener: TcpListener, upstream: u16, fault: watch::Receiver<Fault>) {
    let mut connections = tokio::task::JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                if let Ok((client, _)) = accepted {
                    connections.spawn(connection(client, upstream, fault.clone()));
                }
            }
            _ = connections.join_next(), if !connections.is_empty() => {}
        }
    }
}

async fn connection(mut client: TcpStream, upstream: u16, mut fault: watch::Receiver<Fault>) {
    let at_first = stalled(&mut fault).await;
    match at_first {
        Fault::Reset => return reset(&client),
        Fault::Blackhole => return stay_silent(client, fault).await,
        Fault::None | Fault::Latency(_) | Fault::Stall | Fault::HalfOpen => {}
    }
    let Ok(mut server) = TcpStream::connect((Ipv4Addr::LOCALHOST, upstream)).await else { return reset(&client) };
    for socket in [&client, &server] {
        let _ = socket.set_nodelay(true);
    }
    let (seen, lost) = (fault.clone(), AtomicBool::new(false));
    let cut = {
        let (client_read, client_write) = client.split();
        let (server_read, server_write) = server.split();
        tokio::select! {
            () = pipe(client_read, server_write, &seen, &lost) => None,
            () = answers(server_read, client_write, &seen, &lost) => None,
            fault = cut(&mut fault) => Some(fault),
        }
    };
    match cut {
        Some(Fault::HalfOpen) => {
            drop(server);
            stay_silent(client, fault).await;
        }
        Some(_) => {
            reset(&server);
            reset(&client);
        }
        None => {}
    }
}

/// Waits for the end of a stall; what there is instead.
async fn stalled(fault: &mut watch::Receiver<Fault>) -> Fault {
    match fault.wait_for(|now| *now != Fault::Stall).await {
        Ok(now) => *now,
        // The proxy is gone.
        Err(_) => Fault::Reset,
    }
}

/// Returns with a fault that ends connections.
async fn cut(fault: &mut watch::Receiver<Fault>) -> Fault {
    loop {
        if fault.changed().await.is_err() {
            return Fault::Reset;
        }
        let now = *fault.borrow_and_update();
        if matches!(now, Fault::Reset | Fault::HalfOpen) {
            return now;
        }
    }
}

/// When the socket is dropped now, the other end is sent a reset.
fn reset(socket: &TcpStream) {
    let _ = socket.set_zero_linger();
}

/// Takes what comes and says nothing, until the client goes.
async fn stay_silent(mut client: TcpStream, mut fault: watch::Receiver<Fault>) {
    let mut bytes = vec![0; PIECE_BYTES_MAX];
    loop {
        tokio::select! {
            read = client.read(&mut bytes) => if matches!(read, Ok(0) | Err(_)) { return },
            now = cut(&mut fault) => if now == Fault::Reset { return reset(&client) },
        }
    }
}

/// The server's way: when it ends after bytes were lost, the client does not learn of it.
async fn answers(from: ReadHalf<'_>, to: WriteHalf<'_>, fault: &watch::Receiver<Fault>, lost: &AtomicBool) {
    pipe(from, to, fault, lost).await;
    if lost.load(Ordering::Relaxed) {
        std::future::pending::<()>().await;
    }
}

/// One way of a connection, until it ends.
async fn pipe(mut from: ReadHalf<'_>, mut to: WriteHalf<'_>, fault: &watch::Receiver<Fault>, lost: &AtomicBool) {
    let (queue, mut queued) = mpsc::channel::<(Instant, Vec<u8>)>(PIECES_MAX);
    let mut fault = fault.clone();
    let reading = async move {
        let mut bytes = vec![0; PIECE_BYTES_MAX];
        let mut due = Instant::now();
        while let Ok(read) = from.read(&mut bytes).await {
            let now = stalled(&mut fault).await;
            lost.fetch_or(now == Fault::Blackhole, Ordering::Relaxed);
            if read == 0 {
                return;
            }
            if let Fault::Latency(latency) = now {
                due = due.max(Instant::now() + latency + (latency / 2).mul_f64(random_unit()));
            }
            if !lost.load(Ordering::Relaxed) && queue.send((due, bytes[..read].to_vec())).await.is_err() {
                return;
            }
        }
    };
    let writing = async {
        while let Some((due, piece)) = queued.recv().await {
            tokio::time::sleep_until(due).await;
            if !lost.load(Ordering::Relaxed) && to.write_all(&piece).await.is_err() {
                return;
            }
        }
    };
    tokio::join!(reading, writing);
}

fn random_unit() -> f64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    f64::from(now.subsec_nanos() % 1_000) / 1_000.0
}
