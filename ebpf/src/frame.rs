//! `sched_cls` at an interface: a frame, seen from its IP header on.

use core::mem::MaybeUninit;

use aya_ebpf::{
    EbpfContext as _,
    bindings::{__sk_buff, bpf_hdr_start_off::BPF_HDR_START_NET, bpf_sock},
    helpers::generated::{
        bpf_get_socket_cookie, bpf_skb_ancestor_cgroup_id, bpf_skb_load_bytes, bpf_skb_load_bytes_relative,
    },
    programs::TcContext,
};
use bulkhead_abi::{
    FlowKey, FlowState, Protocol, Reason, SocketFlow, Verdict, Workload,
    flow::{FirstFragment, FragmentKey, Opening},
    tables::Interface,
};
use bulkhead_core::{
    guard::{Asked, Guard, Mark, Network, Part, Sender},
    judge::Decision,
    packet::{Bytes, Words},
    track::{self, Outcome, State, Telling, Whose},
};

use crate::{
    CGROUP_ID, CGROUP_LEVEL, GUARD_MARK, guard_leaf as leaf, keyed, maps, place::Place, raw, storage,
    tables::kernel_tables,
};

/// A frame and its sender's socket.
pub struct Frame {
    skb: *mut __sk_buff,
    sk: *mut bpf_sock,
    /// Length of the Ethernet header, where it was asked for: whoever reads bytes must ask.
    header: u32,
}

impl Frame {
    #[inline(always)]
    pub fn new(ctx: &TcContext) -> Self {
        Self::of(ctx.as_ptr().cast())
    }

    #[inline(always)]
    pub fn of(skb: *mut __sk_buff) -> Self {
        // SAFETY: a field of the context; the verifier knows it may be null.
        let sk = unsafe { (*skb).__bindgen_anon_2.sk };
        Self { skb, sk, header: 0 }
    }

    /// The same for whoever needs the packet's length.
    #[inline(always)]
    pub fn measured(skb: *mut __sk_buff) -> Self {
        const ETHERNET: u32 = 14;
        let frame = Self::of(skb);
        let ethernet = frame.interface().flags & Interface::FLAG_ETHERNET != 0;
        Self { header: if ethernet { ETHERNET } else { 0 }, ..frame }
    }

    /// Remembers the connection that the sender's socket opens.
    #[inline(always)]
    pub fn remember(&self, state: &State, sequence: u32) {
        // SAFETY: the context of this program.
        let cookie = unsafe { bpf_get_socket_cookie(self.skb.cast()) };
        if cookie == 0 || self.sk.is_null() {
            return;
        }
        let Some(owner) = storage::get(&maps::SOCKET_OWNERS, self.sk) else { return };
        // SAFETY: lives as long as the socket, which outlives this program.
        let netns = unsafe { (*owner).netns };
        let doomed = track::parts::doomed(state, netns, Whose::Ours, Reason::Default);
        let _ = maps::OPENINGS.insert(sequence, Opening { cookie, doomed }, 0);
    }

    #[inline(always)]
    fn netns(&self) -> u64 {
        0
    }

    #[inline(always)]
    fn cookie(&self) -> u64 {
        0
    }
}

kernel_tables!(Frame);

impl Bytes for Frame {
    #[inline(always)]
    fn len(&self) -> u32 {
        // SAFETY: a field of the context.
        unsafe { (*self.skb).len }.saturating_sub(self.header)
    }

    #[inline(always)]
    fn load<const N: usize>(&self, offset: u32, buffer: &mut [u8; N]) -> u32 {
        let Some(left) = self.len().checked_sub(offset) else { return 0 };
        let Some(count) = raw::within::<N>(left) else { return 0 };
        let to = buffer.as_mut_ptr().cast();
        // SAFETY: writes `count` bytes, at most N, into the buffer.
        let result = unsafe {
            match self.header {
                0 => bpf_skb_load_bytes_relative(self.skb.cast(), offset, to, count, BPF_HDR_START_NET),
                // The other one reads no further than the linear part, which may end behind the headers.
                header => bpf_skb_load_bytes(self.skb.cast(), header.wrapping_add(offset), to, count),
            }
        };
        if result == 0 { count } else { 0 }
    }

    #[inline(always)]
    fn first<const N: usize>(&self) -> Option<Words<N>> {
        let mut words = MaybeUninit::<Words<N>>::uninit();
        // SAFETY: writes N bytes into the buffer, or fails.
        let result = unsafe {
            bpf_skb_load_bytes_relative(
                self.skb.cast(),
                0,
                words.as_mut_ptr().cast(),
                const { N as u32 },
                BPF_HDR_START_NET,
            )
        };
        // SAFETY: all of it was written.
        if result == 0 { Some(unsafe { words.assume_init() }) } else { None }
    }

