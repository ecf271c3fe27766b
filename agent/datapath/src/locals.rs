//! Which addresses are on this node, in which namespace, and where the proxy listens.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::PoisonError,
};

use bulkhead_abi::{Addr, LocalAddress, tables::Home};

use crate::{DatapathError, Maps, Surroundings};

/// Makes the kernel's tables say just this: the namespaces that are known, and by the cookie of the
/// namespace that has it each address; how many entries were touched. What is new is written first.
pub(crate) fn set(
    maps: &Maps,
    surroundings: &Surroundings,
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
    Ok(new.len() + gone.len() + set_homes(maps, surroundings, locals)?)
}

/// Makes the kernel's table say that the proxy listens in these namespaces and no others; how many entries
/// were touched.
pub(crate) fn set_proxied(maps: &Maps, proxied: &BTreeSet<u64>) -> Result<usize, DatapathError> {
    let _alone = maps.homes_lock.lock().unwrap_or_else(PoisonError::into_inner);
    let held: BTreeMap<u64, Home> = maps.homes.entries()?.into_iter().collect();
    let unheard = proxied.iter().filter(|netns| !held.contains_key(netns));
    let changed: Vec<_> = held
        .iter()
        .map(|(&netns, &home)| (netns, home))
        .chain(unheard.map(|&netns| (netns, Home::default())))
        .map(|(netns, home)| {
            let flag = if proxied.contains(&netns) { Home::FLAG_PROXIED } else { 0 };
            (netns, Home { flags: home.flags & !Home::FLAG_PROXIED | flag, ..home })
        })
        .filter(|(netns, home)| held.get(netns) != Some(home))
        .collect();
    maps.homes.set_all(&changed)?;
    Ok(changed.len())
}

fn set_homes(
    maps: &Maps,
    surroundings: &Surroundings,
    locals: &BTreeMap<Addr, u64>,
) -> Result<usize, DatapathError> {
    // One without an address is known all the same: its sockets need not be told of again.
    let mut homes: BTreeMap<u64, Home> =
        surroundings.known.iter().map(|&netns| (netns, Home::default())).collect();
    homes.extend(homes_of(locals, &surroundings.likely));
    let _alone = maps.homes_lock.lock().unwrap_or_else(PoisonError::into_inner);
    let held: BTreeMap<u64, Home> = maps.homes.entries()?.into_iter().collect();
    for (netns, home) in &mut homes {
        if surroundings.guarded.contains(netns) {
            home.flags |= Home::FLAG_GUARDED;
        }
        home.flags |= held.get(netns).map_or(0, |held| held.flags & Home::FLAG_PROXIED);
    }
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

/// The address per family that each namespace sends from: the only one, or of several the likely one;
/// link-local and loopback ones are not chosen for others.
fn homes_of(locals: &BTreeMap<Addr, u64>, likely: &BTreeSet<(u64, Addr)>) -> BTreeMap<u64, Home> {
    let mut found: BTreeMap<u64, (Vec<Addr>, Vec<Addr>)> = BTreeMap::new();
    for (&addr, &netns) in locals {
        let [first, second, ..] = addr.octets();
        if addr.is_loopback() || !addr.is_v4() && first == 0xfe && second & 0xc0 == 0x80 {
            continue;
        }
        let (v4, v6) = found.entry(netns).or_default();
        if addr.is_v4() { v4.push(addr) } else { v6.push(addr) }
    }
    let choose = |netns, addrs: &[Addr], several| match addrs {
        [] => (Addr::ANY, 0),
        [addr] => (*addr, 0),
        _ => match addrs.iter().find(|addr| likely.contains(&(netns, **addr))) {
            Some(addr) => (*addr, several),
            None => (Addr::ANY, 0),
        },
    };
    found
        .into_iter()
        .map(|(netns, (v4, v6))| {
            let (v4, some) = choose(netns, &v4, Home::FLAG_SEVERAL_V4);
            let (v6, more) = choose(netns, &v6, Home::FLAG_SEVERAL_V6);
            (netns, Home { v4, v6, flags: some | more })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_home_is_the_only_global_address_of_its_family_or_the_likely_one() {
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
        let locals = locals.into_iter().collect();
        let homes = homes_of(&locals, &BTreeSet::new());
        assert_eq!(homes.get(&7), Some(&Home { v4: one, v6: Addr::ANY, flags: 0 }));
        let several = Home { v4: Addr::v4([10, 0, 0, 2]), v6: Addr::ANY, flags: 0 };
        assert_eq!(homes.get(&8), Some(&several));
        let homes = homes_of(&locals, &BTreeSet::from([(8, v6(2)), (7, v6(1))]));
        assert_eq!(homes.get(&8), Some(&Home { v6: v6(2), flags: Home::FLAG_SEVERAL_V6, ..several }));
    }
}
