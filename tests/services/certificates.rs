//! Certificates for servers, from an authority of the test's own. Made by the `openssl` program.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Signs certificates; its own is what clients are told to trust.
#[derive(Debug)]
pub(crate) struct Authority {
    dir: tempfile::TempDir,
}

/// What a server shows, and its key; both PEM.
#[derive(Clone, Debug)]
pub(crate) struct Certificate {
    pub(crate) chain: Vec<u8>,
    pub(crate) key: Vec<u8>,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let authority = Self { dir: tempfile::tempdir().unwrap() };
        let extensions = "basicConstraints = critical, CA:TRUE\nkeyUsage = critical, keyCertSign, cRLSign\n";
        let configuration = format!("[req]\ndistinguished_name = name\n[name]\n[extensions]\n{extensions}");
        std::fs::write(authority.path("ca.cnf"), configuration).unwrap();
        authority.new_key("ca.key");
        authority.openssl(
            "req -x509 -new -key ca.key -days 2 -subj /CN=authority -config ca.cnf -extensions extensions -out ca.pem",
        );
        authority
    }

    /// The file to trust.
    pub(crate) fn file(&self) -> PathBuf {
        self.path("ca.pem")
    }

    /// Its own certificate shown by a server, as those do who stop after the first command of a manual.
    pub(crate) fn itself(&self) -> Certificate {
        let read = |name| std::fs::read(self.path(name)).unwrap();
        Certificate { chain: read("ca.pem"), key: read("ca.key") }
    }

    /// A server's certificate for these names, as `IP:127.0.0.1` or `DNS:localhost`.
    pub(crate) fn issue(&self, names: &str) -> Certificate {
        self.sign(&format!("extendedKeyUsage = serverAuth\nsubjectAltName = {names}\n"))
    }

    /// A server's certificate whose time is over.
    #[allow(dead_code)]
    pub(crate) fn issue_expired(&self, names: &str) -> Certificate {
        self.new_key("leaf.key");
        self.sign_key(&format!("extendedKeyUsage = serverAuth\nsubjectAltName = {names}\n"), -1)
    }

    /// A server's certificate with a key that these arguments of `openssl` make.
    #[allow(dead_code)]
    pub(crate) fn issue_with_key(&self, names: &str, arguments: &str) -> Certificate {
        let (command, rest) = arguments.split_once(' ').unwrap();
        self.openssl(&format!("{command} -out leaf.key {rest}"));
        self.sign_key(&format!("extendedKeyUsage = serverAuth\nsubjectAltName = {names}\n"), 2)
    }

    /// A client's certificate.
    #[allow(dead_code)]
    pub(crate) fn issue_client(&self) -> Certificate {
        self.sign("extendedKeyUsage = clientAuth\nsubjectAltName = DNS:client\n")
    }

    fn sign(&self, extensions: &str) -> Certificate {
        self.new_key("leaf.key");
        self.sign_key(extensions, 2)
    }

    fn sign_key(&self, extensions: &str, days: i32) -> Certificate {
        let extensions = format!("basicConstraints = CA:FALSE\nkeyUsage = digitalSignature\n{extensions}");
        std::fs::write(self.path("leaf.cnf"), extensions).unwrap();
        self.openssl("req -new -key leaf.key -subj /CN=leaf -config ca.cnf -out leaf.csr");
        let sign = "x509 -req -in leaf.csr -CA ca.pem -CAkey ca.key -CAcreateserial -extfile leaf.cnf -out leaf.pem";
        self.openssl(&format!("{sign} -days {days}"));
        let read = |name| std::fs::read(self.path(name)).unwrap();
        Certificate { chain: read("leaf.pem"), key: read("leaf.key") }
    }

    fn new_key(&self, name: &str) {
        self.openssl(&format!("ecparam -name prime256v1 -genkey -noout -out {name}"));
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn openssl(&self, arguments: &str) {
        run(self.dir.path(), arguments);
    }
}

fn run(dir: &Path, arguments: &str) {
    let done = Command::new("openssl").current_dir(dir).args(arguments.split(' ')).output();
    let done = done.unwrap_or_else(|error| panic!("openssl: {error}; run .ci/setup --tests"));
    assert!(done.status.success(), "openssl {arguments}: {}", String::from_utf8_lossy(&done.stderr));
}
