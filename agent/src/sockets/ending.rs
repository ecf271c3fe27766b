//! Ending sockets whose flow is denied, so that their programs see an error and not silence.
//!
//! The kernel lists those that it met (a packet was dropped). After a policy change the idle ones are
//! found by looking at every socket ([`looking`](super::looking)). Always by cookie: a tuple may have been
//! given to somebody else since.

use std::collections::{BTreeMap, HashMap, HashSet};

use bulkhead_abi::{Addr, CounterKey, Protocol, Reason, Verdict, flow::Doomed};
use bulkhead_policy::Image;
use bulkhead_sys::sock_diag::{Destroyed, Diag, Target};

use super::looking::{Denied, look};
use super::namespaces::Namespaces;
use crate::datapath::{DatapathError, Reader};

/// Ends sockets, and counts them.
#[derive(Debug, Default)]
pub(super) struct Ending {
    ended: BTreeMap<Reason, u64>,
}

impl Ending {
    /// How many were ended so far, by reason.
    pub(super) fn counts(&self) -> Vec<(Reason, u64)> {
        self.ended.iter().map(|(&reason, &count)| (reason, count)).collect()
    }

    /// Ends those that the kernel has listed.
    pub(super) fn end_doomed(&mut self, reader: &Reader, namespaces: &mut Namespaces) {
        let sockets = reader.sockets();
        let doomed = &sockets.maps().doomed;
        let listed = match doomed.entries() {
            Ok(listed) => listed,
            Err(error) => {
                tracing::warn!(%error, "cannot read which sockets are to be ended");
                return;
            }
        };
        if listed.is_empty() {
            return;
        }
        self.end_listed(namespaces, &listed);
        let cookies: Vec<u64> = listed.iter().map(|(cookie, _)| *cookie).collect();
        if let Err(error) = doomed.remove_all(&cookies) {
            tracing::warn!(%error, "cannot clear the list of sockets to be ended");
        }
    }

    /// Ends these.
    pub(super) fn end_listed(&mut self, namespaces: &mut Namespaces, listed: &[(u64, Doomed)]) {
        let mut by_namespace: HashMap<u64, Vec<(Target, Reason)>> = HashMap::new();
        for (cookie, entry) in listed {
            let reason = Reason::from_code(entry.reason);
            by_namespace.entry(entry.netns).or_default().push((target(*cookie, entry), reason));
        }
        for (netns, targets) in by_namespace {
            // A namespace without a process of ours has no socket that could wait for an answer.
            if let Some(ns) = namespaces.open(netns) {
                match Diag::open(&ns) {
                    // Counted by what had them listed.
                    Ok(mut diag) => drop(self.end(&mut diag, &targets)),
                    Err(error) => tracing::warn!(%error, "cannot end sockets in a network namespace"),
                }
            }
        }
    }

    /// Ends every socket whose flow the live policy, `image`, denies.
    pub(super) fn end_denied(&mut self, reader: &Reader, namespaces: &mut Namespaces, image: &Image) {
        if let Err(error) = self.try_end_denied(reader, namespaces, Some(image), &HashSet::new()) {
            tracing::warn!(%error, "cannot look for idle connections that lost their right; their next packet is denied");
        }
    }

    /// Ends every socket whose other end was at one of these addresses, if the live policy would not let
    /// it open towards whoever is there now.
    pub(super) fn end_left(
        &mut self,
        reader: &Reader,
        namespaces: &mut Namespaces,
        left: &HashSet<Addr>,
    ) -> Result<(), DatapathError> {
        self.try_end_denied(reader, namespaces, None, left)
    }

    fn try_end_denied(
        &mut self,
        reader: &Reader,
        namespaces: &mut Namespaces,
        image: Option<&Image>,
        left: &HashSet<Addr>,
    ) -> Result<(), DatapathError> {
        let mut denied = look(reader, namespaces, left)?;
        // A flow moves from the table to its socket while both are read, one after the other, and is then
        // seen in neither. It is in one of them at the second look, or it is in none.
        if denied.iter().any(|denied| !denied.known) {
            let first: HashSet<u64> = denied.iter().map(|denied| denied.target.cookie).collect();
            denied = look(reader, namespaces, left)?;
            denied.retain(|denied| denied.known || first.contains(&denied.target.cookie));
        }
        if let Some(image) = image {
            tell(&denied, image);
        }
        let mut by_namespace: HashMap<u64, Vec<(Target, Reason)>> = HashMap::new();
        for Denied { netns, target, decision, .. } in &denied {
            by_namespace.entry(*netns).or_default().push((*target, decision.reason));
        }
        let mut ended = HashSet::new();
        let mut done = Ok(());
        for (netns, targets) in by_namespace {
            if let Some(ns) = namespaces.open(netns) {
                match Diag::open(&ns) {
                    Ok(mut diag) => ended.extend(self.end(&mut diag, &targets)),
                    Err(error) => done = Err(error.into()),
                }
            }
        }
        // When both ends of each are gone: until then either may have a packet denied, which counts.
        denied.retain(|denied| ended.contains(&denied.target.cookie));
        count(reader, &denied);
        done
    }

    /// Ends these; the cookies of those that lived until now.
    fn end(&mut self, diag: &mut Diag, targets: &[(Target, Reason)]) -> Vec<u64> {
        let wanted: Vec<Target> = targets.iter().map(|(target, _)| *target).collect();
        let mut ended = Vec::new();
        for (result, (target, reason)) in diag.destroy_all(&wanted).into_iter().zip(targets) {
            match result {
                Ok(Destroyed::Now) => {
                    *self.ended.entry(*reason).or_default() += 1;
                    ended.push(target.cookie);
                    tracing::debug!(cookie = target.cookie, reason = reason.as_str(), "ended a socket");
                }
                Ok(_) => {}
                Err(error) => tracing::warn!(%error, "cannot end a socket whose flow is denied"),
            }
        }
        ended
    }
}

/// Counts those of which no packet was denied, each flow once: of two sockets that were its ends, the first.
/// A reset that its end sent out has been counted already, like any other packet of a denied flow.
fn count(reader: &Reader, ended: &[Denied]) {
    let sockets = reader.sockets();
    for Denied { key, decision, .. } in ended {
        let counter = CounterKey {
            from: decision.from,
            to: decision.to,
            verdict: Verdict::Deny as u8,
            reason: decision.reason as u8,
            _reserved: [0; 2],
        };
        if let Err(error) = sockets.count_ended(key, &counter) {
            tracing::warn!(%error, "a flow that was ended could not be counted");
        }
    }
}
/// Says whose flows end, and by which rule; of very many, only the first.
fn tell(denied: &[Denied], image: &Image) {
    const LINES: usize = 32;
    for Denied { target, decision, .. } in denied.iter().take(LINES) {
        tracing::info!(
            from = image.label(decision.from),
            to = image.label(decision.to),
            protocol = target.protocol.0,
            reason = decision.reason.as_str(),
            rule = image.rules.get(&decision.rule).map(|rule| rule.label()),
            "a live flow lost its right"
        );
    }
    if let Some(more @ 1..) = denied.len().checked_sub(LINES) {
        tracing::info!(more, "more live flows lost their right");
    }
}

fn target(cookie: u64, doomed: &Doomed) -> Target {
    Target {
        protocol: Protocol(doomed.protocol),
        cookie,
        local: doomed.local,
        remote: doomed.remote,
        local_port: doomed.local_port,
        remote_port: doomed.remote_port,
        interface: 0,
    }
}
