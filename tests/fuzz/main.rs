//! `bulkhead-fuzz`: mutated openings against everything that reads what strangers send: the kernel's
//! reading of first bytes, the handshake reader, the reassembly, and the reader of capture files.
//!
//! Without coverage, but fast and for as long as one likes; begins with the recorded vectors and is told a
//! seed, so that a run can be repeated. A panic ends it, with the input in hex.

use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use bulkhead::classify::{self, Capture};
use bulkhead_abi::inspect::Piece;
use bulkhead_abi::{Demand, Inspection};
use bulkhead_core::inspect::{self, datagram, stream};
use bulkhead_detect::hello::{Handshake, Limits, Reassembly, Summary};
use bulkhead_tests::corpus::{self, Vector};

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let minutes = arguments.next().and_then(|text| text.parse().ok()).unwrap_or(10u64);
    let seed = arguments.next().and_then(|text| text.parse().ok()).unwrap_or(1u64);
    match fuzz(Duration::from_secs(minutes * 60), seed) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn fuzz(time: Duration, seed: u64) -> Result<()> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus/vectors.jsonl");
    let vectors = corpus::load(&path)?;
    let mut random = Random(seed | 1);
    let begun = Instant::now();
    let mut runs = 0u64;
    while begun.elapsed() < time {
        let vector = vectors.get(random.below(vectors.len())).context("no vectors")?;
        let sides = mutated(vector, &vectors, &mut random);
        let at = random.0;
        if std::panic::catch_unwind(|| attempt(&sides, Random(at))).is_err() {
            let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
            let [opener, receiver] = &sides;
            anyhow::bail!("a panic after {runs} runs of seed {seed}: c:{} s:{}", hex(opener), hex(receiver));
        }
        random.next();
        runs += 1;
    }
    println!("{runs} inputs in {} s, seed {seed}: no panic", begun.elapsed().as_secs());
    Ok(())
}

/// Everything that reads, over one input.
fn attempt(sides: &[Vec<u8>; 2], mut random: Random) {
    let [opener, receiver] = sides;
    let datagrams = |bytes: &[u8]| bytes.chunks(1 + bytes.len() / 3).map(<[u8]>::to_vec).collect::<Vec<_>>();
    let both = [
        Handshake::read(opener, receiver),
        Handshake::read_datagrams(&datagrams(opener), &datagrams(receiver)),
    ];
    for handshake in &both {
        let _ = Summary::from(handshake);
    }
    let mut openings = Reassembly::new(Limits { flows: 4, bytes: 9000, age: Duration::from_secs(1) });
    for (sender, bytes) in (0..).zip(sides) {
        for part in bytes.chunks(1 + random.below(1024)) {
            let mut piece = blank();
            piece.sender = sender;
            piece.offset = u32::try_from(random.below(4200)).unwrap_or(0);
            piece.len = u16::try_from(part.len()).unwrap_or(0);
            piece.bytes.iter_mut().zip(part).for_each(|(to, from)| *to = *from);
            openings.take(&piece, Duration::ZERO);
        }
    }
    openings.expire(Duration::from_secs(2));
    for demand in [Demand::OFF, Demand::REQUIRE] {
        let mut inspection = Inspection::default();
        inspect::demand(&mut inspection, demand);
        let mut conversation = inspect::conversation(demand);
        for (sender, bytes) in (0..).zip(sides) {
            let first = u32::try_from(random.below(usize::MAX) & 0xffff_ffff).unwrap_or(0);
            stream::begin(&mut inspection, sender, first);
            let mut seq = first;
            for part in bytes.chunks(1 + random.below(600)) {
                let _ = stream::segment(&mut inspection, sender, seq, &part);
                let _ = stream::hello_offset(&inspection, sender, seq);
                let _ = datagram::datagram(&mut conversation, sender, &part);
                let late = random.below(8) == 0;
                seq = seq.wrapping_add(u32::try_from(part.len()).unwrap_or(0) + u32::from(late));
            }
        }
    }
    for file in [opener, receiver] {
        if let Ok(mut capture) = Capture::new(file.as_slice(), Path::new("fuzz")) {
            let _ = classify::read(&mut capture, &mut |_| {});
        }
    }
}

