//! What an operator does to a node that serves: other limits, and taking it away.

use std::fs;
use std::process::Command;
use std::time::Duration;

use bulkhead_tests::harness::{Agent, Dial, Errno, Ns, Socket, agent_program, wait_until};
use serde_json::Value;

use crate::around::{four_on_a_wire, with_c};
use crate::lab::{DB, Lab, SOON, at, proxy, wait_traced};
use crate::require_python;

const ECHO: u16 = 7000;

/// A connection from `web` to `db`, by way of both proxies.
fn connect(lab: &Lab) -> Socket {
    let socket = lab.web.connect(&Dial::tcp(at(DB, ECHO)).within(SOON)).unwrap();
    goes_on(lab, &socket);
    socket
}

fn goes_on(lab: &Lab, socket: &Socket) {
    lab.web.exchange(socket, 1, SOON).expect("the connection goes on");
}

#[test]
fn limits_that_changed_hold_for_a_proxy_that_goes_on() {
    require_python!();
    let mut lab = Lab::two_nodes();
    lab.db.tcp_echo(at(DB, ECHO)).unwrap();
    let live = connect(&lab);
    let before = proxy(lab.near()).pid;
    lab.agents[0].set_flag("--proxy-connections=1");
    lab.agents[0].restart().unwrap();
    lab.wait_ready().unwrap();
    assert_eq!(proxy(lab.near()).pid, before, "the same proxy serves");
    goes_on(&lab, &live);
    let second = lab.web.connect(&Dial::tcp(at(DB, ECHO)).within(SOON));
    assert!(
        second.and_then(|socket| lab.web.exchange(&socket, 1, SOON)).is_err(),
        "one more than there may be"
    );
    wait_traced(lab.near(), "it was refused for the limit", |record| record.reason == "too-many-connections");
}

/// `bulkhead proxy …`, as text and as JSON, each line of which is one.
fn told(agent: &Agent, what: &[&str]) -> (String, Vec<Value>) {
    let said = agent.run("proxy", what).unwrap();
    assert!(said.status.success(), "{what:?}: {said:?}");
    let json = agent.run("proxy", &[what, &["--format", "json"]].concat()).unwrap();
    let lines = String::from_utf8(json.stdout).unwrap();
    let values = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    (String::from_utf8(said.stdout).unwrap(), values)
}

#[test]
fn the_command_tells_what_the_proxy_does() {
    require_python!();
    let lab = Lab::two_nodes();
    lab.db.tcp_echo(at(DB, ECHO)).unwrap();
    let live = connect(&lab);
    let names = ["spiffe://example.org/ns/host/sa/web", "spiffe://example.org/ns/host/sa/db"];
    let both = [(lab.near(), "outbound", names[0]), (lab.far(), "inbound", names[1])];
    for (agent, direction, own) in both {
        let (text, values) = told(agent, &["connections"]);
        for part in [direction, names[0], names[1], &at(DB, ECHO).to_string(), "policy.toml:"] {
            assert!(text.contains(part), "no {part} in\n{text}");
        }
        assert_eq!(values[0]["client_name"], names[0]);
        assert_eq!((&values[0]["sent"], values.len()), (&Value::from(32), 1));
        let (text, values) = told(agent, &["certs"]);
        assert!(text.contains(own), "no {own} in\n{text}");
        assert!(values.iter().any(|one| one["name"] == own), "{values:?}");
    }
    lab.web.close(&live).unwrap();
    let nowhere = lab.web.connect(&Dial::tcp(at(DB, ECHO + 1)).within(SOON));
    assert!(nowhere.and_then(|socket| lab.web.exchange(&socket, 1, SOON)).is_err(), "nobody is there");
    for (agent, ..) in both {
        wait_traced(agent, "it has ended", |record| record.outcome == "closed");
        let refused = wait_traced(agent, "it was refused", |record| record.reason == "program-unreachable");
        assert!(refused.seconds < 4.0, "the kernel says at once that nobody listens: {refused:?}");
        let (text, values) = told(agent, &["trace", "--once"]);
        for part in ["closed", "refused", "cannot be reached", &at(DB, ECHO + 1).to_string(), "policy.toml:"]
        {
            assert!(text.contains(part), "no {part} in\n{text}");
        }
        assert_eq!(values.len(), 2, "{values:?}");
        assert!(values.iter().all(|one| one["client_name"] == names[0]), "{values:?}");
    }
}

/// What proxies need in a workload's namespace.
fn traces(ns: &Ns) -> (bool, String) {
    let look = || {
        let mut found = false;
        for family in ["-4", "-6"] {
            let rules = Command::new("ip").args([family, "rule"]).output().unwrap();
            found |= String::from_utf8_lossy(&rules.stdout).contains("15008");
        }
        let settings = ["ipv4/tcp_fwmark_accept", "ipv4/fwmark_reflect", "ipv6/fwmark_reflect"]
            .map(|name| fs::read_to_string(format!("/proc/sys/net/{name}")).unwrap());
        (found, settings.concat().replace('\n', ""))
    };
    ns.enter(look).unwrap()
}

