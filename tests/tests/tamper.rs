//! Somebody with root takes the kernel's objects away under a running agent: links, pins, the file
//! system that holds them. It is noticed, put right within a second, counted and told.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, missing_docs)]

mod power;

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use bulkhead_abi::names;
use bulkhead_sys::{link, mount, pin};
use bulkhead_tests::harness::threat::{DB, Lab, WEB_AND_DB};
use bulkhead_tests::harness::{Agent, Cgroup, Dial, Kind, Serve, Setup, Socket, wait_until};
use bulkhead_tests::require_agent;
use power::{LONG, at, kernel_numbers};

/// Allowed, and not.
const ALLOWED: u16 = 7000;
const DENIED: u16 = 9000;

/// What "at once" may take.
const SECOND: Duration = Duration::from_secs(1);

fn prepare(lab: &Lab) -> Setup {
    let policy = format!(
        "{WEB_AND_DB}[[allow]]\nfrom = \"web\"\nto = \"db\"\nports = [\"udp/{ALLOWED}\", \"tcp/{ALLOWED}\"]\n"
    );
    Agent::prepare(&lab.root, &policy).in_ns(lab.node().unwrap()).with_metrics()
}

/// Datagrams from `web` to a port of `db` that no rule names.
struct Attempt<'a> {
    lab: &'a Lab,
    client: Socket,
    server: Socket,
}

impl<'a> Attempt<'a> {
    fn new(lab: &'a Lab) -> Self {
        let server = lab.db.listen(Kind::Udp, at(DB, DENIED), Serve::Sink).unwrap();
        Self { lab, client: lab.web.open(Kind::Udp, None, false).unwrap(), server }
    }

    /// Sends one; whether the kernel took it.
    fn goes_out(&self) -> bool {
        self.lab.web.send(&self.client, b"attempt", Some(at(DB, DENIED))).is_ok()
    }

    fn arrived(&self) -> u64 {
        self.lab.db.served(&self.server).unwrap().bytes / b"attempt".len() as u64
    }
}

/// That what the policy allows passes.
fn twin_passes(lab: &Lab) {
    let server = lab.db.udp_echo(at(DB, ALLOWED)).unwrap();
    let client = lab.web.open(Kind::Udp, None, false).unwrap();
    lab.web.exchange_with(&client, at(DB, ALLOWED), 1, LONG).unwrap();
    lab.web.close(&client).unwrap();
    lab.db.close(&server).unwrap();
}

fn open(agent: &Agent, path: &str) -> OwnedFd {
    pin::open(&agent.pins().join(path)).unwrap()
}

fn detach(link: &OwnedFd) {
    link::detach(link.as_fd()).unwrap();
}

/// `bulkhead_tamper_total` where it is not 0, by `object/action`.
fn counted(agent: &Agent) -> BTreeMap<String, u64> {
    let page = agent.metrics().unwrap();
    let row = |line: &str| {
        let (labels, value) = line.strip_prefix("bulkhead_tamper_total{")?.split_once("} ")?;
        let words: Vec<&str> = labels.split('"').skip(1).step_by(2).collect();
        let value = value.parse::<f64>().ok()? as u64;
        // Labels are in alphabetical order.
        Some((format!("{}/{}", words[1], words[0]), value))
    };
    page.lines().filter_map(row).filter(|(_, value)| *value > 0).collect()
}

/// Waits until exactly this was counted, and that the log told each, by name.
fn told(agent: &Agent, expected: &[(&str, u64)], names: &[&str]) {
    let expected: BTreeMap<String, u64> =
        expected.iter().map(|(what, times)| ((*what).to_owned(), *times)).collect();
    let mut found = BTreeMap::new();
    let done = wait_until(LONG, "the findings are counted", || {
        found = counted(agent);
        found == expected
    });
    assert!(done.is_ok(), "expected {expected:?}, counted {found:?}");
    let status = agent.status().unwrap();
    let lines = agent.log_lines();
    for name in names {
        let line = lines.iter().find(|line| line["finding"] == "tamper" && line["name"] == *name);
        let line = line.unwrap_or_else(|| panic!("{name} is not told of"));
        assert!(["WARN", "ERROR"].contains(&line["level"].as_str().unwrap()), "{line}");
        assert!(status.tamper.iter().any(|finding| finding.name == *name), "{name}: {:?}", status.tamper);
    }
    let text = String::from_utf8(agent.run("status", &[]).unwrap().stdout).unwrap();
    assert!(text.contains("TAMPERED WITH"), "{text}");
}

