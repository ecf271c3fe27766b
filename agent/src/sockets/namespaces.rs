//! The network namespaces of this node, and their addresses.
//!
//! A namespace is this node's when a process of the cgroup subtree lives in it. None is kept open: only
//! the number of a process that is inside is remembered, so that a namespace can end when its last
//! process does.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::proxy::places::{Place, Places};
use bulkhead_abi::Addr;
use bulkhead_sys::{
    Error, cgroup,
    netns::{self, NetNs, Numbers},
};

/// How long a namespace is remembered that nobody of ours lives in.
///
/// Programs that come back to it while the agent is away are still judged as they were.
const REMEMBERED: Duration = Duration::from_secs(3600);

/// A namespace at one moment.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct Look {
    /// Its addresses, loopback apart.
    addresses: HashSet<Addr>,
    /// Its interfaces that lead out: all that are up, loopback apart.
    exits: BTreeSet<u32>,
    /// The addresses that its default routes are taken from.
    sources: Vec<Addr>,
    /// The number that the agent's own namespace has for it.
    number: Option<i32>,
    /// No unprivileged user made it.
    trusted: bool,
}

/// What is known of the namespaces.
#[derive(Debug)]
pub(super) struct Namespaces {
    root: PathBuf,
    /// Who is told which of them workloads live in.
    places: Places,
    /// The numbers that the agent's own namespace has for others; `None` where they cannot be asked.
    numbers: Option<Numbers>,
    known: HashMap<u64, Known>,
    addresses: BTreeMap<Addr, u64>,
    /// When all were looked at last.
    scanned: Instant,
}

#[derive(Debug)]
struct Known {
    /// A process inside.
    pid: u32,
    look: Look,
    /// When somebody was last seen inside.
    seen: Instant,
}

impl Namespaces {
    /// Nothing known yet.
    pub(super) fn new(root: &Path, places: &Places) -> Self {
        Self {
            root: root.to_owned(),
            places: places.clone(),
            numbers: NetNs::current().and_then(|own| Numbers::open(&own)).ok(),
            known: HashMap::new(),
            addresses: BTreeMap::new(),
            scanned: Instant::now(),
        }
    }

    /// Every address of this node, with its namespace's cookie. An address that two namespaces have
    /// belongs to neither: it does not tell who receives there.
    pub(super) fn addresses(&self) -> &BTreeMap<Addr, u64> {
        &self.addresses
    }

    /// Which of these addresses, each with the namespace that had it, are that namespace's no more. One
    /// that a second namespace claims beside it is still its own.
    pub(super) fn left(&self, before: &BTreeMap<Addr, u64>) -> HashSet<Addr> {
        let claimed = |addr: &Addr| self.known.values().any(|known| known.look.addresses.contains(addr));
        let left = before.iter().filter(|&(addr, owner)| match self.addresses.get(addr) {
            Some(now) => now != owner,
            None => !claimed(addr),
        });
        left.map(|(&addr, _)| addr).collect()
    }

    /// Every namespace that is known, by its cookie.
    pub(super) fn known(&self) -> BTreeSet<u64> {
        self.known.keys().copied().collect()
    }

    /// The addresses that default routes are taken from, each with its namespace.
    pub(super) fn likely(&self) -> BTreeSet<(u64, Addr)> {
        let sources = |(&cookie, known): (&u64, &Known)| {
            known.look.sources.iter().map(move |&addr| (cookie, addr)).collect::<Vec<_>>()
        };
        self.known.iter().flat_map(sources).collect()
    }

    /// The cookies of those that have a number.
    pub(super) fn numbers(&self) -> BTreeMap<i32, u64> {
        self.known.iter().filter_map(|(&cookie, known)| Some((known.look.number?, cookie))).collect()
    }

    /// The namespaces that can be left only by `doors`: the interfaces whose other ends are guarded, by the
    /// number of the namespace that they are in.
    pub(super) fn guarded(&self, doors: &BTreeMap<i32, BTreeSet<u32>>) -> BTreeSet<u64> {
        let is_guarded = |look: &Look| {
            let doors = look.number.and_then(|number| doors.get(&number));
            doors.is_some_and(|doors| !look.exits.is_empty() && look.exits.is_subset(doors))
        };
        let guarded = self.known.iter().filter(|(_, known)| is_guarded(&known.look));
        guarded.map(|(&cookie, _)| cookie).collect()
    }

    /// The cgroups of the subtree, by their ids: a socket of any other is not ours to touch.
    pub(super) fn cgroups(&self) -> Result<HashSet<u64>, Error> {
        Ok(cgroup::tree(&self.root)?.into_iter().map(|cgroup| cgroup.id).collect())
    }

    /// Looks at every namespace that a process of the subtree lives in. One that nobody lives in any
    /// more is remembered for a while: short-lived programs come back to it.
    pub(super) fn scan(&mut self) -> Result<(), Error> {
        let now = Instant::now();
        self.scanned = now;
        for (pid, ns) in self.each()? {
            if let Some((cookie, look)) = look(&ns, self.numbers.as_mut()) {
                self.known.insert(cookie, Known { pid, look, seen: now });
            }
        }
        self.known.retain(|_, known| now.duration_since(known.seen) < REMEMBERED);
        self.index();
        Ok(())
    }

