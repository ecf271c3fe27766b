//! `connect` where both identities are known: EPERM from the call itself, one counter, one event with
//! names.

use std::collections::BTreeMap;
use std::time::Duration;

use bulkhead_tests::harness::{Agent, Dial, Errno, Kind, Pair, Serve};
use bulkhead_tests::require_agent;

use super::lab::{Lab, at, refused_within};

/// A call that asks nobody but the kernel.
const AT_ONCE: Duration = Duration::from_millis(20);

/// Every server has a port of its own from here on: a closed one may be in use for a moment longer.
const PORTS: u16 = 7000;

#[test]
fn by_a_cgroup_zone_to_a_prefix_zone_elsewhere() {
    require_agent!();
    let zones = "[zone.client]\ncgroups = [\"client\"]\n\
                 [zone.server]\ncidrs = [\"10.77.0.2/32\", \"fd00:77::2/128\"]\n";
    refused_at_once(&Lab::two_nodes(), zones, ("client", "server"));
}

#[test]
fn to_a_listener_in_another_namespace() {
    require_agent!();
    refused_at_once(&Lab::pair(), super::lab::ZONES, ("client", "server"));
}

#[test]
fn by_somebody_in_no_zone_to_a_listener_in_another_namespace() {
    require_agent!();
    refused_at_once(&Lab::pair(), "[zone.server]\ncgroups = [\"server\"]\n", ("world", "server"));
}

#[test]
fn on_loopback() {
    require_agent!();
    refused_at_once(&Lab::loopback(), super::lab::ZONES, ("client", "server"));
}

/// By TCP and UDP, by every family, by default and by rule.
fn refused_at_once(lab: &Lab, zones: &str, (from, to): (&str, &str)) {
    let agent = Agent::prepare(&lab.root, zones).with_metrics().start().unwrap();
    let [v4, v6] = lab.addresses();
    let rule = format!(
        "{zones}[[deny]]\nname = \"not here\"\nfrom = \"{from}\"\nto = \"{to}\"\n\
         ports = [\"tcp/{PORTS}-7099\", \"udp/{PORTS}-7099\"]\n"
    );
    let line = zones.lines().count() + 1;
    let mut all: BTreeMap<&str, u64> = BTreeMap::new();
    let cases = [(v4, v4, false), (v6, v6, true), ("::", v4, true)];
    for ((listen, address, v6_socket), port) in cases.into_iter().zip(PORTS..) {
        for kind in [Kind::Tcp, Kind::Udp] {
            let server = lab.server.listen(kind, at(listen, port), Serve::Sink).unwrap();
            for (policy, reason) in [(zones, "default"), (rule.as_str(), "deny-rule")] {
                agent.apply(policy).unwrap();
                let told = agent.log_lines().len();
                let before = agent.counters().unwrap();
                let dial = Dial::new(kind, at(address, port));
                let dial = if v6_socket { dial.v6_socket() } else { dial };
                let tries = refused_within(AT_ONCE, &[Errno::PERM], || lab.client.connect(&dial).map(drop));
                *all.entry(reason).or_default() += tries;

                let moved = agent.counters().unwrap().since(&before);
                let pair = Pair::new(from, to, "deny", reason);
                assert_eq!(moved.iter().count(), 1, "{moved:?}");
                let counter = moved.get(&pair);
                assert_eq!((counter.flows, counter.packets), (tries, 0), "{moved:?}");
                assert_eq!(lab.server.served(&server).unwrap().messages, 0);

                let protocol = if kind == Kind::Tcp { "tcp" } else { "udp" };
                let expected = [
                    ("message", "flow denied"),
                    ("from", from),
                    ("to", to),
                    ("verdict", "deny"),
                    ("reason", reason),
                    ("port", &format!("{protocol}/{port}")),
                ];
                let matches = |line: &serde_json::Value| {
                    expected.iter().all(|(field, value)| line.get(field).is_some_and(|found| found == value))
                };
                let line_of = || agent.log_lines().into_iter().skip(told).filter(matches).collect::<Vec<_>>();
                let told = |_: &serde_json::Value| line_of().len() as u64 == tries;
                agent.wait_log(&format!("{tries} events {expected:?}"), told).unwrap();
                for event in line_of() {
                    let (name, place) = (event.get("rule"), event.get("at").and_then(|at| at.as_str()));
                    if reason == "default" {
                        assert_eq!((name, place), (None, None), "{event}");
                    } else {
                        assert_eq!(name.unwrap(), "not here", "{event}");
                        assert!(place.unwrap().contains(&format!("policy.toml:{line}")), "{event}");
                    }
                }
            }
        }
    }
    for (reason, tries) in all {
        let metric = format!(
            "bulkhead_flows_total{{from_zone=\"{from}\",reason=\"{reason}\",to_zone=\"{to}\",verdict=\"deny\"}} {tries}"
        );
        let metrics = agent.metrics().unwrap();
        assert!(metrics.lines().any(|line| line == metric), "no {metric} in\n{metrics}");
    }
}
