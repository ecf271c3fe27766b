//! What a running agent may do, as the kernel tells of each of its threads; and who may talk to it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, missing_docs)]

mod power;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;

use bulkhead::privilege::KEPT;
use bulkhead_tests::harness::{Agent, Cgroup, wait_until};
use bulkhead_tests::require_agent;
use power::LONG;

const POLICY: &str = "[zone.z]\ncidrs = [\"192.0.2.0/24\"]\n";
/// A user without any rights (`nobody`).
const NOBODY: u32 = 65534;

/// `/proc/PID/task/*/status`, with the thread's name.
fn threads(agent: &Agent) -> Vec<(String, String)> {
    let tasks = format!("/proc/{}/task", agent.pid().unwrap());
    let status = |task: fs::DirEntry| fs::read_to_string(task.path().join("status")).ok();
    let texts = fs::read_dir(tasks).unwrap().filter_map(|task| status(task.unwrap()));
    texts.map(|text| (field(&text, "Name").to_owned(), text)).collect()
}

fn field<'a>(status: &'a str, name: &str) -> &'a str {
    let mut lines = status.lines();
    lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).unwrap_or_default().trim()
}

fn mask(status: &str, name: &str) -> u64 {
    u64::from_str_radix(field(status, name), 16).unwrap()
}

#[test]
fn every_thread_has_given_up_what_it_does_not_need() {
    require_agent!();
    let root = Cgroup::new("few").unwrap();
    let agent = Agent::prepare(&root, POLICY).with_metrics().start().unwrap();
    let kept = KEPT.iter().fold(0, |all, (capability, ..)| all | capability.bits());
    // Scrapes and answers are work of threads of their own.
    agent.metrics().unwrap();
    agent.zones().unwrap();
    let threads = threads(&agent);
    let names: Vec<&str> = threads.iter().map(|(name, _)| name.as_str()).collect();
    for name in ["bulkhead", "events", "admin", "tamper"] {
        assert!(names.contains(&name), "{names:?}");
    }
    for (name, status) in &threads {
        for set in ["CapEff", "CapPrm", "CapBnd"] {
            assert_eq!(mask(status, set), kept, "{set} of {name}");
        }
        for set in ["CapInh", "CapAmb"] {
            assert_eq!(mask(status, set), 0, "{set} of {name}");
        }
        assert_eq!(field(status, "NoNewPrivs"), "1", "{name}");
        assert_eq!(field(status, "Seccomp"), "2", "{name}");
    }
    let told = agent.status().unwrap().privileges;
    let names: Vec<&str> = KEPT.iter().map(|(_, name, _)| *name).collect();
    let sorted = |mut names: Vec<String>| {
        names.sort();
        names
    };
    let expected = sorted(names.iter().map(|name| (*name).to_owned()).collect());
    assert_eq!((sorted(told.capabilities), sorted(told.bounding)), (expected.clone(), expected));
    assert_eq!((told.no_new_privileges, told.seccomp.as_str()), (true, "filter"));
    let text = String::from_utf8(agent.run("status", &[]).unwrap().stdout).unwrap();
    assert!(names.iter().all(|name| text.contains(name)) && text.contains("system calls filtered"), "{text}");
    // The documentation says the same.
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/privileges.md");
    let page = fs::read_to_string(page).unwrap();
    assert!(names.iter().all(|name| page.contains(&format!("| `{name}` |"))), "{page}");
}

#[test]
fn the_filter_can_be_left_out_and_it_shows() {
    require_agent!();
    let root = Cgroup::new("unfiltered").unwrap();
    let agent = Agent::prepare(&root, POLICY).flag("--sandbox=off").start().unwrap();
    for (name, status) in threads(&agent) {
        assert_eq!((field(&status, "Seccomp"), field(&status, "NoNewPrivs")), ("0", "1"), "{name}");
    }
    let text = String::from_utf8(agent.run("status", &[]).unwrap().stdout).unwrap();
    assert!(text.contains("SYSTEM CALLS NOT FILTERED"), "{text}");
}

#[test]
fn files_pins_and_socket_are_their_owners_alone() {
    require_agent!();
    let root = Cgroup::new("tight").unwrap();
    let agent = Agent::start(&root, POLICY).unwrap();
    let mut seen = 0;
    for folder in [agent.run_folder(), agent.pins().join("links"), maps(&agent.pins())] {
        tight(&folder, 0o700);
        for file in fs::read_dir(&folder).unwrap() {
            tight(&file.unwrap().path(), 0o600);
            seen += 1;
        }
    }
    tight(&agent.run_folder().join("control.sock"), 0o600);
    tight(&agent.run_folder().join("numbers.json"), 0o600);
    assert!(seen > 20, "{seen}");
}

