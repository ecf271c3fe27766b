//! Which addresses are on this node, in which namespace, and where the proxy listens.

use std::collections::{BTreeMap, BTreeSet};

use bulkhead_abi::{Addr, LocalAddress, tables::Home};

use crate::{
    DatapathError, Maps, Surroundings,
    told::{self, Last},
};

/// Makes the kernel's tables say just this: the namespaces that are known, and by the cookie of the
/// namespace that has it each address; how many entries were touched.
pub(crate) fn set(
    maps: &Maps,
    surroundings: &Surroundings,
    locals: &BTreeMap<Addr, u64>,
) -> Result<usize, DatapathError> {
    let mut last = maps.told.lock();
    let wanted = locals.iter().map(|(&addr, &netns)| (addr, LocalAddress { addr, netns })).collect();
    let touched = told::tell(&maps.locals, last.locals.take(), &wanted)?;
    last.locals = Some(wanted);
    // One without an address is known all the same: its sockets need not be told of again.
    let mut homes: BTreeMap<u64, Home> =
        surroundings.known.iter().map(|&netns| (netns, Home::default())).collect();
    homes.extend(homes_of(locals, &surroundings.likely));
    for netns in &surroundings.guarded {
        if let Some(home) = homes.get_mut(netns) {
            home.flags |= Home::FLAG_GUARDED;
        }
    }
    let proxied = last.proxied.clone();
    Ok(touched + set_homes(maps, &mut last, Some(homes), proxied)?)
}

/// Makes the kernel's table say that the proxy listens in these namespaces and no others; how many entries
/// were touched.
pub(crate) fn set_proxied(maps: &Maps, proxied: &BTreeSet<u64>) -> Result<usize, DatapathError> {
    let mut last = maps.told.lock();
    let homes = last.homes.clone();
    set_homes(maps, &mut last, homes, Some(proxied.clone()))
}

/// Makes `HOMES` hold these namespaces, or, where none were told yet, those that it holds.
fn set_homes(
    maps: &Maps,
    last: &mut Last,
    homes: Option<BTreeMap<u64, Home>>,
    proxied: Option<BTreeSet<u64>>,
) -> Result<usize, DatapathError> {
    let held: BTreeMap<u64, Home> = maps.homes.entries()?.into_iter().collect();
    let plain =
        |(&netns, &home): (&u64, &Home)| (netns, Home { flags: home.flags & !Home::FLAG_PROXIED, ..home });
    let new = Last {
        homes: homes.clone().or_else(|| Some(held.iter().map(plain).collect())),
        proxied,
        ..Last::default()
    };
    let before = last.homes(&held);
    last.homes = None;
    let wanted = new.homes(&held).unwrap_or_default();
    let touched = told::tell(&maps.homes, before, &wanted)?;
    (last.homes, last.proxied) = (homes, new.proxied);
    Ok(touched)
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
