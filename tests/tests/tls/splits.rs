//! The real bytes of every protocol, cut in two at each of the first 64, by IPv4 and IPv6 in turn.
//!
//! What one end must not hear is not delivered, wherever a segment ends, whoever says it, in a SYN or
//! behind it, and from a machine on which no agent runs; what is encrypted comes to its end, byte for byte.

use bulkhead_tests::harness::Agent;
use bulkhead_tests::harness::threat::{DB, DB6};

use crate::record::{Conversation, Sender};
use crate::require_speakers;
use crate::speakers::{SPEAKERS, Speaker};
use crate::stage::{LISTED, PLAIN, Stage, denied, ranges};
use crate::takes::{Fate, OPENERS, Take, none, play_all};

/// How many first bytes are cut behind.
const CUTS: usize = 64;

/// What two programs said to each other.
struct Recorded {
    speaker: &'static Speaker,
    all: Conversation,
    /// The first words of the opener, and of the receiver, for whom nobody asks.
    words: [Conversation; 2],
}

#[test]
fn no_cut_lets_a_contradicting_byte_through_and_none_harms_what_is_encrypted() {
    let kit = require_speakers!();
    let speakers: Vec<&'static Speaker> = SPEAKERS.iter().filter(|speaker| !speaker.udp).collect();
    let stage = Stage::new(kit.with_lines(40).unwrap(), &speakers).unwrap();
    let record = |speaker: &&'static Speaker| {
        let all = stage.record(speaker).unwrap();
        let words = [Sender::Opener, Sender::Receiver].map(|sender| all.first_words(sender));
        Recorded { speaker, all, words }
    };
    let recorded: Vec<Recorded> = speakers.iter().map(record).collect();
    let takes: Vec<Take<'_>> = recorded.iter().flat_map(Recorded::takes).collect();
    let (encrypted, clear): (Vec<_>, Vec<_>) = takes.into_iter().partition(|take| take.fate == Fate::Arrives);
    let lab = &stage.lab;
    for name in ["web", "db", "outside"] {
        // With data in the SYN, without a cookie, on every listener (ip-sysctl, tcp_fastopen).
        lab.ns(name).unwrap().sysctl("ipv4/tcp_fastopen", "1543").unwrap();
    }

    // Without an agent all of it arrives, or it would prove nothing that it does not.
    let ends = [&encrypted[..], &clear].concat().into_iter().filter(|take| [1, CUTS].contains(&take.cut.1));
    let open: Vec<Take<'_>> = ends.map(|take| Take { fate: Fate::Arrives, ..take }).collect();
    none(&play_all(lab, PLAIN, &open), open.len());

    let setup = Agent::prepare(&lab.root, &ranges()).in_ns(lab.node().unwrap()).log_level("info");
    let agent = setup.start().unwrap();
    let begun = agent.counters().unwrap();
    let mut failures = play_all(lab, LISTED, &encrypted);
    let quiet = agent.counters().unwrap().since(&begun).flows();
    assert!(!failures.is_empty() || quiet.keys().all(|pair| pair.verdict == "allow"), "{quiet:?}");
    let before = agent.counters().unwrap();
    failures.extend(play_all(lab, PLAIN, &clear));
    none(&failures, encrypted.len() + clear.len());
    // Every refused one is counted once, whatever way it came. Of the first byte alone nobody can always
    // tell what it is.
    denied(&agent, &before, &clear, &["clear-text", "unclassified"]);
}

impl Recorded {
    /// Each cut of what each of the two says, from everywhere, in every way.
    fn takes(&self) -> impl Iterator<Item = Take<'_>> {
        let ways = [(Sender::Opener, false), (Sender::Opener, true), (Sender::Receiver, false)];
        OPENERS.into_iter().flat_map(move |opener| {
            ways.into_iter().flat_map(move |(sender, fast_open)| {
                let (conversation, fate) = self.played(sender);
                let opens = conversation.turns.first().is_some_and(|turn| turn.sender == Sender::Opener);
                let cuts = if fast_open && !opens { 0 } else { CUTS };
                (1..=cuts).map(move |at| Take {
                    name: self.speaker.name,
                    conversation,
                    opener,
                    to: if at & 1 == 0 { DB } else { DB6 },
                    cut: (sender, at),
                    fast_open,
                    fate,
                })
            })
        })
    }

    /// What is encrypted is played to its end. What is clear is stopped at its first words, so that nobody
    /// is there to be answered to.
    fn played(&self, sender: Sender) -> (&Conversation, Fate) {
        let [opening, answer] = &self.words;
        match sender {
            _ if self.speaker.word.is_some() => (&self.all, Fate::Arrives),
            Sender::Opener => (opening, Fate::Stops(sender, innocent(&opening.stream(sender), sender))),
            Sender::Receiver => (answer, Fate::Stops(sender, innocent(&answer.stream(sender), sender))),
        }
    }
}

/// How many of these bytes may still become something that `require` accepts.
fn innocent(bytes: &[u8], sender: Sender) -> usize {
    let beginnings: &[&[u8]] = match sender {
        Sender::Opener => {
            &[b"\x16\x03", b"SSH-", b"\x00\x00\x00\x08\x04\xd2\x16\x2f", b"PROXY ", b"CONNECT "]
        }
        Sender::Receiver => &[b"\x16\x03", b"\x15\x03", b"SSH-"],
    };
    let common = |other: &[u8]| bytes.iter().zip(other).take_while(|(a, b)| a == b).count();
    beginnings.iter().map(|beginning| common(beginning)).max().unwrap_or(0)
}
