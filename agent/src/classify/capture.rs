//! Capture files: pcap (draft-ietf-opsawg-pcap) and pcapng (draft-ietf-opsawg-pcapng), in either byte
//! order, with times in micro- or nanoseconds.
//!
//! Read frame by frame: memory does not grow with the file. The first thing that cannot be right ends the
//! reading with an error that names the place; everything before it has been handed over.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The largest frame, and the largest block around one, that is believed.
const LARGEST: u32 = 16 << 20;

const SECTION: u32 = 0x0a0d_0d0a;
const INTERFACE: u32 = 1;
const OLD_PACKET: u32 = 2;
const SIMPLE_PACKET: u32 = 3;
const ENHANCED_PACKET: u32 = 6;

/// Why a capture could not be read, or not to its end.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// It could not be opened.
    #[error("cannot open {}: {source}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// It is none.
    #[error("{} is no capture file: it begins with {head}, which is neither pcap nor pcapng{hint}", path.display())]
    NoCapture {
        /// The file.
        path: PathBuf,
        /// Its first bytes in hex.
        head: String,
        /// What it may be instead.
        hint: &'static str,
    },
    /// It ends in the middle of something.
    #[error("{} is cut off: it ends inside {what} at byte {offset}, after {frames} whole frames; the flows up to there are complete, take the capture again for the rest", path.display())]
    CutOff {
        /// The file.
        path: PathBuf,
        /// What is incomplete.
        what: &'static str,
        /// Where that begins, in bytes from the start of the file.
        offset: u64,
        /// Frames that were read before.
        frames: u64,
    },
    /// Something in it cannot be right.
    #[error("{} is damaged at byte {offset}, after {frames} whole frames: {what}; the flows up to there are complete, what follows is not read", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
        /// Where that begins, in bytes from the start of the file.
        offset: u64,
        /// Frames that were read before.
        frames: u64,
    },
    /// The system could not read it.
    #[error("cannot read {} behind byte {offset}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// How far it was read.
        offset: u64,
        /// What the system says.
        source: std::io::Error,
    },
}

/// One frame.
#[derive(Debug)]
pub struct Frame<'a> {
    /// Link type, as tcpdump.org numbers them.
    pub link: u32,
    /// When it was captured, since 1970; zero where the capture does not say.
    pub time: Duration,
    /// What was captured of it.
    pub bytes: &'a [u8],
}

/// A capture that is being read.
#[derive(Debug)]
pub struct Capture<R> {
    input: R,
    path: PathBuf,
    offset: u64,
    frames: u64,
    format: Format,
    buffer: Vec<u8>,
}

#[derive(Debug)]
enum Format {
    Pcap { order: Order, link: u32, nanoseconds: bool, modified: bool },
    PcapNg { order: Order, interfaces: Vec<Interface> },
}

#[derive(Clone, Copy, Debug)]
struct Interface {
    link: u32,
    snap: u32,
    /// Ticks of its clock in a second.
    ticks: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Order {
    Little,
    Big,
}

impl Order {
    fn u16(self, bytes: &[u8], at: usize) -> Option<u16> {
        let bytes = *bytes.get(at..)?.first_chunk()?;
        Some(match self {
            Self::Little => u16::from_le_bytes(bytes),
            Self::Big => u16::from_be_bytes(bytes),
        })
    }

    fn u32(self, bytes: &[u8], at: usize) -> Option<u32> {
        let bytes = *bytes.get(at..)?.first_chunk()?;
        Some(match self {
            Self::Little => u32::from_le_bytes(bytes),
            Self::Big => u32::from_be_bytes(bytes),
        })
    }
}

impl<R: Read> Capture<R> {
    /// Reads the head of a capture. `path` is for error texts.
    pub fn new(input: R, path: &Path) -> Result<Self, CaptureError> {
        let format = Format::PcapNg { order: Order::Little, interfaces: Vec::new() };
        let mut capture =
            Self { input, path: path.to_owned(), offset: 0, frames: 0, format, buffer: Vec::new() };
        if !capture.fill(4, "its first bytes")? {
            return Err(capture.no_capture());
        }
        let magic = Order::Big.u32(&capture.buffer, 0).unwrap_or(0);
        let (order, nanoseconds, modified) = match magic {
            SECTION => {
                capture.section(0)?;
                return Ok(capture);
            }
            0xa1b2_c3d4 => (Order::Big, false, false),
            0xa1b2_3c4d => (Order::Big, true, false),
            0xd4c3_b2a1 => (Order::Little, false, false),
            0x4d3c_b2a1 => (Order::Little, true, false),
            0xa1b2_cd34 => (Order::Big, false, true),
            0x34cd_b2a1 => (Order::Little, false, true),
            _ => return Err(capture.no_capture()),
        };
        capture.whole(20, "the file's header", 0)?;
        // The upper bits tell of checksums behind the frame.
        let link = order.u32(&capture.buffer, 16).unwrap_or(0) & 0x03ff_ffff;
        capture.format = Format::Pcap { order, link, nanoseconds, modified };
        Ok(capture)
    }

