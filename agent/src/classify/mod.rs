//! What the flows of a capture file are: the kernel's own judgement of first bytes, and what the
//! inventory would say of them, over a file and without any privilege.
//!
//! `capture` reads the file, `link` and `packet` the headers of a frame, `fragments` puts packets together,
//! `flows` and `tcp` flows, and [`Row`] is what is told of one. A capture that ends early or is damaged gives every flow up to there,
//! and an error that says where; bytes that the capture left out make a flow less known, never wrongly
//! known.

mod capture;
mod flows;
mod fragments;
mod link;
mod packet;
mod row;
mod segments;
mod tcp;

use std::fs::File;
use std::io::BufReader;
use std::path::Path;
use std::time::Duration;

pub use capture::{Capture, CaptureError, Frame};
pub use flows::Flows;
pub use row::Row;

/// What was in a capture beside the flows that were told.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Summary {
    /// Frames that were read.
    pub frames: u64,
    /// Frames of another network protocol than IP, or of a link type that is not known here.
    pub not_ip: u64,
    /// Frames whose headers could not be read, and fragments of which the capture left something out.
    pub unreadable: u64,
}

/// Reads a capture file, or what comes on standard input where it is `-`, and hands over a row for each
/// flow as it ends; those that have not ended, at the end of the file or of what can be read of it.
pub fn file(path: &Path, take: &mut dyn FnMut(Row)) -> Result<Summary, CaptureError> {
    if path == Path::new("-") {
        return read(&mut Capture::new(std::io::stdin().lock(), path)?, take);
    }
    let opened = File::open(path).map_err(|source| CaptureError::Open { path: path.to_owned(), source })?;
    let mut capture = Capture::new(BufReader::with_capacity(1 << 20, opened), path)?;
    read(&mut capture, take)
}

/// As [`file`], of a capture that is open already.
pub fn read<R: std::io::Read>(
    capture: &mut Capture<R>,
    take: &mut dyn FnMut(Row),
) -> Result<Summary, CaptureError> {
    let mut summary = Summary::default();
    let mut flows = Flows::new(take);
    let mut packets = packet::Packets::default();
    let mut last = Duration::ZERO;
    let ended = loop {
        match capture.frame() {
            Ok(Some(frame)) => {
                summary.frames += 1;
                last = frame.time;
                match packets.read(&frame, &mut |packet| flows.packet(packet, frame.time)) {
                    Ok(()) => {}
                    Err(packet::Unread::NotIp) => summary.not_ip += 1,
                    Err(packet::Unread::Damaged) => summary.unreadable += 1,
                }
            }
            Ok(None) => break Ok(()),
            Err(error) => break Err(error),
        }
    };
    packets.finish(&mut |packet| flows.packet(packet, last));
    flows.finish();
    ended.map(|()| summary)
}
