//! TCP: the first byte in clear is stopped, and both programs hear of it.

use bulkhead_abi::{App, Class, Tls};
use bulkhead_tests::harness::{Agent, Dial, Errno, Kind, Pair, Peer, Serve, Socket, wait_until};
use bulkhead_tests::require_agent;

use crate::lab::{Lab, SOON, counted};

/// A request and a greeting, in clear.
pub(crate) const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n";
/// See [`REQUEST`].
pub(crate) const GREETING: &[u8] = b"220 mail.example ESMTP ready\r\n";

#[test]
fn no_byte_of_clear_text_arrives_where_encryption_is_required() {
    require_agent!();
    let lab = Lab::one_node();
    let agent = lab.agent("require");
    for (port, (client_speaks, said)) in (7100..).zip([(true, REQUEST), (false, GREETING)]) {
        let before = agent.counters().unwrap();
        let (near, far) = lab.connect(port);
        let (speaker, from, listener, to) = if client_speaks {
            (&lab.client, &near, &lab.server, &far)
        } else {
            (&lab.server, &far, &lab.client, &near)
        };
        speaker.send(from, said, None).unwrap();
        see_reset(listener, to);
        see_end(speaker, from);
        counted(&agent, &before, "deny", "clear-text", 1);
    }
}

#[test]
fn one_byte_at_a_time_says_no_more_than_could_be_encrypted() {
    require_agent!();
    let lab = Lab::one_node();
    let agent = lab.agent("require");
    let before = agent.counters().unwrap();
    let (near, far) = lab.connect(7200);
    lab.client.send(&near, b"\x16", None).unwrap();
    let (data, _) = lab.server.recv(&far, SOON).unwrap();
    assert_eq!(data, b"\x16", "what may yet be TLS passes");
    lab.client.send(&near, b"G", None).unwrap();
    see_reset(&lab.server, &far);
    see_end(&lab.client, &near);
    counted(&agent, &before, "deny", "unclassified", 1);
}

#[test]
fn the_receivers_node_alone_is_enough() {
    require_agent!();
    let lab = Lab::receiver_alone();
    let agent = lab.agent("require");
    let before = agent.counters().unwrap();
    let (near, far) = lab.connect(7300);
    lab.client.send(&near, REQUEST, None).unwrap();
    see_reset(&lab.server, &far);
    see_end(&lab.client, &near);
    counted(&agent, &before, "deny", "clear-text", 1);
}

#[test]
fn data_in_a_syn_is_no_way_around() {
    require_agent!();
    // Where the sender's node looks, and where only the receiver's does.
    for lab in [Lab::one_node(), Lab::receiver_alone()] {
        for name in ["a", "b"] {
            // Both sides of Fast Open, without a cookie.
            lab.pair.ns(name).unwrap().sysctl("ipv4/tcp_fastopen", "1543").unwrap();
        }
        let agent = lab.agent("require");
        let before = agent.counters().unwrap();
        let at = "10.77.0.2:7600".parse().unwrap();
        let listener = lab.server.listen(Kind::Tcp, at, Serve::Sink).unwrap();
        let near = lab.client.connect(&Dial::tcp(listener.local).fast_open(REQUEST));
        if let Ok(near) = near {
            see_end(&lab.client, &near);
        }
        let pair = Pair::new("client", "server", "deny", "clear-text");
        let moved = || agent.counters().unwrap().since(&before).get(&pair).flows;
        wait_until(SOON, "the refusal is counted", || moved() >= 1).unwrap();
        assert_eq!(lab.server.served(&listener).unwrap().bytes, 0);
    }
}

#[test]
fn what_is_not_required_passes() {
    require_agent!();
    let lab = Lab::one_node();
    let agent = lab.agent("off");
    for (port, level) in (7400..).zip(["off", "report"]) {
        agent.apply(&lab.policy(level)).unwrap();
        let (near, far) = lab.connect(port);
        talk(&lab, &near, &far);
    }
    // And in a node that only reports.
    drop(agent);
    let agent = Agent::prepare(&lab.root, &lab.policy("require")).mode("audit").start().unwrap();
    let before = agent.counters().unwrap();
    let (near, far) = lab.connect(7410);
    talk(&lab, &near, &far);
    counted(&agent, &before, "audit", "clear-text", 1);
}

#[test]
fn a_live_clear_flow_ends_when_encryption_becomes_required() {
    require_agent!();
    let lab = Lab::one_node();
    let agent = lab.agent("off");
    let (near, far) = lab.connect(7500);
    talk(&lab, &near, &far);
    agent.apply(&lab.policy("require")).unwrap();
    let sent = lab.client.send(&near, REQUEST, None);
    see_reset(&lab.server, &far);
    // A program hears once that its connection is gone: where it was ended before this, by its own send.
    match sent {
        Ok(_) => see_end(&lab.client, &near),
        Err(error) => assert!(error.errno().is_some_and(is_end), "{error}"),
    }
}

