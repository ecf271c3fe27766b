//! Namespaces wired together: two hosts, many on one wire, or many behind a router.

use std::fmt::Write;
use std::net::IpAddr;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::ns::{Ns, batch};
use super::wait::wait_until;

/// A host: its name, and its addresses with prefix lengths.
pub type Host<'a> = (&'a str, &'a [&'a str]);

/// Some hosts and what joins them; everything is removed on drop.
///
/// Each host is a namespace with one interface, `eth0`.
#[derive(Debug)]
pub struct Topology {
    hosts: Vec<(String, Ns)>,
}

impl Topology {
    /// Two hosts, `a` (10.77.0.1, fd00:77::1) and `b` (10.77.0.2, fd00:77::2), on one wire.
    pub fn pair() -> Result<Topology> {
        let topology = Topology { hosts: vec![("a".into(), Ns::new("a")?), ("b".into(), Ns::new("b")?)] };
        let (a, b) = (topology.ns("a")?, topology.ns("b")?);
        let wire = format!("link add eth0 netns {} type veth peer name eth0 netns {}", a.name(), b.name());
        batch(&mut Command::new("ip"), &wire)?;
        a.ip(&interface(&["10.77.0.1/24", "fd00:77::1/64"])?)?;
        b.ip(&interface(&["10.77.0.2/24", "fd00:77::2/64"])?)?;
        topology.carries()
    }

    /// Hosts on one switch: everybody reaches everybody directly, whatever the prefixes are.
    ///
    /// The switch is the namespace `switch`.
    pub fn flat(hosts: &[Host<'_>]) -> Result<Topology> {
        let topology = Topology::new("switch", hosts)?;
        let switch = topology.ns("switch")?;
        let mut commands = String::from(
            "link add br0 type bridge stp_state 0 forward_delay 0 mcast_snooping 0\nlink set br0 up\n",
        );
        for (port, (name, addresses)) in hosts.iter().enumerate() {
            writeln!(commands, "link set port{port} master br0 up")?;
            topology.ns(name)?.ip(&format!(
                "{}route add default dev eth0\nroute add ::/0 dev eth0",
                interface(addresses)?
            ))?;
        }
        switch.ip(&commands)?;
        topology.carries()
    }

    /// Hosts that reach each other only through a router, as pods do through their node.
    ///
    /// The router is the namespace `router`, with one interface `port0`, `port1`, … for each host in
    /// the order given. Prefix lengths are not used: every host is alone on its wire.
    pub fn routed(hosts: &[Host<'_>]) -> Result<Topology> {
        let topology = Topology::new("router", hosts)?;
        let router = topology.ns("router")?;
        for setting in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
            router.sysctl(setting, "1")?;
        }
        let mut commands = String::new();
        for (port, (name, addresses)) in hosts.iter().enumerate() {
            writeln!(commands, "link set port{port} up")?;
            writeln!(commands, "addr add {GATEWAY_V4}/32 dev port{port}")?;
            writeln!(commands, "addr add {GATEWAY_V6}/128 dev port{port} nodad")?;
            for address in *addresses {
                writeln!(commands, "route add {} dev port{port}", parse(address)?)?;
            }
            let alone = alone(addresses)?;
            topology.ns(name)?.ip(&format!(
                "{}route add {GATEWAY_V4} dev eth0\nroute add default via {GATEWAY_V4} dev eth0\n\
                 route add {GATEWAY_V6} dev eth0\nroute add ::/0 via {GATEWAY_V6} dev eth0",
                interface(&alone.iter().map(String::as_str).collect::<Vec<_>>())?
            ))?;
        }
        router.ip(&commands)?;
        topology.carries()
    }

    /// The namespace of a host.
    pub fn ns(&self, name: &str) -> Result<&Ns> {
        let found = self.hosts.iter().find(|(host, _)| host == name);
        found.map(|(_, ns)| ns).with_context(|| format!("the topology has no host named {name}"))
    }

    /// Namespaces for a centre and the hosts around it, with wires, still without addresses.
    fn new(centre: &str, hosts: &[Host<'_>]) -> Result<Topology> {
        let mut namespaces = vec![(centre.to_owned(), Ns::new(centre)?)];
        for (name, _) in hosts {
            if namespaces.iter().any(|(other, _)| other == name) {
                bail!("two hosts are named {name}");
            }
            namespaces.push(((*name).to_owned(), Ns::new(name)?));
        }
        let topology = Topology { hosts: namespaces };
        let mut wires = String::new();
        for (port, (name, _)) in hosts.iter().enumerate() {
            let (host, middle) = (topology.ns(name)?.name(), topology.ns(centre)?.name());
            writeln!(wires, "link add eth0 netns {host} type veth peer name port{port} netns {middle}")?;
        }
        batch(&mut Command::new("ip"), &wires)?;
        Ok(topology)
    }

    /// Waits until every wire carries packets. The kernel sets an interface going in its own time after
    /// `up`, and on a busy machine loses what is sent before.
    fn carries(self) -> Result<Topology> {
        for (host, ns) in &self.hosts {
            let mut seen = Ok(false);
            let carries = || {
                seen = links(ns).map(|links| links.iter().all(is_going));
                seen.as_ref().map_or(true, |all| *all)
            };
            wait_until(LIMIT, &format!("the wires of {host} carry packets"), carries)?;
            seen?;
        }
        Ok(self)
    }
}

/// Limit for a wire to carry packets, however busy the machine is.
const LIMIT: Duration = Duration::from_secs(30);

/// The interfaces of a namespace, as `ip` tells of them.
fn links(ns: &Ns) -> Result<Vec<Value>> {
    let output = Command::new("ip").args(["-n", ns.name(), "-j", "-d", "link"]).output()?;
    if !output.status.success() {
        bail!("ip link: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// Whether an end of a wire carries packets, through its bridge where it is a port of one.
fn is_going(link: &Value) -> bool {
    if link.pointer("/linkinfo/info_kind").is_none_or(|kind| kind != "veth") {
        return true;
    }
    let port = link.pointer("/linkinfo/info_slave_data/state");
    link["operstate"] == "UP" && port.is_none_or(|state| state == "forwarding")
}

/// The router's address on every wire.
const GATEWAY_V4: &str = "169.254.1.1";
const GATEWAY_V6: &str = "fd00:ffff::1";

fn interface(addresses: &[&str]) -> Result<String> {
    let mut commands = String::from("link set eth0 up\n");
    for address in addresses {
        let nodad = if parse(address)?.is_ipv6() { " nodad" } else { "" };
        writeln!(commands, "addr add {address} dev eth0{nodad}")?;
    }
    Ok(commands)
}

fn alone(addresses: &[&str]) -> Result<Vec<String>> {
    let full = |text: &&str| {
        parse(text).map(|address| format!("{address}/{}", if address.is_ipv6() { 128 } else { 32 }))
    };
    addresses.iter().map(full).collect()
}

fn parse(address: &str) -> Result<IpAddr> {
    let (address, _) = address.split_once('/').context("an address needs a prefix length, as 10.0.0.1/24")?;
    Ok(address.parse()?)
}
