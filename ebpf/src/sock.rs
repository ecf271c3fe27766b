//! `cgroup/sock_create`, `post_bind4/6` and `sock_release`: whose socket it is, and who receives where.
//!
//! Denies one thing: a listener on a port of the proxy's that is not the proxy's. Otherwise what is missed
//! here costs an immediate EPERM, not a verdict.

use aya_ebpf::{
    EbpfContext as _,
    helpers::{
        bpf_get_current_cgroup_id, bpf_get_current_pid_tgid,
        generated::{bpf_get_current_ancestor_cgroup_id, bpf_get_netns_cookie, bpf_get_socket_cookie},
    },
    programs::SockContext,
};
use bulkhead_abi::{
    Addr, Control, EventKind, ListenerKey, Protocol, RoleKind, Verdict,
    flow::Listener,
    names::Loss,
    role::{CAPTURE_PORT, TUNNEL_PORT},
    tables::Home,
};
use bulkhead_core::call::turn;

use crate::{doomed, maps, storage, tables, workload};

/// Remembers who made the socket. The first one of a namespace tells the daemon of it.
#[inline(always)]
pub fn create(ctx: &SockContext) {
    let netns = netns(ctx);
    if tables::home(netns).is_none() {
        tables::emit(|event| {
            *event = doomed::BLANK;
            event.time = tables::now();
            event.netns = netns;
            event.pid = (bpf_get_current_pid_tgid() >> 32) as u32;
            event.kind = EventKind::Namespace as u8;
        });
    }
    if let Some(owner) = storage::get_or_create(&maps::SOCKET_OWNERS, ctx.sock) {
        // SAFETY: fresh storage of a socket that nobody else has yet.
        unsafe {
            (*owner).cgroup = bpf_get_current_cgroup_id();
            (*owner).netns = netns;
        }
    }
    if crate::HAS_NETNS_COOKIE.load() == 0
        && let Some(known) = storage::get_or_create(&maps::SOCKET_NETNS, ctx.sock)
    {
        // SAFETY: as above.
        unsafe { *known = netns };
    }
}

/// Registers a bound socket as a receiver, unless it may not be bound there.
#[inline(always)]
pub fn bound(ctx: &SockContext, addr: Addr) -> Verdict {
    // SAFETY: fields of the context.
    let (port, protocol) = unsafe { ((*ctx.sock).src_port, (*ctx.sock).protocol) };
    let protocol = Protocol(protocol as u8);
    if !protocol.has_ports() || port == 0 {
        return Verdict::Allow;
    }
    if protocol == Protocol::TCP && !may_bind(ctx, port as u16) {
        return Verdict::Deny;
    }
    // SAFETY: no arguments that could be wrong.
    let cgroup = unsafe { bpf_get_current_cgroup_id() };
    let workload = workload::nearest(cgroup, |level| unsafe { bpf_get_current_ancestor_cgroup_id(level) });
    let netns = netns(ctx);
    let cookie = cookie(ctx);
    let key = ListenerKey::new(netns, addr, port as u16, protocol);
    // Without storage to remember the key in, nobody would take the entry away again.
    match storage::get_or_create(&maps::SOCKET_OWNERS, ctx.sock) {
        // SAFETY: lives as long as the socket; binding holds the socket's lock.
        Some(owner) if maps::LISTENERS.insert(key, Listener { workload, cookie }, 0).is_ok() => unsafe {
            (*owner).bound = key;
        },
        _ => tables::lose(Loss::Listeners),
    }
    tables::emit(|event| {
        *event = doomed::BLANK;
        event.time = tables::now();
        event.netns = netns;
        event.cookie = cookie;
        event.workload = workload;
        event.src = addr;
        event.pid = (bpf_get_current_pid_tgid() >> 32) as u32;
        event.src_port = port as u16;
        event.kind = EventKind::Bound as u8;
        event.protocol = protocol.0;
    });
    Verdict::Allow
}

/// Whether a port is free for this socket. Where the proxy listens, or the policy wants it to, its ports are
/// its own.
#[inline(always)]
fn may_bind(ctx: &SockContext, port: u16) -> bool {
    if !matches!(port, CAPTURE_PORT | TUNNEL_PORT) {
        return true;
    }
    let control = tables::control();
    if control.flags & (Control::FLAG_AUDIT | Control::FLAG_ADOPTING) != 0 {
        return true;
    }
    let wanted = control.flags & Control::FLAG_MUTUAL != 0;
    if !wanted && tables::home(netns(ctx)).is_none_or(|home| home.flags & Home::FLAG_PROXIED == 0) {
        return true;
    }
    let kind = match storage::get(&maps::SOCKET_ROLES, ctx.sock) {
        // SAFETY: lives as long as the socket.
        Some(role) => RoleKind::from_code(unsafe { (*role).kind }),
        None => RoleKind::None,
    };
    turn::may_bind(kind, port)
}

/// Forgets a receiver when its socket goes.
#[inline(always)]
pub fn release(ctx: &SockContext) {
    let Some(owner) = storage::get(&maps::SOCKET_OWNERS, ctx.sock) else { return };
    // SAFETY: lives as long as the socket.
    let key = unsafe { (*owner).bound };
    if key.port == 0 {
        return;
    }
    // SAFETY: copied at once.
    let registered = unsafe { maps::LISTENERS.get(key) }.copied();
    if let Some(listener) = registered
        && listener.cookie == cookie(ctx)
    {
        let _ = maps::LISTENERS.remove(key);
    }
}

/// The IPv4 address that the socket is bound to.
#[inline(always)]
pub fn bound_v4(ctx: &SockContext) -> Addr {
    // SAFETY: a field of the context.
    Addr::v4(unsafe { (*ctx.sock).src_ip4 }.to_ne_bytes())
}

/// The IPv6 address that the socket is bound to.
#[inline(always)]
pub fn bound_v6(ctx: &SockContext) -> Addr {
    // SAFETY: a field of the context.
    crate::sock_addr::from_words(unsafe { (*ctx.sock).src_ip6 })
}

#[inline(always)]
fn netns(ctx: &SockContext) -> u64 {
    // SAFETY: the context of this program (Linux 5.7).
    unsafe { bpf_get_netns_cookie(ctx.as_ptr()) }
}

#[inline(always)]
fn cookie(ctx: &SockContext) -> u64 {
    // SAFETY: the context of this program.
    unsafe { bpf_get_socket_cookie(ctx.as_ptr()) }
}
