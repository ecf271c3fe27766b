//! What an operator does to a node that serves: other limits, and taking it away.

use std::fs;
use std::process::Command;
use std::time::Duration;

use bulkhead_tests::harness::{Dial, Ns, Socket, wait_until};

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

/// What proxies need in a workload's namespace.
fn traces(ns: &Ns) -> (bool, String) {
    let look = || {
        let mut found = false;
        for family in ["-4", "-6"] {
            let rules = Command::new("ip").args([family, "rule"]).output().unwrap();
            found |= String::from_utf8_lossy(&rules.stdout).contains("15008");
        }
        (found, fs::read_to_string("/proc/sys/net/ipv4/tcp_fwmark_accept"))
    };
    let (rules, accepts) = ns.enter(look).unwrap();
    (rules, accepts.unwrap_or_default().trim().to_owned())
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
    assert_eq!(traces(lab.db_ns()), (false, "0".to_owned()), "the server's namespace is as it was");
}
