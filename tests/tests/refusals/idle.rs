//! Connections that say nothing while the policy changes: those that lose their right end at both ends,
//! the others do not notice.

use std::time::Duration;

use bulkhead_tests::harness::{Agent, Cgroup, Dial, Errno, Kind, Peer, Serve, wait_until};
use bulkhead_tests::require_agent;

use super::lab::{Connection, ENDED, Lab, Net, SOON, ZONES, allow, at};

const KEPT: u16 = 7001;
const LOST: u16 = 7002;

/// One connection to each port, by each family.
fn connections(lab: &Lab, port: u16) -> Vec<Connection> {
    lab.addresses().into_iter().map(|address| connection(lab, address, port)).collect()
}

fn connection(lab: &Lab, address: &str, port: u16) -> Connection {
    let listener = lab.server.listen(Kind::Tcp, at(address, port), Serve::Hold).unwrap();
    let connection = lab.connect(&listener);
    lab.talk(&connection);
    connection
}

/// Sees that the kept ones noticed nothing and still carry what is said.
fn see_alive(lab: &Lab, kept: &[Connection]) {
    for connection in kept {
        let moment = Duration::from_millis(50);
        assert!(lab.client.ended(&connection.near, moment).unwrap_err().is_timeout());
        assert!(lab.server.ended(&connection.far, moment).unwrap_err().is_timeout());
        lab.talk(connection);
    }
}

#[test]
fn of_two_ends_on_one_node() {
    require_agent!();
    for lab in [Lab::pair(), Lab::loopback()] {
        let agent = Agent::start(&lab.root, &allow(&["tcp/7001", "tcp/7002"])).unwrap();
        let (kept, lost) = (connections(&lab, KEPT), connections(&lab, LOST));
        agent.apply(&allow(&["tcp/7001"])).unwrap();
        lost.iter().for_each(|connection| lab.see_end(connection));
        // The other rule has another place in the file and another number in the kernel.
        for ports in [&["tcp/7000-7001"][..], &["udp/53", "tcp/7001"], &["tcp"], &["tcp/7001"]] {
            agent.apply(&allow(ports)).unwrap();
            see_alive(&lab, &kept);
        }
        let ended = || agent.status().is_ok_and(|status| status.flows_ended.contains_key("default"));
        wait_until(SOON, "status tells of ended flows", ended).unwrap();
    }
}

#[test]
fn by_a_deny_rule_and_by_leaving_a_zone() {
    require_agent!();
    let lab = Lab::pair();
    let both = allow(&["tcp/7001", "tcp/7002"]);
    let agent = Agent::start(&lab.root, &both).unwrap();
    let (kept, lost) = (connections(&lab, KEPT), connections(&lab, LOST));
    let deny = "[[deny]]\nfrom = \"any\"\nto = \"server\"\nports = [\"tcp/7002\"]\n";
    agent.apply(&format!("{both}{deny}")).unwrap();
    lost.iter().for_each(|connection| lab.see_end(connection));
    see_alive(&lab, &kept);
    let told = |line: &serde_json::Value| {
        let text = line.to_string();
        ["lost its right", "client", "server", "deny-rule"].iter().all(|word| text.contains(word))
    };
    agent.wait_log("whose flow ended, and why", told).unwrap();
    // The client is in no zone any more, and the rule is not for the world.
    agent.apply(&both.replace("cgroups = [\"client\"]", "cgroups = [\"nobody\"]")).unwrap();
    kept.iter().for_each(|connection| lab.see_end(connection));
}

#[test]
fn when_audit_ends() {
    require_agent!();
    let lab = Lab::pair();
    let zones_audit = ZONES.replace("cgroups", "mode = \"audit\"\ncgroups");
    let agent = Agent::start(&lab.root, &zones_audit).unwrap();
    let lost = connections(&lab, LOST);
    agent.apply(ZONES).unwrap();
    lost.iter().for_each(|connection| lab.see_end(connection));
    drop(agent);

    let lab = Lab::pair();
    let mut agent = Agent::prepare(&lab.root, ZONES).mode("audit").start().unwrap();
    let lost = connections(&lab, LOST);
    agent.set_mode("enforce");
    agent.restart().unwrap();
    lost.iter().for_each(|connection| lab.see_end(connection));
}

