//! Zone files as they happen to be on a running machine: broken in every way that has its diagnostic,
//! half written, swapped, gone. Enforcement stays as it was, and everybody who looks can see why.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, missing_docs)]

mod power;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bulkhead_tests::harness::{Agent, Cgroup, Dial, Errno, Peer, Socket, Topology, wait_until};
use bulkhead_tests::require_agent;
use power::{LONG, at, generation, one_commit_later};
use serde_json::Value;

const SERVER: &str = "10.64.2.2";
const X: u16 = 7001;
const Y: u16 = 7002;

/// Allows one port.
fn policy(port: u16) -> String {
    format!(
        r#"
        [zone.clients]
        cidrs = ["10.64.1.0/24"]
        [zone.servers]
        cidrs = ["10.64.2.0/24"]
        [[allow]]
        from = "clients"
        to = "servers"
        ports = ["tcp/{port}"]
        "#
    )
}

/// Dropped from the top: peers, then the agent, then what they live in.
struct Lab {
    client: Peer,
    live: Socket,
    _server: Peer,
    agent: Agent,
    _root: Cgroup,
    _net: Topology,
}

impl Lab {
    /// An agent that allows [`X`].
    fn new() -> Lab {
        let net = Topology::flat(&[("client", &["10.64.1.1/24"]), ("server", &["10.64.2.2/24"])]).unwrap();
        let root = Cgroup::new("files").unwrap();
        let agent = Agent::prepare(&root, &policy(X)).with_metrics().start().unwrap();
        let peer = |name: &str| Peer::spawn(Some(net.ns(name).unwrap()), Some(&root)).unwrap();
        let (client, server) = (peer("client"), peer("server"));
        for port in [X, Y] {
            server.tcp_echo(at(SERVER, port)).unwrap();
        }
        let live = client.connect(&Dial::tcp(at(SERVER, X))).unwrap();
        Lab { client, live, _server: server, agent, _root: root, _net: net }
    }

    fn passes(&self, port: u16) -> bool {
        let denied = [Errno::PERM, Errno::CONNABORTED];
        match self.client.connect(&Dial::tcp(at(SERVER, port)).within(LONG)) {
            Ok(socket) => {
                self.client.exchange(&socket, 1, LONG).unwrap();
                self.client.reset(&socket).unwrap();
                true
            }
            Err(error) if error.errno().is_some_and(|errno| denied.contains(&errno)) => false,
            Err(error) => panic!("port {port}: {error}"),
        }
    }

    /// That the first policy is enforced as ever.
    fn stands(&self, generation_before: u64, what: &str) {
        assert_eq!(generation(&self.agent), generation_before, "{what}");
        assert!(self.passes(X) && !self.passes(Y), "{what}");
        self.client.exchange(&self.live, 1, LONG).unwrap_or_else(|error| panic!("{what}: {error}"));
    }

