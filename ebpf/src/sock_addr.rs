//! `cgroup/connect4` and `connect6`: the family exists here and nowhere further in.

use aya_ebpf::{
    EbpfContext as _,
    bindings::bpf_sock,
    helpers::{
        bpf_get_current_cgroup_id,
        generated::{bpf_get_current_ancestor_cgroup_id, bpf_get_netns_cookie, bpf_get_socket_cookie},
    },
    programs::SockAddrContext,
};
use bulkhead_abi::{Addr, Protocol, SocketFlow, SocketOwner, Verdict, Workload};
use bulkhead_core::call::{self, Call, Connect};

use crate::{
    maps,
    skb::{self, Place},
    storage,
    tables::kernel_tables,
};

/// Judges a `connect` to an IPv4 address.
#[inline(always)]
pub fn connect4(ctx: SockAddrContext) -> Verdict {
    // SAFETY: fields of the context, read at constant offsets.
    let (target, sk) = unsafe { ((*ctx.sock_addr).user_ip4, (*ctx.sock_addr).__bindgen_anon_1.sk) };
    let bound = if sk.is_null() { 0 } else { unsafe { (*sk).src_ip4 } };
    connect(ctx, sk, Addr::v4(target.to_ne_bytes()), Addr::v4(bound.to_ne_bytes()))
}

/// Judges a `connect` to an IPv6 address, `::ffff:a.b.c.d` among them.
#[inline(always)]
pub fn connect6(ctx: SockAddrContext) -> Verdict {
    // SAFETY: fields of the context, read at constant offsets.
    let (target, sk) = unsafe { ((*ctx.sock_addr).user_ip6, (*ctx.sock_addr).__bindgen_anon_1.sk) };
    let bound = if sk.is_null() { [0; 4] } else { unsafe { (*sk).src_ip6 } };
    connect(ctx, sk, from_words(target), from_words(bound))
}

#[inline(always)]
fn connect(ctx: SockAddrContext, sk: *mut bpf_sock, target: Addr, bound: Addr) -> Verdict {
    // SAFETY: fields of the context, read at constant offsets.
    let (port, protocol) = unsafe { ((*ctx.sock_addr).user_port, (*ctx.sock_addr).protocol) };
    let bound_port = if sk.is_null() { 0 } else { unsafe { (*sk).src_port } };
    let connect = Connect {
        target: (target, u16::from_be(port as u16)),
        protocol: Protocol(protocol as u8),
        bound: (bound, bound_port as u16),
    };
    call::connect(&SockAddr { ctx, sk }, &connect)
}

#[inline(always)]
pub fn from_words([a, b, c, d]: [u32; 4]) -> Addr {
    let ([a0, a1, a2, a3], [b0, b1, b2, b3]) = (a.to_ne_bytes(), b.to_ne_bytes());
    let ([c0, c1, c2, c3], [d0, d1, d2, d3]) = (c.to_ne_bytes(), d.to_ne_bytes());
    Addr::from_octets([a0, a1, a2, a3, b0, b1, b2, b3, c0, c1, c2, c3, d0, d1, d2, d3])
}

struct SockAddr {
    ctx: SockAddrContext,
    sk: *mut bpf_sock,
}

impl SockAddr {
    #[inline(always)]
    fn netns(&self) -> u64 {
        // SAFETY: the context of this program (Linux 5.7).
        unsafe { bpf_get_netns_cookie(self.ctx.as_ptr()) }
    }

    #[inline(always)]
    fn cookie(&self) -> u64 {
        // SAFETY: the context of this program.
        unsafe { bpf_get_socket_cookie(self.ctx.as_ptr()) }
    }
}

kernel_tables!(SockAddr);

impl Call for SockAddr {
    type Owned = Place<SocketFlow>;

    #[inline(always)]
    fn own(&self) -> Option<Place<SocketFlow>> {
        if self.sk.is_null() {
            return None;
        }
        storage::get_or_create(&maps::SOCKET_FLOWS, self.sk).map(Place::at)
    }

    #[inline(always)]
    fn owner(&self) -> Option<SocketOwner> {
        if self.sk.is_null() {
            return None;
        }
        // SAFETY: lives as long as the socket, which outlives this program.
        storage::get(&maps::SOCKET_OWNERS, self.sk).map(|owner| unsafe { *owner })
    }

    #[inline(always)]
    fn current(&self) -> Workload {
        // SAFETY: no arguments that could be wrong.
        let cgroup = unsafe { bpf_get_current_cgroup_id() };
        skb::nearest(cgroup, |level| unsafe { bpf_get_current_ancestor_cgroup_id(level) })
    }
}