    /// The next frame; `None` at the end.
    pub fn frame(&mut self) -> Result<Option<Frame<'_>>, CaptureError> {
        let found = match self.format {
            Format::Pcap { order, link, nanoseconds, modified } => {
                self.record(order, link, nanoseconds, modified)?
            }
            Format::PcapNg { .. } => self.packet_block()?,
        };
        let Some(Found { link, time, start, end }) = found else { return Ok(None) };
        self.frames += 1;
        Ok(Some(Frame { link, time, bytes: self.buffer.get(start..end).unwrap_or_default() }))
    }

    /// A record of pcap.
    fn record(
        &mut self,
        order: Order,
        link: u32,
        nanoseconds: bool,
        modified: bool,
    ) -> Result<Option<Found>, CaptureError> {
        let at = self.offset;
        let header = if modified { 24 } else { 16 };
        if !self.fill(header, "a frame's header")? {
            return Ok(None);
        }
        let number = |place| order.u32(&self.buffer, place).unwrap_or(0);
        let (seconds, fraction, length) = (number(0), number(4), number(8));
        if length > LARGEST {
            return Err(self.damaged(at, format!("a frame is said to be {length} bytes long")));
        }
        let nanoseconds = if nanoseconds { fraction } else { fraction.saturating_mul(1000) };
        let time = Duration::from_secs(seconds.into()) + Duration::from_nanos(nanoseconds.into());
        self.whole(to_usize(length), "a frame", at)?;
        Ok(Some(Found { link, time, start: 0, end: self.buffer.len() }))
    }

    /// The next block of pcapng that carries a frame.
    fn packet_block(&mut self) -> Result<Option<Found>, CaptureError> {
        loop {
            let at = self.offset;
            if !self.fill(4, "a block")? {
                return Ok(None);
            }
            let Format::PcapNg { order, .. } = &self.format else { return Ok(None) };
            let order = *order;
            let kind = order.u32(&self.buffer, 0).unwrap_or(0);
            if kind == SECTION {
                self.section(at)?;
                continue;
            }
            self.block(order, at)?;
            match kind {
                INTERFACE => self.interface(order, at)?,
                ENHANCED_PACKET | OLD_PACKET | SIMPLE_PACKET => {
                    return self.packet(kind, order, at).map(Some);
                }
                _ => {}
            }
        }
    }

    /// Reads a block's length and body, which is then in the buffer, and compares both lengths.
    fn block(&mut self, order: Order, at: u64) -> Result<(), CaptureError> {
        self.whole(4, "a block's header", at)?;
        let length = order.u32(&self.buffer, 0).unwrap_or(0);
        if !(12..=LARGEST).contains(&length) || !length.is_multiple_of(4) {
            return Err(self.damaged(at, format!("a block is said to be {length} bytes long")));
        }
        self.whole(to_usize(length) - 8, "a block", at)?;
        let trailer = self.buffer.len() - 4;
        if order.u32(&self.buffer, trailer) != Some(length) {
            return Err(self.damaged(at, "a block's two lengths differ".to_owned()));
        }
        self.buffer.truncate(trailer);
        Ok(())
    }

    /// A section's header: its byte order holds from here, and its interfaces are numbered anew.
    fn section(&mut self, at: u64) -> Result<(), CaptureError> {
        // The length comes before the byte order.
        self.whole(8, "a section's header", at)?;
        let order = match Order::Big.u32(&self.buffer, 4) {
            Some(0x1a2b_3c4d) => Order::Big,
            Some(0x4d3c_2b1a) => Order::Little,
            _ => return Err(self.damaged(at, "a section without a byte order".to_owned())),
        };
        let length = order.u32(&self.buffer, 0).unwrap_or(0);
        if !(28..=LARGEST).contains(&length) || !length.is_multiple_of(4) {
            return Err(self.damaged(at, format!("a section's header is said to be {length} bytes long")));
        }
        self.whole(to_usize(length) - 12, "a section's header", at)?;
        self.format = Format::PcapNg { order, interfaces: Vec::new() };
        Ok(())
    }

    fn interface(&mut self, order: Order, at: u64) -> Result<(), CaptureError> {
        let (Some(link), Some(snap)) = (order.u16(&self.buffer, 0), order.u32(&self.buffer, 4)) else {
            return Err(self.damaged(at, "an interface without a link type".to_owned()));
        };
        let ticks = resolution(order, self.buffer.get(8..).unwrap_or_default());
        if let Format::PcapNg { interfaces, .. } = &mut self.format {
            interfaces.push(Interface { link: link.into(), snap, ticks });
        }
        Ok(())
    }

