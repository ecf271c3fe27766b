//! The node as the proxy sees it: the kernel's map of turned connections, and the agent behind its channel.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bulkhead_abi::TurnedValue;
use bulkhead_credentials::SpiffeId;
use bulkhead_policy::prefix::to_ip;
use bulkhead_proxy::{Denied, Edge, Inbound, Node, Outbound, Place};
use bulkhead_sys::turned::Turned;
use tokio::sync::watch;

use super::link::Link;
use super::resident::Resident;
use super::spare::{Spare, Use};
use crate::proxy::wire::{self, Answer, Mark, Question, reason};

/// See the module's comment.
#[derive(Debug)]
pub(super) struct ChildNode {
    link: Link,
    memory: Resident,
    turned: Mutex<Option<Arc<Turned>>>,
    spare: Spare,
}

impl ChildNode {
    pub(super) fn new(link: Link, memory: Resident) -> Self {
        Self { spare: Spare::new(link.clone()), link, memory, turned: Mutex::default() }
    }

    /// The map of turned connections.
    pub(super) fn set_turned(&self, map: OwnedFd) {
        match Turned::new(map) {
            Ok(map) => *self.turned.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(map)),
            Err(error) => tracing::error!(%error, "the agent's map of turned connections is none"),
        }
    }

    /// Sockets in namespaces that nobody lives in any more.
    pub(super) fn forget(&self, place: u64) {
        self.spare.forget(place);
    }

    /// The agent says that things have changed.
    pub(super) fn changed(&self) {
        self.link.changed();
        self.spare.clear();
    }

    /// What the kernel noted when it turned the connection of `client`.
    fn turned(&self, place: Place, client: SocketAddr) -> Result<TurnedValue, Denied> {
        let map = self.turned.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let found = map.and_then(|map| map.lookup(place.0, client).ok().flatten());
        found.ok_or_else(|| Denied {
            reason: reason::NOT_TURNED,
            text: format!(
                "{client} came to the proxy's port by itself: only connections that a rule with \
                 tls = \"mutual\" turns here are served"
            ),
            edge: None,
        })
    }
}

impl Node for ChildNode {
    async fn outbound(&self, place: Place, client: SocketAddr, since: Instant) -> Result<Outbound, Denied> {
        let turned = self.turned(place, client)?;
        let destination = SocketAddr::new(to_ip(turned.original), turned.port);
        let question = Question::Outbound { from: turned.from.0, to: turned.to.0, destination };
        match self.link.ask(question, since).await {
            Answer::Outbound { own, expected, edge, max_age } => Ok(Outbound {
                destination,
                own,
                expected,
                edge: edge.into(),
                max_age: max_age.map(Duration::from_secs),
                mark: mark(Mark { from: turned.from.0, to: turned.to.0, rule: turned.rule }),
            }),
            other => Err(refusal(other)),
        }
    }

    async fn inbound(
        &self,
        place: Place,
        peer: &SpiffeId,
        from: IpAddr,
        destination: SocketAddr,
        since: Instant,
    ) -> Result<Inbound, Denied> {
        let question = Question::Inbound { place: place.0, peer: peer.clone(), from, destination };
        match self.link.ask(question, since).await {
            Answer::Inbound { edge, mark: its, max_age, audited } => Ok(Inbound {
                edge: edge.into(),
                max_age: max_age.map(Duration::from_secs),
                mark: mark(its),
                audited: audited.map(|(reason, text)| Denied { reason: word(&reason), text, edge: None }),
            }),
            other => Err(refusal(other)),
        }
    }

    async fn name_of(
        &self,
        place: Place,
        address: IpAddr,
        since: Instant,
    ) -> Result<Option<SpiffeId>, Denied> {
        match self.link.ask(Question::NameOf { place: place.0, address }, since).await {
            Answer::Name { name } => Ok(name),
            other => Err(refusal(other)),
        }
    }

    async fn tunnel_socket(
        &self,
        place: Place,
        from: IpAddr,
        mark: bulkhead_proxy::Mark,
        since: Instant,
    ) -> io::Result<OwnedFd> {
        let of = Use { place: place.0, bound: Some(from), ipv6: from.is_ipv6(), mark: its(mark) };
        self.spare.take(of, since).await
    }

    async fn last_hop_socket(
        &self,
        place: Place,
        from: IpAddr,
        mark: bulkhead_proxy::Mark,
        since: Instant,
    ) -> io::Result<OwnedFd> {
        let of = Use { place: place.0, bound: None, ipv6: from.is_ipv6(), mark: its(mark) };
        self.spare.take(of, since).await
    }

    fn resident(&self) -> u64 {
        self.memory.bytes()
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.link.changes()
    }
}

impl From<wire::Edge> for Edge {
    fn from(edge: wire::Edge) -> Self {
        Self { from: edge.from, to: edge.to, rule: edge.rule }
    }
}

impl From<&Edge> for wire::Edge {
    fn from(edge: &Edge) -> Self {
        Self { from: edge.from.clone(), to: edge.to.clone(), rule: edge.rule.clone() }
    }
}

fn mark(mark: Mark) -> bulkhead_proxy::Mark {
    bulkhead_proxy::Mark([mark.from, mark.to, mark.rule])
}

fn its(bulkhead_proxy::Mark([from, to, rule]): bulkhead_proxy::Mark) -> Mark {
    Mark { from, to, rule }
}

fn refusal(answer: Answer) -> Denied {
    let Answer::Denied { reason, text, edge } = answer else {
        return Denied {
            reason: reason::NO_AGENT,
            text: "the agent's answer is of another kind than the question; report this".to_owned(),
            edge: None,
        };
    };
    Denied { reason: word(&reason), text, edge: edge.map(Into::into) }
}

/// Every word that the agent may say, as the constant that it is.
fn word(reason: &str) -> &'static str {
    reason::ALL.iter().find(|known| **known == reason).copied().unwrap_or(reason::DENIED)
}
