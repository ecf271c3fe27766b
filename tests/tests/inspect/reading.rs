//! What user space reads of handshakes, and how often it is woken for it.

use std::time::{Duration, Instant};

use bulkhead_tests::harness::{Kind, Serve, Step, wait_until};
use bulkhead_tests::require_agent;

use crate::lab::{Lab, SOON};
use crate::order::conversation;

/// How many connections.
const MANY: usize = 400;

/// To be woken for every connection costs more than to read it: all are read, and few wake anybody.
#[test]
fn handshakes_are_read_by_the_dozen() {
    require_agent!();
    let lab = Lab::one_node();
    let agent = lab.agent("report");
    let (hellos, _) = conversation();
    let at = "10.77.0.2:7800".parse().unwrap();
    let listener = lab.server.listen(Kind::Tcp, at, Serve::Hold).unwrap();
    let (begun, before) = (Instant::now(), woken(agent.pid().unwrap()));
    for _ in 0..MANY {
        let answers = vec![Step::Receive(hellos[0].len()), Step::Send(hellos[1].clone())];
        let far = lab.server.begin_play_accepted(&listener, answers, SOON);
        let asks = vec![Step::Send(hellos[0].clone()), Step::Receive(hellos[1].len())];
        assert!(lab.client.begin_play(at, None, asks, SOON).wait().unwrap().complete);
        far.wait().unwrap();
    }
    let mut said = String::new();
    let read = wait_until(SOON, "every handshake is read", || {
        let output = agent.run("inventory", &["--format", "json"]).unwrap();
        said = String::from_utf8(output.stdout).unwrap();
        let lines = said.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        let handshakes = lines.filter(|line| line["record"] == "service").flat_map(|line| {
            let of = line["handshakes"].as_array().cloned().unwrap_or_default();
            of.into_iter().filter_map(|handshake| handshake["flows"].as_u64())
        });
        handshakes.sum::<u64>() == MANY as u64
    });
    assert!(read.is_ok(), "{said}");
    let (woken, took) = (woken(agent.pid().unwrap()) - before, begun.elapsed());
    println!("{woken} times woken for {MANY} connections in {took:?}");
    // It looks ten times a second by itself, and once a second for what is not complete.
    let looks = took.as_millis() / Duration::from_millis(50).as_millis() + 40;
    assert!(u128::from(woken) < looks, "{woken} times in {took:?}");
}

/// How often the thread that reads handshakes has waited for something.
fn woken(agent: u32) -> u64 {
    let tasks = std::fs::read_dir(format!("/proc/{agent}/task")).unwrap();
    let statuses = tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("status")).ok());
    let mut own = statuses.filter(|status| status.lines().next() == Some("Name:\topenings"));
    let status = own.next().expect("a thread that reads handshakes");
    let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:")).unwrap();
    line.trim().parse().unwrap()
}