    fn packet(&self, kind: u32, order: Order, at: u64) -> Result<Found, CaptureError> {
        let short = || self.damaged(at, "a packet block that is too short for a packet".to_owned());
        let number = |place| order.u32(&self.buffer, place).ok_or_else(short);
        let id = match kind {
            ENHANCED_PACKET => number(0)?,
            OLD_PACKET => order.u16(&self.buffer, 0).ok_or_else(short)?.into(),
            _ => 0,
        };
        let Format::PcapNg { interfaces, .. } = &self.format else { return Err(short()) };
        let Some(interface) = interfaces.get(to_usize(id)) else {
            return Err(self.damaged(at, format!("a packet of interface {id}, which is not described")));
        };
        let (start, length, time) = if kind == SIMPLE_PACKET {
            let available = u32::try_from(self.buffer.len().saturating_sub(4)).unwrap_or(0);
            let snap = if interface.snap == 0 { u32::MAX } else { interface.snap };
            (4, number(0)?.min(snap).min(available), Duration::ZERO)
        } else {
            let ticks = u64::from(number(4)?) << 32 | u64::from(number(8)?);
            (20, number(12)?, since_1970(ticks, interface.ticks))
        };
        let end = start + to_usize(length);
        if end > self.buffer.len() {
            return Err(short());
        }
        Ok(Found { link: interface.link, time, start, end })
    }

    /// Reads `count` bytes into the buffer; whether there was anything at all.
    fn fill(&mut self, count: usize, what: &'static str) -> Result<bool, CaptureError> {
        let at = self.offset;
        self.buffer.clear();
        let wanted = u64::try_from(count).unwrap_or(u64::MAX);
        // Grows as bytes arrive: a length that lies costs nothing.
        let read = (&mut self.input)
            .take(wanted)
            .read_to_end(&mut self.buffer)
            .map_err(|source| CaptureError::Read { path: self.path.clone(), offset: at, source })?;
        self.offset += u64::try_from(read).unwrap_or(0);
        if read == count {
            return Ok(true);
        }
        if read == 0 { Ok(false) } else { Err(self.cut_off(what, at)) }
    }

    /// Reads `count` bytes of something that began at `at`.
    fn whole(&mut self, count: usize, what: &'static str, at: u64) -> Result<(), CaptureError> {
        match self.fill(count, what) {
            Ok(true) => Ok(()),
            Ok(false) if count == 0 => Ok(()),
            Ok(false) | Err(CaptureError::CutOff { .. }) => Err(self.cut_off(what, at)),
            Err(error) => Err(error),
        }
    }

    fn cut_off(&self, what: &'static str, offset: u64) -> CaptureError {
        CaptureError::CutOff { path: self.path.clone(), what, offset, frames: self.frames }
    }

    fn damaged(&self, offset: u64, what: String) -> CaptureError {
        CaptureError::Damaged { path: self.path.clone(), what, offset, frames: self.frames }
    }

    fn no_capture(&self) -> CaptureError {
        let head: Vec<String> = self.buffer.iter().take(4).map(|byte| format!("{byte:02x}")).collect();
        let hint = match self.buffer.as_slice() {
            [0x1f, 0x8b, ..] => "; it is compressed, unpack it with gunzip first",
            [0x28, 0xb5, 0x2f, 0xfd] => "; it is compressed, unpack it with unzstd first",
            [0xfd, b'7', b'z', b'X'] => "; it is compressed, unpack it with unxz first",
            _ => "",
        };
        let head = if head.is_empty() { "nothing".to_owned() } else { head.join(" ") };
        CaptureError::NoCapture { path: self.path.clone(), head, hint }
    }
}

/// A frame, and where in the buffer it is.
struct Found {
    link: u32,
    time: Duration,
    start: usize,
    end: usize,
}

/// Ticks of an interface's clock in a second, from its options (`if_tsresol`): microseconds unless said.
fn resolution(order: Order, mut options: &[u8]) -> u64 {
    while let (Some(code), Some(length)) = (order.u16(options, 0), order.u16(options, 2)) {
        if code == 9
            && let Some(value) = options.get(4)
        {
            let exponent = u32::from(value & 0x7f);
            let base: u64 = if value & 0x80 == 0 { 10 } else { 2 };
            return base.checked_pow(exponent).unwrap_or(1_000_000);
        }
        let step = 4 + usize::from(length).next_multiple_of(4);
        options = options.get(step..).unwrap_or_default();
    }
    1_000_000
}

fn since_1970(ticks: u64, in_a_second: u64) -> Duration {
    let second = in_a_second.max(1);
    let rest = u128::from(ticks % second) * 1_000_000_000 / u128::from(second);
    Duration::new(ticks / second, u32::try_from(rest).unwrap_or(0))
}

fn to_usize(length: u32) -> usize {
    usize::try_from(length).unwrap_or(usize::MAX)
}

#[cfg(test)]
#[path = "capture_tests.rs"]
mod tests;