fn maps(pins: &Path) -> std::path::PathBuf {
    pins.join(format!("maps-{}", bulkhead_abi::names::LAYOUT))
}

fn tight(path: &Path, expected: u32) {
    let mode = path.symlink_metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, expected, "{}: {mode:o}", path.display());
}

/// Asks the agent for its status as another user; the answer's first line, or the error.
fn ask_as(user: u32, socket: &Path) -> std::io::Result<String> {
    let socket = socket.to_owned();
    let ask = move || {
        let id = rustix::process::Uid::from_raw(user);
        // Of this thread alone.
        rustix::thread::set_thread_uid(id)?;
        let mut stream = UnixStream::connect(socket)?;
        // Whoever answers unasked may have gone by now; what he said is there all the same.
        match stream.write_all(b"{\"request\":\"status\"}\n") {
            Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => return Err(error),
            _ => {}
        }
        match stream.shutdown(std::net::Shutdown::Write) {
            Err(error) if error.kind() != std::io::ErrorKind::NotConnected => return Err(error),
            _ => {}
        }
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line)?;
        Ok(line)
    };
    std::thread::spawn(ask).join().unwrap()
}

#[test]
fn row_38_the_control_socket_is_roots() {
    require_agent!();
    let root = Cgroup::new("socket").unwrap();
    let mut agent = Agent::prepare(&root, POLICY).place().unwrap();
    let socket = agent.run_folder().join("control.sock");
    // Agent off, nobody in the way: who listens there with open modes is heard by anybody.
    fs::create_dir_all(agent.run_folder()).unwrap();
    let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    open_to_all(&socket);
    let answers = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(b"hello\n").unwrap();
    });
    assert_eq!(ask_as(NOBODY, &socket).unwrap(), "hello\n");
    answers.join().unwrap();
    fs::remove_file(&socket).unwrap();

    agent.restart().unwrap();
    // The legitimate twin.
    assert!(ask_as(0, &socket).unwrap().contains("\"reply\":\"status\""));
    // The first gate: modes.
    let error = ask_as(NOBODY, &socket).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::PermissionDenied, "{error}");
    // The second, where somebody opened the first: the peer's user, as the kernel tells it.
    open_to_all(&socket);
    let answer = ask_as(NOBODY, &socket).unwrap();
    assert!(answer.contains("\"reply\":\"error\"") && answer.contains("runs as user 65534"), "{answer}");
    assert!(!answer.contains("generation"), "{answer}");
    agent
        .wait_log("that somebody was refused", |line| {
            line["level"] == "WARN"
                && line["message"].as_str().is_some_and(|text| text.contains("refused at the control socket"))
        })
        .unwrap();
    assert!(ask_as(0, &socket).unwrap().contains("\"reply\":\"status\""));
}

/// Opens a socket, and the folders above it, to everybody.
fn open_to_all(socket: &Path) {
    fs::set_permissions(socket, fs::Permissions::from_mode(0o777)).unwrap();
    for folder in socket.ancestors().skip(1).take_while(|folder| *folder != std::env::temp_dir()) {
        fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).unwrap();
    }
}

/// Other users' processes, in namespaces of theirs, are what CAP_SYS_PTRACE is kept for.
#[test]
fn another_users_namespace_is_found() {
    require_agent!();
    let root = Cgroup::new("others").unwrap();
    let agent = Agent::prepare(&root, POLICY).start().unwrap();
    let group = root.child("work").unwrap();
    let script = format!(
        "echo $$ > {}/cgroup.procs && ip addr add 198.51.100.7/32 dev lo && exec setpriv --reuid={NOBODY} --regid={NOBODY} --clear-groups sleep 600",
        group.path().display()
    );
    let mut child = Command::new("unshare").args(["--net", "sh", "-c", &script]).spawn().unwrap();
    let reader = agent.reader().unwrap();
    let address = bulkhead_abi::Addr::v4([198, 51, 100, 7]);
    let found = wait_until(LONG, "the address of another user's namespace is known", || {
        reader.maps().locals.get(&address).unwrap().is_some()
    });
    child.kill().unwrap();
    child.wait().unwrap();
    found.unwrap();
}
