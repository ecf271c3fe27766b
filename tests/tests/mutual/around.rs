//! Ways around the proxy: from the same node, from another one, and from a namespace that is neither the client's
//! nor the server's, with an agent of its own or with none.

use std::time::Duration;

use bulkhead_tests::harness::{
    Agent, Called, Cgroup, Dial, Errno, Kind, Pair, Peer, Serve, Socket, Topology, wait_until,
};

use crate::lab::{DB, DB6, FAMILIES, Lab, SOON, at, policy, proxy, python};
use crate::peers::Stranger;
use crate::require_python;

const PORT: u16 = 5000;
/// How long nothing is waited for.
const NOTHING: Duration = Duration::from_millis(500);

/// Whoever is no program of a node, and speaks for itself.
fn around(lab: &Lab) {
    let listeners =
        FAMILIES.map(|(server, _)| lab.db.listen(Kind::Tcp, at(server, PORT), Serve::Hold).unwrap());
    let stranger = Stranger::new();
    let beside = Peer::spawn(Some(lab.web_ns()), Some(stranger.cgroup())).unwrap();
    for listener in &listeners {
        // From the client's own address, past its node's agent.
        let dial = Dial::tcp(listener.local).within(Duration::from_secs(2));
        let _ = beside.begin_connect(&dial).wait();
        nobody_came(lab, listener);
    }
    Lab::wait_counted(lab.far(), &Pair::new("web", "db", "deny", "outside-proxy"));
    // From within the server's namespace, as the proxy's last hop comes: the client's address, and its mark.
    for (listener, (_, client)) in listeners.iter().zip(FAMILIES) {
        let launch = python("mutual/python/pretend.py").and([client, &listener.local.ip().to_string()]);
        let launch = launch.and([PORT.to_string()]);
        for said in [stranger.run(lab.db_ns(), &launch), lab.ask_beside(&launch)] {
            assert!(!said.succeeded(), "a pretended last hop came through");
            assert!(String::from_utf8_lossy(&said.output).contains("begins"), "{}", said.errors);
        }
        nobody_came(lab, listener);
    }
    // And its twin, by way of the proxy; also right after somebody who lived there has ended.
    for listener in &listeners {
        let near = lab.web.connect(&Dial::tcp(listener.local)).unwrap();
        let far = lab.db.accept(listener, SOON).unwrap();
        lab.web.send(&near, b"a question", None).unwrap();
        assert_eq!(lab.db.recv(&far, SOON).unwrap().0, b"a question");
        assert_eq!(far.peer.map(|peer| peer.ip()), Some(near.local.ip()));
        assert_eq!(near.peer, Some(listener.local));
    }
}

fn nobody_came(lab: &Lab, listener: &Socket) {
    let accepted = lab.db.accept(listener, NOTHING);
    assert!(accepted.is_err(), "{accepted:?} came");
}

#[test]
fn nobody_goes_around_the_proxy_from_another_node() {
    require_python!();
    around(&Lab::two_nodes());
}

#[test]
fn nobody_goes_around_the_proxy_on_the_same_node() {
    require_python!();
    around(&Lab::one_node(&policy("")));
}

/// As `policy`, and `c` is of the zone `web`, too; `d` is of none.
pub(crate) fn with_c() -> String {
    policy("")
        .replace("\"10.77.0.1/32\"", "\"10.77.0.1/32\", \"10.77.0.3/32\"")
        .replace("\"fd00:77::1/128\"", "\"fd00:77::1/128\", \"fd00:77::3/128\"")
}

/// `a` and `b` as always, and `c` and `d` on the same wire.
pub(crate) fn four_on_a_wire() -> Topology {
    Topology::flat(&[
        ("a", &["10.77.0.1/24", "fd00:77::1/64"]),
        ("b", &["10.77.0.2/24", "fd00:77::2/64"]),
        ("c", &["10.77.0.3/24", "fd00:77::3/64"]),
        ("d", &["10.77.0.4/24", "fd00:77::4/64"]),
    ])
    .unwrap()
}

/// Whether somebody's connection arrives, and what the caller was told. Nothing of it is left.
fn arrives(lab: &Lab, peer: &Peer, listener: &Socket, patience: Duration) -> (bool, Called<Socket>) {
    let told = peer.begin_connect(&Dial::tcp(listener.local).within(patience));
    let arrived = lab.db.accept(listener, patience);
    let told = told.wait();
    for (peer, socket) in [(peer, &told), (&lab.db, &arrived)] {
        if let Ok(socket) = socket {
            peer.close(socket).unwrap();
        }
    }
    (arrived.is_ok(), told)
}

/// Waits until a proxy listens in so many namespaces, and can say who lives there.
fn wait_proxied(agent: &Agent, namespaces: usize) {
    let ready = || {
        let view = proxy(agent);
        view.running && view.namespaces == namespaces && view.certificates >= 1
    };
    wait_until(SOON, "the proxy is ready", ready).unwrap();
}

/// What was denied at a node, by flows.
fn denied(agent: &Agent) -> Vec<(Pair, u64)> {
    let counters = agent.counters().unwrap();
    let denied = counters.iter().filter(|(pair, counter)| pair.verdict == "deny" && counter.flows > 0);
    denied.map(|(pair, counter)| (pair.clone(), counter.flows)).collect()
}

