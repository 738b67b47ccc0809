//! The conformance tests of `h2spec`, on both ports, in the clear and under TLS.
//!
//! Some of its tests race: it sends a request, then a frame that is wrong, and wants to hear of the frame. A server that
//! has answered meanwhile, and has reset what is left of the request with NO_ERROR (RFC 9113, 8.1), says nothing more of
//! that stream (5.1: "endpoints MUST ignore frames" that are in flight to a stream that they reset). On the gateway the
//! answer to a path that does not exist waits for the body, and no test races; where one fails it is tried again.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::frames::PREFACE;
use super::http1::Port;
use super::slow::start_encrypted;
use crate::harness::Server;

/// A failed test is tried so often.
const TRIES: usize = 40;
/// In the clear a port speaks HTTP/1.1 and HTTP/2, and its first bytes tell which. A wrong preface is HTTP/1.1: it gets
/// 400, and the end of the connection. `h2spec` reads the 400 as a frame that is cut off. RFC 9113, 3.4: "A GOAWAY
/// frame MAY be omitted in this case, since an invalid preface indicates that the peer is not using HTTP/2."
const IN_THE_CLEAR: &[(&str, &str)] = &[("http2/3.5", "Sends invalid connection preface")];

/// A test by its section and its number there.
#[derive(Debug, PartialEq)]
struct Failed {
    section: String,
    number: usize,
    name: String,
}

fn h2spec() -> PathBuf {
    let binary = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools/h2spec");
    assert!(binary.exists(), "h2spec is missing: run .ci/setup --tests");
    binary
}

/// Runs those tests, or all; how many ran, and what failed.
fn run(address: &str, tls: bool, tests: &[String]) -> (usize, Vec<Failed>) {
    let (host, port) = address.split_once(':').unwrap();
    let report = tempfile::NamedTempFile::new().unwrap();
    let mut command = Command::new(h2spec());
    command.args(tests).args(["--strict", "--timeout", "5", "--path", "/nowhere", "--host", host, "--port", port]);
    command.arg("--junit-report").arg(report.path());
    if tls {
        command.args(["--tls", "--insecure"]);
    }
    let output = command.output().unwrap();
    let report = std::fs::read_to_string(report.path()).unwrap();
    assert!(report.contains("<testcase"), "{}", String::from_utf8_lossy(&output.stdout));
    failed(&report)
}

fn failed(report: &str) -> (usize, Vec<Failed>) {
    let (mut count, mut number, mut failed) = (0, 0, Vec::new());
    let attribute = |line: &str, name: &str| {
        let (_, rest) = line.split_once(&format!("{name}=\"")).unwrap();
        rest.split_once('"').unwrap().0.to_owned()
    };
    for line in report.lines().map(str::trim) {
        if line.starts_with("<testsuite ") {
            number = 0;
        } else if line.starts_with("<testcase ") {
            (count, number) = (count + 1, number + 1);
            if !line.ends_with("</testcase>") {
                failed.push(Failed { section: attribute(line, "package"), number, name: attribute(line, "classname") });
            }
        }
    }
    (count, failed)
}

fn passes(address: &str, tls: bool, known: &[(&str, &str)]) {
    let is_known = |test: &Failed| known.contains(&(&test.section, &test.name));
    let (count, failed) = run(address, tls, &[]);
    assert!(count > 140, "{count} tests");
    let (known, mut failed): (Vec<_>, Vec<_>) = failed.into_iter().partition(is_known);
    println!(
        "{address}, TLS {tls}: {count} tests, {} deviate as is known, {} tried again: {failed:?}",
        known.len(),
        failed.len()
    );
    for _ in 0..TRIES {
        failed.retain(|test| !run(address, tls, &[format!("{}/{}", test.section, test.number)]).1.is_empty());
    }
    assert!(failed.is_empty(), "{address}, TLS {tls}: {failed:?}");
}

#[test]
fn the_conformance_tests_of_http2_pass() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &[]);
    for port in [Port::Gateway, Port::Admin] {
        passes(port.address(&server), false, IN_THE_CLEAR);
    }
    let dir = tempfile::tempdir().unwrap();
    let (server, authority) = start_encrypted(dir.path(), &[]);
    for port in [Port::Gateway, Port::Admin] {
        passes(port.address(&server), true, &[]);
        // A client that agreed on nothing speaks HTTP/1.1 (RFC 9113, 3.2).
        let preface = std::str::from_utf8(PREFACE).unwrap();
        let answer = crate::tls::ask(port.address(&server), &authority, preface);
        assert!(answer.as_ref().is_none_or(|answer| answer.starts_with("HTTP/1.1 400")), "{answer:?}");
    }
}
