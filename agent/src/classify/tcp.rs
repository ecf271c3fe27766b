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
    reading: Reading,
    /// The other way round.
    turned: Option<Reading>,
    directions: [Segments; 2],
    /// Both ends finished, or one gave up.
    finished: [bool; 2],
    /// A SYN was seen.
    opened: bool,
    midstream: bool,
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
            reading: Reading::new(),
            turned: None,
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
        let Self { reading, turned, directions, finished, opened, midstream } = self;
        let Some(direction) = directions.get_mut(usize::from(sender)) else { return };
        if let Some(finished) = finished.get_mut(usize::from(sender)) {
            *finished |= tcp.fin || tcp.rst;
        }
        if tcp.syn {
            (*opened, *turned) = (true, None);
            direction.begin(tcp.seq);
            reading.begin(sender, tcp.seq);
        } else if !direction.has_begun() && !tcp.rst {
            // Only a capture that begins in the middle has a direction without a SYN.
            *midstream = true;
            if !*opened && turned.is_none() {
                *turned = Some(Reading::new());
            }
        }
        if payload.is_empty() || tcp.rst {
            return;
        }
        let settled = [Some(&*reading), turned.as_ref()].into_iter().flatten().all(Reading::is_over);
        if settled && (direction.handed_over() >= KEPT || direction.waiting() > LATE) {
            return;
        }
        direction.take(tcp.seq, payload, &mut |seq, payload| {
            reading.read(sender, seq, payload);
            if let Some(turned) = turned {
                turned.read(1 - (sender & 1), seq, payload);
            }
        });
        reading.note(bytes);
        if let Some(turned) = turned {
            turned.note(bytes);
        }
    }

    /// What is known at its end.
    pub(super) fn told(&mut self, bytes: u64) -> Told {
        let Self { reading, turned, directions, .. } = self;
        for (sender, direction) in (0u8..).zip(directions) {
            direction.finish(&mut |seq, payload| {
                reading.read(sender, seq, payload);
                if let Some(turned) = turned {
                    turned.read(1 - (sender & 1), seq, payload);
                }
            });
        }
        reading.note(bytes);
        if let Some(turned) = turned {
            turned.note(bytes);
        }
        let turned = self.turned.as_ref().filter(|turned| turned.says() > self.reading.says());
        let chosen = turned.unwrap_or(&self.reading);
        let [first, second] = &self.directions;
        let ends = if turned.is_some() { [second, first] } else { [first, second] };
        let mut known = chosen.known;
        if known.what == (Class::Clear, App::Http2) && http2::is_grpc(ends[0].kept()) {
            known.what.1 = App::Grpc;
        }
        Told {
            known,
            flags: chosen.inspection.flags,
            midstream: self.midstream,
            turned: turned.is_some(),
            handshake: chosen.handshake(ends),
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
