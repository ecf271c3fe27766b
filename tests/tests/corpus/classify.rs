//! `bulkhead classify` over captures made of the vectors: the same truth through files, link layers and
//! damage.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use bulkhead::classify::{self, Capture, CaptureError, Row, Summary};
use bulkhead_tests::corpus::Vector;

use crate::replay::{Cut, replay};
use crate::vectors;

/// Link types, each with what stands before the IP packet.
const LINKS: [(u32, &[u8]); 6] = [
    (1, &[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0]),
    (1, &[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x81, 0, 0, 5, 8, 0]),
    (101, &[]),
    (0, &[2, 0, 0, 0]),
    (113, &[0, 0, 3, 4, 0, 6, 0, 0, 0, 0, 0, 0, 0, 0, 8, 0]),
    (276, &[8, 0, 0, 0, 0, 0, 0, 1, 3, 4, 0, 6, 0, 0, 0, 0, 0, 0, 0, 0]),
];

/// A capture of all vectors, flow after flow, each from a port of its own.
fn capture(vectors: &[Vector], (link, before): (u32, &[u8])) -> Vec<u8> {
    let mut file = Vec::new();
    for word in [0xa1b2_c3d4u32, 0x0004_0002, 0, 0, 262_144, link] {
        file.extend(word.to_le_bytes());
    }
    for (at, vector) in vectors.iter().enumerate() {
        for packet in packets(vector, port(at)) {
            let length = u32::try_from(before.len() + packet.len()).unwrap_or(0);
            for word in [1_700_000_000u32, 0, length, length] {
                file.extend(word.to_le_bytes());
            }
            file.extend(before);
            file.extend(packet);
        }
    }
    file
}

fn port(at: usize) -> u16 {
    20_000 + u16::try_from(at).unwrap_or(0)
}

/// A vector as IPv4 packets: for TCP with its handshake, and with its ending.
fn packets(vector: &Vector, port: u16) -> Vec<Vec<u8>> {
    let mut next = [1000u32, 5000];
    let mut packets = Vec::new();
    let ports = [[port, 9], [9, port]];
    let mut tcp = |sender: usize, flags: u8, next: &mut [u32; 2], payload: &[u8]| {
        let [from, to] = ports[sender];
        let mut segment = [from.to_be_bytes(), to.to_be_bytes()].concat();
        segment.extend(next[sender].to_be_bytes());
        segment.extend(next[1 - sender].to_be_bytes());
        segment.extend([0x50, flags, 255, 255, 0, 0, 0, 0]);
        segment.extend(payload);
        let taken = u32::try_from(payload.len()).unwrap_or(0) + u32::from(flags & 3 != 0);
        next[sender] = next[sender].wrapping_add(taken);
        packets.push(ip(6, sender, &segment));
    };
    if vector.transport == "tcp" {
        tcp(0, 0x02, &mut next, &[]);
        tcp(1, 0x12, &mut next, &[]);
        for segment in &vector.segments {
            for part in segment.bytes.chunks(1400) {
                tcp(usize::from(segment.sender), 0x18, &mut next, part);
            }
        }
        tcp(0, 0x11, &mut next, &[]);
        tcp(1, 0x11, &mut next, &[]);
        return packets;
    }
    for segment in &vector.segments {
        let [from, to] = ports[usize::from(segment.sender)];
        let length = u16::try_from(segment.bytes.len() + 8).unwrap_or(0);
        let head = [from.to_be_bytes(), to.to_be_bytes(), length.to_be_bytes(), [0, 0]].concat();
        packets.push(ip(17, usize::from(segment.sender), &[head, segment.bytes.clone()].concat()));
    }
    packets
}

fn ip(protocol: u8, sender: usize, body: &[u8]) -> Vec<u8> {
    let ends = [[10, 0, 0, 1], [10, 0, 0, 2]];
    let length = u16::try_from(body.len() + 20).unwrap_or(0).to_be_bytes();
    let mut packet = vec![0x45, 0, length[0], length[1], 0, 0, 0x40, 0, 64, protocol, 0, 0];
    packet.extend(ends[sender]);
    packet.extend(ends[1 - sender]);
    packet.extend(body);
    packet
}

fn read(file: &[u8]) -> (Vec<Row>, Result<Summary, CaptureError>) {
    let mut rows = Vec::new();
    let ended = Capture::new(file, Path::new("vectors.pcap"))
        .and_then(|mut capture| classify::read(&mut capture, &mut |row| rows.push(row)));
    (rows, ended)
}

