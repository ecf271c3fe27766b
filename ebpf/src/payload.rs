//! What a packet carries, for [`bulkhead_core::inspect`]: each of its readers is a function that the
//! verifier walks once (see [`crate::leaf`]).

use aya_ebpf::bindings::__sk_buff;
use bulkhead_abi::{
    Conversation, Inspection, Reason,
    inspect::{Ahead, Early},
};
use bulkhead_core::{
    inspect::{Cursor, Payload, Ruling, datagram, datagram::Readers, leaves, stream},
    packet::Bytes as _,
};

use crate::raw::{Raw, opaque};

/// `len` bytes of a packet, from the offset `at` on.
pub struct Carried {
    skb: *mut __sk_buff,
    at: u32,
    len: u32,
}

impl Carried {
    #[inline(always)]
    pub fn new(skb: *mut __sk_buff, at: u32, len: u32) -> Self {
        Self { skb, at, len }
    }

    /// From what [`Carried::place`] says.
    #[inline(always)]
    pub fn placed(skb: *mut __sk_buff, place: u64) -> Self {
        Self { skb, at: place as u32, len: (place >> 32) as u32 }
    }

    #[inline(always)]
    pub fn place(&self) -> u64 {
        u64::from(self.len) << 32 | u64::from(self.at)
    }

    #[inline(always)]
    fn read<const N: usize>(&self, offset: u32, buffer: &mut [u8; N]) -> u32 {
        if offset >= self.len {
            return 0;
        }
        let read = Raw(self.skb).load(self.at.wrapping_add(offset), buffer);
        // What stands behind the packet's own end is no payload.
        let most = self.len - offset;
        if read < most { read } else { most }
    }
}

/// How much nearly every reader takes at once.
const PIECE: usize = 16;

/// Loads a piece, and says how much of it there is: as a call it leaves one state to the verifier, where
/// each way in which a load can end would be one.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn inspect_piece(
    skb: *mut __sk_buff,
    place: u64,
    offset: u32,
    buffer: *mut [u8; PIECE],
) -> u32 {
    // SAFETY: null or, by the verifier's word, a whole value.
    match unsafe { buffer.as_mut() } {
        Some(buffer) => Carried::placed(skb, place).read(offset, buffer),
        None => 0,
    }
}

/// What a reader says that was given nothing: the verifier thinks that it could be.
const NOTHING: u32 = Ruling::Refuse(Reason::Inconsistent).code();

/// Functions over a payload.
macro_rules! readers {
    ($($leaf:ident $reader:ident)*) => {$(
        #[unsafe(no_mangle)]
        #[inline(never)]
        pub extern "C" fn $leaf(
            skb: *mut __sk_buff,
            place: u64,
            inspection: *mut Inspection,
            cursor: *mut Cursor,
        ) -> u32 {
            // SAFETY: null or, by the verifier's word, whole values.
            match unsafe { (inspection.as_mut(), cursor.as_mut()) } {
                (Some(inspection), Some(cursor)) => {
                    leaves::$reader(&Carried::placed(skb, place), inspection, cursor)
                }
                _ => NOTHING,
            }
        }
    )*};
}

/// Functions over what was kept of it.
macro_rules! judges {
    ($($leaf:ident $judge:ident)*) => {$(
        #[unsafe(no_mangle)]
        #[inline(never)]
        pub extern "C" fn $leaf(inspection: *mut Inspection, sender: u32) -> u32 {
            // SAFETY: null or, by the verifier's word, a whole value.
            match unsafe { inspection.as_mut() } {
                Some(inspection) => leaves::$judge(inspection, sender),
                None => NOTHING,
            }
        }
    )*};
}

readers! {
    inspect_enter enter
    inspect_step step
    inspect_opening opening
    inspect_skip skip
    inspect_wrapping wrapping
    inspect_lines lines
    inspect_records records
    inspect_ident ident
    inspect_packets packets
}

