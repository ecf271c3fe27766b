//! `cgroup_skb`: a packet at the socket layer.

use aya_ebpf::{
    EbpfContext as _,
    bindings::{__sk_buff, bpf_sock},
    helpers::generated::{
        bpf_get_netns_cookie, bpf_get_socket_cookie, bpf_sk_fullsock, bpf_skb_cgroup_id, bpf_tcp_sock,
    },
    programs::SkBuffContext,
};
use bulkhead_abi::{
    Control, Conversation, Direction, FlowKey, FlowState, Inspection, Protocol, Reason, RoleKind, SocketFlow,
    SocketRole, TurnedKey, Verdict, Workload,
    inspect::{Ahead, Datagrams},
};
use bulkhead_core::{
    inspect::Ruling,
    judge::Decision,
    packet::{Bytes, Span, Words},
    report::Content,
    track::{
        Before, Cast, Entry, Finding, Hook, Judged, Known, Outcome, Ownership, Slot, Socket, State, Telling,
        Told, Whose, parts,
    },
};

use crate::{
    keyed, leaf, maps,
    payload::{self, Carried},
    pieces,
    place::Place,
    raw::{Raw, opaque},
    storage,
    tables::{self, kernel_tables},
};

/// A packet and the socket it belongs to.
pub struct Skb {
    ctx: SkBuffContext,
    sk: *mut bpf_sock,
}

impl Skb {
    #[inline(always)]
    pub fn new(ctx: SkBuffContext) -> Self {
        // SAFETY: a field of the context; the verifier knows it may be null.
        let sk = unsafe { (*ctx.skb.skb).__bindgen_anon_2.sk };
        Self { ctx, sk }
    }

    #[inline(always)]
    fn netns(&self) -> u64 {
        if crate::HAS_NETNS_COOKIE.load() != 0 {
            // SAFETY: the context of this program; available to cgroup_skb since Linux 6.15, which the
            // loader has checked: on older kernels the verifier never looks at this branch.
            return unsafe { bpf_get_netns_cookie(self.ctx.as_ptr()) };
        }
        if self.sk.is_null() {
            return 0;
        }
        match storage::get(&maps::SOCKET_NETNS, self.sk) {
            // SAFETY: lives as long as the socket, which outlives this program.
            Some(netns) => unsafe { *netns },
            None => 0,
        }
    }

    #[inline(always)]
    fn cookie(&self) -> u64 {
        // SAFETY: the context of this program; 0 when it has no socket.
        unsafe { bpf_get_socket_cookie(self.ctx.as_ptr()) }
    }
}

/// Tells of a turned connection whose SYN this is, by the role of its socket.
#[inline(always)]
pub fn note_turned(skb: *mut __sk_buff, state: &State) {
    let hook = Skb::new(SkBuffContext::new(skb));
    let Some(role) = hook.role() else { return };
    if role.read(|role| role.kind() != RoleKind::Turned) {
        return;
    }
    let client = state.local();
    let key = TurnedKey::new(hook.netns(), *client.addr, client.port);
    let workload = hook.workload_at_hand();
    // One that has no room is refused by the proxy, which finds nothing.
    let _ = role.read(|role| maps::TURNED.insert(key, parts::turned(role, workload), 0));
}

/// Of a TCP socket, the sequence number of the first byte that comes in (`leaves` is 0) or goes out, with
/// the bit above it set; 0 where that has come through already.
#[inline(always)]
pub fn stream_start(skb: *mut __sk_buff, leaves: u32) -> u64 {
    // SAFETY: a field of the context; the verifier knows it may be null.
    let sk = unsafe { (*skb).__bindgen_anon_2.sk };
    if sk.is_null() {
        return 0;
    }
    // SAFETY: checked against null.
    let tcp = unsafe { bpf_tcp_sock(sk) };
    // SAFETY: null, or a TCP socket's fields.
    let Some(tcp) = (unsafe { tcp.as_ref() }) else { return 0 };
    // What comes in is seen before TCP counts it. Of a socket that connected, the acknowledged SYN counts
    // as a byte that went out. Each is read by itself: the verifier wants no pointer to choose by.
    let (received, acked) = (opaque(tcp.bytes_received), opaque(tcp.bytes_acked));
    let (next, unacked) = (opaque(tcp.rcv_nxt.into()), opaque(tcp.snd_una.into()));
    let (passed, start) = if leaves == 0 { (received, next) } else { (acked, unacked) };
    if passed == 0 { 1 << 32 | start } else { 0 }
}

