//! A TCP flow of a capture: both directions in order, and what the kernel's reader says of them.
//!
//! Where the capture has no SYN, nobody says who opened the flow. Then it is read both ways round, and
//! counts the way that says more: a banner that is a server's says who the server is.

use bulkhead_abi::{App, Class, Demand, Inspection};
use bulkhead_core::inspect::{self, stream};
use bulkhead_detect::hello::Handshake;
use bulkhead_detect::http2;

use super::flows::{Known, OPENING};
use super::packet::Tcp;
use super::segments::{KEPT, Segments};

/// Bytes that wait for those before them, of a flow of which only its handshake is of interest any more. A
/// capture that has the front of each packet only lacks some everywhere.
const LATE: usize = 8 << 10;

/// A flow in the making. Directions are numbered by who was seen first, or by who opened it where that is
/// known.
pub(super) struct Stream {
    readings: Readings,
    directions: [Segments; 2],
    /// Both ends finished, or one gave up.
    finished: [bool; 2],
    /// A SYN was seen.
    opened: bool,
    midstream: bool,
}

/// A flow as it is read, and the other way round, where nobody says who opened it.
struct Readings {
    as_seen: Reading,
    turned: Option<Reading>,
}

/// What the kernel's reader says of it.
struct Reading {
    inspection: Inspection,
    known: Known,
    /// Directions of which the reader knows where they begin, or that they began before.
    begun: [bool; 2],
}

/// What came of it.
pub(super) struct Told {
    pub(super) known: Known,
    /// [`Inspection::flags`].
    pub(super) flags: u8,
    pub(super) midstream: bool,
    /// Who was seen first has not opened it.
    pub(super) turned: bool,
    pub(super) handshake: Option<Handshake>,
}

impl Stream {
    pub(super) fn new() -> Self {
        Self {
            readings: Readings { as_seen: Reading::new(), turned: None },
            directions: Default::default(),
            finished: [false; 2],
            opened: false,
            midstream: false,
        }
    }

    /// Whether this segment begins another flow between the same ends.
    pub(super) fn ends_before(&self, tcp: Tcp, sender: u8) -> bool {
        let opens = tcp.syn && !tcp.ack;
        let again = self.directions.get(usize::from(sender)).and_then(Segments::first) == Some(tcp.seq);
        opens && !(sender == 0 && again) && (self.finished != [false; 2] || self.has_data() || sender == 0)
    }

    fn has_data(&self) -> bool {
        self.directions.iter().any(|direction| direction.handed_over() > 0)
    }

    /// Takes a segment; `bytes` is what the capture has of the flow so far, this one among it.
    pub(super) fn segment(&mut self, sender: u8, tcp: Tcp, payload: &[u8], bytes: u64) {
        let Self { readings, directions, finished, opened, midstream } = self;
        let Some(direction) = directions.get_mut(usize::from(sender)) else { return };
        if let Some(finished) = finished.get_mut(usize::from(sender)) {
            *finished |= tcp.fin || tcp.rst;
        }
        if tcp.syn {
            (*opened, readings.turned) = (true, None);
            direction.begin(tcp.seq);
            readings.as_seen.begin(sender, tcp.seq);
        } else if !direction.has_begun() && !tcp.rst {
            // Only a capture that begins in the middle has a direction without a SYN.
            *midstream = true;
            if !*opened {
                readings.turned.get_or_insert_with(Reading::new);
            }
        }
        if payload.is_empty() || tcp.rst {
            return;
        }
        if readings.are_over() && (direction.handed_over() >= KEPT || direction.waiting() > LATE) {
            return;
        }
        direction.take(tcp.seq, payload, &mut |seq, payload| readings.read(sender, seq, payload));
        readings.note(bytes);
    }

