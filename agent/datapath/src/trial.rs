//! Running the packet programs by hand (`BPF_PROG_TEST_RUN`), to hold them against other judges.

use aya::programs::{TestRun as _, TestRunOptions};
use bulkhead_abi::{Direction, names};

use crate::{Datapath, DatapathError};

/// A frame at an interface.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TrialFrame {
    /// Whether it comes in by the interface, or leaves.
    pub direction: Direction,
    /// The interface's index in the calling thread's network namespace; above 1.
    pub interface: u32,
    /// The packet's mark, all 32 bits.
    pub mark: u32,
    /// What it carries (`ETH_P_`).
    pub ethertype: u16,
    /// What stands behind the Ethernet header.
    pub packet: Vec<u8>,
}

impl Datapath {
    /// Lets the program of one direction judge `packet`, which begins with its IP header; whether it
    /// passes. Only before [`Datapath::attach`].
    ///
    /// The kernel gives the packet a socket of the calling thread's cgroup and network namespace that
    /// can own no flow. Flows and counters move as with any packet.
    pub fn test_run(&self, direction: Direction, packet: &[u8]) -> Result<bool, DatapathError> {
        const NAME: &str = "a packet program";
        // The kernel takes the protocol from an Ethernet header, and the header away again.
        let ethertype: [u8; 2] = match packet.first().map(|byte| byte >> 4) {
            Some(6) => [0x86, 0xdd],
            _ => [0x08, 0x00],
        };
        let frame = [&[0; 12], &ethertype[..], packet].concat();
        let loaded = self.loaded.as_ref().ok_or(DatapathError::Missing(NAME))?;
        let program = loaded.packet_program(direction)?;
        let options = TestRunOptions { data_in: Some(&frame), ..TestRunOptions::default() };
        let result =
            program.test_run(options).map_err(|error| DatapathError::Program { name: NAME, error })?;
        Ok(result.return_value == 1)
    }

    /// Lets the guard judge a frame; what its program returned, and the mark that came out. Only before
    /// [`Datapath::attach`].
    ///
    /// The kernel gives the frame a socket of the calling thread's cgroup and network namespace, of the
    /// family that the frame carries; it is none of a packet socket.
    pub fn test_guard(&self, frame: &TrialFrame) -> Result<(i32, u32), DatapathError> {
        const NAME: &str = "a program of the guard";
        let [ingress, egress] = names::GUARD_PROGRAMS;
        let name = if frame.direction == Direction::Ingress { ingress } else { egress };
        let loaded = self.loaded.as_ref().ok_or(DatapathError::Missing(NAME))?;
        let bytes = [&[0; 12], &frame.ethertype.to_be_bytes()[..], &frame.packet].concat();
        let mut before = [0; CONTEXT];
        for (at, word) in [(MARK, frame.mark), (INTERFACE, frame.interface)] {
            for (to, from) in before.iter_mut().skip(at).zip(word.to_ne_bytes()) {
                *to = from;
            }
        }
        let mut after = [0; CONTEXT];
        let options = TestRunOptions {
            data_in: Some(&bytes),
            ctx_in: Some(&before),
            ctx_out: Some(&mut after),
            ..TestRunOptions::default()
        };
        let result = loaded
            .trial_program(name)?
            .test_run(options)
            .map_err(|error| DatapathError::Program { name: NAME, error })?;
        let mark = after.iter().skip(MARK).take(4).rev().fold(0, |sum, byte| sum << 8 | u32::from(*byte));
        Ok((result.return_value.cast_signed(), mark))
    }
}

/// `struct __sk_buff` of linux/bpf.h, and where its fields are.
const CONTEXT: usize = 192;
const MARK: usize = 8;
const INTERFACE: usize = 40;
