//! Which addresses are on this node, and in which namespace.

use std::collections::{BTreeMap, BTreeSet};

use bulkhead_abi::{Addr, LocalAddress, tables::Home};

use crate::{DatapathError, Maps};

/// Makes the kernel's tables say just this: the namespaces that are known, and by the cookie of the
/// namespace that has it each address; how many entries were touched. What is new is written first.
pub(crate) fn set(
    maps: &Maps,
    known: &BTreeSet<u64>,
    guarded: &BTreeSet<u64>,
    locals: &BTreeMap<Addr, u64>,
) -> Result<usize, DatapathError> {
    let held: BTreeMap<Addr, u64> =
        maps.locals.entries()?.into_iter().map(|(addr, local)| (addr, local.netns)).collect();
    let new: Vec<_> = locals
        .iter()
        .filter(|(addr, netns)| held.get(addr) != Some(netns))
        .map(|(&addr, &netns)| (addr, LocalAddress { addr, netns }))
        .collect();
    let gone: Vec<Addr> = held.keys().filter(|addr| !locals.contains_key(addr)).copied().collect();
    maps.locals.set_all(&new)?;
    maps.locals.remove_all(&gone)?;
    Ok(new.len() + gone.len() + set_homes(maps, known, guarded, locals)?)
}

fn set_homes(
    maps: &Maps,
    known: &BTreeSet<u64>,
    guarded: &BTreeSet<u64>,
    locals: &BTreeMap<Addr, u64>,
) -> Result<usize, DatapathError> {
    // One without an address is known all the same: its sockets need not be told of again.
    let mut homes: BTreeMap<u64, Home> = known.iter().map(|&netns| (netns, Home::default())).collect();
    homes.extend(homes_of(locals));
    for (netns, home) in &mut homes {
        home.flags = if guarded.contains(netns) { Home::FLAG_GUARDED } else { 0 };
    }
    let held: BTreeMap<u64, Home> = maps.homes.entries()?.into_iter().collect();
    let new: Vec<_> = homes
        .iter()
        .filter(|(netns, home)| held.get(netns) != Some(home))
        .map(|(&netns, &home)| (netns, home))
        .collect();
    let gone: Vec<u64> = held.keys().filter(|netns| !homes.contains_key(netns)).copied().collect();
    maps.homes.set_all(&new)?;
    maps.homes.remove_all(&gone)?;
    Ok(new.len() + gone.len())
}

/// The one address per family that each namespace sends from; link-local and loopback ones are not
/// chosen for others.
fn homes_of(locals: &BTreeMap<Addr, u64>) -> BTreeMap<u64, Home> {
    let mut found: BTreeMap<u64, (Vec<Addr>, Vec<Addr>)> = BTreeMap::new();
    for (&addr, &netns) in locals {
        let [first, second, ..] = addr.octets();
        if addr.is_loopback() || !addr.is_v4() && first == 0xfe && second & 0xc0 == 0x80 {
            continue;
        }
        let (v4, v6) = found.entry(netns).or_default();
        if addr.is_v4() { v4.push(addr) } else { v6.push(addr) }
    }
    let only = |addrs: Vec<Addr>| match addrs.as_slice() {
        [addr] => *addr,
        _ => Addr::ANY,
    };
    found
        .into_iter()
        .map(|(netns, (v4, v6))| (netns, Home { v4: only(v4), v6: only(v6), flags: 0 }))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_home_is_the_only_global_address_of_its_family() {
        let v6 = |last| Addr::from_octets([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last]);
        let link_local = Addr::from_octets([0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
        let one = Addr::v4([10, 0, 0, 1]);
        let locals = [
            (one, 7),
            (Addr::v4([127, 0, 0, 1]), 7),
            (link_local, 7),
            (v6(1), 8),
            (v6(2), 8),
            (Addr::v4([10, 0, 0, 2]), 8),
        ];
        let homes = homes_of(&locals.into_iter().collect());
        assert_eq!(homes.get(&7), Some(&Home { v4: one, v6: Addr::ANY, flags: 0 }));
        assert_eq!(homes.get(&8), Some(&Home { v4: Addr::v4([10, 0, 0, 2]), v6: Addr::ANY, flags: 0 }));
    }
}
