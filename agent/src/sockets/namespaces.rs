//! The network namespaces of this node, and their addresses.
//!
//! A namespace is this node's when a process of the cgroup subtree lives in it. None is kept open: only
//! the number of a process that is inside is remembered, so that a namespace can end when its last
//! process does.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bulkhead_abi::Addr;
use bulkhead_sys::{Error, cgroup, netns, netns::NetNs};

/// How long a namespace is remembered that nobody of ours lives in.
///
/// Programs that come back to it while the agent is away are still judged as they were.
const REMEMBERED: Duration = Duration::from_secs(3600);

/// What is known of the namespaces.
#[derive(Debug)]
pub(super) struct Namespaces {
    root: PathBuf,
    known: HashMap<u64, Known>,
    addresses: BTreeMap<Addr, u64>,
    /// When all were looked at last.
    scanned: Instant,
}

#[derive(Debug)]
struct Known {
    /// A process inside.
    pid: u32,
    addresses: HashSet<Addr>,
    /// When somebody was last seen inside.
    seen: Instant,
}

impl Namespaces {
    /// Nothing known yet.
    pub(super) fn new(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
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

    /// Every namespace that is known, by its cookie.
    pub(super) fn known(&self) -> BTreeSet<u64> {
        self.known.keys().copied().collect()
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
        for (pid, ns) in each(&self.root)? {
            if let Some((cookie, addresses)) = look(&ns) {
                self.known.insert(cookie, Known { pid, addresses, seen: now });
            }
        }
        self.known.retain(|_, known| now.duration_since(known.seen) < REMEMBERED);
        self.index();
        Ok(())
    }

    /// Looks at the namespace `cookie`, in which the process `pid` lives, now; whether there is news.
    pub(super) fn look_at(&mut self, cookie: u64, pid: u32) -> bool {
        let Ok(ns) = NetNs::of_process(pid) else { return false };
        match look(&ns) {
            Some((found, addresses)) if found == cookie => {
                // Seen together with those of the last scan: whoever lives in one is as alive as they are.
                let seen = self.scanned;
                let known = self.known.insert(cookie, Known { pid, addresses, seen });
                let news = known.map(|known| known.addresses)
                    != self.known.get(&cookie).map(|known| known.addresses.clone());
                if news {
                    self.index();
                }
                news
            }
            _ => false,
        }
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
        each(&self.root).ok()?.into_iter().map(|(_, ns)| ns).find(is_it)
    }

    /// Every namespace, open for as long as the caller needs it, with its cookie.
    pub(super) fn open_all(&mut self) -> Result<Vec<(u64, NetNs)>, Error> {
        let all = each(&self.root)?;
        Ok(all.into_iter().filter_map(|(_, ns)| Some((ns.cookie().ok()?, ns))).collect())
    }

    /// Where two namespaces have an address, one that somebody lives in has it; of two such, neither.
    fn index(&mut self) {
        let mut owners: BTreeMap<Addr, (Instant, Option<u64>)> = BTreeMap::new();
        for (&cookie, known) in &self.known {
            for &addr in &known.addresses {
                let (seen, owner) = owners.entry(addr).or_insert((known.seen, Some(cookie)));
                if *owner == Some(cookie) || known.seen < *seen {
                    continue;
                }
                *owner = (known.seen > *seen).then_some(cookie);
                *seen = known.seen;
            }
        }
        self.addresses = owners.into_iter().filter_map(|(addr, (_, owner))| Some((addr, owner?))).collect();
    }
}

/// Every namespace of the subtree's processes once, and the agent's own, each with a process inside.
fn each(root: &Path) -> Result<Vec<(u32, NetNs)>, Error> {
    let mut seen = HashSet::new();
    let mut all = Vec::new();
    let own = std::process::id();
    for pid in cgroup::processes(root)?.into_iter().chain([own]) {
        let found = netns::discover([pid])?;
        all.extend(found.namespaces.into_iter().filter(|ns| seen.insert(ns.id())).map(|ns| (pid, ns)));
    }
    Ok(all)
}

/// Its cookie and its addresses, loopback apart. A namespace that an unprivileged user made has none to
/// say: whoever may configure one could claim any address.
fn look(ns: &NetNs) -> Option<(u64, HashSet<Addr>)> {
    let cookie = ns.cookie().ok()?;
    if !ns.is_owned_by_init_userns().unwrap_or(false) {
        return Some((cookie, HashSet::new()));
    }
    let addresses = ns.addresses().ok()?;
    Some((
        cookie,
        addresses.into_iter().map(|address| address.addr).filter(|addr| !addr.is_loopback()).collect(),
    ))
}