#[test]
fn a_capture_says_what_its_flows_are_whatever_the_link() -> Result<()> {
    let vectors = vectors()?;
    for link in LINKS {
        let (rows, ended) = read(&capture(&vectors, link));
        ended?;
        ensure!(rows.len() == vectors.len(), "link {}: {} rows", link.0, rows.len());
        let by_port: BTreeMap<u16, &Row> = rows.iter().map(|row| (row.src_port, row)).collect();
        for (at, vector) in vectors.iter().enumerate() {
            let row = by_port.get(&port(at)).with_context(|| format!("no row of {}", vector.name))?;
            let seen = replay(vector, Cut::AsRecorded);
            let told = (row.class, row.protocol, row.upgraded);
            ensure!(told == seen.outcome(), "{}: {told:?}, not {:?}", vector.name, seen.outcome());
            ensure!(!row.midstream, "{}", vector.name);
            ensure!(
                (row.class == "unknown" && row.protocol == "unknown") == row.known_after.is_none(),
                "{row:?}"
            );
            if let Some(version) = &vector.truth.version {
                let tls = row.tls.as_ref().with_context(|| format!("{}: no handshake", vector.name))?;
                ensure!(tls.version.as_ref() == Some(version), "{}: {:?}", vector.name, tls.version);
                ensure!(tls.ja4.is_some(), "{}: no fingerprint", vector.name);
            }
        }
    }
    Ok(())
}

#[test]
fn a_cut_capture_tells_what_is_whole_and_where_it_ends() -> Result<()> {
    let file = capture(&vectors()?, LINKS[0]);
    let (all, _) = read(&file);
    let mut cuts = 0;
    for end in (24..file.len()).step_by(9973) {
        let (rows, ended) = read(&file[..end]);
        // Between two frames a cut leaves a smaller capture, and nobody can see it.
        let Err(error) = ended else { continue };
        cuts += 1;
        ensure!(matches!(error, CaptureError::CutOff { .. }), "{error}");
        // The last one is cut as well; those before it are told as they are.
        let whole = rows.len().saturating_sub(1);
        for row in rows.iter().take(whole) {
            ensure!(all.contains(row), "cut at {end}: {row:?} differs");
        }
    }
    ensure!(cuts > 10, "only {cuts} cuts inside a frame");
    Ok(())
}

#[test]
fn what_began_before_the_capture_is_not_guessed() -> Result<()> {
    let vectors: Vec<Vector> =
        vectors()?.into_iter().filter(|vector| vector.name == "tls-1.3" || vector.name == "ssh").collect();
    for vector in vectors {
        let later = Vector { segments: vector.segments[vector.segments.len() - 2..].to_vec(), ..vector };
        let mut file = capture(std::slice::from_ref(&later), LINKS[2]);
        // Without the SYN and its answer: two records of 16 + 40 bytes.
        file.drain(24..24 + 2 * 56);
        let (rows, ended) = read(&file);
        ended?;
        ensure!(rows.len() == 1 && rows[0].class == "unknown" && rows[0].midstream, "{rows:?}");
        ensure!(rows[0].known_after.is_none(), "{rows:?}");
    }
    Ok(())
}

/// A frame of IPv4 packets that are wrapped, or cut up, or both.
fn captured(link: u32, frames: &[Vec<u8>], snap: usize) -> Vec<u8> {
    let mut file = Vec::new();
    for word in [0xa1b2_c3d4u32, 0x0004_0002, 0, 0, 262_144, link] {
        file.extend(word.to_le_bytes());
    }
    for frame in frames {
        let [kept, whole] = [frame.len().min(snap), frame.len()].map(|len| u32::try_from(len).unwrap_or(0));
        for word in [1_700_000_000u32, 0, kept, whole] {
            file.extend(word.to_le_bytes());
        }
        file.extend(frame.iter().take(snap));
    }
    file
}

/// A packet in fragments of so many bytes.
fn fragments(packet: &[u8], size: usize, number: u16) -> Vec<Vec<u8>> {
    let (head, body) = packet.split_at(20);
    let pieces: Vec<&[u8]> = body.chunks(size).collect();
    let last = pieces.len() - 1;
    let fragment = |(at, piece): (usize, &&[u8])| {
        let mut packet = [head, piece].concat();
        let length = u16::try_from(packet.len()).unwrap_or(0).to_be_bytes();
        let place = u16::try_from(at * size / 8).unwrap_or(0) | if at == last { 0 } else { 0x2000 };
        packet[2..4].copy_from_slice(&length);
        packet[4..6].copy_from_slice(&number.to_be_bytes());
        packet[6..8].copy_from_slice(&place.to_be_bytes());
        packet
    };
    pieces.iter().enumerate().map(fragment).collect()
}

/// Frames of all vectors, each packet as `wrap` makes it.
fn frames(vectors: &[Vector], mut wrap: impl FnMut(Vec<u8>) -> Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    for (at, vector) in vectors.iter().enumerate() {
        for packet in packets(vector, port(at)) {
            frames.extend(wrap(packet));
        }
    }
    frames
}

/// That each vector has a row that says what the kernel's reader says.
fn told_alike(vectors: &[Vector], file: &[u8], what: &str) -> Result<()> {
    let (rows, ended) = read(file);
    ended?;
    ensure!(rows.len() == vectors.len(), "{what}: {} rows of {}", rows.len(), vectors.len());
    let by_port: BTreeMap<u16, &Row> = rows.iter().map(|row| (row.src_port, row)).collect();
    for (at, vector) in vectors.iter().enumerate() {
        let row = by_port.get(&port(at)).with_context(|| format!("{what}: no row of {}", vector.name))?;
        let (told, seen) = ((row.class, row.protocol, row.upgraded), replay(vector, Cut::AsRecorded));
        ensure!(told == seen.outcome(), "{what}: {}: {told:?}, not {:?}", vector.name, seen.outcome());
    }
    Ok(())
}