fn blank() -> Piece {
    Piece {
        time: 0,
        cookie: 1,
        netns: 1,
        src: bulkhead_abi::Addr::ANY,
        dst: bulkhead_abi::Addr::ANY,
        from: bulkhead_abi::Identity(0),
        to: bulkhead_abi::Identity(0),
        offset: 0,
        src_port: 1,
        dst_port: 2,
        len: 0,
        sender: 0,
        app: 0,
        protocol: 6,
        level: 2,
        floor: 0,
        more: 0,
        bytes: [0; Piece::BYTES],
    }
}

/// Both directions of a vector, changed; now and then as a capture file, so that its reader gets its share.
fn mutated(vector: &Vector, all: &[Vector], random: &mut Random) -> [Vec<u8>; 2] {
    let mut sides = [Vec::new(), Vec::new()];
    for segment in &vector.segments {
        if let Some(side) = sides.get_mut(usize::from(segment.sender)) {
            side.extend(&segment.bytes);
        }
    }
    if random.below(3) == 0 {
        sides = sides.map(|side| capture(&side, random));
    }
    for side in &mut sides {
        for _ in 0..random.below(6) {
            change(side, all, random);
        }
    }
    sides
}

fn change(bytes: &mut Vec<u8>, all: &[Vector], random: &mut Random) {
    let at = random.below(bytes.len() + 1);
    match random.below(7) {
        0 => bytes.truncate(at),
        1 => bytes.insert(at, random.byte()),
        2 => {
            let end = (at + random.below(40)).min(bytes.len());
            bytes.drain(at..end);
        }
        3 => {
            const EDGES: [u8; 6] = [0, 1, 0x7f, 0x80, 0xfe, 0xff];
            let edge = EDGES.get(random.below(EDGES.len())).copied().unwrap_or(0);
            bytes.iter_mut().skip(at).take(1 + random.below(4)).for_each(|byte| *byte = edge);
        }
        4 => {
            let other = all.get(random.below(all.len())).and_then(|vector| vector.segments.first());
            let other = other.map(|segment| segment.bytes.clone()).unwrap_or_default();
            bytes.splice(at..at, other);
        }
        _ => {
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= 1 << random.below(8);
            }
        }
    }
    bytes.truncate(20_000);
}

/// The bytes as the payload of a TCP segment in a capture file: in one packet or in fragments, bare or in a
/// tunnel.
fn capture(payload: &[u8], random: &mut Random) -> Vec<u8> {
    const TUNNELS: [(u8, &[u8]); 4] = [
        (4, &[]),
        (47, &[0, 0, 8, 0]),
        (47, &[0xb0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 2]),
        (41, &[]),
    ];
    let links = [101u32, 1, 113, 276, 0, 9, 51, 104];
    let link = links.get(random.below(links.len())).copied().unwrap_or(101);
    let mut body = vec![0x9c, 0x40, 1, 187, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 0x18, 0, 0, 0, 0, 0, 0];
    body.extend(payload);
    let mut frames = Vec::new();
    let size = 8 * (1 + random.below(1 + body.len() / 8));
    let last = body.len().saturating_sub(1) / size;
    for (at, piece) in body.chunks(size).enumerate() {
        let place = u16::try_from(at * size / 8).unwrap_or(0) | if at < last { 0x2000 } else { 0 };
        frames.push(ip(6, place, piece));
    }
    if let Some((protocol, head)) = TUNNELS.get(random.below(12)) {
        frames = frames.iter().map(|frame| ip(*protocol, 0, &[*head, frame].concat())).collect();
    }
    let mut file = Vec::new();
    for word in [0xa1b2_c3d4u32, 0x0004_0002, 0, 0, 65_535, link] {
        file.extend(word.to_le_bytes());
    }
    for frame in frames {
        let len = u32::try_from(frame.len()).unwrap_or(0);
        for word in [1, 1, len, len] {
            file.extend(word.to_le_bytes());
        }
        file.extend(frame);
    }
    file
}

/// An IPv4 packet, or a fragment of one.
fn ip(protocol: u8, place: u16, body: &[u8]) -> Vec<u8> {
    let [high, low] = place.to_be_bytes();
    let mut packet = vec![0x45, 0, 0, 0, 0, 7, high, low, 64, protocol, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
    packet.extend(body);
    packet
}

/// xorshift64* (S. Vigna): small, and the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() >> 16).unwrap_or(0) % bound.max(1)
    }

    fn byte(&mut self) -> u8 {
        self.next().to_le_bytes()[7]
    }
}
