//! The programs by themselves: what the verifier says of each, what one costs over a packet by hand
//! (BPF_PROG_TEST_RUN), and what each costs on live traffic by the kernel's own run statistics.
//!
//! A run by hand has a socket that can own no flow, so its "known flow" is one of the flow table; flows
//! that sockets own are only seen live. There the statistics' clock costs about as much as a program: it
//! is measured with a program that does nothing, and taken off.

use std::fs;
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use aya::programs::ProgramInfo;
use aya::programs::links::{FdLink, PinnedLink};
use bulkhead_sys::link::{self, RunStats};
use bulkhead_sys::program::{self, Kind};
use serde::{Deserialize, Serialize};

use super::load::{DENIED, Load, SINK};
use super::policy::{CLIENT, SERVER};
use super::stage::{Place, Stage, Variant};
use super::traffic::{Plan, STEPS};
use crate::spread::Spread;

/// What the kernel says of a loaded program.
#[derive(Serialize, Deserialize)]
pub(crate) struct Size {
    pub(crate) name: String,
    /// Instructions that the verifier walked.
    pub(crate) verified: u32,
    /// Instructions of the program itself.
    pub(crate) translated: u32,
    /// Bytes of machine code.
    pub(crate) machine_code: u32,
}

/// Nanoseconds of one packet by hand.
#[derive(Serialize, Deserialize)]
pub(crate) struct ByHand {
    /// Prefixes and rules.
    pub(crate) size: usize,
    pub(crate) program: String,
    pub(crate) packet: Packet,
    pub(crate) nanos: Spread,
    /// Of a program that does nothing, in the same kind of run.
    pub(crate) empty: Spread,
}

/// What a packet is to the program.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Packet {
    /// Of a flow that was judged; run again and again.
    Known,
    /// The first one of its flow; each run is another flow's, and alone.
    New,
    /// Denied, and denied before; run again and again.
    Denied,
}

/// One program under one load.
#[derive(Serialize, Deserialize)]
pub(crate) struct Live {
    /// Prefixes and rules.
    pub(crate) size: usize,
    pub(crate) load: Load,
    pub(crate) program: String,
    /// Nanoseconds of a run, less the clock's.
    pub(crate) nanos: f64,
    /// Runs for each thing done (a connection, a request and its answer, a datagram, 64 KiB of a stream).
    pub(crate) runs: f64,
}

/// A running program.
pub(crate) struct Program {
    name: String,
    info: ProgramInfo,
}

/// The programs that run through the pinned links of a folder.
pub(crate) fn running(pins: &Path) -> Result<Vec<Program>> {
    let mut programs = Vec::new();
    for entry in fs::read_dir(pins.join("links"))? {
        let path = entry?.path();
        let link: FdLink = PinnedLink::from_pin(&path)?.into();
        let id = link.info()?.program_id();
        let info = find(id).with_context(|| format!("the program of {} is gone", path.display()))?;
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        programs.push(Program { name, info });
    }
    programs.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(programs)
}

impl Program {
    pub(crate) fn size(&self) -> Size {
        Size {
            name: self.name.clone(),
            verified: self.info.verified_instruction_count().unwrap_or_default(),
            translated: self.info.size_translated().unwrap_or_default() / 8,
            machine_code: self.info.size_jitted(),
        }
    }

    /// Time and number of runs so far, while statistics are on.
    fn so_far(&self) -> Result<(Duration, u64)> {
        let info = find(self.info.id()).context("a program is gone")?;
        Ok((info.run_time(), info.run_count()))
    }
}

