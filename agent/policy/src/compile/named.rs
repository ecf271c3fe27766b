//! Sets of zones that a peer can be in by the name in its certificate.
//!
//! No address and no cgroup has them, but the agent's own sockets act for such peers, and what they do is
//! counted under an identity. So they are made ready where proxies are asked for at all.

use std::collections::{BTreeMap, BTreeSet};

use bulkhead_abi::Tls;
use bulkhead_credentials::SpiffeId;

use super::sets::ZoneIndex;
use crate::model::{DEFAULT_NAMESPACE, Model, Zone};

/// The sets, sorted, each sorted; none without a rule that asks for proxies.
///
/// The trust domain is not known here. Whose name is the default one is taken to be known by every zone
/// that lists a name which is it under *some* domain, and by the zone alone.
pub(super) fn sets(model: &Model) -> BTreeSet<Vec<ZoneIndex>> {
    if !model.rules().iter().any(|rule| rule.tls.level == Tls::Mutual) {
        return BTreeSet::new();
    }
    let mut known: BTreeMap<&SpiffeId, Vec<ZoneIndex>> = BTreeMap::new();
    for (index, zone) in zones(model) {
        let mut names: Vec<&SpiffeId> = zone.names.iter().chain(&zone.own_name).collect();
        names.sort_unstable();
        names.dedup();
        names.into_iter().for_each(|name| known.entry(name).or_default().push(index));
    }
    let mut found: BTreeSet<Vec<ZoneIndex>> = zones(model).map(|(index, _)| vec![index]).collect();
    for (name, set) in &known {
        if let Some(index) = by_default(model, name) {
            let mut with = set.clone();
            with.push(index);
            with.sort_unstable();
            with.dedup();
            found.insert(with);
        }
    }
    found.extend(known.into_values());
    found
}

fn zones(model: &Model) -> impl Iterator<Item = (ZoneIndex, &Zone)> {
    (0..).zip(model.zones().iter().map(AsRef::as_ref))
}

/// The zone whose name this is by default under some trust domain.
fn by_default(model: &Model, name: &SpiffeId) -> Option<ZoneIndex> {
    let (before, account) = name.as_str().rsplit_once("/sa/")?;
    before.strip_suffix(DEFAULT_NAMESPACE)?.strip_suffix("/ns/")?;
    let at = model.zones().binary_search_by(|zone| (*zone.name).cmp(account)).ok()?;
    model.zones().get(at).filter(|zone| zone.own_name.is_none())?;
    ZoneIndex::try_from(at).ok()
}
