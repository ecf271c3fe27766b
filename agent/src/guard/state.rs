//! What hangs where, and what is behind it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bulkhead_abi::tables;
use bulkhead_sys::netns::{Interface, Peer};

use super::{Counts, News};
use crate::config::GuardConfig;
use crate::control::protocol::{GuardView, GuardedView};
use crate::datapath::DatapathError;
use crate::datapath::guard::{Guard as Kernel, Hung};
use crate::datapath::keep::{How, Object};
use crate::tamper::{Action, Record};

/// How often the guard takes its place back before it leaves it to others.
const FIGHTS: u32 = 3;
const ENODEV: i32 = 19;

/// The guard and its interfaces.
#[derive(Debug)]
pub(super) struct State {
    config: GuardConfig,
    kernel: Option<Kernel>,
    /// Why there is no guard.
    failure: Option<String>,
    held: BTreeMap<u32, Held>,
    namespaces: BTreeMap<i32, u64>,
    failures: u64,
    record: Option<Arc<Record>>,
    /// See [`News`].
    pub(super) news: News,
}

/// A guarded interface.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Held {
    name: String,
    ethernet: bool,
    peer: Option<Peer>,
    /// Why it is not guarded, though it should be.
    problem: Option<String>,
    /// Who stands between the guard and the wire.
    between: Vec<String>,
    /// How often the guard took its place back.
    fights: u32,
}

impl State {
    pub(super) fn new(config: GuardConfig) -> Self {
        Self {
            config,
            kernel: None,
            failure: None,
            held: BTreeMap::new(),
            namespaces: BTreeMap::new(),
            failures: 0,
            record: None,
            news: News::default(),
        }
    }

    /// Guards what is there, and lets go what an earlier agent guarded and this one does not.
    pub(super) fn begin(
        &mut self,
        mut kernel: Kernel,
        there: &[Interface],
        record: Arc<Record>,
    ) -> Result<(), DatapathError> {
        self.record = Some(record);
        let earlier = kernel.held()?;
        let attachment = kernel.attachment().as_str();
        self.kernel = Some(kernel);
        self.meet_all(there);
        let gone: Vec<u32> = earlier.into_iter().filter(|index| !self.held.contains_key(index)).collect();
        if let Some(kernel) = &mut self.kernel {
            for index in gone {
                kernel.detach(index)?;
            }
            kernel.take_other_off()?;
        }
        let interfaces = self.counts().interfaces;
        tracing::info!(interfaces, attachment, mark = format!("{:#010x}", self.config.mark), "guarding");
        Ok(())
    }

    pub(super) fn fail(&mut self, why: String) {
        self.failure = Some(why);
        self.failures += 1;
        self.stop();
    }

    pub(super) fn stop(&mut self) {
        self.kernel = None;
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.kernel.is_none()
    }

    /// All interfaces as they are now.
    pub(super) fn meet_all(&mut self, there: &[Interface]) {
        let now = Instant::now();
        let indexes: BTreeSet<u32> = there.iter().map(|interface| interface.index).collect();
        let gone: Vec<u32> = self.held.keys().filter(|index| !indexes.contains(index)).copied().collect();
        for index in gone {
            self.lose(index);
        }
        for interface in there {
            self.meet(interface, now);
        }
    }

    /// An interface is new, or is now like this. `noticed` is when that was known.
    pub(super) fn meet(&mut self, interface: &Interface, noticed: Instant) {
        let index = interface.index;
        if interface.loopback || !self.config.interfaces.matches(&interface.name) {
            if self.held.contains_key(&index) {
                tracing::info!(interface = interface.name, "no longer guarded: its name is not configured");
                self.lose(index);
            }
            return;
        }
        let before = self.held.get(&index);
        if before.is_none_or(|before| before.peer != interface.peer) {
            self.news.doors = true;
        }
        let hangs = before.is_some_and(|before| before.problem.is_none());
        let fights = before.map_or(0, |before| before.fights);
        let known = before.and_then(|before| before.problem.clone());
        let held = Held {
            name: interface.name.clone(),
            ethernet: interface.ethernet,
            peer: interface.peer,
            problem: None,
            between: before.map(|before| before.between.clone()).unwrap_or_default(),
            fights,
        };
        self.held.insert(index, held);
        // What is behind it is told first: its programs never run without.
        self.publish();
        if !hangs {
            self.hang(index, noticed, known.as_deref());
        }
    }

    /// An interface is gone, or went to another namespace; whether another one may lead elsewhere now.
    pub(super) fn lose(&mut self, index: u32) -> bool {
        let leads_there =
            |held: &Held| held.peer.is_some_and(|peer| peer.index == index && peer.namespace.is_none());
        let moved = self.held.values().any(leads_there);
        if self.held.remove(&index).is_some() {
            self.news.doors = true;
            if let Some(Err(error)) = self.kernel.as_mut().map(|kernel| kernel.detach(index)) {
                tracing::warn!(index, %error, "the guard cannot be taken off an interface");
            }
            self.publish();
        }
        moved
    }

