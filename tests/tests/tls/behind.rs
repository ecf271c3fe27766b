//! Clear text behind a genuine handshake: bare, and in something that looks like TLS records.

use bulkhead_tests::harness::Agent;
use bulkhead_tests::harness::threat::{DB, DB6};

use crate::record::Sender;
use crate::require_speakers;
use crate::speakers::{SPEAKERS, Speaker};
use crate::stage::{LISTED, Stage, denied, ranges};
use crate::takes::{Fate, OPENERS, Take, none, play_all};

/// What is said behind the handshake, and how much of it is still what TLS could say.
pub(crate) const TAILS: [(&str, &[u8], usize); 5] = [
    ("bare", b"GET /secret HTTP/1.1\r\n\r\n", 0),
    ("behind a whole record", b"\x17\x03\x03\x00\x05helloGET /secret HTTP/1.1\r\n\r\n", 10),
    ("behind an empty record", b"\x17\x03\x03\x00\x00GET /secret HTTP/1.1\r\n\r\n", 5),
    ("in a record that is too long", b"\x17\x03\x03\x7f\xffGET /secret HTTP/1.1\r\n\r\n", 4),
    ("in a record of another version", b"\x17\x05\x03\x00\x19GET /secret HTTP/1.1\r\n\r\n", 1),
];

/// Where the tail is cut: before it, and within all that a header could be.
const CUTS: usize = 7;

#[test]
fn clear_text_behind_a_handshake_is_not_delivered() {
    let kit = require_speakers!();
    let speakers: Vec<&Speaker> =
        SPEAKERS.iter().filter(|speaker| speaker.class == bulkhead_abi::Class::Tls).collect();
    let stage = Stage::new(kit.with_lines(40).unwrap(), &speakers).unwrap();
    let mut tailed = Vec::new();
    for speaker in speakers.iter().filter(|speaker| speaker.word.is_some()) {
        let genuine = stage.record(speaker).unwrap();
        for sender in [Sender::Opener, Sender::Receiver] {
            let before = genuine.stream(sender).len();
            for (way, tail, innocent) in TAILS {
                let mut conversation = genuine.clone();
                conversation.say(sender, tail);
                tailed.push((
                    format!("{}, then clear text {way}", speaker.name),
                    conversation,
                    sender,
                    before,
                    innocent,
                ));
            }
        }
    }
    let takes = tailed.iter().flat_map(|(name, conversation, sender, before, innocent)| {
        OPENERS.into_iter().flat_map(move |opener| {
            (0..CUTS).map(move |at| Take {
                name,
                conversation,
                opener,
                to: if at & 1 == 0 { DB } else { DB6 },
                cut: (*sender, before + at),
                fast_open: false,
                fate: Fate::Stops(*sender, before + innocent),
            })
        })
    });
    let takes: Vec<Take<'_>> = takes.collect();
    let lab = &stage.lab;
    let open: Vec<Take<'_>> =
        takes.iter().step_by(CUTS).map(|take| Take { fate: Fate::Arrives, ..take.clone() }).collect();
    none(&play_all(lab, LISTED, &open), open.len());

    let setup = Agent::prepare(&lab.root, &ranges()).in_ns(lab.node().unwrap()).log_level("info");
    let agent = setup.start().unwrap();
    let before = agent.counters().unwrap();
    none(&play_all(lab, LISTED, &takes), takes.len());
    denied(&agent, &before, &takes, &["clear-text"]);
}
