//! The ring of opening bytes.

use aya_ebpf::{
    EbpfContext as _,
    bindings::{__sk_buff, BPF_RB_AVAIL_DATA, BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP},
    helpers::generated::{bpf_get_socket_cookie, bpf_ringbuf_query, bpf_skb_load_bytes},
    programs::SkBuffContext,
};
use bulkhead_abi::{
    Conversation, Direction, Identity, SocketFlow,
    inspect::{Datagrams, Piece},
    limits,
    names::Loss,
};
use bulkhead_core::{
    inspect::datagram,
    report::Report as _,
    track::{Before, Known, State, Told, parts},
};

use crate::{maps, payload::Carried, raw::within, skb::Skb, tables};

/// Where in the packet, as a number: `len << 32 | at`.
#[inline(always)]
pub fn place(told: &Told) -> u64 {
    u64::from(told.len) << 32 | u64::from(told.at)
}

/// Where in the stream, as a number: `sender << 32 | offset`.
#[inline(always)]
pub fn which(told: &Told) -> u64 {
    u64::from(told.sender) << 32 | u64::from(told.offset)
}

/// Records that one segment makes at most: all that is told of a direction.
const RECORDS: u32 = Piece::STREAM_BYTES / Piece::BYTES as u32;

/// [`Before::of`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn leaf_begin(flow: *const SocketFlow, sender: u32) -> u32 {
    // SAFETY: null or, by the verifier's word, a whole flow.
    match unsafe { flow.as_ref() } {
        Some(flow) => Before::of(&flow.inspection, (sender & 1) as u8).0,
        None => 0,
    }
}

/// [`parts::tell`] of the bytes at `place`, and of `seq << 32 | before << 8 | sender`.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn leaf_tell(
    skb: *mut __sk_buff,
    flow: *const SocketFlow,
    place: u64,
    how: u64,
    ruling: u32,
) -> u32 {
    // SAFETY: null or, by the verifier's word, a whole flow.
    let Some(flow) = (unsafe { flow.as_ref() }) else { return 0 };
    let part = (place as u32, (place >> 32) as u32, (how >> 32) as u32);
    let before = Before((how >> 8) as u32 & 0xff);
    u32::from(parts::tell(&Skb::new(SkBuffContext::new(skb)), flow, (how as u8) & 1, part, before, ruling))
}

/// Writes bytes of a packet of `flow`, or those that it has kept, into the ring; see [`place`] and
/// [`which`]. Without room they are lost, and counted.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn leaf_piece(skb: *mut __sk_buff, flow: *const SocketFlow, place: u64, which: u64) -> u32 {
    if flow.is_null() {
        return 0;
    }
    let (mut place, mut which) = (place, which);
    for _ in 0..RECORDS {
        let count = u64::from(leaf_record(skb, flow, place, which));
        let left = (place >> 32).wrapping_sub(count);
        if count == 0 || left == 0 || left >> 32 != 0 {
            break;
        }
        place = left << 32 | (place.wrapping_add(count) & 0xffff_ffff);
        which = which.wrapping_add(count);
    }
    0
}

/// One record of [`leaf_piece`]; how many bytes of the packet are in it.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn leaf_record(skb: *mut __sk_buff, flow: *const SocketFlow, place: u64, which: u64) -> u32 {
    // SAFETY: null or, by the verifier's word, a whole flow.
    let Some(flow) = (unsafe { flow.as_ref() }) else { return 0 };
    let (at, len, sender) = (place as u32, (place >> 32) as u32, (which >> 32) as u8);
    let Some(mut entry) = maps::PIECES.reserve(0) else {
        tables::lose(Loss::Pieces);
        return 0;
    };
    // SAFETY: plain bytes: every pattern is valid, and what the daemon reads is written first.
    let piece = unsafe { entry.assume_init_mut() };
    head(piece, skb, flow, sender);
    piece.offset = which as u32;
    let how = wakes(piece);
    if len == 0 {
        keep(piece, flow, sender);
        entry.submit(how);
        return 0;
    }
    let count = fill(piece, skb, at, len);
    if count == 0 {
        entry.discard(how);
    } else {
        entry.submit(how);
    }
    count
}