judges! {
    inspect_client fits_client
    inspect_server fits_server
    inspect_ssh fits_ssh
    inspect_old_server fits_old_server
    inspect_turn may_turn
    inspect_answer answer
    inspect_allow allow
    inspect_ask ask
}

/// Functions that judge what others have found in it.
macro_rules! deciders {
    ($($leaf:ident $decide:ident)*) => {$(
        #[unsafe(no_mangle)]
        #[inline(never)]
        pub extern "C" fn $leaf(inspection: *mut Inspection, sender: u32, found: u32) -> u32 {
            // SAFETY: null or, by the verifier's word, a whole value.
            match unsafe { inspection.as_mut() } {
                Some(inspection) => leaves::$decide(inspection, sender, found),
                None => NOTHING,
            }
        }
    )*};
}

deciders! {
    inspect_judge judge
    inspect_look look
}

/// [`leaves::steps`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn inspect_steps(
    skb: *mut __sk_buff,
    place: u64,
    inspection: *mut Inspection,
    cursor: *mut Cursor,
    next: u32,
) -> u32 {
    // SAFETY: null or, by the verifier's word, whole values.
    match unsafe { (inspection.as_mut(), cursor.as_mut()) } {
        (Some(inspection), Some(cursor)) => {
            leaves::steps(&Carried::placed(skb, place), inspection, cursor, next)
        }
        _ => NOTHING,
    }
}

/// Functions that look for a family of protocols.
macro_rules! families {
    ($($leaf:ident $family:ident)*) => {$(
        #[unsafe(no_mangle)]
        #[inline(never)]
        pub extern "C" fn $leaf(inspection: *mut Inspection) -> u32 {
            // SAFETY: null or, by the verifier's word, a whole value.
            match unsafe { inspection.as_mut() } {
                Some(inspection) => leaves::$family(inspection),
                None => 0,
            }
        }
    )*};
}

families! {
    inspect_dialogue_request dialogue_request
    inspect_binary_request binary_request
    inspect_late_binary_request late_binary_request
    inspect_text_request text_request
    inspect_likely_request likely_request
    inspect_paired paired
    inspect_dialogue_answer dialogue_answer
    inspect_text_answer text_answer
    inspect_binary_answer binary_answer
    inspect_paired_answer paired_answer
}

/// [`leaves::find_place`] of `gap << 32 | next`.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn inspect_find_place(ahead: *const Ahead, place: u64, len: u32) -> u32 {
    // SAFETY: null or, by the verifier's word, a whole value.
    match unsafe { ahead.as_ref() } {
        Some(ahead) => leaves::find_place(ahead, place as u32, (place >> 32) as u32, len),
        None => leaves::NO_PLACE,
    }
}

/// [`leaves::find_due`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn inspect_find_due(ahead: *const Ahead, next: u32) -> u32 {
    // SAFETY: null or, by the verifier's word, a whole value.
    match unsafe { ahead.as_ref() } {
        Some(ahead) => leaves::find_due(ahead, next),
        None => leaves::NO_PLACE,
    }
}

/// [`leaves::join`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn inspect_join(inspection: *mut Inspection, early: *const Early, sender: u32) -> u32 {
    // SAFETY: null or, by the verifier's word, whole values.
    match unsafe { (inspection.as_mut(), early.as_ref()) } {
        (Some(inspection), Some(early)) => leaves::join(inspection, early, sender),
        _ => 0,
    }
}

/// [`leaves::chain`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn inspect_chain(skb: *mut __sk_buff, place: u64, at: u32) -> u64 {
    leaves::chain(&Carried::placed(skb, place), at)
}

/// [`leaves::likely`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn inspect_likely(skb: *mut __sk_buff, place: u64) -> u32 {
    leaves::likely(&Carried::placed(skb, place))
}

/// [`leaves::likely_within`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn inspect_likely_within(skb: *mut __sk_buff, place: u64, at: u32) -> u32 {
    leaves::likely_within(&Carried::placed(skb, place), at)
}