    fn metric(&self, name: &str) -> f64 {
        let page = self.agent.metrics().unwrap();
        let value = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok());
        value.unwrap_or_else(|| panic!("no {name} in {page}"))
    }

    /// Reloads that failed so far.
    fn failures(&self) -> f64 {
        let failed = r#"bulkhead_policy_reloads_total{result="failed"}"#;
        let page = self.agent.metrics().unwrap();
        let value = page.lines().find_map(|line| line.strip_prefix(failed)?.trim().parse().ok());
        value.unwrap_or(0.0)
    }

    /// Waits until the agent says that the folder is not what it enforces, for a reason with `words`;
    /// then looks everywhere that it must show.
    fn is_refused(&self, words: &str, what: &str) {
        let refused = || {
            let error = self.agent.status().unwrap().policy.error;
            error.is_some_and(|error| error.contains(words))
        };
        if let Err(error) = wait_until(LONG, &format!("{what} is refused with {words:?}"), refused) {
            panic!("{error}; {:?}", self.agent.status().unwrap().policy.error);
        }
        assert_eq!(self.metric("bulkhead_policy_last_reload_success"), 0.0, "{what}");

        let text = self.agent.run("status", &[]).unwrap();
        assert_eq!(text.status.code(), Some(1), "{what}: {text:?}");
        let text = String::from_utf8(text.stdout).unwrap();
        assert!(text.contains("FAILED") && text.contains(words), "{what}: {text}");
        assert!(text.contains("last good policy"), "{what}: {text}");
        let json = self.agent.run("status", &["--format", "json"]).unwrap();
        assert_eq!(json.status.code(), Some(1), "{what}: {json:?}");
        let json: Value = serde_json::from_slice(&json.stdout).unwrap();
        assert!(json["policy"]["error"].as_str().unwrap().contains(words), "{what}: {json}");
        assert!(json["policy"]["failing_since"].as_f64().unwrap() > 0.0, "{what}: {json}");
    }

    /// Waits until the folder is what the agent enforces.
    fn is_good(&self, what: &str) {
        let good = || self.agent.status().unwrap().policy.error.is_none();
        if let Err(error) = wait_until(LONG, &format!("{what} is good"), good) {
            panic!("{error}; {:?}", self.agent.status().unwrap().policy.error);
        }
        assert_eq!(self.metric("bulkhead_policy_last_reload_success"), 1.0, "{what}");
        assert!(self.agent.run("status", &[]).unwrap().status.success(), "{what}");
    }

    fn at(&self, name: &str) -> PathBuf {
        self.agent.policies().join(name)
    }

    /// Warnings in the log, from the `skip`th on.
    fn warnings(&self, skip: usize) -> Vec<String> {
        let lines = self.agent.log_lines();
        let warnings = lines.iter().filter(|line| line["level"] == "WARN");
        warnings.skip(skip).map(ToString::to_string).collect()
    }
}

/// The broken files that the policy engine's own tests have, with the code of the first mistake in
/// each, as its snapshot shows it.
fn broken_files() -> Vec<(PathBuf, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../agent/policy/tests");
    let mut files: Vec<_> =
        fs::read_dir(folder.join("broken")).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
        .into_iter()
        .filter(|path| path.file_stem().unwrap() != "warnings")
        .map(|path| {
            let name = path.file_stem().unwrap().to_str().unwrap();
            let shown = folder.join("snapshots").join(format!("diagnostics__{name}.snap"));
            let shown = fs::read_to_string(shown).unwrap();
            let start = shown.find("bulkhead::").unwrap();
            let code =
                shown[start..].split(|c: char| !c.is_alphanumeric() && !":-".contains(c)).next().unwrap();
            (path, code.to_owned())
        })
        .collect()
}

#[test]
fn broken_files_change_nothing_and_are_shown_everywhere() {
    require_agent!();
    let lab = Lab::new();
    let first = generation(&lab.agent);
    lab.stands(first, "before");
    let files = broken_files();
    assert!(files.len() >= 20, "{} kinds", files.len());
    for (path, code) in &files {
        let what = path.file_name().unwrap().to_str().unwrap();
        let told = lab.warnings(0).len();
        fs::copy(path, lab.agent.policies().join("..next")).unwrap();
        fs::rename(lab.agent.policies().join("..next"), lab.at(what)).unwrap();
        lab.is_refused(&format!("{what}:"), what);
        lab.is_refused(code, what);
        lab.stands(first, what);
        let warnings = lab.warnings(told);
        let named = |warning: &String| warning.contains(what) && warning.contains("policy error");
        assert!(warnings.iter().any(named), "{what} is not in the log at WARN: {warnings:#?}");

        // The next one comes to a good folder.
        fs::remove_file(lab.at(what)).unwrap();
        lab.is_good(what);
        lab.stands(first, what);
    }

    // One broken file after the other in the same place, and a good one at last.
    for (path, _) in &files {
        fs::write(lab.at("policy.toml"), fs::read(path).unwrap()).unwrap();
    }
    lab.is_refused("policy.toml:", "the last broken one");
    lab.stands(first, "broken files in place of the good one");
    lab.agent.write_policy(&policy(Y)).unwrap();
    one_commit_later(&lab.agent, first);
    lab.is_good("a good file");
    assert!(!lab.passes(X) && lab.passes(Y));
    let ended = lab.client.ended(&lab.live, LONG).unwrap();
    // Both ends are on the node and both lose their right: the agent may end either first. Whose socket
    // is ended hears ECONNABORTED, and the other one the reset that comes of it.
    let told = [Some(Errno::CONNABORTED), Some(Errno::CONNRESET)];
    assert!(told.contains(&ended.error()), "the live connection lost its right: {ended:?}");
}