kernel_tables!(Skb);

impl Bytes for Skb {
    #[inline(always)]
    fn len(&self) -> u32 {
        self.ctx.len()
    }

    #[inline(always)]
    fn load<const N: usize>(&self, offset: u32, buffer: &mut [u8; N]) -> u32 {
        Raw(self.ctx.skb.skb).load(offset, buffer)
    }

    #[inline(always)]
    fn first<const N: usize>(&self) -> Option<Words<N>> {
        Raw(self.ctx.skb.skb).first()
    }

    #[inline(always)]
    fn span(&self) -> Option<Span> {
        let mut span = Span::default();
        if leaf::leaf_span(self.ctx.skb.skb, &mut span) == 0 { None } else { Some(span) }
    }

    #[inline(always)]
    fn is_multipath(&self, span: &Span) -> bool {
        leaf::leaf_multipath(self.ctx.skb.skb, span.options, span.at, span.len) != 0
    }

    #[inline(always)]
    fn behind_extensions(&self, first: u8) -> Result<(Protocol, u32), Reason> {
        leaf::extensions_from(leaf::leaf_extensions(self.ctx.skb.skb, first.into()))
    }
}

impl Hook for Skb {
    type Owned = Place<SocketFlow>;
    type Tabled = Place<FlowState>;
    type Role = Place<SocketRole>;
    type Ahead = Place<Ahead>;

    #[inline(always)]
    fn role(&self) -> Option<Place<SocketRole>> {
        if self.sk.is_null() {
            return None;
        }
        storage::get(&maps::SOCKET_ROLES, self.sk).map(Place)
    }

    #[inline(always)]
    fn is_looped(&self) -> bool {
        // Of include/net/flow.h: loopback is the first interface of every network namespace.
        const LOOPBACK: u32 = 1;
        // SAFETY: a field of the context.
        unsafe { (*self.ctx.skb.skb).ingress_ifindex == LOOPBACK }
    }

    #[inline(always)]
    fn note_turned(&self, state: &State) {
        let _ = leaf::leaf_note_turned(self.ctx.skb.skb, state);
    }

    #[inline(always)]
    fn on_role(&self, state: &State, peer: &mut Workload, decision: &mut Decision) -> Cast {
        Cast::from_code(leaf::leaf_role(self.ctx.skb.skb, state, peer, decision))
    }

    #[inline(always)]
    fn on_proxied(&self, state: &State) -> Outcome {
        Outcome::from_code(leaf::leaf_proxied(self.ctx.skb.skb, state))
    }

    #[inline(always)]
    fn on_datagram(&self, owned: &Place<SocketFlow>, generation: u64, direction: Direction) -> Option<u32> {
        let leaves = u32::from(direction == Direction::Egress);
        match leaf::leaf_datagram(self.ctx.skb.skb, owned.0, generation, leaves) {
            0 => None,
            slot => Some((slot - 1) as u32),
        }
    }

    #[inline(always)]
    fn on_inspect(&self, owned: &Place<SocketFlow>, control: &Control, direction: Direction) -> Finding {
        let leaves = if direction == Direction::Egress { leaf::LEAVES } else { 0 };
        let how = control.flags & (leaf::LEAVES - 1) | leaves;
        Finding::from_code(leaf::leaf_inspect(self.ctx.skb.skb, owned.0, control.generation, how))
    }

