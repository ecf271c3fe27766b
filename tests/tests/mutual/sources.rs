//! Where certificates come from, under load: files as cert-manager mounts them, and a Workload API as SPIRE serves
//! it. Leafs and roots are replaced every second or two, the Workload API goes away and comes back, and no
//! connection fails.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bulkhead_tests::harness::{Agent, Dial, Program, Topology, wait_until};

use crate::lab::{DB, Lab, SOON, at, certificates, policy, python};
use crate::peers::Stranger;
use crate::require_python;
use crate::storm::{self, MARKER, Storm};
use crate::strangers::begin;
use crate::wire::Capture;

/// Connections in each storm, at least, and how long it lasts.
const COUNT: u32 = 1_000;
const LASTS: Duration = Duration::from_secs(15);
/// Of both nodes.
const ACCOUNTS: [&str; 2] = ["web", "db"];

/// A folder as the kubelet mounts a Secret: its files are links into a hidden folder, which is swapped as one.
struct Mount(PathBuf);

impl Mount {
    fn new(lab: &Lab, node: usize) -> Mount {
        let mount = Mount(lab.authority.path().join(format!("mount-{node}")));
        fs::create_dir(&mount.0).unwrap();
        for file in ["tls.crt", "tls.key", "ca.crt"] {
            symlink(Path::new("..data").join(file), mount.0.join(file)).unwrap();
        }
        mount.renew(lab, ACCOUNTS[node], 0);
        mount
    }

    /// A new certificate, by whichever root issues now.
    fn renew(&self, lab: &Lab, account: &str, round: usize) {
        let version = format!("..{account}-{round}");
        let name = format!("spiffe://example.org/ns/host/sa/{account}");
        let out = self.0.join(&version).to_string_lossy().into_owned();
        lab.authority.run(&["issue", "workload", "--name", &name, "--dir", "ca", "--out", &out]).unwrap();
        symlink(&version, self.0.join("..next")).unwrap();
        fs::rename(self.0.join("..next"), self.0.join("..data")).unwrap();
    }
}

fn serial(agent: &Agent) -> String {
    certificates(agent).first().map(|one| one.serial.clone()).unwrap_or_default()
}

/// Two nodes whose agents have this configuration, and nothing to show yet.
fn nodes(config: impl Fn(&Lab, usize) -> String) -> Lab {
    let mut lab = Lab::bare(2, Topology::pair().unwrap()).unwrap();
    for node in 0..2 {
        let config =
            format!("[proxy]\nenabled = true\ntrust_domain = \"example.org\"\n{}\n", config(&lab, node));
        lab.start(node, &policy(""), &config).unwrap();
    }
    lab
}

/// Connections without a pause while both ends get new certificates four times, two of them by a new root.
fn renewed_under_load(lab: &Lab, mounts: &[Mount; 2], between: impl Fn(usize)) {
    let _server = storm::serve(lab);
    let capture = Capture::new(lab.web_ns());
    let storm = lab.begin(&storm::ask(DB, COUNT, 4, LASTS));
    for round in 1..=4 {
        if round % 2 == 0 {
            lab.authority.run(&["rotate", "--dir", "ca"]).unwrap();
        }
        between(round);
        for ((mount, account), agent) in mounts.iter().zip(ACCOUNTS).zip([lab.near(), lab.far()]) {
            let before = serial(agent);
            mount.renew(lab, account, round);
            let renewed = || ![&before, ""].contains(&&*serial(agent));
            wait_until(SOON, "the new certificate is shown", renewed).unwrap();
        }
    }
    let storm = Storm::read(&storm.wait_ended(SOON).unwrap());
    eprintln!("four renewals: {storm:?}");
    assert!(storm.is_whole(), "{storm:?}");
    capture.end().is_mutual_tls_only(&[MARKER]);
}

#[test]
fn mounted_certificates_are_replaced_under_load_and_nobody_notices() {
    require_python!();
    let folder = |lab: &Lab, node: usize| lab.authority.path().join(format!("mount-{node}"));
    let lab = nodes(|lab, node| format!("certificates = \"{}\"", folder(lab, node).display()));
    // The agents are there before their certificates, as they are where cert-manager is slow.
    let mounts = [Mount::new(&lab, 0), Mount::new(&lab, 1)];
    lab.wait_ready().unwrap();
    renewed_under_load(&lab, &mounts, |_| {});
}

/// Serves what lies in a mount as a Workload API.
fn serves(lab: &Lab, stranger: &Stranger, node: usize, mount: &Mount) -> Program {
    let launch = python("mutual/python/spire.py");
    let words = [socket(lab, node).to_string_lossy().into_owned(), mount.0.to_string_lossy().into_owned()];
    begin(stranger, lab.web_ns(), &launch.and(words))
}

fn socket(lab: &Lab, node: usize) -> PathBuf {
    lab.authority.path().join(format!("api-{node}.sock"))
}

#[test]
fn what_a_workload_api_gives_is_shown_and_replaced_under_load() {
    require_python!();
    let lab = nodes(|lab, node| format!("workload_api = \"unix://{}\"", socket(lab, node).display()));
    let mounts = [Mount::new(&lab, 0), Mount::new(&lab, 1)];
    let stranger = Stranger::new();
    // Nobody serves it yet, and everybody says so.
    for (agent, node) in [(lab.near(), 0), (lab.far(), 1)] {
        let path = socket(&lab, node).to_string_lossy().into_owned();
        let told = || {
            let says = |one: &bulkhead::proxy::view::Certificate| {
                one.serial.is_empty() && one.problem.as_ref().is_some_and(|text| text.contains(&path))
            };
            certificates(agent).iter().any(says)
        };
        wait_until(SOON, "the socket that is not there is told", told).unwrap();
    }
    lab.db.tcp_echo(at(DB, 7000)).unwrap();
    let early = lab.web.connect(&Dial::tcp(at(DB, 7000)).within(SOON));
    assert!(early.and_then(|socket| lab.web.exchange(&socket, 1, SOON)).is_err(), "without a certificate");

    let servers =
        [0, 1].map(|node| std::cell::RefCell::new(Some(serves(&lab, &stranger, node, &mounts[node]))));
    lab.wait_ready().unwrap();
    renewed_under_load(&lab, &mounts, |round| {
        // SPIRE is started again now and then, too.
        if round == 3 {
            for (node, server) in servers.iter().enumerate() {
                drop(server.take());
                *server.borrow_mut() = Some(serves(&lab, &stranger, node, &mounts[node]));
            }
        }
    });
}

/// RSA all the way at one end, an intermediate, and the older forms of keys.
#[test]
fn certificates_as_others_make_them_are_taken() {
    require_python!();
    let out = |lab: &Lab| lab.authority.path().join("others");
    let lab = nodes(|lab, node| format!("certificates = \"{}\"", out(lab).join(ACCOUNTS[node]).display()));
    let words = [out(&lab).to_string_lossy().into_owned(), "web:rsa".to_owned(), "db:ec".to_owned()];
    let said = Stranger::new().run(lab.web_ns(), &python("mutual/python/issuer.py").and(words));
    assert!(said.succeeded(), "{}", said.errors);
    lab.wait_ready().unwrap();
    lab.db.tcp_echo(at(DB, 7000)).unwrap();
    let capture = Capture::new(lab.web_ns());
    let socket = lab.web.connect(&Dial::tcp(at(DB, 7000)).within(SOON)).unwrap();
    lab.web.exchange(&socket, 100, SOON).unwrap();
    capture.end().is_mutual_tls_only(&[]);
}