/// Runs the packet programs of `programs` by hand, `rounds` times over. The calling thread is where an
/// end of the flow is.
pub(crate) fn by_hand(size: usize, programs: &[Program], rounds: usize) -> Result<Vec<ByHand>> {
    const MANY: u32 = 50_000;
    const FLOWS: u16 = 400;
    let mut found = Vec::new();
    for (name, kind, base) in
        [("skb_ingress", Kind::CgroupIngress, 20_000_u16), ("skb_egress", Kind::CgroupEgress, 40_000)]
    {
        let Some(program) = programs.iter().find(|program| program.name == name) else { continue };
        let (program, empty) = (program.info.fd()?, program::constant(kind, 1)?);
        let (program, empty) = (program.as_fd(), empty.as_fd());
        let nanos = |program, frame: &[u8], repeat| -> Result<f64> {
            Ok(program::test_run(program, frame, repeat)?.each.as_nanos() as f64)
        };
        let (mut known, mut denied, mut nothing) = (Vec::new(), Vec::new(), Vec::new());
        let (mut new, mut nothing_once) = (Vec::new(), Vec::new());
        for round in 0..rounds {
            let (passes, refused) = (datagram(base, SINK), datagram(base, DENIED));
            nothing.push(nanos(empty, &passes, MANY)?);
            // The first one makes the flow.
            nanos(program, &passes, 1)?;
            known.push(nanos(program, &passes, MANY)?);
            denied.push(nanos(program, &refused, MANY)?);
            let first = base + 1 + u16::try_from(round)? * FLOWS;
            for port in first..first + FLOWS {
                nothing_once.push(nanos(empty, &datagram(port, SINK), 1)?);
                new.push(nanos(program, &datagram(port, SINK), 1)?);
            }
        }
        let (nothing, nothing_once) = (Spread::new(nothing)?, Spread::new(nothing_once)?);
        for (packet, nanos, empty) in [
            (Packet::Known, known, nothing),
            (Packet::New, new, nothing_once),
            (Packet::Denied, denied, nothing),
        ] {
            found.push(ByHand { size, program: name.to_owned(), packet, nanos: Spread::new(nanos)?, empty });
        }
    }
    Ok(found)
}

/// Runs every load that is wanted once with statistics on.
pub(crate) fn live(size: usize, stage: &mut Stage, plan: &Plan) -> Result<Vec<Live>> {
    let time = plan.time();
    let _statistics = RunStats::enable()?;
    stage.switch(Variant::None)?;
    let clock = clock(stage, time)?;
    stage.switch(Variant::Bulkhead)?;
    let programs = running(&stage.agent().pins())?;
    let mut found = Vec::new();
    for (load, place) in plan.wanted(&STEPS) {
        let before = programs.iter().map(Program::so_far).collect::<Result<Vec<_>>>()?;
        let outcome = stage.run(load, place, time)?;
        let done = if load == Load::Stream { outcome.count / 65_536 } else { outcome.count };
        for (program, before) in programs.iter().zip(before) {
            let (time, runs) = program.so_far()?;
            let (time, runs) = (time.saturating_sub(before.0), runs - before.1);
            // What sets an end up is not what is measured.
            if runs * 100 < done {
                continue;
            }
            found.push(Live {
                size,
                load,
                program: program.name.clone(),
                nanos: time.as_nanos() as f64 / runs as f64 - clock,
                runs: runs as f64 / done as f64,
            });
        }
    }
    Ok(found)
}

/// What the statistics make of a program that does nothing, in nanoseconds.
fn clock(stage: &Stage, time: Duration) -> Result<f64> {
    let program = program::constant(Kind::CgroupIngress, 1)?;
    let group = fs::File::open(stage.root().path())?;
    let _link = link::create_on_cgroup(program.as_fd(), group.as_fd(), Kind::CgroupIngress.attach_type())?;
    let id = aya::programs::loaded_programs().filter_map(Result::ok).map(|info| info.id()).max();
    let _outcome = stage.run(Load::Round, Place::Together, time)?;
    let info = id.and_then(find).context("the empty program is gone")?;
    Ok(info.run_time().as_nanos() as f64 / info.run_count().max(1) as f64)
}

fn find(id: u32) -> Option<ProgramInfo> {
    aya::programs::loaded_programs().filter_map(Result::ok).find(|info| info.id() == id)
}

/// A small datagram from the client to the server, with an Ethernet header before it.
fn datagram(from: u16, to: u16) -> Vec<u8> {
    const PAYLOAD: u16 = 18;
    let octets = |text: &str| text.parse::<Ipv4Addr>().unwrap_or(Ipv4Addr::UNSPECIFIED).octets();
    let mut frame = vec![0; 12];
    frame.extend([0x08, 0x00]);
    frame.extend([0x45, 0]);
    frame.extend((28 + PAYLOAD).to_be_bytes());
    frame.extend([0, 0, 0x40, 0, 64, 17, 0, 0]);
    frame.extend(octets(CLIENT));
    frame.extend(octets(SERVER));
    frame.extend(from.to_be_bytes());
    frame.extend(to.to_be_bytes());
    frame.extend((8 + PAYLOAD).to_be_bytes());
    frame.extend([0; 2 + PAYLOAD as usize]);
    frame
}