    /// Looks at the namespace `cookie`, in which the process `pid` lives, now; whether there is news.
    pub(super) fn look_at(&mut self, cookie: u64, pid: u32) -> bool {
        let Ok(ns) = NetNs::of_process(pid) else { return false };
        match look(&ns, self.numbers.as_mut()) {
            Some((found, look)) if found == cookie => {
                // Seen together with those of the last scan: whoever lives in one is as alive as they are.
                let seen = self.scanned;
                let before = self.known.insert(cookie, Known { pid, look: look.clone(), seen });
                let news = before.is_none_or(|before| before.look != look);
                if news {
                    self.index();
                }
                news
            }
            _ => false,
        }
    }

    /// Looks at the agent's own namespace, now; whether there is news.
    pub(super) fn look_at_own(&mut self) -> bool {
        let own = NetNs::current().and_then(|ns| ns.cookie());
        own.is_ok_and(|cookie| self.look_at(cookie, std::process::id()))
    }

    /// Looks at the namespaces with these numbers, and at those that had none if there are `new` numbers;
    /// whether there is news.
    pub(super) fn look_at_numbers(&mut self, numbers: &BTreeSet<i32>, new: bool) -> bool {
        let due = |known: &Known| known.look.number.map_or(new, |number| numbers.contains(&number));
        let due: Vec<(u64, u32)> = self
            .known
            .iter()
            .filter(|(_, known)| due(known))
            .map(|(&cookie, known)| (cookie, known.pid))
            .collect();
        due.into_iter().fold(false, |news, (cookie, pid)| self.look_at(cookie, pid) | news)
    }

    /// The namespace with this cookie, if a process of ours still lives in it.
    pub(super) fn open(&mut self, cookie: u64) -> Option<NetNs> {
        let is_it = |ns: &NetNs| ns.cookie().is_ok_and(|found| found == cookie);
        if let Some(known) = self.known.get(&cookie)
            && let Ok(ns) = NetNs::of_process(known.pid)
            && is_it(&ns)
        {
            return Some(ns);
        }
        self.each().ok()?.into_iter().map(|(_, ns)| ns).find(is_it)
    }

    /// Every namespace, open for as long as the caller needs it, with its cookie.
    pub(super) fn open_all(&mut self) -> Result<Vec<(u64, NetNs)>, Error> {
        let all = self.each()?;
        Ok(all.into_iter().filter_map(|(_, ns)| Some((ns.cookie().ok()?, ns))).collect())
    }

    /// Every namespace of the subtree's processes once, and the agent's own, each with a process inside;
    /// one of ours where no other lives there.
    fn each(&self) -> Result<Vec<(u32, NetNs)>, Error> {
        let mut seen = HashSet::new();
        let mut all = Vec::new();
        let own = self.places.own();
        let others = cgroup::processes(&self.root)?.into_iter().filter(|pid| !own.contains(pid));
        for pid in others.chain(own.iter().copied()) {
            let found = netns::discover([pid])?;
            all.extend(found.namespaces.into_iter().filter(|ns| seen.insert(ns.id())).map(|ns| (pid, ns)));
        }
        Ok(all)
    }

    /// Tells who wants to know in which of them workloads live.
    fn tell(&self) {
        let own = self.places.own();
        let lived_in = self.known.iter().filter(|(_, known)| {
            known.seen >= self.scanned && known.look.trusted && !own.contains(&known.pid)
        });
        self.places.publish(
            lived_in
                .map(|(&cookie, known)| {
                    let addresses = known.look.addresses.iter().copied().collect();
                    (cookie, Place { pid: known.pid, addresses })
                })
                .collect(),
        );
    }

    /// Where two namespaces have an address, one that somebody lives in has it; of two such, neither.
    fn index(&mut self) {
        let mut owners: BTreeMap<Addr, (Instant, Option<u64>)> = BTreeMap::new();
        for (&cookie, known) in &self.known {
            for &addr in &known.look.addresses {
                let (seen, owner) = owners.entry(addr).or_insert((known.seen, Some(cookie)));
                if *owner == Some(cookie) || known.seen < *seen {
                    continue;
                }
                *owner = (known.seen > *seen).then_some(cookie);
                *seen = known.seen;
            }
        }
        self.tell();
        self.addresses = owners.into_iter().filter_map(|(addr, (_, owner))| Some((addr, owner?))).collect();
    }
}

/// Its cookie and the rest. Of a namespace that an unprivileged user made no address counts: whoever may
/// configure one could claim any.
fn look(ns: &NetNs, numbers: Option<&mut Numbers>) -> Option<(u64, Look)> {
    let trusted = ns.is_owned_by_init_userns().unwrap_or(false);
    let survey = ns.survey().ok()?;
    let addresses = survey.addresses.into_iter().map(|address| address.addr);
    let exits = survey.interfaces.into_iter().filter(|interface| interface.up && !interface.loopback);
    let look = Look {
        addresses: addresses.filter(|addr| trusted && !addr.is_loopback()).collect(),
        exits: exits.map(|interface| interface.index).collect(),
        sources: survey.sources,
        number: numbers.and_then(|numbers| numbers.of(ns).ok().flatten()),
        trusted,
    };
    Some((survey.cookie, look))
}
