//! A capture of the wire between the namespaces, and what tshark finds in it.

use std::fs;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use bulkhead_tests::harness::{Ns, Peer, wait_until};
use rustix::process::{Pid, Signal};
use tempfile::TempDir;

const SOON: Duration = Duration::from_secs(60);

/// The last frame of every capture, from nobody to nobody, of the EtherType for experiments (IEEE 802, 0x88b5).
const LAST: &[u8] = b"\x02\0\0\0\0\x01\x02\0\0\0\0\x02\x88\xb5 that was all that this capture is about";
/// How far from the file's end it is looked for: what else there is on the wire comes behind it.
const TAIL: u64 = 1 << 20;

/// Every frame from its beginning on.
pub(crate) struct Capture {
    child: Child,
    folder: TempDir,
    /// Sends the last frame.
    marker: Peer,
}

/// What was on the wire.
#[derive(Debug)]
pub(crate) struct Wire {
    folder: TempDir,
    /// All frames as they were.
    pub(crate) bytes: Vec<u8>,
}

impl Capture {
    /// Begins, at the one interface of a namespace; returns when it captures.
    pub(crate) fn new(ns: &Ns) -> Capture {
        let folder = tempfile::Builder::new().prefix("bh-wire-").tempdir().unwrap();
        let errors = folder.path().join("errors");
        let child = Command::new("nsenter")
            .arg(format!("--net={}", ns.path().display()))
            // As who it is: a program that gives up root could not write here.
            .args(["dumpcap", "-B", "64", "-i", "eth0", "-w"])
            .arg(folder.path().join("frames.pcapng"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(&errors).unwrap())
            .spawn()
            .unwrap();
        // It names the file when it has opened the interface.
        let told = || fs::read_to_string(&errors).is_ok_and(|text| text.contains("File:"));
        if wait_until(SOON, "dumpcap captures", told).is_err() {
            panic!("no capture: {}", fs::read_to_string(&errors).unwrap());
        }
        Capture { child, folder, marker: Peer::spawn(Some(ns), None).unwrap() }
    }

    /// Ends it, and reads what came. The kernel hands frames over when a block of its ring is full or a quarter
    /// of a second old, and a dumpcap that ends leaves the rest: a last frame in the file says that what came
    /// before it is there too.
    pub(crate) fn end(mut self) -> Wire {
        let frames = self.folder.path().join("frames.pcapng");
        let wire = self.marker.wire("eth0", false).unwrap();
        let all_is_there = || {
            self.marker.send(&wire, LAST, None).unwrap();
            ends_with_marker(&frames)
        };
        wait_until(SOON, "dumpcap has written all that was on the wire", all_is_there).unwrap();
        let pid = Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap();
        rustix::process::kill_process(pid, Signal::INT).unwrap();
        let status = self.child.wait().unwrap();
        let errors = fs::read_to_string(self.folder.path().join("errors")).unwrap();
        assert!(status.success(), "dumpcap: {errors}");
        assert!(errors.contains("dropped") && errors.contains("/0 ("), "frames were lost: {errors}");
        let folder = std::mem::replace(&mut self.folder, TempDir::new().unwrap());
        let bytes = fs::read(frames).unwrap();
        Wire { folder, bytes }
    }
}

/// Whether the last frame is near the end of a capture.
fn ends_with_marker(capture: &Path) -> bool {
    let mut file = fs::File::open(capture).unwrap();
    let length = file.metadata().unwrap().len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL))).unwrap();
    let mut tail = Vec::new();
    file.read_to_end(&mut tail).unwrap();
    tail.windows(LAST.len()).any(|window| window == LAST)
}

impl Drop for Capture {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Wire {
    /// Whether these bytes were on the wire, in one frame.
    pub(crate) fn holds(&self, marker: &str) -> bool {
        self.bytes.windows(marker.len()).any(|window| window == marker.as_bytes())
    }

    /// Asserts that there was TLS 1.3 on the tunnels' port, at least one handshake, and no TCP but it; and
    /// none of `markers`.
    pub(crate) fn is_mutual_tls_only(&self, markers: &[&str]) {
        for marker in markers {
            assert!(!self.holds(marker), "`{marker}` was on the wire in clear");
        }
        let others = self.fields("tcp.len > 0 && tcp.port != 15008", &["ip.dst", "ipv6.dst", "tcp.dstport"]);
        assert!(others.is_empty(), "bytes beside the tunnels: {others:?}");
        // The first bytes of each stream, in both directions, begin a TLS handshake record.
        let first = self.fields("tcp.port == 15008 && tcp.len > 0 && tcp.seq == 1", &["tcp.payload"]);
        assert!(!first.is_empty(), "no tunnel was made");
        for payload in &first {
            let is_tls = ["160301", "160303", "150303"].iter().any(|record| payload.starts_with(record));
            assert!(is_tls, "a stream that begins with {payload}");
        }
        let hellos = self.fields("tls.handshake.type == 2", &["tls.handshake.extensions.supported_version"]);
        assert!(!hellos.is_empty(), "no server's hello was found");
        assert!(hellos.iter().all(|version| version == "0x0304"), "not TLS 1.3 alone: {hellos:?}");
    }

    /// Asserts that every key exchange was X25519MLKEM768 (0x11ec), as two of our proxies prefer it.
    pub(crate) fn is_post_quantum(&self) {
        let groups = self.fields("tls.handshake.type == 2", &["tls.handshake.extensions_key_share_group"]);
        let good = |group: &String| group == "4588" || group == "0x11ec";
        assert!(!groups.is_empty() && groups.iter().all(good), "other groups: {groups:?}");
    }

    /// What tshark finds.
    fn fields(&self, filter: &str, fields: &[&str]) -> Vec<String> {
        let mut command = Command::new("tshark");
        command.arg("-r").arg(self.path()).args(["-d", "tcp.port==15008,tls", "-Y", filter, "-T", "fields"]);
        for field in fields {
            command.args(["-e", field]);
        }
        let output = command.stderr(Stdio::null()).output().unwrap();
        assert!(output.status.success(), "tshark: {}", output.status);
        String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("frames.pcapng")
    }
}