macro_rules! calls {
    (
        readers $($method:ident $reader:ident)*;
        judges $($over:ident $judge:ident)*;
        families $($family:ident $looks:ident)*
    ) => {
        $(
            #[inline(always)]
            fn $method(&self, inspection: &mut Inspection, cursor: &mut Cursor) -> u32 {
                $reader(self.skb, self.place(), inspection, cursor)
            }
        )*
        $(
            #[inline(always)]
            fn $over(&self, inspection: &mut Inspection, sender: u32) -> u32 {
                $judge(inspection, sender)
            }
        )*
        $(
            #[inline(always)]
            fn $family(&self, inspection: &mut Inspection) -> u32 {
                $looks(inspection)
            }
        )*
    };
}

impl Payload for Carried {
    #[inline(always)]
    fn len(&self) -> u32 {
        self.len
    }

    #[inline(always)]
    fn load<const N: usize>(&self, offset: u32, buffer: &mut [u8; N]) -> u32 {
        if N == PIECE {
            let read = inspect_piece(self.skb, self.place(), offset, buffer.as_mut_ptr().cast());
            // The verifier does not know how much a function says, and the compiler does.
            return (opaque(read.into()) & (2 * PIECE as u64 - 1)) as u32;
        }
        self.read(offset, buffer)
    }

    #[inline(always)]
    fn steps(&self, inspection: &mut Inspection, cursor: &mut Cursor, next: u32) -> u32 {
        inspect_steps(self.skb, self.place(), inspection, cursor, next)
    }

    #[inline(always)]
    fn find_place(&self, ahead: &Ahead, next: u32, gap: u32, len: u32) -> u32 {
        inspect_find_place(ahead, u64::from(gap) << 32 | u64::from(next), len)
    }

    #[inline(always)]
    fn find_due(&self, ahead: &Ahead, next: u32) -> u32 {
        inspect_find_due(ahead, next)
    }

    #[inline(always)]
    fn chain(&self, at: u32) -> u64 {
        inspect_chain(self.skb, self.place(), at)
    }

    #[inline(always)]
    fn likely(&self) -> u32 {
        inspect_likely(self.skb, self.place())
    }

    #[inline(always)]
    fn likely_within(&self, at: u32) -> u32 {
        inspect_likely_within(self.skb, self.place(), at)
    }

    #[inline(always)]
    fn join(&self, inspection: &mut Inspection, early: &Early, sender: u32) -> u32 {
        inspect_join(inspection, early, sender)
    }

    #[inline(always)]
    fn judge(&self, inspection: &mut Inspection, sender: u32, fits: u32) -> u32 {
        inspect_judge(inspection, sender, fits)
    }

    #[inline(always)]
    fn look(&self, inspection: &mut Inspection, sender: u32, found: u32) -> u32 {
        inspect_look(inspection, sender, found)
    }

    calls! {
        readers
        enter inspect_enter
        step inspect_step
        opening inspect_opening
        skip inspect_skip
        wrapping inspect_wrapping
        lines inspect_lines
        records inspect_records
        ident inspect_ident
        packets inspect_packets;
        judges
        fits_client inspect_client
        fits_server inspect_server
        fits_ssh inspect_ssh
        fits_old_server inspect_old_server
        may_turn inspect_turn
        answer inspect_answer
        allow inspect_allow
        ask inspect_ask;
        families
        dialogue_request inspect_dialogue_request
        binary_request inspect_binary_request
        late_binary_request inspect_late_binary_request
        text_request inspect_text_request
        likely_request inspect_likely_request
        paired inspect_paired
        dialogue_answer inspect_dialogue_answer
        text_answer inspect_text_answer
        binary_answer inspect_binary_answer
        paired_answer inspect_paired_answer
    }
}

/// Reads a segment.
#[inline(always)]
pub fn read_segment(carried: &Carried, inspection: &mut Inspection, sender: u8, seq: u32) -> Ruling {
    stream::segment(inspection, sender, seq, carried)
}

