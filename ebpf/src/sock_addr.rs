//! `cgroup/connect4`, `connect6`, `getpeername4` and `getpeername6`: the family exists here and nowhere further in.

use aya_ebpf::{
    EbpfContext as _,
    bindings::{bpf_sock, bpf_sock_addr},
    helpers::{
        bpf_get_current_cgroup_id,
        generated::{bpf_get_current_ancestor_cgroup_id, bpf_get_netns_cookie, bpf_get_socket_cookie},
    },
    programs::SockAddrContext,
};
use bulkhead_abi::{Addr, Protocol, SocketFlow, SocketOwner, SocketRole, Verdict, Workload};
use bulkhead_core::call::{self, Call, Connect, turn::Turn};

use crate::{maps, place::Place, storage, tables::kernel_tables, workload};

/// Judges a `connect` to an IPv4 address, and turns it.
#[inline(always)]
pub fn connect4(ctx: SockAddrContext) -> Verdict {
    // SAFETY: fields of the context, read at constant offsets.
    let (target, sk) = unsafe { ((*ctx.sock_addr).user_ip4, (*ctx.sock_addr).__bindgen_anon_1.sk) };
    let bound = if sk.is_null() { 0 } else { unsafe { (*sk).src_ip4 } };
    let (place, mut to) = (ctx.sock_addr, Turn::NONE);
    let verdict = connect(ctx, sk, Addr::v4(target.to_ne_bytes()), Addr::v4(bound.to_ne_bytes()), &mut to);
    write4(place, &to);
    verdict
}

/// Judges a `connect` to an IPv6 address, `::ffff:a.b.c.d` among them, and turns it.
#[inline(always)]
pub fn connect6(ctx: SockAddrContext) -> Verdict {
    // SAFETY: fields of the context, read at constant offsets.
    let (target, sk) = unsafe { ((*ctx.sock_addr).user_ip6, (*ctx.sock_addr).__bindgen_anon_1.sk) };
    let bound = if sk.is_null() { [0; 4] } else { unsafe { (*sk).src_ip6 } };
    let (place, mut to) = (ctx.sock_addr, Turn::NONE);
    let verdict = connect(ctx, sk, from_words(target), from_words(bound), &mut to);
    write6(place, &to);
    verdict
}

/// Tells a program of an IPv4 socket whom it is connected to.
#[inline(always)]
pub fn getpeername4(ctx: SockAddrContext) {
    let place = ctx.sock_addr;
    write4(place, &peer_name(ctx));
}

/// Tells a program of an IPv6 socket whom it is connected to.
#[inline(always)]
pub fn getpeername6(ctx: SockAddrContext) {
    let place = ctx.sock_addr;
    write6(place, &peer_name(ctx));
}

#[inline(always)]
fn peer_name(ctx: SockAddrContext) -> Turn {
    // SAFETY: fields of the context, read at constant offsets.
    let (port, sk) = unsafe { ((*ctx.sock_addr).user_port, (*ctx.sock_addr).__bindgen_anon_1.sk) };
    let mut name = Turn::NONE;
    call::turn::peer_name(&SockAddr { ctx, sk }, u16::from_be(port as u16), &mut name);
    name
}

#[inline(always)]
fn connect(ctx: SockAddrContext, sk: *mut bpf_sock, target: Addr, bound: Addr, to: &mut Turn) -> Verdict {
    // SAFETY: fields of the context, read at constant offsets.
    let (port, protocol) = unsafe { ((*ctx.sock_addr).user_port, (*ctx.sock_addr).protocol) };
    let bound_port = if sk.is_null() { 0 } else { unsafe { (*sk).src_port } };
    let connect = Connect {
        target: (target, u16::from_be(port as u16)),
        protocol: Protocol(protocol as u8),
        bound: (bound, bound_port as u16),
    };
    call::connect(&SockAddr { ctx, sk }, &connect, to)
}

/// Puts another IPv4 address and port into the call, if there is one.
#[inline(always)]
fn write4(place: *mut bpf_sock_addr, to: &Turn) {
    if to.port == 0 {
        return;
    }
    let [.., a, b, c, d] = to.addr.octets();
    // SAFETY: fields of the context that these programs may write.
    unsafe {
        (*place).user_ip4 = u32::from_ne_bytes([a, b, c, d]);
        (*place).user_port = u32::from(to.port.to_be());
    }
}

/// The same of IPv6.
#[inline(always)]
fn write6(place: *mut bpf_sock_addr, to: &Turn) {
    if to.port == 0 {
        return;
    }
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = to.addr.octets();
    // SAFETY: fields of the context that these programs may write.
    unsafe {
        (*place).user_ip6 = [
            u32::from_ne_bytes([a, b, c, d]),
            u32::from_ne_bytes([e, f, g, h]),
            u32::from_ne_bytes([i, j, k, l]),
            u32::from_ne_bytes([m, n, o, p]),
        ];
        (*place).user_port = u32::from(to.port.to_be());
    }
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
    type Role = Place<SocketRole>;

    #[inline(always)]
    fn role(&self) -> Option<Place<SocketRole>> {
        if self.sk.is_null() {
            return None;
        }
        storage::get(&maps::SOCKET_ROLES, self.sk).map(Place::at)
    }

    #[inline(always)]
    fn make_role(&self) -> Option<Place<SocketRole>> {
        if self.sk.is_null() {
            return None;
        }
        storage::get_or_create(&maps::SOCKET_ROLES, self.sk).map(Place::at)
    }

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
        workload::nearest(cgroup, |level| unsafe { bpf_get_current_ancestor_cgroup_id(level) })
    }
}
