//! The tables about sockets, for whoever follows sockets: membership, which needs no generation.

use std::{
    collections::{BTreeMap, BTreeSet},
    os::fd::{AsRawFd as _, BorrowedFd},
    sync::Arc,
};

use bulkhead_abi::{Addr, Counter, CounterKey, FlowKey, SocketRole, flow::Denial, names};
use bulkhead_core::report;
use bulkhead_sys::turned::Turned;

use crate::{DatapathError, Maps, locals};

/// Write access to the tables about sockets. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Sockets {
    maps: Arc<Maps>,
}

/// What is true of a network namespace's addresses, besides which they are.
#[derive(Clone, Debug, Default)]
pub struct Surroundings {
    /// Cookies of the namespaces that are known.
    pub known: BTreeSet<u64>,
    /// Of these, the ones that have no way out but by an interface that the guard is on.
    pub guarded: BTreeSet<u64>,
    /// Where a namespace has several addresses of a family, those that its default routes are taken from.
    pub likely: BTreeSet<(u64, Addr)>,
}

impl Sockets {
    pub(crate) fn new(maps: Arc<Maps>) -> Self {
        Self { maps }
    }

    /// Tells the kernel which namespaces are known, and which addresses are on this node, by the cookie
    /// of the namespace that has them; how many entries were touched. Where the proxy listens stays as
    /// [`Sockets::set_proxied`] said it.
    pub fn set_locals(
        &self,
        surroundings: &Surroundings,
        locals: &BTreeMap<Addr, u64>,
    ) -> Result<usize, DatapathError> {
        locals::set(&self.maps, surroundings, locals)
    }

    /// Tells the kernel in which network namespaces, by their cookies, the proxy listens: connections that a
    /// rule wants under mutual TLS are turned to it there, and refused everywhere else. The one call says it
    /// for all; how many entries were touched. Call it once the listeners are there, and before they go.
    pub fn set_proxied(&self, proxied: &BTreeSet<u64>) -> Result<usize, DatapathError> {
        locals::set_proxied(&self.maps, proxied)
    }

    /// Says what `socket` is for: a TCP socket of the agent's own, before it is bound or connected. What a
    /// listener accepts inherits its role. The role goes with the socket.
    ///
    /// Errors: EBADF or ENOTSOCK for what is no socket; ENOMEM where the kernel has no memory for it
    /// (`net.core.optmem_max` of the socket's namespace).
    pub fn assign_role(&self, socket: BorrowedFd<'_>, role: &SocketRole) -> Result<(), DatapathError> {
        // Socket storage is addressed by descriptor from user space.
        self.maps.socket_roles.set(&socket.as_raw_fd().cast_unsigned(), role)
    }

    /// The role of a socket, if it has one.
    pub fn role(&self, socket: BorrowedFd<'_>) -> Result<Option<SocketRole>, DatapathError> {
        self.maps.socket_roles.get(&socket.as_raw_fd().cast_unsigned())
    }

    /// The table of turned connections, to be handed to whoever accepts them: its descriptor only reads.
    pub fn turned(&self) -> Result<Turned, DatapathError> {
        let path = self.maps.folder().join(names::TURNED);
        Ok(Turned::new(bulkhead_sys::pin::open_to_read(&path)?)?)
    }

    /// Counts a flow that lost its right and was ended, unless a packet of it was denied already and counted as
    /// that: each flow is counted once, whoever comes first. Whether it was counted now.
    ///
    /// To be called when its sockets are gone, which could have a packet denied at the same moment. The first of
    /// the kernel's programs and this function to remember the denial is the one that counts.
    pub fn count_ended(&self, flow: &FlowKey, counter: &CounterKey) -> Result<bool, DatapathError> {
        let (now, tag) = (bulkhead_sys::clock::monotonic_ns(), flow.tag());
        let denial = Denial { told: now, tag, ..Denial::default() };
        let denied = &self.maps.denied;
        if !denied.add(flow, &denial)? {
            let is_counted = |known: &Denial| {
                let lately = known.tag == tag && now.saturating_sub(known.told) < report::MEMORY;
                // A program is just making it, and counts.
                lately || *known == Denial::default()
            };
            if denied.get(flow)?.as_ref().is_some_and(is_counted) {
                return Ok(false);
            }
            denied.set(flow, &denial)?;
        }
        let ended = &self.maps.ended;
        let count = ended.get(counter)?.unwrap_or_default();
        ended.set(counter, &Counter { flows: count.flows.wrapping_add(1), ..count })?;
        Ok(true)
    }

    /// The tables themselves.
    pub fn maps(&self) -> &Maps {
        &self.maps
    }
}
