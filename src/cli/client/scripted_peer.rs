//! A peer for tests: a listener that answers one request per connection, from a script.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::thread::JoinHandle;

pub(crate) struct ScriptedPeer {
    pub(crate) url: String,
    serving: JoinHandle<Vec<String>>,
}

impl ScriptedPeer {
    /// Answers each request with the rest of a status line and a body: `("404 Not Found", "{}")`.
    pub(crate) fn start(script: &[(&str, &str)]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let script: Vec<_> = script.iter().map(|(status, body)| (status.to_string(), body.to_string())).collect();
        let serving = std::thread::spawn(move || {
            let answer = |(status, body): &(String, String)| {
                let mut stream = listener.accept().unwrap().0;
                let mut request = String::new();
                let mut byte = [0];
                while !request.ends_with("\r\n\r\n") {
                    stream.read_exact(&mut byte).unwrap();
                    request.push(byte[0] as char);
                }
                let length = request.lines().find_map(|line| line.strip_prefix("content-length: "));
                let mut content = vec![0; length.map_or(0, |length| length.parse().unwrap())];
                stream.read_exact(&mut content).unwrap();
                let head = format!("HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", body.len());
                stream.write_all((head + body).as_bytes()).unwrap();
                request + std::str::from_utf8(&content).unwrap()
            };
            script.iter().map(answer).collect()
        });
        Self { url, serving }
    }

    /// The requests that it received, with bodies, after the end of the script.
    pub(crate) fn requests(self) -> Vec<String> {
        self.serving.join().unwrap()
    }
}