    #[inline(always)]
    fn on_segment(&self, (at, len): (u32, u32), inspection: &mut Inspection, sender: u8, seq: u32) -> Ruling {
        payload::read_segment(&Carried::new(self.ctx.skb.skb, at, len), inspection, sender, seq)
    }

    #[inline(always)]
    fn on_early(&self, (at, len): (u32, u32), inspection: &mut Inspection, sender: u8, seq: u32) -> bool {
        let place = Carried::new(self.ctx.skb.skb, at, len).place();
        let how = u64::from(seq) << 32 | u64::from(sender);
        leaf::leaf_early(self.ctx.skb.skb, inspection, place, how) != 0
    }

    #[inline(always)]
    fn on_settle(&self, inspection: &mut Inspection, sender: u8) -> Ruling {
        Ruling::from_code(leaf::leaf_settle(self.ctx.skb.skb, inspection, sender.into()))
    }

    #[inline(always)]
    fn on_begin(&self, flow: &SocketFlow, sender: u8) -> Before {
        Before(pieces::leaf_begin(flow, sender.into()))
    }

    #[inline(always)]
    fn on_tell(
        &self,
        flow: &SocketFlow,
        sender: u8,
        (at, len, seq): (u32, u32, u32),
        before: Before,
        ruling: u32,
    ) -> bool {
        let how = u64::from(seq) << 32 | u64::from(before.0) << 8 | u64::from(sender);
        pieces::leaf_tell(self.ctx.skb.skb, flow, u64::from(len) << 32 | u64::from(at), how, ruling) != 0
    }

    #[inline(always)]
    fn on_ask(&self, flow: &mut SocketFlow, control: &Control) -> Ruling {
        Ruling::from_code(leaf::leaf_ask(flow, control.generation, control.flags))
    }

    #[inline(always)]
    fn on_conclude(&self, flow: &mut SocketFlow, ruling: Ruling) -> Finding {
        Finding::from_code(leaf::leaf_conclude(flow, ruling.code()))
    }

    #[inline(always)]
    fn on_found(&self, state: &State, finding: Finding) -> Verdict {
        code(leaf::leaf_found(self.ctx.skb.skb, state, finding.to_code()))
    }

    #[inline(always)]
    fn on_content(&self, state: &State) -> Verdict {
        code(leaf::leaf_content(self.ctx.skb.skb, state))
    }

    #[inline(always)]
    fn on_examine(&self, state: &State, known: &Known, read: &mut Datagrams) -> Finding {
        Finding::from_code(leaf::leaf_examine(self.ctx.skb.skb, state, known, read))
    }

    #[inline(always)]
    fn on_opening(&self, state: &State, known: &Known, read: &mut Datagrams) {
        let _ = pieces::leaf_opening(self.ctx.skb.skb, state, known, read);
    }

    #[inline(always)]
    fn on_payload(&self, (at, len): (u32, u32), conversation: &mut Conversation, sender: u8) -> Ruling {
        // SAFETY: a field of the context. Not 0: several datagrams that are still one packet.
        let each = unsafe { (*self.ctx.skb.skb).gso_size };
        if each != 0 && each < len {
            let carried = Carried::new(self.ctx.skb.skb, at, len);
            let how = u64::from(each) << 32 | u64::from(sender);
            let skb = self.ctx.skb.skb;
            return Ruling::from_code(payload::inspect_train(skb, carried.place(), conversation, how));
        }
        let carried = Carried::new(self.ctx.skb.skb, at, len);
        Ruling::from_code(payload::read_datagram(&carried, conversation, sender))
    }

    #[inline(always)]
    fn on_told(&self, state: &State, known: &Known, content: Content, finding: Finding) -> Verdict {
        code(leaf::leaf_told(self.ctx.skb.skb, state, known, leaf::told_code(content, finding)))
    }

