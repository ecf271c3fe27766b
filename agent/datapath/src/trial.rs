//! Running the packet programs by hand (`BPF_PROG_TEST_RUN`), to hold them against other judges.

use aya::programs::{TestRun as _, TestRunOptions};
use bulkhead_abi::Direction;

use crate::{Datapath, DatapathError};

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
}