/// Waits until just this has been denied at a node.
fn wait_denied(agent: &Agent, wanted: &[(Pair, u64)]) {
    let same = || {
        let denied = denied(agent);
        denied.len() == wanted.len() && wanted.iter().all(|one| denied.contains(one))
    };
    let waited = wait_until(SOON, "it is counted", same);
    assert!(waited.is_ok(), "wanted {wanted:?}, denied {:?}", denied(agent));
}

/// From namespaces of machines of their own that have no agent: one has an address that a rule lets in by way of
/// the proxy, one has not. A third machine has an agent without a proxy. Each attempt arrives as long as there are
/// no agents; with them, those who go by way of the proxies arrive, and no attempt does.
#[test]
fn nobody_goes_around_the_proxy_from_a_third_namespace_of_its_own_node() {
    require_python!();
    let mut lab = Lab::bare(2, four_on_a_wire()).unwrap();
    let elsewhere = Cgroup::new("third").unwrap();
    let [of_c, of_d] = ["c", "d"].map(|name| elsewhere.child(name).unwrap());
    let c = Peer::spawn(Some(lab.wires.ns("c").unwrap()), Some(&of_c)).unwrap();
    let d = Peer::spawn(Some(lab.wires.ns("d").unwrap()), Some(&of_d)).unwrap();
    let listeners = [DB, DB6].map(|to| lab.db.listen(Kind::Tcp, at(to, PORT), Serve::Hold).unwrap());
    for (peer, listener) in [&c, &d].into_iter().flat_map(|peer| listeners.iter().map(move |one| (peer, one)))
    {
        assert!(arrives(&lab, peer, listener, SOON).0, "without agents {peer:?} gets to {listener:?}");
    }

    for node in 0..2 {
        lab.start(node, &with_c(), &lab.authority.config(node)).unwrap();
    }
    lab.wait_ready().unwrap();
    for listener in &listeners {
        assert!(arrives(&lab, &lab.web, listener, SOON).0, "by way of the proxies");
    }
    let mut wanted = Vec::new();
    for (peer, pair) in [
        (&c, Pair::new("web", "db", "deny", "outside-proxy")),
        (&d, Pair::new("world", "db", "deny", "default")),
    ] {
        for listener in &listeners {
            let (arrived, told) = arrives(&lab, peer, listener, NOTHING);
            assert!(!arrived && told.is_err(), "{pair}: {told:?}");
        }
        wanted.push((pair, 2));
        wait_denied(lab.far(), &wanted);
    }

    // An agent of its own, and no proxy: the kernel says no at once, and the other node hears nothing.
    let own = elsewhere.child("agent").unwrap();
    let agent = Agent::prepare(&elsewhere, &with_c()).in_cgroup(&own).start().unwrap();
    for listener in &listeners {
        let (arrived, told) = arrives(&lab, &c, listener, NOTHING);
        assert_eq!((arrived, told.unwrap_err().errno()), (false, Some(Errno::PERM)));
    }
    wait_denied(&agent, &[(Pair::new("web", "db", "deny", "no-proxy"), 2)]);
    assert_eq!(denied(lab.far()).len(), wanted.len(), "{:?}", denied(lab.far()));
    drop(agent);

    // And with a proxy it is one of those who may.
    let config = lab.authority.config(0);
    let agent = Agent::prepare(&elsewhere, &with_c()).in_cgroup(&own).config(&config).start().unwrap();
    wait_proxied(&agent, 2);
    for listener in &listeners {
        assert!(arrives(&lab, &c, listener, SOON).0, "by way of its own proxy");
    }
    drop(agent);
    wait_denied(lab.far(), &wanted);
}

/// From a third namespace of the server's own node: what runs in none of its cgroups is not turned, and its
/// packets are refused; its neighbour in one goes by way of the proxy.
#[test]
fn nobody_goes_around_the_proxy_from_a_third_namespace_of_the_same_node() {
    require_python!();
    let mut lab = Lab::bare(1, four_on_a_wire()).unwrap();
    let stranger = Stranger::new();
    let c = Peer::spawn(Some(lab.wires.ns("c").unwrap()), Some(stranger.cgroup())).unwrap();
    let guest = lab.guest(0, "guest", "c").unwrap();
    let listeners = [DB, DB6].map(|to| lab.db.listen(Kind::Tcp, at(to, PORT), Serve::Hold).unwrap());
    for listener in &listeners {
        assert!(arrives(&lab, &c, listener, SOON).0, "without an agent");
    }
    lab.start(0, &with_c(), &lab.authority.config(0)).unwrap();
    wait_proxied(lab.far(), 3);
    for listener in &listeners {
        assert!(arrives(&lab, &guest, listener, SOON).0, "the neighbour, by way of the proxy");
    }
    for listener in &listeners {
        let (arrived, told) = arrives(&lab, &c, listener, NOTHING);
        assert!(!arrived && told.is_err(), "{told:?}");
    }
    wait_denied(lab.far(), &[(Pair::new("web", "db", "deny", "outside-proxy"), 2)]);
}
