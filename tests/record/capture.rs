//! From a capture to the segments of the flows that were meant, read by tshark: independent of what is to
//! be tested with them.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};
use bulkhead_tests::corpus::{Segment, from_hex};

use crate::scenario::Scenario;

/// The flows to the scenario's port, each in the order of the capture.
pub(crate) fn flows(capture: &Path, scenario: &Scenario) -> Result<Vec<Vec<Segment>>> {
    let transport = scenario.transport.as_str();
    let mut command = Command::new("tshark");
    command.arg("-r").arg(capture).args(["-T", "fields", "-E", "separator=;", "-E", "occurrence=f"]);
    command.args(["-Y", &format!("{transport}.port == {} && {transport}.payload", scenario.port)]);
    for field in ["stream", "srcport", "dstport", "payload"] {
        command.args(["-e", &format!("{transport}.{field}")]);
    }
    let output = command.output().context("cannot run tshark")?;
    if !output.status.success() {
        bail!("tshark: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    let mut flows: BTreeMap<u64, Vec<Segment>> = BTreeMap::new();
    for line in String::from_utf8(output.stdout)?.lines() {
        let mut fields = line.split(';');
        let mut field = || fields.next().context("a field is missing");
        let (stream, src, dst, payload) = (field()?.parse()?, field()?, field()?, field()?);
        let to_server = dst.parse() == Ok(scenario.port);
        // Both ends on one port: who spoke first asked.
        let first = flows.entry(stream).or_default().is_empty();
        let sender = if src == dst { u8::from(!first) } else { u8::from(!to_server) };
        let bytes = from_hex(&payload.replace(':', ""))?;
        flows.entry(stream).or_default().push(Segment { sender, bytes });
    }
    Ok(flows.into_values().skip(scenario.skip).take(scenario.flows).collect())
}
