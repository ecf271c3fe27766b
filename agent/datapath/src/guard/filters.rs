//! By filters of a `clsact`, for kernels without TCX.
//!
//! A filter carries the name of its program and the folder of the instance's pins: so it is found again
//! after a restart, and by `bulkhead detach`. The name also says whether the `clsact` is ours: it is
//! removed with the last filter in it.

use std::{collections::BTreeSet, os::fd::AsFd as _, path::Path};

use bulkhead_sys::{
    netns::NetNs,
    tc::{Filter, Hook, Tc},
};

use super::{GuardProgram, Hung};
use crate::DatapathError;

/// Filters of lower numbers see a packet first.
const FIRST: u16 = 1;
const LAST: u16 = u16::MAX;
/// At the end of a filter's name: the `clsact` was made for it.
const OURS: &str = " +clsact";

/// The filters of one instance in one namespace.
#[derive(Debug)]
pub(super) struct Filters {
    tc: Tc,
    /// What every name of ours has behind the program's.
    mark: String,
}

impl Filters {
    /// The filters of the instance with this folder of links.
    pub(super) fn open(ns: &NetNs, links: &Path) -> Result<Self, DatapathError> {
        let pins = links.parent().unwrap_or(links);
        Ok(Self { tc: Tc::open(ns)?, mark: format!(":{}", pins.display()) })
    }

    /// Puts a program on an interface, or into the filter that is there.
    pub(super) fn attach(
        &mut self,
        program: &mut GuardProgram,
        interface: u32,
    ) -> Result<Hung, DatapathError> {
        let hook = program.hook;
        if let Some(held) = self.find(interface, hook)? {
            if program.is(held.program) {
                return Ok(Hung::Kept);
            }
            let place = (held.priority, Some(held.handle));
            self.tc.set_filter(interface, hook, place, &held.name, program.fd.as_fd())?;
            return Ok(Hung::Exchanged);
        }
        let made = self.tc.add_clsact(interface)? || self.is_clsact_ours(interface)?;
        let name = format!("{}{}{}", program.name, self.mark, if made { OURS } else { "" });
        let priority = match hook {
            Hook::Ingress => FIRST,
            Hook::Egress => LAST,
        };
        self.tc.set_filter(interface, hook, (priority, None), &name, program.fd.as_fd())?;
        Ok(Hung::Made)
    }

    /// Takes ours off an interface, and the `clsact` if it is ours and empty.
    pub(super) fn detach(&mut self, interface: u32) -> Result<(), DatapathError> {
        if self.tc.clsacts()?.contains(&interface) { self.clear(interface).map(drop) } else { Ok(()) }
    }

    /// Takes ours off all interfaces; how many those were.
    pub(super) fn detach_all(&mut self) -> Result<usize, DatapathError> {
        let mut count = 0;
        for interface in self.tc.clsacts()? {
            count += usize::from(self.clear(interface)?);
        }
        Ok(count)
    }

    /// The interfaces that have a filter of ours.
    pub(super) fn held(&mut self) -> Result<BTreeSet<u32>, DatapathError> {
        let mut held = BTreeSet::new();
        for interface in self.tc.clsacts()? {
            for hook in [Hook::Ingress, Hook::Egress] {
                if self.find(interface, hook)?.is_some() {
                    held.insert(interface);
                }
            }
        }
        Ok(held)
    }

    /// Which filters of others stand between ours and the wire; `None` if ours is not there.
    pub(super) fn between(
        &mut self,
        program: &GuardProgram,
        interface: u32,
    ) -> Result<Option<Vec<String>>, DatapathError> {
        let hook = program.hook;
        let (filters, _) = self.tc.filters(interface, hook)?;
        let Some(ours) = filters.iter().find(|filter| self.is_ours(filter)) else { return Ok(None) };
        let names = filters.iter().filter(|filter| match hook {
            Hook::Ingress => filter.priority < ours.priority,
            Hook::Egress => filter.priority > ours.priority,
        });
        Ok(Some(names.map(|filter| filter.name.clone()).collect()))
    }

    /// Takes ours off an interface that has a `clsact`; whether there was one.
    fn clear(&mut self, interface: u32) -> Result<bool, DatapathError> {
        let (mut found, mut made, mut left) = (false, false, 0);
        for hook in [Hook::Ingress, Hook::Egress] {
            let (filters, others) = self.tc.filters(interface, hook)?;
            left += others;
            for filter in filters {
                if self.is_ours(&filter) {
                    found = true;
                    made |= filter.name.ends_with(OURS);
                    self.tc.remove_filter(interface, hook, &filter)?;
                } else {
                    left += 1;
                }
            }
        }
        if made && left == 0 {
            self.tc.remove_clsact(interface)?;
        }
        Ok(found)
    }

    fn find(&mut self, interface: u32, hook: Hook) -> Result<Option<Filter>, DatapathError> {
        let (filters, _) = self.tc.filters(interface, hook)?;
        Ok(filters.into_iter().find(|filter| self.is_ours(filter)))
    }

    /// Whether a filter of ours says that the `clsact` was made for it.
    fn is_clsact_ours(&mut self, interface: u32) -> Result<bool, DatapathError> {
        for hook in [Hook::Ingress, Hook::Egress] {
            if self.find(interface, hook)?.is_some_and(|filter| filter.name.ends_with(OURS)) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn is_ours(&self, filter: &Filter) -> bool {
        filter.name.trim_end_matches(OURS).ends_with(&self.mark)
    }
}