#[test]
fn a_silent_clear_flow_ends_when_encryption_becomes_required() {
    require_agent!();
    let lab = Lab::one_node();
    for (port, from) in (7700..).zip(["off", "report"]) {
        let agent = lab.agent(from);
        let (near, far) = lab.connect(port);
        talk(&lab, &near, &far);
        // Of one on which nothing was said nothing is known.
        let (silent, other) = lab.connect(port + 10);
        agent.apply(&lab.policy("require")).unwrap();
        // Nobody says anything.
        see_reset(&lab.server, &far);
        see_end(&lab.client, &near);
        lab.client.send(&silent, b"\x16", None).unwrap();
        assert_eq!(lab.server.recv(&other, SOON).unwrap().0, b"\x16");
        lab.client.send(&silent, b"G", None).unwrap();
        see_reset(&lab.server, &other);
    }
}

#[test]
fn what_nobody_can_tell_passes_where_the_rule_says_so() {
    require_agent!();
    let lab = Lab::one_node();
    let policy = lab.policy("require").replace("\"require\"", "{ require = true, unknown = \"allow\" }");
    let _agent = Agent::start(&lab.root, &policy).unwrap();
    let nothing: Vec<u8> = (0..200u32).map(|number| (number * 151 % 251) as u8 | 0x80).collect();
    let (near, far) = lab.connect(7950);
    for _ in 0..3 {
        lab.client.send(&near, &nothing, None).unwrap();
        assert_eq!(lab.server.recv(&far, SOON).unwrap().0, nothing);
        lab.server.send(&far, &nothing, None).unwrap();
        assert_eq!(lab.client.recv(&near, SOON).unwrap().0, nothing);
    }
    // What is known to be clear text does not.
    let (near, far) = lab.connect(7951);
    lab.client.send(&near, REQUEST, None).unwrap();
    see_reset(&lab.server, &far);
    see_end(&lab.client, &near);
}

/// Of a text that nobody answers only the answer could say what it is: it is told of when it ends, or when
/// there is much of it.
#[test]
fn clear_text_that_nobody_answers_is_told_of() {
    require_agent!();
    let lab = Lab::one_node();
    let agent = lab.agent("report");
    let texts = || {
        let classes = agent.reader().unwrap().classes().unwrap();
        let texts = classes.iter().filter(|(key, _)| {
            (key.class, key.app, key.level) == (Class::Clear as u8, App::Text as u8, Tls::Report as u8)
        });
        texts.map(|(_, flows)| flows).sum::<u64>()
    };
    for (port, (times, ends)) in (7900..).zip([(1, true), (100, false)]) {
        let (near, far) = lab.connect(port);
        for _ in 0..times {
            lab.client.send(&near, b"servers.web1.load 0.25 1700000000\n", None).unwrap();
        }
        assert!(!lab.server.recv(&far, SOON).unwrap().0.is_empty());
        if ends {
            lab.client.close(&near).unwrap();
        }
        wait_until(SOON, "it is counted", || texts() == u64::from(port) - 7899).unwrap();
    }
    wait_until(SOON, "it is found", || {
        let output = agent.run("findings", &["--kind", "plaintext", "--format", "json"]).unwrap();
        String::from_utf8_lossy(&output.stdout).contains("\"subject\":\"tcp/7900\"")
    })
    .unwrap();
}

/// Clear text both ways.
fn talk(lab: &Lab, near: &Socket, far: &Socket) {
    lab.client.send(near, REQUEST, None).unwrap();
    assert_eq!(lab.server.recv(far, SOON).unwrap().0, REQUEST);
    lab.server.send(far, b"HTTP/1.1 200 OK\r\n\r\n", None).unwrap();
    assert_eq!(lab.client.recv(near, SOON).unwrap().0, b"HTTP/1.1 200 OK\r\n\r\n");
}

/// The program reads nothing but a reset.
pub(crate) fn see_reset(peer: &Peer, socket: &Socket) {
    match peer.recv(socket, SOON) {
        Ok((data, _)) => panic!("{} bytes arrived: {:?}", data.len(), String::from_utf8_lossy(&data)),
        Err(error) => {
            let errno = error.errno();
            assert!(matches!(errno, Some(Errno::CONNRESET | Errno::CONNABORTED)), "{error}");
        }
    }
}

/// The program hears that its connection is gone.
pub(crate) fn see_end(peer: &Peer, socket: &Socket) {
    let ended = peer.ended(socket, SOON).unwrap();
    let error = ended.error().expect("an orderly end");
    assert!(is_end(error), "{error}");
}

fn is_end(error: Errno) -> bool {
    [Errno::CONNABORTED, Errno::CONNRESET, Errno::PIPE].contains(&error)
}

impl Lab {
    fn connect(&self, port: u16) -> (Socket, Socket) {
        let at = format!("10.77.0.2:{port}").parse().unwrap();
        let listener = self.server.listen(Kind::Tcp, at, Serve::Hold).unwrap();
        let near = self.client.connect(&Dial::tcp(listener.local)).unwrap();
        let far = self.server.accept(&listener, SOON).unwrap();
        (near, far)
    }
}
