//! Strangers as peers: HBONE as Go's `net/http`, nghttp2 and Python's `h2` speak it, as clients of our port
//! 15008 and as servers that our proxy dials.
//!
//! Each carries the same conversation: 3 MB up, the end of that direction, then 3 MB down, with their
//! checksums; and once more with the server as the first to end its direction. Go's library does not do the
//! latter: its server cannot end an answer and go on reading, its client stops sending where the answer ends.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use bulkhead_tests::harness::{Launch, Ns, Program, wait_until};

use crate::lab::{DB, Lab, SOON, WEB, at, policy, python, wait_traced};
use crate::peers::Stranger;
use crate::require_python;

const PORT: u16 = 8083;
/// Where a stranger's client takes connections.
const LOCAL: &str = "127.0.0.1:9000";
const MARKER: &str = "a-clear-text-that-nobody-may-read";

/// A library that speaks HTTP/2.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Library {
    Go,
    Nghttp2,
    H2,
}

impl Library {
    /// Who may be the first to end its direction.
    fn orders(self) -> &'static [&'static str] {
        if self == Library::Go { &["client"] } else { &["client", "server"] }
    }

    pub(crate) fn launch(self) -> Launch {
        match self {
            Library::Go => Launch::new([go().to_string_lossy()]),
            Library::Nghttp2 => Launch::new([nghttp2().to_string_lossy()]),
            Library::H2 => python("mutual/python/hbone.py"),
        }
    }

    /// Go knows the key exchange against quantum computers, and tells which one was agreed on.
    fn agreed(self, program: &Program) {
        let told = program.errors();
        assert!(self != Library::Go || told.contains(" by X25519MLKEM768"), "{told}");
    }
}

/// The Go program, built once.
fn go() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let python = PathBuf::from(std::env::var("BULKHEAD_PYTHON").unwrap());
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("go");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/mutual/go/main.go");
        // Its own cache, so that nothing of the machine's changes; nothing is fetched.
        let built = Command::new(python.with_file_name("go"))
            .args(["build", "-o"])
            .arg(folder.join("hbone"))
            .arg(source)
            .env("GOCACHE", folder.join("cache"))
            .env("GOPATH", folder.join("path"))
            .env("GOPROXY", "off")
            .env("GOTOOLCHAIN", "local")
            .env("CGO_ENABLED", "0")
            .output()
            .unwrap();
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
        folder.join("hbone")
    })
}

/// The C program, built once.
fn nghttp2() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("c");
        fs::create_dir_all(&folder).unwrap();
        let built = Command::new("cc")
            .args(["-std=c11", "-O1", "-Wall", "-Wextra", "-Werror", "-o"])
            .arg(folder.join("hbone"))
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/mutual/c/hbone.c"))
            .args(["-lnghttp2", "-lssl", "-lcrypto", "-pthread"])
            .output()
            .expect("a C compiler");
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
        folder.join("hbone")
    })
}

/// Starts a stranger in no node's cgroup, and waits until it serves.
pub(crate) fn begin(stranger: &Stranger, ns: &Ns, launch: &Launch) -> Program {
    let mut program = launch.start(ns, stranger.cgroup().path()).unwrap();
    let output = program.folder().join(".output");
    let ready = || fs::read_to_string(&output).is_ok_and(|text| text.contains("ready"));
    program.wait_until(SOON, ready).unwrap();
    program
}

fn halves() -> Launch {
    python("mutual/python/halves.py")
}

/// What halves.py says when all has gone well, and whom the server saw.
fn seen(said: &bulkhead_tests::harness::Said) -> String {
    assert!(said.succeeded(), "{:?}: {}", said.status, said.errors);
    let text = String::from_utf8(said.output.clone()).unwrap();
    text.split("seen as ").nth(1).unwrap().trim().replace("::ffff:", "")
}

/// A stranger dials our port 15008, and reaches a program behind it under the name that it shows.
fn dials_us(library: Library) {
    let lab = Lab::two_nodes();
    let stranger = Stranger::new();
    let server = lab.serve(&halves().and(["serve", &PORT.to_string()]), &[PORT]);
    let shows = lab.authority.issue_workload("web").unwrap();
    let target = at(DB, PORT).to_string();
    let launch = library.launch().and(["client", LOCAL, DB, &shows.to_string_lossy(), &target]);
    let client = begin(&stranger, lab.web_ns(), &launch);
    for first in library.orders() {
        let (host, port) = LOCAL.split_once(':').unwrap();
        let said = stranger.run(lab.web_ns(), &halves().and(["ask", host, port, first, MARKER]));
        assert!(said.succeeded(), "{first} first: {} and {}", said.errors, client.errors());
        assert_eq!(seen(&said).split(' ').next(), Some(WEB), "{first} first");
        let text = String::from_utf8(said.output.clone()).unwrap();
        if let Some(sent) = text.split("sent ").nth(1) {
            let sent = sent.lines().next().unwrap();
            let took = || server.errors().contains(sent);
            wait_until(SOON, "the server took all of it", took).unwrap();
        }
    }
    let ended = wait_traced(lab.far(), "the stranger's connection", |record| record.outcome == "closed");
    assert_eq!(ended.client_name.as_deref(), Some("spiffe://example.org/ns/host/sa/web"));
    assert!(ended.sent >= 2_999_000, "{ended:?}");
    library.agreed(&client);
}

/// Our proxy dials a stranger's port 15008.
fn is_dialled_by_us(library: Library) {
    let lab = Lab::near_only(&policy(""));
    let stranger = Stranger::new();
    let shows = lab.authority.issue_workload("db").unwrap();
    let tunnel = at(DB, 15008).to_string();
    let launch = library.launch().and(["server", &tunnel, &shows.to_string_lossy()]);
    let peer = begin(&stranger, lab.db_ns(), &launch);
    let serve = halves().and(["serve", &PORT.to_string()]);
    let server = lab.serve(&serve, &[PORT]);
    for first in library.orders() {
        let said = lab.ask(&halves().and(["ask", DB, &PORT.to_string(), first, MARKER]));
        assert!(said.succeeded(), "{first} first: {} and {}", said.errors, peer.errors());
        // A stranger dials its program from where it is.
        assert_eq!(seen(&said).split(' ').next(), Some(DB), "{first} first");
        let text = String::from_utf8(said.output.clone()).unwrap();
        if let Some(sent) = text.split("sent ").nth(1) {
            let sent = sent.lines().next().unwrap();
            let took = || server.errors().contains(sent);
            wait_until(SOON, "the server took all of it", took).unwrap();
        }
    }
    let ended = wait_traced(lab.near(), "the connection", |record| record.outcome == "closed");
    assert_eq!(ended.server_name.as_deref(), Some("spiffe://example.org/ns/host/sa/db"));
    assert!(peer.errors().contains(&at(DB, PORT).to_string()), "{}", peer.errors());
    library.agreed(&peer);
}

#[test]
fn go_is_a_client() {
    require_python!();
    dials_us(Library::Go);
}

#[test]
fn go_is_a_server() {
    require_python!();
    is_dialled_by_us(Library::Go);
}

#[test]
fn nghttp2_is_a_client() {
    require_python!();
    dials_us(Library::Nghttp2);
}

#[test]
fn nghttp2_is_a_server() {
    require_python!();
    is_dialled_by_us(Library::Nghttp2);
}

#[test]
fn python_h2_is_a_client() {
    require_python!();
    dials_us(Library::H2);
}

#[test]
fn python_h2_is_a_server() {
    require_python!();
    is_dialled_by_us(Library::H2);
}
