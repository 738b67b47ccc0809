//! Bytes as the tables write them, and sockets that tell what came until the server closed.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use crate::harness::PATIENCE;

/// Closes the sending side.
const EOF: &str = "<eof>";

/// What a row sends.
pub(super) struct Sent {
    pub(super) bytes: Vec<u8>,
    pub(super) eof: bool,
}

/// Resolves the notation of the tables; `named` knows what stands in braces.
pub(super) fn sent(text: &str, named: &dyn Fn(&str) -> Option<Vec<u8>>) -> Sent {
    let (text, eof) = text.strip_suffix(EOF).map_or((text, false), |text| (text, true));
    Sent { bytes: resolved(text, named), eof }
}

pub(super) fn resolved(text: &str, named: &dyn Fn(&str) -> Option<Vec<u8>>) -> Vec<u8> {
    let (mut bytes, mut rest) = (Vec::new(), text);
    while let Some(first) = rest.chars().next() {
        rest = &rest[first.len_utf8()..];
        match first {
            '~' => bytes.extend(b"\r\n"),
            '\\' => rest = escaped(rest, &mut bytes),
            '{' => match rest.split_once('}').and_then(|(name, after)| Some((braced(name, named)?, after))) {
                Some((value, after)) => {
                    bytes.extend(value);
                    rest = after;
                }
                None => bytes.push(b'{'),
            },
            other => bytes.extend(other.encode_utf8(&mut [0; 4]).bytes()),
        }
    }
    bytes
}

fn escaped<'a>(rest: &'a str, bytes: &mut Vec<u8>) -> &'a str {
    let (letter, after) = rest.split_at(1);
    let (byte, after) = match letter {
        "r" => (b'\r', after),
        "n" => (b'\n', after),
        "t" => (b'\t', after),
        "0" => (0, after),
        "x" => (u8::from_str_radix(&after[..2], 16).unwrap(), &after[2..]),
        "\\" => (b'\\', after),
        other => panic!("what is \\{other}?"),
    };
    bytes.push(byte);
    after
}

/// A name, or something many times.
fn braced(name: &str, named: &dyn Fn(&str) -> Option<Vec<u8>>) -> Option<Vec<u8>> {
    if let Some(value) = named(name) {
        return Some(value);
    }
    let (what, times) = name.rsplit_once('*')?;
    Some(resolved(what, named).repeat(times.parse().ok()?))
}

/// A connection whose answers are read whole.
pub(super) struct Line {
    pub(super) tcp: TcpStream,
    pub(super) came: Vec<u8>,
    /// The server closed, or cut.
    pub(super) ended: bool,
}

impl Line {
    pub(super) fn to(address: &str) -> Self {
        let tcp = TcpStream::connect(address).unwrap();
        tcp.set_nodelay(true).unwrap();
        Self { tcp, came: Vec::new(), ended: false }
    }

    /// The server may close before it has all.
    pub(super) fn send(&mut self, sent: &Sent, part: usize) {
        for part in sent.bytes.chunks(part) {
            if self.tcp.write_all(part).is_err() {
                return;
            }
        }
        if sent.eof {
            let _ = self.tcp.shutdown(Shutdown::Write);
        }
    }

    /// Reads until that is found in what came; false when the connection ends, or the time.
    pub(super) fn read_until(&mut self, mut found: impl FnMut(&[u8]) -> bool) -> bool {
        let until = Instant::now() + PATIENCE;
        let mut space = [0; 16 * 1024];
        while !found(&self.came) {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() || self.ended {
                return false;
            }
            self.tcp.set_read_timeout(Some(left.max(Duration::from_millis(1)))).unwrap();
            match self.tcp.read(&mut space) {
                Ok(0) => self.ended = true,
                Ok(count) => self.came.extend(&space[..count]),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(_) => self.ended = true,
            }
        }
        true
    }

    pub(super) fn read_to_end(&mut self) {
        self.read_until(|_| false);
    }
}