/// Bytes of the ring that are written between two wakings, once a quarter of it is full.
const STEP: u64 = limits::PIECES as u64 / 16;

/// Datagrams of one packet that are looked at here (`UDP_SEGMENT`): a hello that takes more is none.
const DATAGRAMS: u32 = 4;

/// Writes the datagrams of a packet that are of an opening into the ring. Without room they are lost, and
/// counted.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn leaf_opening(
    skb: *mut __sk_buff,
    state: *const State,
    known: *const Known,
    read: *mut Datagrams,
) -> u32 {
    // SAFETY: null or, by the verifier's word, whole values.
    let (Some(state), Some(read)) = (unsafe { (state.as_ref(), read.as_mut()) }) else { return 0 };
    let (at, len) = parts::payload(&Skb::new(SkBuffContext::new(skb)), state);
    // SAFETY: a field of the context. Not 0: several datagrams that are still one packet.
    let each = u64::from(unsafe { (*skb).gso_size });
    let (mut at, mut left) = (u64::from(at), u64::from(len));
    let conversation = &mut read.conversation;
    for _ in 0..DATAGRAMS {
        if left == 0 {
            break;
        }
        let len = if each == 0 || each > left { left } else { each };
        let place = len << 32 | (at & 0xffff_ffff);
        if leaf_is_told(skb, place, conversation) != 0 {
            let how = u64::from(conversation.level) << 8 | u64::from(conversation.floor);
            let _ = leaf_carried(skb, state, known, place, how);
        }
        at = at.wrapping_add(len);
        left = left.wrapping_sub(len);
    }
    0
}

/// [`datagram::is_told`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn leaf_is_told(skb: *mut __sk_buff, place: u64, conversation: *mut Conversation) -> u32 {
    // SAFETY: null or, by the verifier's word, a whole value.
    match unsafe { conversation.as_mut() } {
        Some(conversation) => u32::from(datagram::is_told(conversation, &Carried::placed(skb, place))),
        None => 0,
    }
}

/// Writes one datagram into the ring. `how` is `level << 8 | floor`.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn leaf_carried(
    skb: *mut __sk_buff,
    state: *const State,
    known: *const Known,
    place: u64,
    how: u64,
) -> u32 {
    if state.is_null() || known.is_null() {
        return 0;
    }
    let (mut place, mut how) = (place, how);
    for _ in 0..Piece::DATAGRAM_BYTES / Piece::BYTES as u32 {
        let count = u64::from(leaf_part(skb, state, known, place, how));
        let left = (place >> 32).wrapping_sub(count);
        if count == 0 || left == 0 || left >> 32 != 0 {
            break;
        }
        place = left << 32 | (place.wrapping_add(count) & 0xffff_ffff);
        how = how.wrapping_add(count << 32);
    }
    0
}

/// One record of [`leaf_carried`], whose place in the datagram is `how >> 32`; how many bytes are in it.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn leaf_part(
    skb: *mut __sk_buff,
    state: *const State,
    known: *const Known,
    place: u64,
    how: u64,
) -> u32 {
    // SAFETY: null or, by the verifier's word, whole values.
    let (Some(state), Some(known)) = (unsafe { (state.as_ref(), known.as_ref()) }) else { return 0 };
    let Some(mut entry) = maps::PIECES.reserve(0) else {
        tables::lose(Loss::Pieces);
        return 0;
    };
    // SAFETY: plain bytes: every pattern is valid, and what the daemon reads is written first.
    let piece = unsafe { entry.assume_init_mut() };
    let hook = Skb::new(SkBuffContext::new(skb));
    piece.time = tables::now();
    // SAFETY: the context of this program.
    piece.cookie = unsafe { bpf_get_socket_cookie(SkBuffContext::new(skb).as_ptr()) };
    piece.netns = hook.netns();
    let (own, peer) = (state.local(), state.remote());
    let (src, dst) = if known.opener != 0 { (own, peer) } else { (peer, own) };
    (piece.src, piece.src_port) = (*src.addr, src.port);
    (piece.dst, piece.dst_port) = (*dst.addr, dst.port);
    (piece.from, piece.to) = (Identity(known.from), Identity(known.to));
    let leaves = u8::from(state.direction == Direction::Egress);
    piece.sender = u8::from(known.opener != leaves);
    (piece.protocol, piece.app) = (state.protocol.0, 0);
    (piece.level, piece.floor) = ((how >> 8) as u8, how as u8);
    let (at, left, offset) = (place as u32, (place >> 32) as u32, (how >> 32) as u32);
    piece.offset = offset;
    let whole = offset.wrapping_add(left) <= Piece::DATAGRAM_BYTES;
    let last = left <= Piece::BYTES as u32;
    // What is longer is cut at both ends' limit.
    let cut = !whole && offset.wrapping_add(Piece::BYTES as u32) >= Piece::DATAGRAM_BYTES;
    piece.more = u8::from(!last && !cut);
    let how = wakes(piece);
    let count = fill(piece, skb, at, left);
    if count == 0 {
        entry.discard(how);
    } else {
        entry.submit(how);
    }
    count
}

