//! A capture of the wire between the namespaces, and what tshark finds in it.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use bulkhead_tests::harness::{Ns, wait_until};
use rustix::process::{Pid, Signal};
use tempfile::TempDir;

const SOON: Duration = Duration::from_secs(60);

/// Every frame from its beginning on.
pub(crate) struct Capture {
    child: Child,
    folder: TempDir,
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
        Capture { child, folder }
    }

    /// Ends it, and reads what came.
    pub(crate) fn end(mut self) -> Wire {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap();
        rustix::process::kill_process(pid, Signal::INT).unwrap();
        let status = self.child.wait().unwrap();
        let errors = fs::read_to_string(self.folder.path().join("errors")).unwrap();
        assert!(status.success(), "dumpcap: {errors}");
        assert!(errors.contains("dropped") && errors.contains("/0 ("), "frames were lost: {errors}");
        let folder = std::mem::replace(&mut self.folder, TempDir::new().unwrap());
        let bytes = fs::read(folder.path().join("frames.pcapng")).unwrap();
        Wire { folder, bytes }
    }
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
