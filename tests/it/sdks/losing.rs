//! A proxy that keeps answers to itself: the server has stored what it says that it has stored, and the client does not
//! get to know and sends it again.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

/// Of so many answers of 200 to a POST, one is lost.
const LOST_OF: usize = 3;
/// So many are lost in all: clients wait ever longer before they send the same once more.
const LOST_MAX: usize = 8;

/// In front of a server that may come and go; it runs as long as the test.
pub(super) struct Losing {
    pub(super) url: String,
    answers: Arc<AtomicUsize>,
}

impl Losing {
    pub(super) fn start(server: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let answers = Arc::new(AtomicUsize::new(0));
        let counted = answers.clone();
        thread::spawn(move || {
            for client in listener.incoming() {
                // Without a server the client's connection is closed.
                if let (Ok(client), Ok(upstream)) = (client, TcpStream::connect(&server)) {
                    connect(client, upstream, counted.clone());
                }
            }
        });
        Self { url, answers }
    }

    /// How many answers were lost.
    pub(super) fn lost(&self) -> usize {
        (self.answers.load(Ordering::SeqCst) / LOST_OF).min(LOST_MAX)
    }
}

fn connect(client: TcpStream, server: TcpStream, answers: Arc<AtomicUsize>) {
    let is_post = Arc::new(AtomicBool::new(false));
    let asked = is_post.clone();
    // A client waits for its answer before it asks again: what begins with a method begins a request.
    pass(&client, &server, move |bytes| {
        if ["GET ", "OPTIONS "].iter().any(|method| bytes.starts_with(method.as_bytes())) {
            asked.store(false, Ordering::SeqCst);
        } else if bytes.starts_with(b"POST ") {
            asked.store(true, Ordering::SeqCst);
        }
        true
    });
    pass(&server, &client, move |bytes| {
        let is_stored = bytes.starts_with(b"HTTP/1.1 200") && is_post.load(Ordering::SeqCst);
        let number = if is_stored { answers.fetch_add(1, Ordering::SeqCst) + 1 } else { 0 };
        number == 0 || number > LOST_OF * LOST_MAX || !number.is_multiple_of(LOST_OF)
    });
}

/// Passes bytes on in a thread of its own until one of the two is closed, or `look` wants no more.
fn pass(from: &TcpStream, to: &TcpStream, look: impl Fn(&[u8]) -> bool + Send + 'static) {
    let (mut from, mut to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
    thread::spawn(move || {
        let mut bytes = vec![0; 64 << 10];
        while let Ok(count @ 1..) = from.read(&mut bytes) {
            if !look(&bytes[..count]) || to.write_all(&bytes[..count]).is_err() {
                break;
            }
        }
        for stream in [from, to] {
            // The other direction may have closed it already.
            let _ = stream.shutdown(Shutdown::Both);
        }
    });
}
