//! A vector through the kernel's code, cut as wanted.

use bulkhead_abi::{App, Class, Demand, Inspection};
use bulkhead_core::inspect::{self, Ruling, datagram, stream};
use bulkhead_tests::corpus::{Segment, Vector};

/// How the bytes of a stream are cut into segments.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Cut {
    /// As they were recorded.
    AsRecorded,
    /// Each recorded segment in two, behind so many bytes.
    At(usize),
    /// One byte each.
    Bytes,
    /// Each recorded segment twice.
    Repeated,
    /// What one end said in one go in one segment.
    Joined,
}

/// What was found out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Seen {
    pub(crate) class: Class,
    pub(crate) app: App,
    pub(crate) upgraded: bool,
    pub(crate) phase: u8,
    pub(crate) refused: bool,
    /// Where TLS begins in either direction.
    pub(crate) hello: [Option<usize>; 2],
}

impl Seen {
    pub(crate) fn outcome(&self) -> (&'static str, &'static str, bool) {
        (self.class.as_str(), self.app.as_str(), self.upgraded)
    }
}

/// What is found out where nothing is demanded.
pub(crate) fn replay(vector: &Vector, cut: Cut) -> Seen {
    run(vector, cut, Demand::OFF)
}

/// What comes of it under `tls = "require"`.
pub(crate) fn require(vector: &Vector, cut: Cut) -> Seen {
    run(vector, cut, Demand::REQUIRE)
}

fn run(vector: &Vector, cut: Cut, demand: Demand) -> Seen {
    if vector.transport == "udp" { datagrams(vector, demand) } else { segments(vector, cut, demand) }
}

fn datagrams(vector: &Vector, demand: Demand) -> Seen {
    let mut conversation = inspect::conversation(demand);
    let mut refused = false;
    for segment in &vector.segments {
        let ruling = datagram::datagram(&mut conversation, segment.sender, &segment.bytes.as_slice());
        refused |= matches!(ruling, Ruling::Refuse(_));
    }
    Seen {
        class: Class::from_code(conversation.class),
        app: App::from_code(conversation.app),
        upgraded: false,
        phase: conversation.phase,
        refused,
        hello: [None; 2],
    }
}

/// Sequence numbers of the first bytes: the receiver's wrap around.
const FIRST: [u32; 2] = [1000, u32::MAX - 20];

fn segments(vector: &Vector, cut: Cut, demand: Demand) -> Seen {
    let mut inspection = Inspection::default();
    inspect::demand(&mut inspection, demand);
    for (sender, first) in (0..).zip(FIRST) {
        stream::begin(&mut inspection, sender, first);
    }
    let mut next = FIRST;
    let mut refused = false;
    for Segment { sender, bytes } in cut_up(&vector.segments, cut) {
        let place = &mut next[usize::from(sender)];
        let times = if matches!(cut, Cut::Repeated) { 2 } else { 1 };
        for _ in 0..times {
            let ruling = stream::segment(&mut inspection, sender, *place, &bytes.as_slice());
            refused |= matches!(ruling, Ruling::Refuse(_));
            assert!(ruling != Ruling::Hold, "{}: nothing is ahead of anything", vector.name);
        }
        *place = place.wrapping_add(u32::try_from(bytes.len()).unwrap_or(0));
    }
    let hello = [0u8, 1].map(|sender| {
        let at = usize::from(sender);
        let behind = stream::hello_offset(&inspection, sender, next[at])?;
        usize::try_from(next[at].wrapping_sub(FIRST[at]).checked_sub(behind)?).ok()
    });
    Seen {
        class: Class::from_code(inspection.class),
        app: App::from_code(inspection.app),
        upgraded: inspection.flags & Inspection::FLAG_UPGRADED != 0,
        phase: inspection.phase,
        refused,
        hello,
    }
}

fn cut_up(segments: &[Segment], cut: Cut) -> Vec<Segment> {
    let mut pieces: Vec<Segment> = Vec::new();
    for segment in segments {
        match cut {
            Cut::AsRecorded | Cut::Repeated => pieces.push(segment.clone()),
            Cut::At(place) => {
                let (first, second) = segment.bytes.split_at(place.min(segment.bytes.len()));
                for bytes in [first, second].into_iter().filter(|bytes| !bytes.is_empty()) {
                    pieces.push(Segment { sender: segment.sender, bytes: bytes.to_vec() });
                }
            }
            Cut::Bytes => {
                pieces.extend(
                    segment.bytes.iter().map(|byte| Segment { sender: segment.sender, bytes: vec![*byte] }),
                );
            }
            Cut::Joined => match pieces.last_mut().filter(|last| last.sender == segment.sender) {
                Some(last) => last.bytes.extend(&segment.bytes),
                None => pieces.push(segment.clone()),
            },
        }
    }
    pieces
}
