//! What handshakes say, read out of the recorded openings, whole and cut.

use anyhow::{Context, Result, ensure};
use bulkhead_detect::hello::{Handshake, Summary};
use bulkhead_tests::corpus::Vector;

/// The bytes of each direction from where TLS begins: the first record of a handshake.
pub(crate) fn openings(vector: &Vector) -> [Vec<u8>; 2] {
    let mut openings = [Vec::new(), Vec::new()];
    for segment in &vector.segments {
        openings[usize::from(segment.sender)].extend(&segment.bytes);
    }
    if vector.transport == "tcp" {
        for bytes in &mut openings {
            let begins = |window: &[u8]| window[0] == 0x16 && window[1] == 3 && window[2] <= 4;
            let start = bytes.windows(3).position(begins).unwrap_or(bytes.len());
            bytes.drain(..start);
            bytes.truncate(4096);
        }
    }
    openings
}

pub(crate) fn handshake(vector: &Vector) -> Handshake {
    let [opener, receiver] = openings(vector);
    read(vector, &opener, &receiver)
}

/// What these first bytes of its directions say.
fn read(vector: &Vector, opener: &[u8], receiver: &[u8]) -> Handshake {
    if vector.transport == "tcp" {
        return Handshake::read(opener, receiver);
    }
    let mut directions = [Vec::new(), Vec::new()];
    let mut left = [opener, receiver];
    for segment in &vector.segments {
        let sender = usize::from(segment.sender);
        let (datagram, rest) = left[sender].split_at(segment.bytes.len().min(left[sender].len()));
        directions[sender].extend(Some(datagram.to_vec()).filter(|datagram| !datagram.is_empty()));
        left[sender] = rest;
    }
    let [opener, receiver] = directions;
    Handshake::read_datagrams(&opener, &receiver)
}

fn encrypted() -> Result<Vec<Vector>> {
    let wanted = |vector: &Vector| matches!(vector.truth.class.as_str(), "tls" | "dtls" | "quic");
    Ok(super::vectors()?.into_iter().filter(wanted).collect())
}

#[test]
fn handshakes_say_what_was_agreed_on() -> Result<()> {
    let mut wrong = Vec::new();
    for vector in encrypted()? {
        let (summary, truth) = (Summary::from(&handshake(&vector)), &vector.truth);
        let alpn = summary.alpn.clone().or_else(|| summary.alpn_offered.first().cloned());
        let facts = [
            ("version", &truth.version, &summary.version),
            ("cipher", &truth.cipher, &summary.cipher),
            ("group", &truth.group, &summary.group),
            ("server name", &truth.server_name, &summary.server_name),
            ("alpn", &truth.alpn, &alpn),
        ];
        for (what, expected, found) in facts {
            if expected.is_some() && expected != found {
                wrong.push(format!("{}: {what} is {found:?}, not {expected:?}", vector.name));
            }
        }
        let tls12 = matches!(truth.version.as_deref(), Some("1.0" | "1.1" | "1.2"));
        let anonymous = truth.cipher.as_deref().is_some_and(|cipher| cipher.contains("anon"));
        let certificate = summary.certificate.as_ref();
        if tls12 && !anonymous && certificate.is_none_or(|leaf| !leaf.subject.contains("server.example")) {
            wrong.push(format!("{}: no certificate of the server: {certificate:?}", vector.name));
        }
        if summary.ja4.is_none() {
            wrong.push(format!("{}: no fingerprint", vector.name));
        }
    }
    ensure!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
    Ok(())
}

#[test]
fn the_order_of_events_is_seen() -> Result<()> {
    let vectors = encrypted()?;
    let of = |name: &str| {
        let vector = vectors.iter().find(|vector| vector.name == name).with_context(|| name.to_owned())?;
        anyhow::Ok(handshake(vector))
    };
    let retried = of("tls-1.3-retry")?;
    ensure!(retried.retried && retried.settled, "{retried:?}");
    ensure!(of("tls-1.3-resumed")?.resumed && !of("tls-1.3")?.resumed);
    let leaf = of("tls-1.2-rsa")?.certificate.context("a certificate")?;
    ensure!(leaf.names == ["server.example", "localhost", "127.0.0.1"], "{leaf:?}");
    ensure!(leaf.key == "RSA 2048" && leaf.self_issued && !leaf.is_expired(leaf.not_after), "{leaf:?}");
    ensure!(leaf.not_after - leaf.not_before == 30 * 86_400, "{leaf:?}");
    Ok(())
}

/// A part of a handshake says a part of the truth, and nothing else.
#[test]
fn a_cut_handshake_says_nothing_wrong() -> Result<()> {
    for vector in encrypted()? {
        let [opener, receiver] = openings(&vector);
        let whole = Summary::from(&handshake(&vector));
        let ends = (0..=opener.len()).map(|end| (end, receiver.len()));
        for (asked, answered) in ends.chain((0..=receiver.len()).map(|end| (opener.len(), end))) {
            let cut = Summary::from(&read(&vector, &opener[..asked], &receiver[..answered]));
            let agrees = |cut: &Option<String>, whole: &Option<String>| cut.is_none() || cut == whole;
            let name = format!("{} cut at {asked} and {answered}", vector.name);
            ensure!(agrees(&cut.version, &whole.version), "{name}: version {:?}", cut.version);
            ensure!(agrees(&cut.cipher, &whole.cipher), "{name}: cipher {:?}", cut.cipher);
            ensure!(agrees(&cut.group, &whole.group), "{name}: group {:?}", cut.group);
            ensure!(agrees(&cut.server_name, &whole.server_name), "{name}: name {:?}", cut.server_name);
            ensure!(agrees(&cut.ja4, &whole.ja4), "{name}: fingerprint {:?}", cut.ja4);
            let same = cut.certificate.is_none() || cut.certificate == whole.certificate;
            ensure!(same, "{name}: certificate {:?}", cut.certificate);
        }
    }
    Ok(())
}
