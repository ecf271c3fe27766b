//! Answers to the proxy's questions, by the policy as it is enforced.
//!
//! The kernel has judged a connection that goes out before it turned it in; here it is asked once more, for
//! the names that belong to it, and because the policy may have changed since. For one that comes in, the
//! verified name tells its zones, and not its address.

use std::cell::OnceCell;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use bulkhead_abi::flow::Listener;
use bulkhead_abi::verdict::Tls;
use bulkhead_abi::{Identity, ListenerKey, Protocol, Reason, Verdict, Workload};
use bulkhead_core::endpoint;
use bulkhead_core::tables::Policy;
use bulkhead_credentials::SpiffeId;
use bulkhead_policy::access::{Access, Judged, Zones};
use bulkhead_policy::model::Sides;
use bulkhead_policy::prefix::from_ip;

use crate::config::Mode;
use crate::daemon::snapshot::Snapshot;
use crate::datapath::Reader;
use crate::proxy::wire::{Answer, Edge, Mark, Question, reason};

/// Answers by one state of the policy.
pub(super) struct Judge<'a> {
    snapshot: &'a Snapshot,
    reader: &'a Reader,
    access: Option<Access<'a>>,
    /// Who listens on this node, once somebody has asked for it.
    listeners: OnceCell<Vec<(ListenerKey, Listener)>>,
}

impl<'a> Judge<'a> {
    pub(super) fn new(snapshot: &'a Snapshot, reader: &'a Reader, trust_domain: &'a str) -> Self {
        let access = snapshot.model.as_deref().map(|model| Access::new(model, trust_domain));
        Self { snapshot, reader, access, listeners: OnceCell::new() }
    }

    pub(super) fn answer(&self, question: &Question) -> Answer {
        let Some(access) = &self.access else {
            let text = "the policy folder has had errors since the agent started, so only the kernel knows \
                        the policy: see `bulkhead status`";
            return denied(reason::NO_AGENT, text.to_owned(), None);
        };
        match question {
            Question::Outbound { from, to, destination } => {
                self.outbound(access, Identity(*from), Identity(*to), *destination)
            }
            Question::Inbound { place, peer, from, destination } => {
                self.inbound(access, *place, peer, *from, *destination)
            }
            Question::NameOf { place, address } => {
                Answer::Name { name: access.name_of(&self.zones(self.owner(*place, *address))) }
            }
            Question::Sockets { .. } => denied(reason::DENIED, "sockets are no question".to_owned(), None),
        }
    }

    /// The names that whoever has an address may come to show.
    pub(super) fn names_at(&self, place: u64, address: IpAddr) -> Vec<SpiffeId> {
        let Some(access) = &self.access else { return Vec::new() };
        let zones = self.zones(self.owner(place, address));
        let alone = |zone: &Arc<str>| access.name_of(&Zones::from([Arc::clone(zone)]));
        zones.iter().filter_map(alone).collect()
    }

    fn outbound(&self, access: &Access<'_>, from: Identity, to: Identity, destination: SocketAddr) -> Answer {
        let (source, target) = (self.zones(from), self.zones(to));
        let port = destination.port();
        // What the kernel did not know of the receiver the other node judges.
        let judged = access.judge(&source, &target, port, Sides::Egress);
        let edge = self.edge(&source, &target, &judged);
        let refusal = not_mutual(&judged, judged.passes(), || {
            let hint = access.hint(&source, &target, port, Sides::Egress);
            format!("a workload to {destination} is {hint}")
        });
        if let Some((reason, text)) = refusal {
            return denied(reason, text, Some(edge));
        }
        let Some(own) = access.own_name(&source, &target, port) else {
            let text = format!("the client is in zone {} and has no name to show", edge.from);
            return denied(reason::NO_CERTIFICATE, text, Some(edge));
        };
        let expected = access.names_of(&target);
        Answer::Outbound { own, expected, edge, max_age: seconds(&judged) }
    }