    #[inline(always)]
    fn behind_extensions(&self, first: u8) -> Result<(Protocol, u32), Reason> {
        crate::leaf::extensions_from(leaf::guard_extensions(self.skb, first.into()))
    }
}

/// The part of the mark that is ours, and the value of its lowest bit.
#[inline(always)]
fn mark_part() -> (u32, u32) {
    let mask = GUARD_MARK.load();
    let unit = mask & mask.wrapping_neg();
    (mask, if unit == 0 { 1 } else { unit })
}

impl Guard for Frame {
    type Transit = Place<FlowState>;
    type Owned = Place<SocketFlow>;

    #[inline(always)]
    fn sender(&self) -> Sender {
        // Of include/linux/socket.h.
        const INET: u32 = 2;
        const INET6: u32 = 10;
        const PACKET: u32 = 17;
        const XDP: u32 = 44;
        if self.sk.is_null() {
            return Sender::None;
        }
        let level = CGROUP_LEVEL.load();
        if level != 0 {
            // SAFETY: the context of this program.
            let above = unsafe { bpf_skb_ancestor_cgroup_id(self.skb, level as i32) };
            if above != CGROUP_ID.load() {
                return Sender::None;
            }
        }
        // SAFETY: checked against null; the family may be read of any socket.
        match unsafe { (*self.sk).family } {
            INET | INET6 => Sender::Socket,
            PACKET | XDP => Sender::Packet,
            // A tun's, for one: what it sends came from elsewhere.
            _ => Sender::None,
        }
    }

    #[inline(always)]
    fn network(&self) -> Network {
        const IPV4: u16 = 0x0800;
        const IPV6: u16 = 0x86dd;
        const ARP: u16 = 0x0806;
        // SAFETY: a field of the context.
        match u16::from_be(unsafe { (*self.skb).protocol } as u16) {
            IPV4 | IPV6 => Network::Ip,
            ARP => Network::Arp,
            _ => Network::Other,
        }
    }

    #[inline(always)]
    fn interface(&self) -> Interface {
        // SAFETY: a field of the context; the value is plain bytes and copied at once.
        let found = unsafe { maps::INTERFACES.get((*self.skb).ifindex) };
        found.copied().unwrap_or_default()
    }

    #[inline(always)]
    fn mark(&self) -> Mark {
        let (mask, unit) = mark_part();
        // SAFETY: a field of the context.
        Mark::from_number((unsafe { (*self.skb).mark } & mask) / unit, mask / unit)
    }

    #[inline(always)]
    fn set_mark(&self, mark: Mark) {
        let (mask, unit) = mark_part();
        // SAFETY: a field of the context that a `sched_cls` program may write.
        unsafe {
            let number = mark.number(mask / unit);
            (*self.skb).mark = ((*self.skb).mark & !mask) | (number.wrapping_mul(unit) & mask);
        }
    }

    #[inline(always)]
    fn sender_workload(&self) -> Workload {
        let mut workload = Workload::UNKNOWN;
        let _ = crate::leaf::leaf_workload(self.skb, &mut workload);
        workload
    }

    #[inline(always)]
    fn owned(&self) -> Option<Place<SocketFlow>> {
        if self.sk.is_null() {
            return None;
        }
        storage::get(&maps::SOCKET_FLOWS, self.sk).map(Place::at)
    }

    #[inline(always)]
    fn transit(&self, key: &FlowKey) -> Option<Place<FlowState>> {
        Place::found(keyed::transit(key))
    }

    #[inline(always)]
    fn new_transit(&self, key: &FlowKey) -> Option<Place<FlowState>> {
        Place::found(keyed::new_transit(key))
    }

    #[inline(always)]
    fn new_hand_over(&self, key: &FlowKey) -> Option<Place<FlowState>> {
        Place::found(keyed::new_flow(key))
    }

    #[inline(always)]
    fn handed(&self, key: &FlowKey) -> Option<Place<FlowState>> {
        Place::found(keyed::flow(key))
    }

    #[inline(always)]
    fn routes(&self) -> bool {
        maps::ROUTES.get(0).is_some_and(|begun| *begun != 0)
    }

    #[inline(always)]
    fn route(&self) {
        if let Some(begun) = maps::ROUTES.get_ptr_mut(0) {
            // SAFETY: a word of a map, which others only set as well.
            unsafe { begun.write_volatile(1) };
        }
    }

    #[inline(always)]
    fn first_fragment(&self, key: &FragmentKey) -> Option<FirstFragment> {
        // SAFETY: null or plain bytes, copied at once; the value carries its key.
        unsafe { keyed::fragment(key).as_ref() }.copied()
    }

    #[inline(always)]
    fn remember_fragment(&self, first: &FirstFragment) -> bool {
        keyed::new_fragment(first)
    }