/// Reads a datagram; a ruling's code.
#[inline(always)]
pub fn read_datagram(carried: &Carried, conversation: &mut Conversation, sender: u8) -> u32 {
    match inspect_encrypted(carried.skb, carried.place(), conversation, sender.into()) {
        UNCLEAR => inspect_otherwise(carried.skb, carried.place(), conversation, sender.into()),
        ruling => ruling,
    }
}

/// How many datagrams one packet may be: the most that a sender may ask for (`UDP_MAX_SEGMENTS`, 64 before
/// Linux 6.9), and that a receiver is given together.
const TRAIN: u32 = 128;

/// Reads the datagrams that are still one packet (`UDP_SEGMENT`, `UDP_GRO`), in their order, up to the first
/// that does not pass; a ruling's code. `how` is `length of each << 32 | sender`.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn inspect_train(
    skb: *mut __sk_buff,
    place: u64,
    conversation: *mut Conversation,
    how: u64,
) -> u32 {
    if conversation.is_null() {
        return NOTHING;
    }
    let mut place = place;
    for _ in 0..TRAIN {
        let left = place >> 32;
        if left == 0 {
            return PASSES;
        }
        // Taken apart in each turn: what is kept over calls takes room on the stack.
        let how = opaque(how);
        // The lesser of the two, without a branch: two ways through each turn would be too many.
        let less = (how >> 32).wrapping_sub(left);
        let len = left.wrapping_add(less & opaque((less as i64 >> 63) as u64));
        let part = len << 32 | (place & 0xffff_ffff);
        let mut ruling = inspect_encrypted(skb, part, conversation, how as u32);
        if ruling == UNCLEAR {
            ruling = inspect_otherwise(skb, part, conversation, how as u32);
        }
        if ruling != PASSES {
            return ruling;
        }
        let len = part >> 32;
        place = place.wrapping_add(len).wrapping_sub(len << 32);
    }
    // More than any kernel makes: what was not read is not known.
    // SAFETY: checked against null.
    unsafe { datagram::unread(&mut *conversation) }.code()
}

const PASSES: u32 = Ruling::Pass.code();

/// No ruling: the next function reads on.
const UNCLEAR: u32 = 2;

/// [`datagram::otherwise`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn inspect_otherwise(
    skb: *mut __sk_buff,
    place: u64,
    conversation: *mut Conversation,
    sender: u32,
) -> u32 {
    // SAFETY: null or, by the verifier's word, a whole value.
    match unsafe { conversation.as_mut() } {
        Some(conversation) => {
            datagram::otherwise(conversation, sender as u8, &Carried::placed(skb, place)).code()
        }
        None => NOTHING,
    }
}

/// [`datagram::encrypted`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn inspect_encrypted(
    skb: *mut __sk_buff,
    place: u64,
    conversation: *mut Conversation,
    sender: u32,
) -> u32 {
    // SAFETY: null or, by the verifier's word, a whole value.
    match unsafe { conversation.as_mut() } {
        Some(conversation) => datagram::encrypted(conversation, sender as u8, &Carried::placed(skb, place))
            .map_or(UNCLEAR, Ruling::code),
        None => NOTHING,
    }
}

/// Readers of a datagram.
macro_rules! kinds {
    ($($leaf:ident $kind:ident)*) => {
        $(
            #[unsafe(no_mangle)]
            #[inline(never)]
            pub extern "C" fn $leaf(skb: *mut __sk_buff, place: u64) -> u32 {
                datagram::leaves::$kind(&Carried::placed(skb, place))
            }
        )*

        impl Readers for Carried {
            $(
                #[inline(always)]
                fn $kind(&self) -> u32 {
                    $leaf(self.skb, self.place())
                }
            )*
        }
    };
}

kinds! {
    inspect_numbers numbers
    inspect_tunnels tunnels
    inspect_attributes attributes
    inspect_words words
    inspect_metrics metrics
}