#[test]
fn an_instance_above_takes_nothing_away_that_is_not_its_own() {
    require_python!();
    let lab = Lab::two_nodes();
    lab.db.tcp_echo(at(DB, ECHO)).unwrap();
    let live = connect(&lab);
    let folder = tempfile::tempdir().unwrap();
    let said = Command::new(agent_program().unwrap())
        .args(["detach", "--instance", &format!("above-{}", std::process::id()), "--cgroup-root"])
        .arg(bulkhead_sys::cgroup::mount_point().unwrap())
        .arg("--run-dir")
        .arg(folder.path())
        .output()
        .unwrap();
    assert!(said.status.success(), "{said:?}");
    assert!(traces(lab.db_ns()).0, "the server's namespace is as it has to be");
    goes_on(&lab, &live);
    goes_on(&lab, &connect(&lab));
}

#[test]
fn detach_lets_connections_end_and_leaves_nothing() {
    require_python!();
    let mut lab = Lab::two_nodes();
    lab.db.tcp_echo(at(DB, ECHO)).unwrap();
    let live = connect(&lab);
    assert!(traces(lab.db_ns()).0, "there is something to take away");

    std::thread::scope(|scope| {
        let detaching = scope.spawn(|| lab.near().run("detach", &[]).unwrap());
        wait_until(SOON, "nothing new is taken", || {
            let dial = Dial::tcp(at(DB, ECHO)).within(Duration::from_secs(5));
            lab.web.connect(&dial).and_then(|socket| lab.web.exchange(&socket, 1, SOON)).is_err()
        })
        .unwrap();
        goes_on(&lab, &live);
        assert!(!detaching.is_finished(), "it waits for those that live");
        lab.web.close(&live).unwrap();
        let said = detaching.join().unwrap();
        assert!(said.status.success(), "{said:?}");
        assert!(String::from_utf8_lossy(&said.stderr).contains("--now"), "{said:?}");
    });
    assert!(!traces(lab.web_ns()).0, "the client's namespace is as it was");

    // The server's node, at once.
    lab.agents[0].restart().unwrap();
    lab.wait_ready().unwrap();
    let live = connect(&lab);
    let said = lab.far().run("detach", &["--now"]).unwrap();
    assert!(said.status.success(), "{said:?}");
    assert!(lab.web.exchange(&live, 1, SOON).is_err(), "it was cut");
    assert_eq!(traces(lab.db_ns()), (false, "000".to_owned()), "the server's namespace is as it was");
}

/// Namespaces come and go with their workloads, and so does what the proxy has there.
#[test]
fn a_workload_that_comes_later_is_served_and_lets_nothing_behind() {
    require_python!();
    let mut lab = Lab::bare(1, four_on_a_wire()).unwrap();
    lab.db.tcp_echo(at(DB, ECHO)).unwrap();
    lab.start(0, &with_c(), &lab.authority.config(0)).unwrap();
    lab.wait_ready().unwrap();
    for round in 0..2 {
        assert!(!traces(lab.wires.ns("c").unwrap()).0, "nobody lives there");
        let guest = lab.guest(0, &format!("guest-{round}"), "c").unwrap();
        let served = || {
            let socket = guest.connect(&Dial::tcp(at(DB, ECHO)).within(SOON));
            socket.is_ok_and(|socket| guest.exchange(&socket, 1, SOON).is_ok())
        };
        wait_until(SOON, "it is served", served).unwrap();
        assert_eq!(proxy(lab.near()).namespaces, 3);
        drop(guest);
        wait_until(SOON, "its namespace is let go", || proxy(lab.near()).namespaces == 2).unwrap();
        wait_until(SOON, "and left as it was", || !traces(lab.wires.ns("c").unwrap()).0).unwrap();
    }
}

/// Where an address has no port left, the program hears just that, and the ports come back.
#[test]
fn a_client_without_a_port_left_is_told_by_its_own_kernel() {
    require_python!();
    let lab = Lab::two_nodes();
    lab.db.tcp_echo(at(DB, ECHO)).unwrap();
    lab.web_ns().sysctl("ipv4/ip_local_port_range", "40000 40009").unwrap();
    let mut live = Vec::new();
    let refused = loop {
        match lab.web.connect(&Dial::tcp(at(DB, ECHO)).within(SOON)) {
            Ok(socket) => live.push(socket),
            Err(error) => break error,
        }
        assert!(live.len() <= 10, "more than there are ports");
    };
    assert_eq!(refused.errno(), Some(Errno::ADDRNOTAVAIL), "{refused}");
    assert!(live.len() >= 5, "{}", live.len());
    for socket in &live {
        goes_on(&lab, socket);
    }
    lab.web_ns().sysctl("ipv4/ip_local_port_range", "40000 40019").unwrap();
    goes_on(&lab, &connect(&lab));
}
