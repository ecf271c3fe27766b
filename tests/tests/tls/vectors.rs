//! The whole corpus over real sockets: what the kernel calls each flow, and what it lets through.
//!
//! What must come of each is asked of the same reader on this side of the kernel, whose answers the corpus'
//! own tests hold against the truth.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use bulkhead_abi::{Accept, App, Class, Demand, Tls};
use bulkhead_core::inspect::{self, Ruling, datagram};
use bulkhead_tests::corpus::{self, Vector};
use bulkhead_tests::harness::threat::{DB, DB6, Lab, WEB_AND_DB, at};
use bulkhead_tests::harness::{Agent, Kind, Serve, wait_until};
use bulkhead_tests::require_agent;

use crate::core::read;
use crate::record::{Conversation, Sender};
use crate::stage::{Classes, classes, denied, since};
use crate::takes::{Fate, OPENERS, Opener, Take, none, play_all};

/// First of the ports that the rule opens.
const FIRST: u16 = 12_000;
/// How long a counter may take.
const SOON: Duration = Duration::from_secs(20);
/// How long nothing is waited for.
const NOTHING: Duration = Duration::from_millis(200);

/// Every dialogue that may turn to TLS, and what is encrypted from its first byte on.
const ACCEPTED: Accept = Accept(!Accept::UNKNOWN.0);

#[test]
fn every_flow_of_the_corpus_passes_or_stops_where_it_contradicts() {
    require_agent!();
    let lab = Lab::new().unwrap();
    let demand = Demand { level: Tls::Require, accept: ACCEPTED, floor: 0 };
    let recorded: Vec<(String, Conversation)> = tcp().into_iter().map(|(v, said)| (v.name, said)).collect();
    let cuts = [(Sender::Opener, 0), (Sender::Opener, 3), (Sender::Receiver, 3)];
    let mut takes = Vec::new();
    for (name, conversation) in &recorded {
        for cut in cuts {
            let found = read(conversation, cut, demand);
            let fate = match (found.refused, found.refused_by) {
                (Some(_), Some(sender)) => Fate::Stops(sender, found.passed[sender as usize]),
                _ => Fate::Arrives,
            };
            takes.extend(OPENERS.into_iter().flat_map(|opener| {
                [DB, DB6].map(|to| Take { name, conversation, opener, to, cut, fast_open: false, fate })
            }));
        }
    }
    let (encrypted, clear): (Vec<_>, Vec<_>) = takes.into_iter().partition(|take| take.fate == Fate::Arrives);
    assert!(encrypted.len() > 300 && clear.len() > 600, "{} and {}", encrypted.len(), clear.len());
    let agent = Agent::prepare(&lab.root, &policy(&required())).in_ns(lab.node().unwrap()).log_level("info");
    let agent = agent.start().unwrap();
    let mut failures = play_all(&lab, FIRST, &encrypted);
    let quiet = agent.counters().unwrap().flows();
    assert!(!failures.is_empty() || quiet.keys().all(|pair| pair.verdict == "allow"), "{quiet:?}");
    let before = agent.counters().unwrap();
    failures.extend(play_all(&lab, FIRST, &clear));
    none(&failures, encrypted.len() + clear.len());
    denied(&agent, &before, &clear, &["clear-text", "unclassified", "weak-encryption"]);
}