    #[inline(always)]
    fn on_prepare(&self, state: &mut State) {
        let _ = leaf::leaf_prepare(self.ctx.skb.skb, state);
    }

    #[inline(always)]
    fn on_owned(&self, state: &State) -> Judged {
        Judged::from_code(leaf::leaf_owned(self.ctx.skb.skb, state))
    }

    #[inline(always)]
    fn on_listening(&self, state: &State) -> Outcome {
        Outcome::from_code(leaf::leaf_listening(self.ctx.skb.skb, state))
    }

    #[inline(always)]
    fn on_tracked(&self, state: &State) -> Judged {
        Judged::from_code(leaf::leaf_tracked(self.ctx.skb.skb, state))
    }

    #[inline(always)]
    fn on_untracked(&self, state: &State) -> Judged {
        Judged::from_code(leaf::leaf_untracked(self.ctx.skb.skb, state))
    }

    #[inline(always)]
    fn on_icmp_error(&self, state: &State) -> Outcome {
        Outcome::from_code(leaf::leaf_icmp_error(self.ctx.skb.skb, state))
    }

    #[inline(always)]
    fn on_anomaly(&self, state: &State, reason: Reason) -> Verdict {
        code(leaf::leaf_anomaly(self.ctx.skb.skb, state, reason as u32))
    }

    #[inline(always)]
    fn account(&self, state: &State, decision: &Decision, own: &Workload, telling: Telling) -> u32 {
        leaf::leaf_account(self.ctx.skb.skb, state, decision, own, leaf::telling_bits(telling))
    }

    #[inline(always)]
    fn doom(&self, state: &State, cookie: u64, netns: u64, whose: Whose, reason: Reason) {
        let _ = leaf::leaf_doom(state, cookie, netns, whose as u32, reason as u32);
    }

    #[inline(always)]
    fn enter(&self, state: &State, peer: &Workload, decision: &Decision, entry: Entry) -> bool {
        leaf::leaf_enter(self.ctx.skb.skb, state, peer, decision, entry as u32) != 0
    }

    #[inline(always)]
    fn socket(&self) -> Socket {
        // Of include/net/tcp_states.h.
        const SYN_SENT: u32 = 2;
        const LISTEN: u32 = 10;
        if self.sk.is_null() {
            return Socket::None;
        }
        // SAFETY: checked against null; `state` may be read of any socket.
        match unsafe { (*self.sk).state } {
            LISTEN => Socket::Listening,
            SYN_SENT => Socket::Opening,
            _ => Socket::Other,
        }
    }

    #[inline(always)]
    fn ownership(&self) -> Ownership {
        const ESTABLISHED: u32 = 1;
        const STREAM: u32 = 1;
        const DATAGRAM: u32 = 2;
        const RAW: u32 = 3;
        if self.sk.is_null() {
            return Ownership::Nothing;
        }
        // SAFETY: checked against null.
        let sk = unsafe { bpf_sk_fullsock(self.sk) };
        if sk.is_null() {
            return Ownership::Nothing;
        }
        // SAFETY: a full socket's fields.
        match unsafe { ((*sk).type_, (*sk).protocol, (*sk).state) } {
            (STREAM, protocol, _) if protocol == u32::from(Protocol::TCP.0) => Ownership::Stream,
            (DATAGRAM, protocol, ESTABLISHED) if protocol == u32::from(Protocol::UDP.0) => {
                Ownership::Datagrams
            }
            (RAW, ..) => Ownership::Raw,
            _ => Ownership::Nothing,
        }
    }

    #[inline(always)]
    fn is_programs(&self) -> bool {
        !self.sk.is_null() && storage::get(&maps::SOCKET_OWNERS, self.sk).is_some()
    }

    #[inline(always)]
    fn is_connected(&self) -> bool {
        // Of include/net/tcp_states.h; UDP uses it too.
        const ESTABLISHED: u32 = 1;
        // SAFETY: checked against null; `state` may be read of any socket.
        !self.sk.is_null() && unsafe { (*self.sk).state } == ESTABLISHED
    }

