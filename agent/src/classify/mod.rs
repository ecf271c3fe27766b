//! What the flows of a capture file are: the kernel's own judgement of first bytes, and what the
//! inventory would say of them, over a file and without any privilege.
//!
//! `capture` reads the file, `packet` the headers of a frame, `flows` puts frames together to flows, and
//! [`Row`] is what is told of one. A capture that ends early or is damaged gives every flow up to there,
//! and an error that says where; bytes that the capture left out make a flow less known, never wrongly
//! known.

mod capture;
mod flows;
mod packet;
mod row;
mod segments;

use std::fs::File;
use std::io::BufReader;
use std::path::Path;

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
    /// Frames whose headers could not be read, and later fragments, which have no ports.
    pub unreadable: u64,
}

/// Reads a capture file, and hands over a row for each flow as it ends; those that have not ended, at the
/// end of the file or of what can be read of it.
pub fn file(path: &Path, take: &mut dyn FnMut(Row)) -> Result<Summary, CaptureError> {
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
    let ended = loop {
        match capture.frame() {
            Ok(Some(frame)) => {
                summary.frames += 1;
                match packet::read(&frame) {
                    Ok(packet) => flows.packet(&packet, frame.time),
                    Err(packet::Unread::NotIp) => summary.not_ip += 1,
                    Err(packet::Unread::Damaged) => summary.unreadable += 1,
                }
            }
            Ok(None) => break Ok(()),
            Err(error) => break Err(error),
        }
    };
    flows.finish();
    ended.map(|()| summary)
}
