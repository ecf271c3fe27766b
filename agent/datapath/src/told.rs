//! What the kernel was told of this host rather than of the policy: which address is in which namespace,
//! where namespaces send from, what is behind the guarded interfaces.
//!
//! Each is told by a thread of its own, when it changes. What was told last is kept here, so that
//! [`drift`](crate::drift) can compare the kernel's copy with it at any time: whoever tells, compares or
//! writes right holds the lock. What no thread of this process has told yet is not compared.

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::Hash,
    sync::{Mutex, MutexGuard, PoisonError},
};

use bulkhead_abi::{
    Addr, LocalAddress,
    tables::{Home, Interface},
};

use crate::{
    DatapathError, Maps,
    table::{Plain, Table},
};

/// What was told last, behind its lock.
#[derive(Debug, Default)]
pub(crate) struct Told(Mutex<Last>);

/// What was told last; `None` where this process has told nothing yet, or a write failed.
#[derive(Debug, Default)]
pub(crate) struct Last {
    /// Addresses, with their namespaces' cookies.
    pub(crate) locals: Option<BTreeMap<Addr, LocalAddress>>,
    /// Namespaces, without [`Home::FLAG_PROXIED`].
    pub(crate) homes: Option<BTreeMap<u64, Home>>,
    /// Where the proxy listens.
    pub(crate) proxied: Option<BTreeSet<u64>>,
    /// Guarded interfaces.
    pub(crate) interfaces: Option<BTreeMap<u32, Interface>>,
}

impl Told {
    pub(crate) fn lock(&self) -> MutexGuard<'_, Last> {
        // A thread that died while it told left `None`, or what was there before it.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Last {
    /// What `HOMES` should hold. As long as nobody has said where the proxy listens, that is what is `held`.
    pub(crate) fn homes(&self, held: &BTreeMap<u64, Home>) -> Option<BTreeMap<u64, Home>> {
        let mut homes = self.homes.clone()?;
        match &self.proxied {
            Some(proxied) => {
                for &netns in proxied {
                    homes.entry(netns).or_default().flags |= Home::FLAG_PROXIED;
                }
            }
            None => {
                for (netns, home) in &mut homes {
                    home.flags |= held.get(netns).map_or(0, |held| held.flags & Home::FLAG_PROXIED);
                }
            }
        }
        Some(homes)
    }
}

/// Makes `table` hold `wanted`, which `before` was told it holds; else what is in it is read. How many entries
/// were touched. What is new is written first.
pub(crate) fn tell<K, V>(
    table: &Table<K, V>,
    before: Option<BTreeMap<K, V>>,
    wanted: &BTreeMap<K, V>,
) -> Result<usize, DatapathError>
where
    K: Plain + Ord + Hash,
    V: Plain + PartialEq,
{
    let before = match before {
        Some(before) => before,
        None => table.entries()?.into_iter().collect(),
    };
    let new: Vec<(K, V)> = wanted
        .iter()
        .filter(|(key, value)| before.get(key) != Some(value))
        .map(|(&key, &value)| (key, value))
        .collect();
    let gone: Vec<K> = before.keys().filter(|key| !wanted.contains_key(key)).copied().collect();
    table.set_all(&new)?;
    table.remove_all(&gone)?;
    Ok(new.len() + gone.len())
}

/// Tells the kernel which interfaces the guard sits on.
pub(crate) fn set_interfaces(maps: &Maps, wanted: &BTreeMap<u32, Interface>) -> Result<usize, DatapathError> {
    let mut last = maps.told.lock();
    let touched = tell(&maps.interfaces, last.interfaces.take(), wanted)?;
    last.interfaces = Some(wanted.clone());
    Ok(touched)
}
