//! One try on real sockets, and what decided it.
//!
//! "Denied" is not taken from an error alone: the server must not have seen anything either. What
//! decided is asked of the agents: a live flow names its rule, and so does the event of a denial. Only
//! for connected UDP, whose flow the kernel shows to nobody, `explain` is asked, and must agree with the
//! kernel's tables.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Result;
use bulkhead::control::protocol::{FlowFilter, Question};
use bulkhead::control::{Reply, Request};
use bulkhead_tests::harness::{Agent, Called, Dial, Errno, Exchanged, Kind, Peer, Socket, wait_until};
use serde_json::Value;

use crate::lines::{Line, Port};
use crate::network::{self, Network};

/// What came of a try.
pub(crate) struct Outcome {
    /// An answer came back.
    pub(crate) answered: bool,
    /// Nothing of it arrived.
    pub(crate) nothing_arrived: bool,
    /// In words.
    pub(crate) how: String,
    /// The connection's own end, and the connection itself while it is open.
    local: Option<SocketAddr>,
    socket: Option<Socket>,
}

/// What decided.
#[derive(Default)]
pub(crate) struct Decision {
    pub(crate) reason: String,
    pub(crate) rule: Option<String>,
    pub(crate) place: Option<String>,
}

/// For what must work, on a machine that may be busy.
const PATIENCE: Duration = Duration::from_secs(3);
/// For what must not.
const IMPATIENCE: Duration = Duration::from_millis(600);

/// Tries a line. A connection that was answered stays open until [`close`].
pub(crate) fn attempt(network: &Network, line: &Line, passes: bool) -> Result<Outcome> {
    let peer = network.peer(line.from)?;
    let to = network::address(line.to, line.v6)?;
    let limit = if passes { PATIENCE } else { IMPATIENCE };
    let (kind, port) = match line.port {
        Port::Tcp(port) => (Kind::Tcp, port),
        Port::Udp(port) => (Kind::Udp, port),
        Port::Echo => {
            return Ok(Outcome::new(peer.ping(to, limit), true, None));
        }
    };
    let seen = || -> Result<u64> {
        let Some(server) = network.server(line.to, line.v6, kind, port) else { return Ok(0) };
        let served = network.peer(line.to)?.served(server)?;
        // Live connections to the same server go on talking: they are no sign of a new one.
        Ok(if kind == Kind::Tcp { served.accepted } else { served.messages })
    };
    let before = seen()?;
    let connected = peer.connect(&Dial::new(kind, SocketAddr::new(to, port)).within(limit));
    let (result, socket) = match connected {
        Ok(socket) => (peer.exchange(&socket, 1, limit), Some(socket)),
        Err(error) => (Err(error), None),
    };
    Ok(Outcome::new(result, seen()? == before, socket))
}

/// Closes a connection that was kept open.
pub(crate) fn close(peer: &Peer, outcome: &Outcome) -> Result<()> {
    outcome.socket.as_ref().map_or(Ok(()), |socket| Ok(peer.close(socket)?))
}

impl Outcome {
    fn new(result: Called<Exchanged>, nothing_arrived: bool, socket: Option<Socket>) -> Outcome {
        let how = match &result {
            Ok(done) => format!("answered, {:.1} ms", millis(Duration::from_micros(done.elapsed_us))),
            Err(error) if error.is_timeout() => "no answer".to_owned(),
            Err(error) => {
                let name = match error.errno() {
                    Some(Errno::PERM) => "EPERM".to_owned(),
                    Some(Errno::CONNABORTED) => "ECONNABORTED".to_owned(),
                    Some(Errno::CONNREFUSED) => "ECONNREFUSED".to_owned(),
                    Some(errno) => errno.to_string(),
                    None => error.to_string(),
                };
                match error.elapsed() {
                    Some(elapsed) => format!("{name}, {:.1} ms", millis(elapsed)),
                    None => name,
                }
            }
        };
        let local = socket.map(|socket| socket.local);
        Outcome { answered: result.is_ok(), nothing_arrived, how, local, socket }
    }