#[test]
fn every_flow_of_the_corpus_is_counted_as_what_it_is() {
    require_agent!();
    let lab = Lab::new().unwrap();
    let agent = Agent::prepare(&lab.root, &policy(r#""report""#)).in_ns(lab.node().unwrap()).start().unwrap();
    let mut wrong = Vec::new();
    for (number, (vector, conversation)) in (0..).zip(tcp()) {
        let take = Take {
            name: &vector.name,
            conversation: &conversation,
            opener: Opener::Web,
            to: if number & 1 == 0 { DB } else { DB6 },
            cut: (Sender::Opener, 0),
            fast_open: false,
            fate: Fate::Arrives,
        };
        wrong.extend(counted(&agent, &vector, true, || wrong_of(&lab, FIRST + number, &take)));
    }
    for (number, vector) in (0..).zip(udp()) {
        let to = at(if number & 1 == 0 { DB } else { DB6 }, FIRST + number);
        let mut conversation = inspect::conversation(Demand { level: Tls::Report, ..Demand::OFF });
        for said in &vector.segments {
            let bytes = said.bytes.as_slice();
            let _ = datagram::datagram(&mut conversation, said.sender, &bytes);
        }
        // Of some protocols it takes more datagrams to be sure than a vector has.
        let sure = inspect::is_settled(conversation.phase);
        wrong.extend(counted(&agent, &vector, sure, || {
            let all = vec![true; vector.segments.len()];
            say(&lab, &vector, to, &all)
        }));
    }
    none(&wrong, 0);
}

#[test]
fn every_datagram_of_the_corpus_passes_or_stops() {
    require_agent!();
    let lab = Lab::new().unwrap();
    let agent = Agent::prepare(&lab.root, &policy(r#""require""#)).in_ns(lab.node().unwrap());
    let _agent = agent.start().unwrap();
    let mut wrong = Vec::new();
    for (number, vector) in (0..).zip(udp()) {
        for to in [DB, DB6] {
            let mut conversation = inspect::conversation(Demand::REQUIRE);
            let passes: Vec<bool> = vector
                .segments
                .iter()
                .map(|said| {
                    let bytes = said.bytes.as_slice();
                    datagram::datagram(&mut conversation, said.sender, &bytes) == Ruling::Pass
                })
                .collect();
            wrong.extend(say(&lab, &vector, at(to, FIRST + number), &passes));
        }
    }
    none(&wrong, 0);
}

fn vectors(transport: &str) -> Vec<Vector> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus/vectors.jsonl");
    corpus::load(&path).unwrap().into_iter().filter(|vector| vector.transport == transport).collect()
}

fn tcp() -> Vec<(Vector, Conversation)> {
    let conversation = |vector: Vector| {
        let mut conversation = Conversation::default();
        for segment in &vector.segments {
            let sender = if segment.sender == 0 { Sender::Opener } else { Sender::Receiver };
            conversation.say(sender, &segment.bytes);
        }
        (vector, conversation)
    };
    vectors("tcp").into_iter().map(conversation).collect()
}

/// Those that the opener begins: nobody else can be answered to.
fn udp() -> Vec<Vector> {
    let mut vectors = vectors("udp");
    vectors.retain(|vector| vector.segments.first().is_some_and(|first| first.sender == 0));
    assert!(vectors.len() > 25, "{}", vectors.len());
    vectors
}

fn policy(tls: &str) -> String {
    let last = FIRST + 9_999;
    format!(
        "{WEB_AND_DB}[[allow]]\nfrom = [\"web\", \"world\"]\nto = \"db\"\n\
         ports = [\"tcp/{FIRST}-{last}\", \"udp/{FIRST}-{last}\"]\ntls = {tls}\n"
    )
}

/// A level that accepts [`ACCEPTED`].
fn required() -> String {
    let words = Accept::WORDS.iter().filter(|(bit, _)| ACCEPTED.contains(*bit));
    format!("{{ require = {:?} }}", words.map(|(_, word)| *word).collect::<Vec<_>>())
}

fn wrong_of(lab: &Lab, port: u16, take: &Take<'_>) -> Option<String> {
    match take.play(lab, port) {
        Ok(outcome) => take.wrong(&outcome).map(|wrong| format!("{take}: {wrong}")),
        Err(error) => Some(format!("{take} could not be tried: {error:#}")),
    }
}

/// Lets a flow go, and says what it was counted as, where that is not what the vector says.
fn counted(
    agent: &Agent,
    vector: &Vector,
    sure: bool,
    go: impl FnOnce() -> Option<String>,
) -> Option<String> {
    let before = classes(agent);
    if let Some(wrong) = go() {
        return Some(wrong);
    }
    let truth = &vector.truth;
    let app = if truth.protocol.is_empty() { App::Unknown.as_str() } else { &truth.protocol };
    // What cannot be told is only counted when no more is expected of it.
    let untold = !sure || truth.class == Class::Unknown.as_str();
    let mut found = Classes::new();
    let told = wait_until(if untold { NOTHING } else { SOON }, "it is counted", || {
        found = since(&classes(agent), &before);
        found.iter().map(|((class, app, ..), flows)| (*class, *app, *flows)).eq([(&*truth.class, app, 1)])
    });
    let fine = told.is_ok() || (untold && found.keys().all(|(class, ..)| *class == truth.class));
    (!fine).then(|| format!("{}: counted {found:?}, not {} {app}", vector.name, truth.class))
}

/// Sends a vector's datagrams, of which those arrive that `passes` says, whole, and no other.
fn say(lab: &Lab, vector: &Vector, to: SocketAddr, passes: &[bool]) -> Option<String> {
    let far = lab.db.listen(Kind::Udp, to, Serve::Hold).unwrap();
    let near = lab.web.open(Kind::Udp, None, to.is_ipv6()).unwrap();
    let mut back = None;
    let mut wrong = None;
    for (number, (segment, passes)) in vector.segments.iter().zip(passes).enumerate() {
        let (sent, heard) = if segment.sender == 0 {
            let sent = lab.web.send(&near, &segment.bytes, Some(to));
            (sent.is_ok(), if *passes { lab.db.recv(&far, SOON) } else { lab.db.recv(&far, NOTHING) })
        } else {
            let Some(back) = back else { break };
            let sent = lab.db.send(&far, &segment.bytes, Some(back));
            (sent.is_ok(), if *passes { lab.web.recv(&near, SOON) } else { lab.web.recv(&near, NOTHING) })
        };
        if segment.sender == 0
            && let Ok((_, from)) = &heard
        {
            back = back.or(*from);
        }
        let right = match &heard {
            Ok((bytes, _)) => *passes && *bytes == segment.bytes,
            Err(_) => !passes,
        };
        if !right && wrong.is_none() {
            let heard = heard.map(|(bytes, _)| bytes.len());
            wrong = Some(format!("{} to {to}, datagram {number}: sent {sent}, {heard:?}", vector.name));
        }
        if !passes {
            // Nothing behind it passes either.
            break;
        }
    }
    lab.db.close(&far).unwrap();
    lab.web.close(&near).unwrap();
    wrong
}