#[test]
fn a_start_on_a_broken_folder_keeps_what_is_enforced() {
    require_agent!();
    let mut lab = Lab::new();
    let first = generation(&lab.agent);
    lab.agent.terminate().unwrap();
    fs::write(lab.at("policy.toml"), "[zone.").unwrap();
    lab.agent.restart().unwrap();
    lab.is_refused("bulkhead::syntax", "a broken file at the start");
    lab.stands(first, "a broken file at the start");
    lab.agent.write_policy(&policy(Y)).unwrap();
    one_commit_later(&lab.agent, first);
    lab.is_good("a good file");
    assert!(!lab.passes(X) && lab.passes(Y));
}

#[test]
fn editors_leave_no_trace() {
    require_agent!();
    let lab = Lab::new();
    let first = generation(&lab.agent);
    // What editors keep beside a file is none of ours, however broken or tempting it is.
    for name in
        [".policy.toml.swp", "policy.toml~", "#policy.toml#", ".#policy.toml", "4913", "policy.toml.orig"]
    {
        fs::write(lab.at(name), policy(Y)).unwrap();
        fs::write(lab.at(name), "[zone.").unwrap();
    }
    // Proof that the agent has looked since: a change that comes after them is seen.
    lab.agent.write_file("broken.toml", "[zone.").unwrap();
    lab.is_refused("broken.toml:", "a broken file");
    let error = lab.agent.status().unwrap().policy.error.unwrap();
    assert!(!error.contains("swp") && !error.contains('~'), "{error}");
    fs::remove_file(lab.at("broken.toml")).unwrap();
    lab.is_good("the broken file's end");
    lab.stands(first, "editors' files");

    // vim: the old file becomes the backup, the new one is written under its name.
    let [mut port, mut now] = [X, Y];
    let mut save = |how: &str, write: &dyn Fn(&str)| {
        std::mem::swap(&mut port, &mut now);
        let before = generation(&lab.agent);
        write(&policy(port));
        one_commit_later(&lab.agent, before);
        assert!(lab.passes(port) && !lab.passes(now), "{how}");
        lab.is_good(how);
    };
    save("backup and write", &|text| {
        fs::rename(lab.at("policy.toml"), lab.at("policy.toml~")).unwrap();
        fs::write(lab.at("policy.toml"), text).unwrap();
    });
    save("rename over", &|text| lab.agent.write_policy(text).unwrap());
    save("in place", &|text| fs::write(lab.at("policy.toml"), text).unwrap());
    save("remove and write", &|text| {
        fs::remove_file(lab.at("policy.toml")).unwrap();
        fs::write(lab.at("policy.toml"), text).unwrap();
    });
}

#[test]
fn a_half_written_file_is_never_half_a_policy() {
    require_agent!();
    use std::io::Write;
    let lab = Lab::new();
    let first = generation(&lab.agent);
    let text = policy(Y);
    // Held open, for longer than the agent waits for a file to be closed. What is there by then is a
    // policy, but not the one that is meant.
    let (head, tail) = text.split_at(text.find("[[allow]]").unwrap());
    let mut file = fs::File::create(lab.at("policy.toml")).unwrap();
    file.write_all(head.as_bytes()).unwrap();
    file.sync_all().unwrap();
    std::thread::sleep(Duration::from_millis(1500)); // There is nothing to see, and it must stay so.
    lab.stands(first, "half a file");
    // Something else makes the agent read the folder: the half must not count.
    lab.agent.write_file("other.toml", "[zone.other]\ncidrs = [\"10.99.0.0/16\"]\n").unwrap();
    lab.is_refused("policy.toml is being written", "half a file");
    lab.stands(first, "half a file beside a new one");
    file.write_all(tail.as_bytes()).unwrap();
    drop(file);
    one_commit_later(&lab.agent, first);
    lab.is_good("the whole file");
    assert!(!lab.passes(X) && lab.passes(Y));

    // Closed half-way: a mistake as any other.
    let second = generation(&lab.agent);
    fs::write(lab.at("policy.toml"), text.split_at(text.len() / 2).0).unwrap();
    lab.is_refused("policy.toml:", "half a file that was closed");
    assert_eq!(generation(&lab.agent), second);
    assert!(!lab.passes(X) && lab.passes(Y));
    fs::write(lab.at("policy.toml"), &text).unwrap();
    lab.is_good("the whole file again");
    assert_eq!(generation(&lab.agent), second, "the same policy: nothing to commit");
}