#[test]
fn row_26_links_are_detached_by_force() {
    require_agent!();
    let lab = Lab::new().unwrap();
    let attempt = Attempt::new(&lab);
    // Agent off: the attempt arrives.
    assert!(attempt.goes_out());
    wait_until(LONG, "an attempt arrives", || attempt.arrived() == 1).unwrap();

    let mut agent = prepare(&lab).start().unwrap();
    twin_passes(&lab);
    wait_until(LONG, "attempts are refused", || !attempt.goes_out()).unwrap();
    let before = attempt.arrived();

    // Every link at once, while attempts are made as fast as they go.
    let links = names::PROGRAMS.map(|name| open(&agent, &format!("links/{name}")));
    let begun = Instant::now();
    links.iter().for_each(detach);
    let (mut first, mut last) = (None, begun);
    wait_until(LONG, "attempts are refused again", || {
        let refused = (0..100).all(|_| {
            let out = attempt.goes_out();
            if out {
                first.get_or_insert_with(|| begun.elapsed());
                last = Instant::now();
            }
            !out
        });
        refused && counted(&agent).get("link/restored") == Some(&(links.len() as u64))
    })
    .unwrap();
    let (window, passed) = (last.duration_since(begun), attempt.arrived() - before);
    println!("links off for {window:?}: {passed} denied packets passed, the first after {first:?}");
    assert!(passed > 0, "the attack is a real one");
    assert!(window < SECOND, "{window:?}");
    told(&agent, &[("link/restored", links.len() as u64)], &names::PROGRAMS);
    twin_passes(&lab);

    // And with a tool of the trade, one.
    let path = agent.pins().join("links/skb_egress");
    let done = Command::new("bpftool").args(["link", "detach", "pinned"]).arg(&path).status().unwrap();
    assert!(done.success());
    told(&agent, &[("link/restored", links.len() as u64 + 1)], &["skb_egress"]);
    wait_until(LONG, "attempts are refused", || !attempt.goes_out()).unwrap();

    // Nobody watches while no agent runs; the next one puts right what it finds.
    agent.kill9().unwrap();
    names::PROGRAMS.iter().for_each(|name| detach(&open(&agent, &format!("links/{name}"))));
    assert!(attempt.goes_out());
    agent.restart().unwrap();
    wait_until(LONG, "attempts are refused", || !attempt.goes_out()).unwrap();
    twin_passes(&lab);
}

#[test]
fn row_26_a_connection_that_was_opened_meanwhile_is_ended() {
    require_agent!();
    let lab = Lab::new().unwrap();
    let agent = prepare(&lab).start().unwrap();
    let listener = lab.db.tcp_echo(at(DB, DENIED)).unwrap();
    let denied = || lab.web.connect(&Dial::tcp(at(DB, DENIED)).within(SECOND));
    wait_until(LONG, "a connection is refused", || denied().is_err()).unwrap();
    // The window is short: several tries may be needed to get through it.
    let mut links_restored = 0;
    let mut opened = None;
    wait_until(LONG, "a connection is opened while the links are off", || {
        for name in names::PROGRAMS {
            detach(&open(&agent, &format!("links/{name}")));
            links_restored += 1;
        }
        opened = denied().ok();
        wait_until(LONG, "all is put back", || counted(&agent).get("link/restored") == Some(&links_restored))
            .unwrap();
        opened.is_some()
    })
    .unwrap();
    // It says nothing, so that no packet of it is there to be judged.
    let ended = lab.web.ended(&opened.unwrap(), LONG).unwrap();
    assert!(ended.error().is_some(), "{ended:?}");
    lab.db.close(&listener).unwrap();
}

#[test]
fn row_26_another_program_is_put_into_a_link() {
    require_agent!();
    let lab = Lab::new().unwrap();
    let attempt = Attempt::new(&lab);
    let agent = prepare(&lab).start().unwrap();
    // The same program over tables that say nothing.
    let elsewhere = Cgroup::new("lax").unwrap();
    let lax = Agent::start(&elsewhere, "[zone.z]\ncidrs = [\"192.0.2.1/32\"]\n").unwrap();
    wait_until(LONG, "attempts are refused", || !attempt.goes_out()).unwrap();
    let before = kernel_numbers(&agent.pins());
    for name in ["skb_ingress", "skb_egress", "connect4"] {
        let theirs = link::info(open(&lax, &format!("links/{name}")).as_fd()).unwrap().program;
        let program = link::program(theirs).unwrap();
        link::update(open(&agent, &format!("links/{name}")).as_fd(), program.as_fd(), None).unwrap();
    }
    told(&agent, &[("link/restored", 3)], &["skb_ingress", "skb_egress", "connect4"]);
    assert_eq!(kernel_numbers(&agent.pins()), before);
    wait_until(LONG, "attempts are refused", || !attempt.goes_out()).unwrap();
    twin_passes(&lab);
}