    fn inbound(
        &self,
        access: &Access<'_>,
        place: u64,
        peer: &SpiffeId,
        from: IpAddr,
        destination: SocketAddr,
    ) -> Answer {
        let to = self.receiver(place, destination);
        let (source, target) = (access.zones_of_name(peer), self.zones(to));
        let port = destination.port();
        let judged = access.judge(&source, &target, port, Sides::Ingress);
        let edge = self.edge(&source, &target, &judged);
        // What a name may, an address may still be denied: a deny beats every allow, whoever it names.
        let policy = Policy::live(self.reader);
        let at = self.zones(endpoint::resolve(&policy, &Workload::UNKNOWN, &from_ip(from)));
        let both: Zones = source.union(&at).cloned().collect();
        let strict = access.judge(&both, &target, port, Sides::Ingress);
        let by_address = strict.verdict != Verdict::Allow && strict.reason == Reason::DenyRule;
        let story = || {
            let hint = access.hint(&source, &target, port, Sides::Ingress);
            format!("peer presented {peer} which is {hint}")
        };
        let allowed = judged.verdict == Verdict::Allow;
        let refusal = if !allowed && source.is_empty() {
            Some((reason::UNKNOWN_NAME, story()))
        } else if let Some(refusal) = not_mutual(&judged, allowed, story) {
            Some(refusal)
        } else if by_address {
            let hint = access.hint(&both, &target, port, Sides::Ingress);
            Some((reason::DENIED_BY_RULE, format!("peer {peer} comes from {from}, and is {hint}")))
        } else {
            None
        };
        // The word of the judgement that refuses.
        let verdict = if allowed { strict.verdict } else { judged.verdict };
        let is_dry = verdict == Verdict::Audit || self.snapshot.mode == Mode::Audit;
        let audited = match refusal {
            Some((reason, text)) if !is_dry => return denied(reason, text, Some(edge)),
            refusal => refusal.map(|(reason, text)| (reason.to_owned(), text)),
        };
        let image = self.snapshot.image.as_deref();
        let zones: Vec<_> = source.iter().cloned().collect();
        let from = image.and_then(|image| image.identity_of_zones(&zones)).unwrap_or(Identity::WORLD);
        let mark = Mark { from: from.0, to: to.0, rule: 0 };
        Answer::Inbound { edge, mark, max_age: seconds(&judged), audited }
    }

    fn edge(&self, from: &Zones, to: &Zones, judged: &Judged) -> Edge {
        let label = |zones: &Zones| {
            let names: Vec<&str> = zones.iter().map(|zone| &**zone).collect();
            if names.is_empty() { "world".to_owned() } else { names.join("+") }
        };
        let rule = judged.rule.as_ref().map(ToString::to_string).unwrap_or_default();
        Edge { from: label(from), to: label(to), rule }
    }

    fn zones(&self, identity: Identity) -> Zones {
        let image = self.snapshot.image.as_deref();
        let zones = image.and_then(|image| image.zones.get(&identity));
        zones.map(|zones| zones.iter().cloned().collect()).unwrap_or_default()
    }

    /// Who receives at an address and port in a namespace: by address, and by the cgroup that listens there.
    fn receiver(&self, place: u64, destination: SocketAddr) -> Identity {
        let policy = Policy::live(self.reader);
        let addr = from_ip(destination.ip());
        let workload = endpoint::receiver(&policy, place, &addr, destination.port(), Protocol::TCP);
        endpoint::resolve(&policy, &workload, &addr)
    }

    /// Whoever has an address: by the address, and where that is in no zone by whoever listens there.
    fn owner(&self, place: u64, address: IpAddr) -> Identity {
        let policy = Policy::live(self.reader);
        let addr = from_ip(address);
        let by_address = endpoint::resolve(&policy, &Workload::UNKNOWN, &addr);
        let listeners = || self.reader.maps().listeners.entries().unwrap_or_default();
        let here = self.listeners.get_or_init(listeners).iter().filter(|(key, _)| key.netns == place);
        let mut identities = here.map(|(_, listener)| endpoint::resolve(&policy, &listener.workload, &addr));
        identities.find(|identity| identity.is_zoned() && *identity != by_address).unwrap_or(by_address)
    }
}

/// Why a connection may not be, or may be without a proxy only: the word and the story.
fn not_mutual(
    judged: &Judged,
    passes: bool,
    story: impl FnOnce() -> String,
) -> Option<(&'static str, String)> {
    if !passes {
        let denied_by_rule = judged.reason == Reason::DenyRule;
        return Some((if denied_by_rule { reason::DENIED_BY_RULE } else { reason::DENIED }, story()));
    }
    (judged.level() != Tls::Mutual)
        .then(|| (reason::NOT_MUTUAL, format!("{}: no rule of it asks for tls = \"mutual\"", story())))
}

fn seconds(judged: &Judged) -> Option<u64> {
    judged.max_age.map(|age| age.duration().as_secs())
}

fn denied(reason: &str, text: String, edge: Option<Edge>) -> Answer {
    Answer::Denied { reason: reason.to_owned(), text, edge }
}