#[test]
fn when_one_of_two_nodes_changes_its_mind() {
    require_agent!();
    let zones = "[zone.client]\ncidrs = [\"10.77.0.1/32\", \"fd00:77::1/128\"]\n\
                 [zone.server]\ncidrs = [\"10.77.0.2/32\", \"fd00:77::2/128\"]\n";
    let policy =
        |ports: &str| format!("{zones}[[allow]]\nfrom = \"client\"\nto = \"server\"\nports = [{ports}]\n");
    for changes in [0, 1] {
        let lab = Lab::two_nodes();
        let roots: [&Cgroup; 2] = [&lab.root, lab.elsewhere.as_ref().unwrap()];
        let before = policy("\"tcp/7001\", \"tcp/7002\"");
        let agents = roots.map(|root| Agent::start(root, &before).unwrap());
        let (kept, lost) = (connections(&lab, KEPT), connections(&lab, LOST));
        agents[changes].apply(&policy("\"tcp/7001\"")).unwrap();
        lost.iter().for_each(|connection| lab.see_end(connection));
        see_alive(&lab, &kept);
    }
}

#[test]
fn of_datagram_sockets_that_are_connected() {
    require_agent!();
    let lab = Lab::pair();
    let agent = Agent::start(&lab.root, &allow(&["udp/7001", "udp/7002"])).unwrap();
    for address in lab.addresses() {
        agent.apply(&allow(&["udp/7001", "udp/7002"])).unwrap();
        let sockets = [KEPT, LOST].map(|port| {
            let echo = lab.server.udp_echo(at(address, port)).unwrap();
            let socket = lab.client.connect(&Dial::udp(echo.local)).unwrap();
            lab.client.exchange(&socket, 1, SOON).unwrap();
            socket
        });
        agent.apply(&allow(&["udp/7001"])).unwrap();
        let ended = lab.client.ended(&sockets[1], ENDED).unwrap();
        assert_eq!(ended.error(), Some(Errno::CONNABORTED));
        lab.client.exchange(&sockets[0], 1, SOON).unwrap();
    }
}

#[test]
fn of_others_in_the_same_namespace_is_no_business_of_this_node() {
    require_agent!();
    let lab = Lab::pair();
    let Net::Pair(net) = &lab.net else { panic!("no pair") };
    // In the same namespaces, but outside of the cgroup root.
    let outside = Cgroup::new("outside").unwrap();
    let spawn = |host| Peer::spawn(Some(net.ns(host).unwrap()), Some(&outside)).unwrap();
    let (client, server) = (spawn("a"), spawn("b"));
    let prefixes = "[zone.client]\ncidrs = [\"10.77.0.1/32\"]\n[zone.server]\ncidrs = [\"10.77.0.2/32\"]\n";
    let allowed = format!("{prefixes}[[allow]]\nfrom = \"client\"\nto = \"server\"\nports = [\"tcp\"]\n");
    let agent = Agent::start(&lab.root, &allowed).unwrap();
    let others = server.listen(Kind::Tcp, at("10.77.0.2", LOST), Serve::Hold).unwrap();
    let near = client.connect(&Dial::tcp(others.local)).unwrap();
    let far = server.accept(&others, SOON).unwrap();
    // One of our own shows when the sweep is done.
    let ours = connection(&lab, "10.77.0.2", KEPT);
    agent.apply(prefixes).unwrap();
    lab.see_end(&ours);
    assert!(client.ended(&near, Duration::from_millis(300)).unwrap_err().is_timeout());
    client.send(&near, b"still there", None).unwrap();
    assert_eq!(server.recv(&far, SOON).unwrap().0, b"still there");
}

/// A pool opens connections long before it says anything on them.
#[test]
fn before_their_first_byte() {
    require_agent!();
    let lab = Lab::pair();
    let _agent = Agent::start(&lab.root, &allow(&["tcp/7001"])).unwrap();
    let listener = lab.server.listen(Kind::Tcp, at("10.77.0.2", KEPT), Serve::Hold).unwrap();
    let silent = lab.connect(&listener);
    // Longer than a handshake may take, which is what the kernel's own table waits for.
    std::thread::sleep(Duration::from_secs(63));
    lab.talk(&silent);
}
