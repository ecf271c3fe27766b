//! Bulkhead's kernel programs: one expression each over [`bulkhead_core`].
//!
//! They are attached at a cgroup root and see every socket below it, in every network namespace.
//! Whatever they cannot decide is denied to and from zones, and passes elsewhere.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch, core_intrinsics)]
#![allow(internal_features)]

mod doomed;
mod frame;
mod guard_leaf;
mod keyed;
mod leaf;
mod maps;
mod payload;
mod pieces;
mod place;
mod raw;
mod skb;
mod sock;
mod sock_addr;
mod storage;
mod tables;
mod workload;

use aya_ebpf::{
    Global,
    macros::{cgroup_skb, cgroup_sock, cgroup_sock_addr, classifier},
    programs::{SkBuffContext, SockAddrContext, SockContext, TcContext},
};
use bulkhead_abi::{Direction, Verdict};
use bulkhead_core::{guard, track};

use crate::{frame::Frame, skb::Skb};

/// The guard's part of the packet mark: the bits it may use, without a gap, at least eight. Set by the
/// loader.
#[unsafe(no_mangle)]
static GUARD_MARK: Global<u32> = Global::new(0xffff_0000);

/// Depth of the cgroup below which everything is ours; 0 is the root, and then everything is. Set by the
/// loader.
#[unsafe(no_mangle)]
static CGROUP_LEVEL: Global<u32> = Global::new(0);

/// Id of that cgroup; not looked at where the level is 0. Set by the loader.
#[unsafe(no_mangle)]
static CGROUP_ID: Global<u64> = Global::new(0);

/// Whether `bpf_get_netns_cookie` may be called from `cgroup_skb` (Linux 6.15): set by the loader.
#[unsafe(no_mangle)]
static HAS_NETNS_COOKIE: Global<u32> = Global::new(1);

/// Whether the bytes of streams are looked at. The loader never sets it: whoever measures what looking costs
/// does, in a copy of this object.
#[unsafe(no_mangle)]
static READS_STREAMS: Global<u32> = Global::new(1);

#[cgroup_skb(ingress)]
pub fn skb_ingress(ctx: SkBuffContext) -> i32 {
    answer(track::packet(&Skb::new(ctx), Direction::Ingress))
}

#[cgroup_skb(egress)]
pub fn skb_egress(ctx: SkBuffContext) -> i32 {
    answer(track::packet(&Skb::new(ctx), Direction::Egress))
}

#[cgroup_sock_addr(connect4)]
pub fn connect4(ctx: SockAddrContext) -> i32 {
    answer(sock_addr::connect4(ctx))
}

#[cgroup_sock_addr(connect6)]
pub fn connect6(ctx: SockAddrContext) -> i32 {
    answer(sock_addr::connect6(ctx))
}

#[cgroup_sock_addr(getpeername4)]
pub fn getpeername4(ctx: SockAddrContext) -> i32 {
    sock_addr::getpeername4(ctx);
    GO_ON
}

#[cgroup_sock_addr(getpeername6)]
pub fn getpeername6(ctx: SockAddrContext) -> i32 {
    sock_addr::getpeername6(ctx);
    GO_ON
}

#[cgroup_sock(sock_create)]
pub fn sock_create(ctx: SockContext) -> i32 {
    sock::create(&ctx);
    GO_ON
}

#[cgroup_sock(post_bind4)]
pub fn post_bind4(ctx: SockContext) -> i32 {
    answer(sock::bound(&ctx, sock::bound_v4(&ctx)))
}

#[cgroup_sock(post_bind6)]
pub fn post_bind6(ctx: SockContext) -> i32 {
    answer(sock::bound(&ctx, sock::bound_v6(&ctx)))
}

#[cgroup_sock(sock_release)]
pub fn sock_release(ctx: SockContext) -> i32 {
    sock::release(&ctx);
    GO_ON
}

#[classifier]
pub fn guard_ingress(ctx: TcContext) -> i32 {
    pass(guard::ingress(&Frame::new(&ctx)))
}

#[classifier]
pub fn guard_egress(ctx: TcContext) -> i32 {
    pass(guard::egress(&Frame::new(&ctx)))
}

/// What the guard returns to leave a packet to the next program on the interface, or to the kernel
/// (`TCX_NEXT`, which is `TC_ACT_UNSPEC` where the filter hangs in a clsact qdisc).
const NEXT: i32 = -1;
/// `TCX_DROP`, which is `TC_ACT_SHOT`.
const DROP: i32 = 2;

#[inline(always)]
fn pass(verdict: Verdict) -> i32 {
    if verdict.passes() { NEXT } else { DROP }
}

/// What every cgroup hook returns to let the kernel go on; 0 refuses (a packet is dropped, a call gets
/// EPERM).
const GO_ON: i32 = 1;

#[inline(always)]
fn answer(verdict: Verdict) -> i32 {
    if verdict.passes() { GO_ON } else { 0 }
}

/// Socket storage and `bpf_sk_fullsock` are for GPL-compatible programs.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    loop {}
}