    /// What is known at its end.
    pub(super) fn told(&mut self, bytes: u64) -> Told {
        let Self { readings, directions, .. } = self;
        for (sender, direction) in (0u8..).zip(directions) {
            direction.finish(&mut |seq, payload| readings.read(sender, seq, payload));
        }
        readings.note(bytes);
        let (chosen, turned) = self.readings.chosen();
        let [first, second] = &self.directions;
        let ends = if turned { [second, first] } else { [first, second] };
        let mut known = chosen.known;
        if known.what == (Class::Clear, App::Http2) && http2::is_grpc(ends[0].kept()) {
            known.what.1 = App::Grpc;
        }
        Told {
            known,
            flags: chosen.inspection.flags,
            midstream: self.midstream,
            turned,
            handshake: chosen.handshake(ends),
        }
    }
}

impl Readings {
    fn read(&mut self, sender: u8, seq: u32, payload: &[u8]) {
        self.as_seen.read(sender, seq, payload);
        if let Some(turned) = &mut self.turned {
            turned.read(1 - (sender & 1), seq, payload);
        }
    }

    fn note(&mut self, bytes: u64) {
        self.as_seen.note(bytes);
        if let Some(turned) = &mut self.turned {
            turned.note(bytes);
        }
    }

    fn are_over(&self) -> bool {
        self.as_seen.is_over() && self.turned.as_ref().is_none_or(Reading::is_over)
    }

    /// The one that says more, and whether it is the other way round.
    fn chosen(&self) -> (&Reading, bool) {
        match &self.turned {
            Some(turned) if turned.says() > self.as_seen.says() => (turned, true),
            _ => (&self.as_seen, false),
        }
    }
}

impl Reading {
    fn new() -> Self {
        let mut inspection = Inspection::default();
        inspect::demand(&mut inspection, Demand::OFF);
        Self { inspection, known: Known::default(), begun: [false; 2] }
    }

    /// A SYN says where a direction begins.
    fn begin(&mut self, sender: u8, first: u32) {
        if let Some(begun) = self.begun.get_mut(usize::from(sender)) {
            *begun = true;
        }
        stream::begin(&mut self.inspection, sender, first);
    }

    fn read(&mut self, sender: u8, seq: u32, payload: &[u8]) {
        if let Some(begun) = self.begun.get_mut(usize::from(sender))
            && !std::mem::replace(begun, true)
        {
            stream::begin_within(&mut self.inspection, sender, seq);
        }
        // Level off: nothing is ever held or refused.
        let _ = stream::segment(&mut self.inspection, sender, seq, &payload);
    }

    fn note(&mut self, bytes: u64) {
        let Inspection { class, app, .. } = self.inspection;
        self.known.note((Class::from_code(class), App::from_code(app)), bytes);
    }

    /// Whether nothing that comes can change it.
    fn is_over(&self) -> bool {
        self.inspection.phase == Inspection::DONE
    }

    /// How much it says.
    fn says(&self) -> u8 {
        match self.known.what {
            (Class::Unknown, App::Unknown) => 0,
            (Class::Unknown, _) | (Class::Clear, App::Text) => 1,
            (Class::Clear | Class::StartTls, _) => 2,
            _ => 3,
        }
    }

    fn handshake(&self, [opener, receiver]: [&Segments; 2]) -> Option<Handshake> {
        let opener = self.opening(0, opener).unwrap_or_default();
        let receiver = self.opening(1, receiver).unwrap_or_default();
        (!opener.is_empty()).then(|| Handshake::read(opener, receiver))
    }

    /// A direction's bytes from where its TLS began.
    fn opening<'a>(&self, sender: u8, direction: &'a Segments) -> Option<&'a [u8]> {
        let behind = stream::hello_offset(&self.inspection, sender, direction.end()?)?;
        let start = usize::try_from(direction.handed_over().checked_sub(behind)?).ok()?;
        let bytes = direction.kept().get(start..)?;
        Some(bytes.get(..OPENING).unwrap_or(bytes))
    }
}