/// Whether the daemon is woken for this piece. It looks by itself ten times a second, which costs less than to
/// be woken for each connection; what it may have to end the connection for does not wait. Where the ring
/// fills up it is woken by the step: each waking is an interrupt that this processor sends to itself, and under
/// a hypervisor that costs as much as the rest of the connection's reading.
#[inline(always)]
fn wakes(piece: &Piece) -> u64 {
    let ring = core::ptr::from_ref(&maps::PIECES).cast_mut().cast();
    // SAFETY: a ring buffer, and something that may be asked of one.
    let unread = unsafe { bpf_ringbuf_query(ring, BPF_RB_AVAIL_DATA.into()) };
    let before = unread.wrapping_sub(size_of::<Piece>() as u64);
    let fills = unread > u64::from(limits::PIECES) / 4 && unread / STEP != before / STEP;
    let urgent = piece.floor > Piece::KERNEL_FLOOR || fills;
    u64::from(if urgent { BPF_RB_FORCE_WAKEUP } else { BPF_RB_NO_WAKEUP })
}

#[inline(always)]
fn head(piece: &mut Piece, skb: *mut __sk_buff, flow: &SocketFlow, sender: u8) {
    let hook = Skb::new(SkBuffContext::new(skb));
    piece.time = tables::now();
    // SAFETY: the context of this program.
    piece.cookie = unsafe { bpf_get_socket_cookie(SkBuffContext::new(skb).as_ptr()) };
    piece.netns = hook.netns();
    let own = (flow.local_addr, flow.local_port);
    let peer = (flow.peer_addr, flow.peer_port);
    let opener = flow.flags & SocketFlow::FLAG_OPENER != 0;
    let (src, dst) = if opener { (own, peer) } else { (peer, own) };
    (piece.src, piece.src_port) = src;
    (piece.dst, piece.dst_port) = dst;
    (piece.from, piece.to) = (flow.from, flow.to);
    (piece.sender, piece.protocol) = (sender, flow.protocol);
    (piece.app, piece.level, piece.floor) = (flow.inspection.app, flow.reading.level, flow.inspection.floor);
    piece.more = 0;
}

/// Copies from the packet; how many bytes.
#[inline(always)]
fn fill(piece: &mut Piece, skb: *mut __sk_buff, at: u32, left: u32) -> u32 {
    let Some(count) = within::<{ Piece::BYTES }>(left) else { return 0 };
    // SAFETY: writes `count` bytes, at most the piece's room.
    let result = unsafe { bpf_skb_load_bytes(skb.cast(), at, piece.bytes.as_mut_ptr().cast(), count) };
    if result != 0 {
        return 0;
    }
    piece.len = count as u16;
    count
}

/// Copies what was kept of the direction.
#[inline(always)]
fn keep(piece: &mut Piece, flow: &SocketFlow, sender: u8) {
    let [opener, receiver] = &flow.inspection.streams;
    let kept = if sender == 0 { opener } else { receiver };
    if let Some((front, _)) = piece.bytes.split_first_chunk_mut() {
        *front = kept.bytes;
    }
    piece.len = u16::from(kept.have);
}