    #[inline(always)]
    fn is_opening(&self) -> bool {
        // Of include/net/tcp_states.h.
        const SYN_SENT: u32 = 2;
        // SAFETY: checked against null; `state` may be read of any socket.
        !self.sk.is_null() && unsafe { (*self.sk).state } == SYN_SENT
    }

    #[inline(always)]
    fn remember_opening(&self, state: &State, sequence: u32) {
        let _ = leaf::guard_remember_opening(self.skb, state, sequence);
    }

    #[inline(always)]
    fn doom_opening(&self, sequence: u32, reason: Reason) {
        let _ = leaf::guard_doom_opening(sequence, reason as u32);
    }

    #[inline(always)]
    fn on_prepare(&self, state: &mut State) {
        let _ = leaf::guard_prepare(self.skb, state);
    }

    #[inline(always)]
    fn on_stamp(&self, state: &mut State) -> Mark {
        Mark(leaf::guard_stamp(self.skb, state))
    }

    #[inline(always)]
    fn on_enter(&self, state: &State) -> Verdict {
        Verdict::from_code(leaf::guard_enter(self.skb, state) as u8)
    }

    #[inline(always)]
    fn on_reply(&self, state: &State) -> Outcome {
        Outcome::from_code(leaf::guard_reply(self.skb, state))
    }

    #[inline(always)]
    fn on_speaks(&self, state: &State) -> bool {
        leaf::guard_speaks(self.skb, state) != 0
    }

    #[inline(always)]
    fn on_answered(&self, state: &mut State) -> Outcome {
        Outcome::from_code(leaf::guard_answered(self.skb, state))
    }

    #[inline(always)]
    fn on_quoted(&self, state: &mut State) -> bool {
        leaf::guard_quoted(self.skb, state) != 0
    }

    #[inline(always)]
    fn on_said(&self, state: &State) -> Outcome {
        Outcome::from_code(leaf::guard_said(self.skb, state))
    }

    #[inline(always)]
    fn on_is_back(&self, state: &State) -> bool {
        leaf::guard_is_back(self.skb, state) != 0
    }

    #[inline(always)]
    fn on_fragment_back(&self, state: &mut State) -> Outcome {
        Outcome::from_code(leaf::guard_fragment_back(self.skb, state))
    }

    #[inline(always)]
    fn on_packet_socket(&self, state: &State) -> Verdict {
        Verdict::from_code(leaf::guard_packet_socket(self.skb, state) as u8)
    }

    #[inline(always)]
    fn on_read_fragment(&self, state: &mut State, first: &mut FirstFragment) -> Part {
        Part::from_code(leaf::guard_read_fragment(self.skb, state, first))
    }

    #[inline(always)]
    fn on_later_fragment(&self, later: &FirstFragment) -> Outcome {
        Outcome::from_code(leaf::guard_later_fragment(self.skb, later))
    }

    #[inline(always)]
    fn on_later_answer(&self, later: &FirstFragment) -> Outcome {
        Outcome::from_code(leaf::guard_later_answer(self.skb, later))
    }

    #[inline(always)]
    fn on_first_fragment(&self, state: &State, first: &FirstFragment, verdict: Verdict) -> Outcome {
        Outcome::from_code(leaf::guard_first_fragment(self.skb, state, first, verdict as u32))
    }

    #[inline(always)]
    fn on_icmp_error(&self, state: &State) -> Outcome {
        Outcome::from_code(leaf::guard_icmp_error(self.skb, state))
    }

    #[inline(always)]
    fn on_transit(&self, state: &State) -> Outcome {
        Outcome::from_code(leaf::guard_transit(self.skb, state))
    }

    #[inline(always)]
    fn on_ask(&self, state: &State, asked: &mut Asked) -> Outcome {
        Outcome::from_code(leaf::guard_ask(self.skb, state, asked))
    }

    #[inline(always)]
    fn on_begin(&self, state: &State, asked: &Asked, decision: &Decision) -> Outcome {
        Outcome::from_code(leaf::guard_begin(self.skb, state, asked, decision))
    }

    #[inline(always)]
    fn on_open(&self, state: &State) -> Outcome {
        Outcome::from_code(leaf::guard_open(self.skb, state))
    }

    #[inline(always)]
    fn on_refuse(&self, state: &State, reason: Reason) -> Verdict {
        Verdict::from_code(leaf::guard_refuse(self.skb, state, reason as u32) as u8)
    }

    #[inline(always)]
    fn account(&self, state: &State, decision: &Decision, _own: &Workload, telling: Telling) -> u32 {
        // The guard knows nobody's workload. Handing that over would take room on the stacks of its longest
        // chain of calls, which Linux 6.1 has not got.
        leaf::guard_account(self.skb, state, decision, crate::leaf::telling_bits(telling))
    }
}
