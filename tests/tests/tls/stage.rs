//! Where the programs are: clients in the zone `web`, servers in `db`, an agent over both.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::Result;
use bulkhead_abi::{App, Class, Tls, Verdict};
use bulkhead_policy::model::tls_name;
use bulkhead_tests::harness::threat::{DB, Lab, WEB_AND_DB};
use bulkhead_tests::harness::{Agent, Counters, Program, Said, wait_until};

use crate::speakers::{Kit, PATIENCE, Speaker, every_word};
use crate::takes::{Opener, Take};

/// First of the ports where plain `require` holds. All are below those that the kernel gives to the servers'
/// own connections (ip-sysctl, ip_local_port_range: from 32768 on).
pub(crate) const PLAIN: u16 = 12_000;
/// First of those where everything that is encrypted somehow is accepted.
pub(crate) const LISTED: u16 = 22_000;

/// Machines with the servers on them.
pub(crate) struct Stage {
    // Before the machines: they are ended first.
    _servers: Vec<Program>,
    pub(crate) lab: Lab,
    pub(crate) kit: Kit,
}

impl Stage {
    /// Starts every server that one of `wanted` asks, and waits until they answer.
    pub(crate) fn new(kit: Kit, wanted: &[&Speaker]) -> Result<Stage> {
        let lab = Lab::new()?;
        let db = lab.root.path().join("db");
        let mut servers = Vec::new();
        let asked = |ports: &[u16]| {
            wanted.iter().any(|speaker| ports.contains(&speaker.port) || (speaker.udp && ports.is_empty()))
        };
        for server in kit.servers().into_iter().filter(|server| asked(server.ports)) {
            servers.push((server.launch.start(lab.ns("db")?, &db)?, server.ports));
        }
        for (server, ports) in &mut servers {
            for port in *ports {
                let at: SocketAddr = (DB.parse::<std::net::IpAddr>()?, *port).into();
                let answers = || {
                    lab.ns("db").is_ok_and(|ns| ns.enter(|| TcpStream::connect(at).is_ok()).unwrap_or(false))
                };
                server.wait_until(PATIENCE, answers)?;
            }
        }
        Ok(Stage { _servers: servers.into_iter().map(|(server, _)| server).collect(), lab, kit })
    }

    /// An agent on this node that lets `web` open everything to `db`, with this level.
    pub(crate) fn agent(&self, tls: &str) -> Result<Agent> {
        Agent::prepare(&self.lab.root, &policy(tls)).in_ns(self.lab.node()?).start()
    }

    /// A conversation, from `web` to `db`.
    pub(crate) fn converse(&self, speaker: &Speaker) -> Result<Said> {
        let to = (DB.parse::<std::net::IpAddr>()?, speaker.port).into();
        let web = self.lab.root.path().join("web");
        speaker.client(&self.kit, to).run(self.lab.ns("web")?, &web, PATIENCE)
    }
}

/// A zone file that lets `web` open everything to `db`, with this level.
pub(crate) fn policy(tls: &str) -> String {
    format!("{WEB_AND_DB}[[allow]]\nfrom = \"web\"\nto = \"db\"\nports = [\"tcp\", \"udp\"]\ntls = {tls}\n")
}

/// A zone file that lets `web` and the world open to `db`, by TCP, from [`PLAIN`] and from [`LISTED`] on.
pub(crate) fn ranges() -> String {
    let listed = format!("{{ require = {} }}", every_word(false));
    let rules = [(PLAIN, r#""require""#), (LISTED, &listed)].map(|(first, tls)| {
        let last = first + 9_999;
        format!(
            "[[allow]]\nfrom = [\"web\", \"world\"]\nto = \"db\"\nports = [\"tcp/{first}-{last}\"]\ntls = {tls}\n"
        )
    });
    format!("{WEB_AND_DB}{}", rules.concat())
}

/// How many flows there were of each class, application, level and verdict.
pub(crate) type Classes = BTreeMap<(&'static str, &'static str, &'static str, &'static str), u64>;

/// What the kernel has counted so far of the flows' classes.
pub(crate) fn classes(agent: &Agent) -> Classes {
    let mut classes = Classes::new();
    for (key, flows) in agent.reader().unwrap().classes().unwrap() {
        let (class, app) = (Class::from_code(key.class).as_str(), App::from_code(key.app).as_str());
        let (level, verdict) =
            (tls_name(Tls::from_code(key.level)), Verdict::from_code(key.verdict).as_str());
        *classes.entry((class, app, level, verdict)).or_default() += flows;
    }
    classes
}

/// What is more of `now` than of `before`.
pub(crate) fn since(now: &Classes, before: &Classes) -> Classes {
    let more = |(key, flows): (&_, &u64)| {
        let more = flows - before.get(key).unwrap_or(&0);
        (more > 0).then_some((*key, more))
    };
    now.iter().filter_map(more).collect()
}

/// Waits until each of these conversations has been counted as denied once since `before`, for one of these
/// reasons, and nothing for another one.
pub(crate) fn denied(agent: &Agent, before: &Counters, takes: &[Take<'_>], reasons: &[&str]) {
    let mut wanted: BTreeMap<&str, u64> = BTreeMap::new();
    for take in takes {
        *wanted.entry(if take.opener == Opener::Web { "web" } else { "world" }).or_default() += 1;
    }
    let mut moved = BTreeMap::new();
    let counted = wait_until(Duration::from_secs(20), "every denial is counted", || {
        moved = agent.counters().unwrap().since(before).flows();
        moved.retain(|pair, _| pair.verdict != "allow");
        let mut found: BTreeMap<&str, u64> = BTreeMap::new();
        for (pair, flows) in &moved {
            *found.entry(&pair.from).or_default() += flows;
        }
        found == wanted
    });
    let known = moved.keys().all(|pair| pair.verdict == "deny" && reasons.contains(&&*pair.reason));
    assert!(counted.is_ok() && known, "counted {moved:?}, not {wanted:?} for {reasons:?}");
}