    /// Whether it passed (or not) as it should.
    pub(crate) fn is(&self, passes: bool) -> bool {
        if passes { self.answered } else { !self.answered && self.nothing_arrived }
    }
}

/// Asks the agents what decided. `marks` is where their logs ended before the try.
pub(crate) fn decision(
    agents: &[Agent],
    marks: &[usize],
    line: &Line,
    outcome: &Outcome,
) -> Result<Decision> {
    let mut found = None;
    let _ = wait_until(PATIENCE, "the agents know", || {
        found = if outcome.answered {
            flow(agents, line, outcome).or_else(|| explained(agents, line))
        } else {
            event(agents, marks, line)
        };
        found.is_some()
    });
    Ok(found.unwrap_or_else(|| Decision { reason: "unknown".to_owned(), ..Decision::default() }))
}

/// Where the logs end now.
pub(crate) fn marks(agents: &[Agent]) -> Vec<usize> {
    agents.iter().map(|agent| agent.log_lines().len()).collect()
}

/// The live flow of an open connection. Who decides is the receiver's node, if it has an agent that
/// judged, else the opener's.
fn flow(agents: &[Agent], line: &Line, outcome: &Outcome) -> Option<Decision> {
    let (from, to) = (network::address(line.from, line.v6).ok()?, network::address(line.to, line.v6).ok()?);
    let flows = agents.iter().flat_map(|agent| agent.flows(FlowFilter::default()).unwrap_or_default());
    let ours = flows.filter(|flow| {
        let port = outcome.local.is_none_or(|local| local.port() == flow.src_port);
        // A ping has no ports of its own, and its flow outlives it by a moment.
        let kind = outcome.local.is_some() || flow.protocol.starts_with("icmp");
        port && kind && flow.src == from.to_string() && flow.dst == to.to_string()
    });
    // A side that is open has nothing to say where the other side has a rule.
    ours.map(|flow| Decision {
        reason: flow.reason,
        place: flow.rule.as_ref().map(|rule| format!("{}:{}", rule.file, rule.line)),
        rule: flow.rule.map(|rule| rule.name),
    })
    .filter(|decision| decision.reason != "open")
    .max_by_key(|decision| decision.rule.is_some())
}

/// What the opener's agent says about the opener's side, where the kernel's tables say the same.
fn explained(agents: &[Agent], line: &Line) -> Option<Decision> {
    let machine = network::machine(line.from).ok()?;
    let [from, to] = [line.from, line.to].map(|name| network::address(name, line.v6));
    let question = Question {
        from: format!("{}@{}", from.ok()?, machine.cgroup),
        to: to.ok()?.to_string(),
        port: line.port.text(),
    };
    let replies = agents.get(machine.node)?.ask(&Request::Explain(question)).ok()?;
    let explanation = replies.into_iter().find_map(|reply| match reply {
        Reply::Explanation(explanation) => Some(explanation),
        _ => None,
    })?;
    let side = explanation.kernel.filter(|kernel| kernel.agrees)?.answer?.egress;
    Some(Decision {
        reason: side.reason,
        place: side.rule.as_ref().map(|rule| format!("{}:{}", rule.file, rule.line)),
        rule: side.rule.map(|rule| rule.name),
    })
}

/// The event about a try.
fn event(agents: &[Agent], marks: &[usize], line: &Line) -> Option<Decision> {
    let to = network::address(line.to, line.v6).ok()?.to_string();
    let lines = agents.iter().zip(marks).flat_map(|(agent, &mark)| agent.log_lines().split_off(mark));
    let text = |value: &Value, field: &str| {
        value.pointer(&format!("/{field}")).and_then(Value::as_str).map(str::to_owned)
    };
    let ours = |entry: &Value| {
        text(entry, "message").is_some_and(|message| message.starts_with("flow "))
            && text(entry, "dst").is_some_and(|dst| dst.contains(&to))
    };
    lines.into_iter().find(|entry| ours(entry)).map(|entry| Decision {
        reason: text(&entry, "reason").unwrap_or_default(),
        rule: text(&entry, "rule"),
        place: text(&entry, "at"),
    })
}

/// Milliseconds, for people.
pub(crate) fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