    #[inline(always)]
    fn stream_start(&self, direction: Direction) -> Option<u32> {
        let leaves = u32::from(direction == Direction::Egress);
        match leaf::leaf_start(self.ctx.skb.skb, leaves) {
            0 => None,
            start => Some(start as u32),
        }
    }

    #[inline(always)]
    fn received(&self) -> Option<u32> {
        if self.sk.is_null() {
            return None;
        }
        // SAFETY: checked against null.
        let tcp = unsafe { bpf_tcp_sock(self.sk) };
        // SAFETY: null, or a TCP socket's fields.
        unsafe { tcp.as_ref() }.map(|tcp| tcp.rcv_nxt)
    }

    #[inline(always)]
    fn ahead(&self) -> Option<Place<Ahead>> {
        if self.sk.is_null() {
            return None;
        }
        storage::get_or_create(&maps::SOCKET_AHEAD, self.sk).map(Place)
    }

    #[inline(always)]
    fn piece(&self, flow: &SocketFlow, told: &Told) {
        let _ = pieces::leaf_piece(self.ctx.skb.skb, flow, pieces::place(told), pieces::which(told));
    }

    #[inline(always)]
    fn reads_streams(&self) -> bool {
        crate::READS_STREAMS.load() != 0
    }

    #[inline(always)]
    fn lock(&self, owned: &Place<SocketFlow>) -> bool {
        for _ in 0..LOCK_TRIES {
            // SAFETY: the storage of a socket, which outlives this program.
            if unsafe { tables::swap(&raw mut (*owned.0).reading.lock, 1) } == 0 {
                return true;
            }
        }
        false
    }

    #[inline(always)]
    fn unlock(&self, owned: &Place<SocketFlow>) {
        // SAFETY: as above.
        let _ = unsafe { tables::swap(&raw mut (*owned.0).reading.lock, 0) };
    }

    #[inline(always)]
    fn barrier(&self) {
        // SAFETY: no instruction; the compiler must believe that it reads and writes memory.
        unsafe { core::arch::asm!("", options(nostack, preserves_flags)) };
    }

    #[inline(always)]
    fn cgroup(&self) -> u64 {
        // SAFETY: the context of this program.
        unsafe { bpf_skb_cgroup_id(self.ctx.skb.skb) }
    }

    #[inline(always)]
    fn workload_at_hand(&self) -> Workload {
        let mut workload = Workload::UNKNOWN;
        let _ = leaf::leaf_workload(self.ctx.skb.skb, &mut workload);
        workload
    }

    #[inline(always)]
    fn owned(&self) -> Option<Place<SocketFlow>> {
        if self.sk.is_null() {
            return None;
        }
        storage::get(&maps::SOCKET_FLOWS, self.sk).map(Place)
    }

    #[inline(always)]
    fn own(&self) -> Option<Place<SocketFlow>> {
        if self.sk.is_null() {
            return None;
        }
        storage::get_or_create(&maps::SOCKET_FLOWS, self.sk).map(Place)
    }

    #[inline(always)]
    fn tabled(&self, key: &FlowKey) -> Option<Place<FlowState>> {
        Place::found(keyed::flow(key))
    }

    #[inline(always)]
    fn table(&self, key: &FlowKey) -> Option<Place<FlowState>> {
        Place::found(keyed::new_flow(key))
    }

    #[inline(always)]
    fn untable(&self, key: &FlowKey) {
        keyed::remove_flow(key);
    }
}

/// How often a hook asks whether another one is done with a flow. One of them may have interrupted the
/// other, so there is no waiting for it.
const LOCK_TRIES: u32 = 64;

#[inline(always)]
fn code(verdict: u32) -> Verdict {
    Verdict::from_code(verdict as u8)
}