    /// Looks whether every program is in its place, and puts back what is not.
    pub(super) fn check(&mut self) {
        let all: Vec<u32> = self.held.keys().copied().collect();
        for index in all {
            let Some(kernel) = &mut self.kernel else { return };
            let Some(held) = self.held.get_mut(&index) else { continue };
            if let Some(problem) = held.problem.clone() {
                self.hang(index, Instant::now(), Some(&problem));
                continue;
            }
            // One that is gone is told of soon.
            let Ok(standing) = kernel.standing(index) else { continue };
            let begun = Instant::now();
            if !standing.whole {
                let name = held.name.clone();
                self.hang(index, begun, None);
                let failed = self.held.get(&index).is_some_and(|held| held.problem.is_some());
                let action = if failed { Action::Failed } else { Action::Restored };
                self.tell((Object::Link, How::Missing), &name, action, begun.elapsed(), "");
            } else if let Some(harm) = standing.harm {
                let name = held.name.clone();
                self.hang(index, begun, None);
                let failed = self.held.get(&index).is_some_and(|held| held.problem.is_some());
                let action = if failed { Action::Failed } else { Action::Restored };
                self.tell((harm.object, harm.how), &name, action, begun.elapsed(), "");
            } else if standing.between == held.between {
                // As it was left.
            } else if standing.between.is_empty() {
                held.between.clear();
            } else if held.fights < FIGHTS {
                held.fights += 1;
                held.problem = kernel.put_in_place(index).err().map(|error| error.to_string());
                let action = if held.problem.is_some() { Action::Failed } else { Action::Restored };
                let name = held.name.clone();
                let who = standing.between.join(", ");
                self.tell((Object::Order, How::Replaced), &name, action, begun.elapsed(), &who);
            } else {
                held.between = standing.between;
                let (name, who) = (held.name.clone(), held.between.join(", "));
                self.tell((Object::Order, How::Replaced), &name, Action::GaveWay, Duration::ZERO, &who);
            }
        }
    }

    /// See [`super::Guards::doors`].
    pub(super) fn doors(&self) -> BTreeMap<i32, BTreeSet<u32>> {
        let mut doors: BTreeMap<i32, BTreeSet<u32>> = BTreeMap::new();
        for peer in self.held.values().filter(|held| held.problem.is_none()).filter_map(|held| held.peer) {
            if let Some(namespace) = peer.namespace {
                doors.entry(namespace).or_default().insert(peer.index);
            }
        }
        doors
    }

    pub(super) fn set_namespaces(&mut self, namespaces: BTreeMap<i32, u64>) {
        if self.namespaces != namespaces {
            self.namespaces = namespaces;
            self.publish();
        }
    }

    pub(super) fn counts(&self) -> Counts {
        let guarded = self.held.values().filter(|held| held.problem.is_none()).count();
        Counts { interfaces: guarded as u64, failures: self.failures }
    }

    pub(super) fn view(&self) -> GuardView {
        let attachment = self.kernel.as_ref().map_or("off", |kernel| kernel.attachment().as_str());
        GuardView {
            attachment: attachment.to_owned(),
            mark: format!("{:#010x}", self.config.mark),
            configured: self.config.interfaces.to_string(),
            interfaces: self
                .held
                .iter()
                .map(|(&index, held)| {
                    let value = self.value(held);
                    GuardedView {
                        name: held.name.clone(),
                        index,
                        guarded: held.problem.is_none(),
                        wire: value.flags & tables::Interface::FLAG_WIRE != 0,
                        netns: (value.netns != 0).then_some(value.netns),
                        problem: held.problem.clone().or_else(|| contested(held)),
                    }
                })
                .collect(),
            failure: self.failure.clone(),
        }
    }

    /// Puts the guard on an interface. `known` is the problem that was told of already.
    fn hang(&mut self, index: u32, noticed: Instant, known: Option<&str>) {
        let (Some(kernel), Some(held)) = (&mut self.kernel, self.held.get_mut(&index)) else { return };
        let name = held.name.clone();
        match kernel.attach(index) {
            Ok(done) => {
                held.problem = None;
                if known.is_some() {
                    self.news.doors = true;
                }
                let took_us = u64::try_from(noticed.elapsed().as_micros()).unwrap_or(u64::MAX);
                if done != Hung::Kept {
                    tracing::debug!(interface = name, index, ?done, took_us, "guarded");
                }
            }
            Err(DatapathError::Sys(error)) if error.errno() == Some(ENODEV) => {
                // It is gone already.
                self.lose(index);
            }
            Err(error) => {
                let problem = error.to_string();
                self.failures += 1;
                if known != Some(&problem) {
                    tracing::warn!(interface = name, error = problem, "an interface cannot be guarded");
                }
                held.problem = Some(problem);
            }
        }
    }

    /// Tells that somebody was at the guard of an interface.
    fn tell(&self, (object, how): (Object, How), interface: &str, action: Action, took: Duration, who: &str) {
        let Some(record) = &self.record else { return };
        record.note(object, &format!("guard of {interface}"), how, action, took);
        tracing::warn!(
            finding = "tamper",
            object = object.as_str(),
            name = interface,
            how = how.as_str(),
            action = action.as_str(),
            who,
            took_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX),
            "somebody was at the guard of an interface"
        );
    }

    fn publish(&mut self) {
        let wanted = self.held.iter().map(|(&index, held)| (index, self.value(held))).collect();
        if let Some(Err(error)) = self.kernel.as_mut().map(|kernel| kernel.set_interfaces(&wanted)) {
            tracing::warn!(%error, "the kernel cannot be told what is behind the interfaces");
        }
    }

    fn value(&self, held: &Held) -> tables::Interface {
        let namespace = held.peer.and_then(|peer| peer.namespace);
        let netns = namespace.and_then(|number| self.namespaces.get(&number)).copied().unwrap_or(0);
        let mut flags = 0;
        if held.ethernet {
            flags |= tables::Interface::FLAG_ETHERNET;
        }
        // Whoever is known behind it is of this node, whatever the name says.
        if netns == 0 && self.config.wire.matches(&held.name) {
            flags |= tables::Interface::FLAG_WIRE;
        }
        tables::Interface { netns, flags }
    }
}

fn contested(held: &Held) -> Option<String> {
    (!held.between.is_empty()).then(|| {
        format!("others stand between it and the wire, and were left there: {}", held.between.join(", "))
    })
}
