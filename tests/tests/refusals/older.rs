//! Sockets that are older than the agent: those that the policy allows are adopted and go on without a
//! lost byte, the others are ended when enforcement begins.

use std::sync::atomic::{AtomicBool, Ordering};

use bulkhead_tests::harness::{Agent, CallError, Dial, Errno, Kind, Pair, Serve, Socket, wait_until};
use bulkhead_tests::require_agent;

use super::lab::{Lab, SOON, allow, at};

const KEPT: u16 = 7001;
const LOST: u16 = 7002;

#[test]
fn idle_ones_on_one_node() {
    require_agent!();
    for lab in [Lab::pair(), Lab::loopback()] {
        idle(&lab, &[0]);
    }
}

#[test]
fn idle_ones_whose_other_end_is_elsewhere() {
    require_agent!();
    // Only the client's node has an agent, only the server's, both.
    for agents in [&[0][..], &[1], &[0, 1]] {
        idle(&Lab::two_nodes(), agents);
    }
}

fn idle(lab: &Lab, nodes: &[usize]) {
    let open = |port| {
        let connect = |address: &'static str| {
            let listener = lab.server.listen(Kind::Tcp, at(address, port), Serve::Hold).unwrap();
            let connection = lab.connect(&listener);
            lab.talk(&connection);
            connection
        };
        lab.addresses().map(connect)
    };
    let (kept, lost) = (open(KEPT), open(LOST));
    let zones = "[zone.client]\ncidrs = [\"10.77.0.1/32\", \"fd00:77::1/128\"]\n\
                 [zone.server]\ncidrs = [\"10.77.0.2/32\", \"fd00:77::2/128\"]\n\
                 [[allow]]\nfrom = \"client\"\nto = \"server\"\nports = [\"tcp/7001\"]\n";
    let policy = if lab.elsewhere.is_some() { zones.to_owned() } else { allow(&["tcp/7001"]) };
    let agents: Vec<Agent> = nodes
        .iter()
        .map(|node| {
            let root = if *node == 0 { &lab.root } else { lab.elsewhere.as_ref().unwrap() };
            Agent::start(root, &policy).unwrap()
        })
        .collect();
    lost.iter().for_each(|connection| lab.see_end(connection));
    for connection in &kept {
        lab.talk(connection);
        lab.talk(connection);
    }
    for (nth, agent) in agents.iter().enumerate() {
        // They were opened before anything was counted; only their packets are.
        let counters = agent.counters().unwrap();
        let adopted = counters.get(&Pair::new("client", "server", "allow", "allow-rule"));
        assert!(adopted.flows == 0 && adopted.packets > 0, "{counters:?}");
        // Those that were ended count as denied, once each: at the node that was first, and at the other's only
        // if it still found its own ends alive.
        let denied = counters.get(&Pair::new("client", "server", "deny", "default"));
        assert!(denied.flows == lost.len() as u64 || nth > 0 && denied.flows == 0, "{counters:?}");
        assert_eq!(counters.iter().count(), 1 + usize::from(denied.flows > 0), "{counters:?}");
    }
}

#[test]
fn busy_ones() {
    require_agent!();
    for lab in [Lab::pair(), Lab::loopback()] {
        let open = |port| {
            lab.addresses().map(|address| {
                let echo = lab.server.tcp_echo(at(address, port)).unwrap();
                lab.client.connect(&Dial::tcp(echo.local)).unwrap()
            })
        };
        let (kept, lost) = (open(KEPT), open(LOST));
        let stop = AtomicBool::new(false);
        // Every answer is compared with its question: a lost byte would show.
        let talk = |socket: &Socket| -> Result<u64, CallError> {
            let mut done = 0;
            while !stop.load(Ordering::Relaxed) {
                done += lab.client.begin_exchange(socket, None, 20, 20_000, SOON).wait()?.count;
            }
            Ok(done)
        };
        std::thread::scope(|scope| {
            let kept = kept.each_ref().map(|socket| scope.spawn(|| talk(socket)));
            let lost = lost.each_ref().map(|socket| scope.spawn(|| talk(socket)));
            let enforced = Agent::start(&lab.root, &allow(&["tcp/7001"]));
            let agent = enforced.inspect_err(|_| stop.store(true, Ordering::Relaxed)).unwrap();
            for transfer in lost {
                let ended = wait_until(SOON, "a denied transfer ends", || transfer.is_finished());
                ended.inspect_err(|_| stop.store(true, Ordering::Relaxed)).unwrap();
                let error = transfer.join().unwrap().unwrap_err();
                assert!(!error.is_timeout(), "ended in silence: {error}");
            }
            agent.apply(&allow(&["tcp/7000-7001"])).unwrap();
            stop.store(true, Ordering::Relaxed);
            for transfer in kept {
                let done = transfer.join().unwrap();
                assert!(done.as_ref().is_ok_and(|done| *done > 0), "an allowed transfer: {done:?}");
            }
        });
    }
}

#[test]
fn a_listener_takes_new_connections_and_refuses_others() {
    require_agent!();
    let lab = Lab::pair();
    let listen = |port| lab.server.listen(Kind::Tcp, at("10.77.0.2", port), Serve::Hold).unwrap();
    let (open, closed) = (listen(KEPT), listen(LOST));
    let _agent = Agent::start(&lab.root, &allow(&["tcp/7001"])).unwrap();
    lab.talk(&lab.connect(&open));
    let refused = lab.client.connect(&Dial::tcp(closed.local)).unwrap_err();
    assert_eq!(refused.errno(), Some(Errno::PERM));
}