#[test]
fn what_carries_a_packet_changes_nothing() -> Result<()> {
    let vectors = vectors()?;
    let before = |bytes: &'static [u8]| move |packet: Vec<u8>| vec![[bytes, &packet].concat()];
    const ETHERNET: &[u8] = &[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
    for (link, head) in [
        (9, &[0xff, 3, 0, 0x21][..]),
        (9, &[0x21]),
        (104, &[0x0f, 0, 8, 0]),
        (51, &[0x11, 0, 0, 1, 0, 0, 0, 0x21]),
    ] {
        let file = captured(link, &frames(&vectors, before(head)), usize::MAX);
        told_alike(&vectors, &file, &format!("link {link}"))?;
    }
    for (name, kind) in [
        ("LLC and SNAP", &[0x01, 0x00, 0xaa, 0xaa, 3, 0, 0, 0, 8, 0][..]),
        ("two VLANs", &[0x88, 0xa8, 0, 5, 0x81, 0, 0, 6, 8, 0]),
        ("MPLS", &[0x88, 0x47, 0, 1, 0, 64, 0, 2, 1, 64]),
    ] {
        let wrap = |packet: Vec<u8>| vec![[ETHERNET, kind, &packet].concat()];
        told_alike(&vectors, &captured(1, &frames(&vectors, wrap), usize::MAX), name)?;
    }
    let inner = [ETHERNET, &[8, 0]].concat();
    for (name, protocol, head) in [
        ("IP in IP", 4, vec![]),
        ("GRE", 47, vec![0, 0, 8, 0]),
        ("GRE with a key and a number", 47, [&[0x30, 0, 8, 0][..], &[7; 8]].concat()),
        ("GRE with Ethernet", 47, [&[0, 0, 0x65, 0x58][..], &inner].concat()),
        ("ERSPAN", 47, [&[0x10, 0, 0x88, 0xbe][..], &[0; 4], &[0x10; 8], &inner].concat()),
    ] {
        let wrap = |packet: Vec<u8>| vec![ip(protocol, 0, &[head.clone(), packet].concat())];
        told_alike(&vectors, &captured(101, &frames(&vectors, wrap), usize::MAX), name)?;
    }
    Ok(())
}

#[test]
fn fragments_are_put_together() -> Result<()> {
    let vectors = vectors()?;
    for (size, turned) in [(8, false), (64, true), (512, false)] {
        let mut number = 0;
        let all = frames(&vectors, |packet| {
            number += 1;
            let mut pieces = fragments(&packet, size, number);
            if turned {
                pieces.reverse();
            }
            pieces
        });
        told_alike(&vectors, &captured(101, &all, usize::MAX), &format!("fragments of {size}"))?;
    }
    Ok(())
}

/// Of what a capture has only the front, less is known, and nothing wrong.
#[test]
fn a_short_snapshot_says_less_and_nothing_wrong() -> Result<()> {
    let vectors = vectors()?;
    for snap in [68, 96, 128, 256] {
        let (rows, ended) = read(&captured(101, &frames(&vectors, |packet| vec![packet]), snap));
        ended?;
        let mut unknown = 0;
        for row in &rows {
            let vector = &vectors[usize::from(row.src_port - port(0))];
            let truth = &vector.truth;
            let fits = row.class == truth.class
                || row.class == "unknown"
                // Its dialogue was not seen to its end.
                || (row.class == "starttls" && (truth.upgraded || truth.class == "clear"));
            ensure!(fits, "{} at {snap}: {row:?}", vector.name);
            unknown += u32::from(row.class == "unknown" && truth.class != "unknown");
        }
        println!("{snap} bytes of each packet: {unknown} of {} are not known", rows.len());
        ensure!(snap < 96 || unknown <= u32::try_from(rows.len())? / 10, "{unknown} at {snap}");
    }
    Ok(())
}

/// Without the handshake nobody says who opened a connection: its bytes do.
#[test]
fn whoever_is_seen_first_is_not_always_the_opener() -> Result<()> {
    let wanted = |vector: &Vector| vector.truth.upgraded || vector.truth.protocol == "http1";
    let vectors: Vec<Vector> =
        vectors()?.into_iter().filter(|vector| vector.transport == "tcp" && wanted(vector)).collect();
    for vector in vectors {
        let mut flow = packets(&vector, port(0));
        // The SYN and its answer.
        flow.drain(..2);
        let (rows, ended) = read(&captured(101, &flow, usize::MAX));
        ended?;
        let [row] = &rows[..] else { anyhow::bail!("{}: {rows:?}", vector.name) };
        let truth = (&*vector.truth.class, &*vector.truth.protocol, vector.truth.upgraded);
        ensure!((row.class, row.protocol, row.upgraded) == truth, "{}: {row:?}", vector.name);
        ensure!(row.src_port == port(0) && row.midstream, "{}: {row:?}", vector.name);
    }
    Ok(())
}
