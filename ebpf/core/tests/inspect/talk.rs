//! Plays flows to the inspection.

use bulkhead_abi::{App, Class, Demand, Inspection, Reason, Tls, inspect::Ahead};
use bulkhead_core::inspect::{self, Cursor, Ruling, ahead, stream};

/// Who says what, in order: 0 is the opener.
pub type Flow = Vec<(u8, Vec<u8>)>;

/// The opener's first sequence number, and the receiver's: both wrap around soon.
const FIRST: [u32; 2] = [u32::MAX - 9, u32::MAX - 40];

/// A conversation under inspection.
pub struct Talk {
    pub inspection: Inspection,
    /// What went on ahead of its turn.
    ahead: [Ahead; 2],
    next: [u32; 2],
    begun: [bool; 2],
    /// What was delivered.
    pub passed: [Vec<u8>; 2],
    pub refused: Option<Reason>,
}

impl Talk {
    pub fn new(demand: Demand) -> Self {
        let mut inspection = Inspection::default();
        inspect::demand(&mut inspection, demand);
        let ahead = Default::default();
        Self {
            inspection,
            ahead,
            next: FIRST,
            begun: [false; 2],
            passed: [Vec::new(), Vec::new()],
            refused: None,
        }
    }

    /// The next bytes of a direction.
    pub fn say(&mut self, sender: u8, bytes: &[u8]) -> Ruling {
        let side = usize::from(sender);
        let ruling = self.say_at(sender, self.next[side], bytes);
        if ruling == Ruling::Pass {
            self.next[side] = self.next[side].wrapping_add(bytes.len() as u32);
            self.passed[side].extend_from_slice(bytes);
        }
        ruling
    }

    /// Bytes at a sequence number.
    pub fn say_at(&mut self, sender: u8, seq: u32, bytes: &[u8]) -> Ruling {
        // A hook knows where a direction begins when it first speaks, and not before.
        if !std::mem::replace(&mut self.begun[usize::from(sender)], true) {
            stream::begin(&mut self.inspection, sender, FIRST[usize::from(sender)]);
        }
        let ruling = read(&mut self.inspection, &mut self.ahead, sender, seq, bytes);
        if let Ruling::Refuse(reason) = ruling {
            self.refused.get_or_insert(reason);
        }
        ruling
    }

    /// Where the next bytes of a direction belong.
    pub fn next(&self, sender: u8) -> u32 {
        self.next[usize::from(sender)]
    }

    pub fn class(&self) -> (Class, App) {
        (Class::from_code(self.inspection.class), App::from_code(self.inspection.app))
    }

    pub fn has(&self, flag: u8) -> bool {
        self.inspection.flags & flag != 0
    }

    pub fn is_settled(&self) -> bool {
        inspect::is_settled(self.inspection.phase)
    }
}

/// Reads a segment that comes in, as a socket's hook does.
pub fn read(
    inspection: &mut Inspection,
    ahead: &mut [Ahead; 2],
    sender: u8,
    seq: u32,
    bytes: &[u8],
) -> Ruling {
    let ahead = &mut ahead[usize::from(sender)];
    let cursor = Cursor { seq, at: 0, len: bytes.len() as u32, sender: sender.into() };
    let ruling = stream::segment(inspection, sender, seq, &bytes);
    if inspection.level != Tls::Require as u8 {
        return ruling;
    }
    match ruling {
        Ruling::Hold if ahead::pass(&bytes, inspection, ahead, &cursor) => {
            inspection.flags |= Inspection::FLAG_AHEAD;
            Ruling::Pass
        }
        Ruling::Pass if inspection.flags & Inspection::FLAG_AHEAD != 0 => {
            ahead::settle(&bytes, inspection, ahead, sender.into())
        }
        ruling => ruling,
    }
}

/// How the bytes of each direction are cut into segments: where a new one begins.
pub type Cut = Box<dyn Fn(u8, usize) -> bool>;

/// Every way that the tests cut: not at all, at each one of the first 64 bytes of each direction, and all
/// of them at once.
pub fn cuts() -> Vec<(String, Cut)> {
    let mut all: Vec<(String, Cut)> = vec![("whole".into(), Box::new(|_, _| false))];
    for side in 0..2 {
        for place in 1..=64 {
            all.push((format!("{side} at {place}"), Box::new(move |who, at| who == side && at == place)));
        }
    }
    all.push(("byte by byte".into(), Box::new(|_, at| at <= 96)));
    all
}

/// Plays a flow until it ends or is refused.
pub fn play(flow: &Flow, demand: Demand, cut: &Cut) -> Talk {
    let mut talk = Talk::new(demand);
    let mut said = [0, 0];
    for (sender, bytes) in flow {
        let mut from = 0;
        for at in 1..=bytes.len() {
            if at < bytes.len() && !cut(*sender, said[usize::from(*sender)] + at) {
                continue;
            }
            match talk.say(*sender, &bytes[from..at]) {
                Ruling::Pass => {}
                Ruling::Hold => panic!("held in order"),
                Ruling::Refuse(_) => return talk,
            }
            from = at;
        }
        said[usize::from(*sender)] += bytes.len();
    }
    talk
}