#[test]
fn row_26_pins_are_deleted() {
    require_agent!();
    let lab = Lab::new().unwrap();
    let attempt = Attempt::new(&lab);
    let agent = prepare(&lab).start().unwrap();
    wait_until(LONG, "attempts are refused", || !attempt.goes_out()).unwrap();
    let pins = agent.pins();
    let maps = format!("maps-{}", names::LAYOUT);
    let before = kernel_numbers(&pins);
    let all_back =
        || wait_until(SECOND * 10, "the pins are back", || kernel_numbers(&pins) == before).unwrap();

    // One of each kind.
    fs::remove_file(pins.join("links/connect6")).unwrap();
    fs::remove_file(pins.join(&maps).join(names::FLOWS)).unwrap();
    told(&agent, &[("link-pin/restored", 1), ("map-pin/restored", 1)], &["connect6", names::FLOWS]);
    all_back();

    // Another map under the name of ours: the next agent would have judged by it.
    let pin_of_rules = pins.join(&maps).join(names::RULES);
    let other = open(&agent, &format!("{maps}/{}", names::PREFIXES));
    fs::remove_file(&pin_of_rules).unwrap();
    // The agent may be faster than we are.
    let replaced = pin::make(other.as_fd(), &pin_of_rules).is_ok();
    println!("{}", if replaced { "a false map was pinned" } else { "the true map was back at once" });
    told(&agent, &[("link-pin/restored", 1), ("map-pin/restored", 2)], &[names::RULES]);
    all_back();

    // The whole folder.
    let folder = [pins.join("links"), pins.join(&maps)];
    for pin in folder.iter().flat_map(|folder| fs::read_dir(folder).unwrap()) {
        // What is put back in the middle of this is as good as what was never removed.
        let _ = fs::remove_file(pin.unwrap().path());
    }
    let gone = folder.iter().all(|folder| fs::remove_dir(folder).is_ok()) && fs::remove_dir(&pins).is_ok();
    println!("{}", if gone { "the folder was gone" } else { "the folder filled faster than it emptied" });
    wait_until(LONG, "the folders are back", || folder.iter().all(|folder| folder.exists())).unwrap();
    let complete = |folder: &Path, count| fs::read_dir(folder).is_ok_and(|pins| pins.count() == count);
    wait_until(LONG, "the pins are back", || {
        complete(&folder[0], names::PROGRAMS.len()) && complete(&folder[1], names::MAPS.len())
    })
    .unwrap();
    all_back();
    for pin in folder.iter().flat_map(|folder| fs::read_dir(folder).unwrap()) {
        let path = pin.unwrap().path();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{}", path.display());
    }
    for folder in &folder {
        let mode = folder.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700, "{}", folder.display());
    }
    // Nothing of this was felt by traffic, and pins are what an agent finds its way back by.
    assert!(!attempt.goes_out());
    let mut agent = agent;
    agent.kill9().unwrap();
    assert!(!attempt.goes_out());
    agent.restart().unwrap();
    assert_eq!(kernel_numbers(&pins), before);
    twin_passes(&lab);
}

#[test]
fn row_26_the_file_system_of_the_pins_is_unmounted() {
    require_agent!();
    let lab = Lab::new().unwrap();
    let attempt = Attempt::new(&lab);
    let mounted = Mounted::new();
    let agent = prepare(&lab).pins_in(mounted.path()).start().unwrap();
    wait_until(LONG, "attempts are refused", || !attempt.goes_out()).unwrap();
    let before = kernel_numbers(&agent.pins());

    mounted.unmount();
    let begun = Instant::now();
    let is_back = || {
        // Links have other numbers only if they were made anew.
        fs::read_dir(agent.pins()).is_ok_and(|entries| entries.count() == 2)
            && fs::read_dir(agent.pins().join("links"))
                .is_ok_and(|pins| pins.count() == names::PROGRAMS.len())
    };
    wait_until(LONG, "the pins are back", is_back).unwrap();
    println!("all pins were back after {:?}", begun.elapsed());
    let maps = names::MAPS.len() as u64;
    let links = names::PROGRAMS.len() as u64;
    let expected = [("bpffs/restored", 1), ("link-pin/restored", links), ("map-pin/restored", maps)];
    told(&agent, &expected, &[&mounted.path().display().to_string(), "skb_egress"]);
    assert_eq!(kernel_numbers(&agent.pins()), before);
    assert!(!attempt.goes_out());

    // Something else in its place is not ours to remove: it is told, and what can be done waits.
    mounted.unmount();
    let stranger = Command::new("mount").args(["-t", "tmpfs", "none"]).arg(mounted.path()).status().unwrap();
    assert!(stranger.success());
    agent
        .wait_log("that it cannot be mounted", |line| line["object"] == "bpffs" && line["action"] == "failed")
        .unwrap();
    assert!(!attempt.goes_out(), "the agent's descriptors keep the programs where they are");
    mounted.unmount();
    wait_until(LONG, "the pins are back", is_back).unwrap();
    twin_passes(&lab);
    drop(agent);
}

/// A BPF file system of the test's own.
struct Mounted(tempfile::TempDir);

impl Mounted {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        mount::ensure("bpf", dir.path()).unwrap();
        Self(dir)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn unmount(&self) {
        assert!(Command::new("umount").arg(self.path()).status().unwrap().success());
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.path()).status();
    }
}

/// Not to be mistaken for tampering: policies come and go, agents are upgraded and detached.
#[test]
fn what_the_agent_does_itself_is_no_finding() {
    require_agent!();
    let lab = Lab::new().unwrap();
    let mut agent = prepare(&lab).start().unwrap();
    agent.apply(WEB_AND_DB).unwrap();
    agent.terminate().unwrap();
    agent.restart().unwrap();
    assert_eq!(counted(&agent), BTreeMap::new());
    agent.detach().unwrap();
    assert!(!agent.pins().exists(), "nothing is put back");
    assert!(!agent.log().contains("tamper"), "{}", agent.log());
}