#[test]
fn a_file_saved_in_place_is_never_read_as_empty() {
    require_agent!();
    let lab = Lab::new();
    let first = generation(&lab.agent);
    // Each save truncates the file before it writes it; the policy is the same all the time.
    for number in 0..500 {
        fs::write(lab.at("policy.toml"), policy(X) + &format!("# save {number}\n")).unwrap();
    }
    lab.agent.write_file("broken.toml", "[zone.").unwrap();
    lab.is_refused("broken.toml:", "what comes after all saves");
    lab.stands(first, "saves in place");
    fs::remove_file(lab.at("broken.toml")).unwrap();
    lab.is_good("the last save");
    fs::write(lab.at("policy.toml"), "").unwrap();
    lab.is_refused("is empty", "an empty file");
    lab.stands(first, "an empty file");
}

#[test]
fn a_swapped_folder_is_one_change() {
    require_agent!();
    let lab = Lab::new();
    let first = generation(&lab.agent);
    // As Kubernetes mounts a ConfigMap: files are links into a folder that one link names.
    let version = |name: &str, port: u16| {
        fs::create_dir(lab.at(name)).unwrap();
        let text = policy(port);
        let (zones, rules) = text.split_at(text.find("[[allow]]").unwrap());
        fs::write(lab.at(name).join("zones.toml"), zones).unwrap();
        fs::write(lab.at(name).join("rules.toml"), rules).unwrap();
        symlink(name, lab.at("..data_tmp")).unwrap();
        fs::rename(lab.at("..data_tmp"), lab.at("..data")).unwrap();
    };
    version("..1", X);
    fs::remove_file(lab.at("policy.toml")).unwrap();
    lab.is_refused("no zone file", "a folder without a file");
    lab.stands(first, "a folder without a file");
    symlink("..data/rules.toml", lab.at("rules.toml")).unwrap();
    symlink("..data/zones.toml", lab.at("zones.toml")).unwrap();
    lab.is_good("links");
    // The same policy; only places of rules are others.
    lab.stands(first, "the same policy by links");

    version("..2", Y);
    one_commit_later(&lab.agent, first);
    lab.is_good("the swapped folder");
    assert!(!lab.passes(X) && lab.passes(Y));
    fs::remove_dir_all(lab.at("..1")).unwrap();
    version("..3", X);
    one_commit_later(&lab.agent, first + 1);
    assert!(lab.passes(X) && !lab.passes(Y));
}

#[test]
fn a_folder_that_vanishes_takes_nothing_with_it() {
    require_agent!();
    let lab = Lab::new();
    let first = generation(&lab.agent);
    let (folder, away) = (lab.agent.policies(), lab.agent.policies().with_extension("away"));
    fs::rename(&folder, &away).unwrap();
    lab.is_refused("cannot read", "a folder that is gone");
    lab.stands(first, "a folder that is gone");
    fs::rename(&away, &folder).unwrap();
    lab.is_good("a folder that is back");
    lab.stands(first, "a folder that is back");

    // Another one takes its place; it is watched, too.
    fs::remove_dir_all(&folder).unwrap();
    lab.is_refused("cannot read", "a folder that was removed");
    lab.stands(first, "a folder that was removed");
    let failures = lab.failures();
    assert!(failures >= 2.0, "{failures}");
    fs::create_dir(&folder).unwrap();
    lab.agent.write_policy(&policy(Y)).unwrap();
    one_commit_later(&lab.agent, first);
    lab.is_good("another folder");
    lab.agent.write_policy(&policy(X)).unwrap();
    one_commit_later(&lab.agent, first + 1);
    assert!(lab.passes(X) && !lab.passes(Y));
}
