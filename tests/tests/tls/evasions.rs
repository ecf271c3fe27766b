//! Ways around the reading of first bytes: each is found where clear text is a finding, and stopped where
//! it is stopped.

use std::time::Duration;

use anyhow::Result;
use bulkhead_tests::harness::threat::{Case, DB, Threat, Try, WEB_AND_DB, at};
use bulkhead_tests::harness::{Agent, Kind, Serve, Step, wait_until};

use crate::record::{Conversation, Sender};
use crate::require_speakers;
use crate::speakers::{SPEAKERS, Speaker};
use crate::stage::{Classes, Stage, classes, since};

const OPEN: u16 = 7000;
const REQUEST: &[u8] = b"GET /secret HTTP/1.1\r\nHost: db\r\n\r\n";
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
const SOON: Duration = Duration::from_secs(10);

const PROXY: &[u8] = b"PROXY TCP4 192.0.2.1 192.0.2.2 40000 443\r\n";
const CONNECT: &[u8] = b"CONNECT db:443 HTTP/1.1\r\nHost: db:443\r\n\r\n";
const CONNECTED: &[u8] = b"HTTP/1.1 200 Connection established\r\n\r\n";

/// A conversation that contradicts from some byte of one end's stream on, and how it is cut.
pub(crate) struct Evasion {
    pub(crate) name: &'static str,
    pub(crate) conversation: Conversation,
    sender: Sender,
    innocent: usize,
    cut: Cut,
    twin: Conversation,
    pub(crate) reason: &'static str,
}

/// How a sender's bytes come.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Cut {
    /// As they were said.
    Whole,
    /// In two segments.
    At(usize),
    /// The first so many one by one.
    Singly(usize),
}

#[test]
fn row_30_what_only_looks_encrypted_is_stopped() {
    let stage = stage(require_speakers!());
    stopped(&stage, &evasions(&stage));
}

#[test]
fn row_31_what_is_in_a_tunnel_is_what_counts() {
    let stage = stage(require_speakers!());
    stopped(&stage, &tunnels(&stage));
}

/// Where clear text is a finding and nothing is stopped, each is called clear text, never encrypted.
#[test]
fn row_30_and_31_what_only_looks_encrypted_is_found() {
    let stage = stage(require_speakers!());
    // Recorded before there is an agent.
    let all: Vec<Evasion> = evasions(&stage).into_iter().chain(tunnels(&stage)).collect();
    let agent = Agent::prepare(&stage.lab.root, &policy(r#""report""#)).in_ns(stage.lab.node().unwrap());
    let agent = agent.start().unwrap();
    let mut wrong = Vec::new();
    for (number, evasion) in all.iter().enumerate() {
        let before = classes(&agent);
        let run = Try::by_hand(&stage.lab, u16::try_from(number).unwrap());
        assert!(evasion.attempt(&run).unwrap(), "{} does not arrive", evasion.name);
        let mut found = Classes::new();
        let told = wait_until(SOON, "it is found", || {
            found = since(&classes(&agent), &before);
            found.iter().any(|((class, _, level, verdict), flows)| {
                (*class, *level, *verdict, *flows) == ("clear", "report", "allow", 1)
            })
        });
        wrong.extend(told.err().map(|_| format!("{}: {found:?}", evasion.name)));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Each in its three runs.
fn stopped(stage: &Stage, evasions: &[Evasion]) {
    let tls = r#"{ require = ["tls", "starttls/smtp"] }"#;
    let mut threat = Threat::new(&policy(tls));
    for evasion in evasions {
        threat = threat.case(
            Case::new(evasion.name)
                .attempt(|run| evasion.attempt(run))
                .twin(|run| evasion.twin(run))
                // The connection itself is allowed: what it carries is not.
                .counts("web", "db", "allow", "allow-rule", 1)
                .counts("web", "db", "deny", evasion.reason, 1),
        );
    }
    threat.run(&stage.lab).unwrap();
}

pub(crate) fn stage(kit: crate::speakers::Kit) -> Stage {
    let speakers: Vec<&Speaker> = ["SMTP with STARTTLS", "openssl by TLS 1.3"].map(named).into();
    Stage::new(kit.with_lines(40).unwrap(), &speakers).unwrap()
}

fn named(name: &str) -> &'static Speaker {
    SPEAKERS.iter().find(|speaker| speaker.name == name).expect(name)
}

fn policy(tls: &str) -> String {
    let last = OPEN + 99;
    format!(
        "{WEB_AND_DB}[[allow]]\nfrom = \"web\"\nto = \"db\"\nports = [\"tcp/{OPEN}-{last}\"]\ntls = {tls}\n"
    )
}

/// Ways to make clear text look like something else.
pub(crate) fn evasions(stage: &Stage) -> Vec<Evasion> {
    let tls = stage.record(named("openssl by TLS 1.3")).unwrap();
    let upgraded = stage.record(named("SMTP with STARTTLS")).unwrap();
    let clear = spoken(&[(Sender::Opener, REQUEST), (Sender::Receiver, ANSWER)]);
    let mut turned = tls.clone();
    turned.say(Sender::Opener, REQUEST);
    let handshake = tls.stream(Sender::Opener).len();
    let evasion = |name, conversation, innocent, cut| Evasion {
        name,
        conversation,
        sender: Sender::Opener,
        innocent,
        cut,
        twin: tls.clone(),
        reason: "clear-text",
    };
    let disguised = [b"\x16\x03", REQUEST].concat();
    let disguised = spoken(&[(Sender::Opener, &disguised), (Sender::Receiver, ANSWER)]);
    let (stripped, dialogue) = stripped(stage);
    vec![
        Evasion {
            reason: "unclassified",
            ..evasion("0x16 0x03, then clear text", disguised.clone(), 2, Cut::Whole)
        },
        Evasion {
            reason: "unclassified",
            ..evasion("0x16 0x03, then clear text in the next segment", disguised, 2, Cut::At(2))
        },
        evasion("a request in segments of one byte", clear.clone(), 0, Cut::Singly(64)),
        evasion("a request in two segments", clear, 0, Cut::At(1)),
        Evasion { twin: upgraded, ..evasion("STARTTLS stripped", stripped, dialogue, Cut::Whole) },
        evasion("TLS that turns clear", turned, handshake, Cut::At(handshake)),
    ]
}

/// What stands in front of a connection and is looked through.
pub(crate) fn tunnels(stage: &Stage) -> Vec<Evasion> {
    let tls = stage.record(named("openssl by TLS 1.3")).unwrap();
    vec![
        tunnelled("clear text behind a PROXY header", &tls, &[(Sender::Opener, PROXY)]),
        tunnelled(
            "clear text in a tunnel by CONNECT",
            &tls,
            &[(Sender::Opener, CONNECT), (Sender::Receiver, CONNECTED)],
        ),
    ]
}

/// A request in clear behind something that is looked through; behind the same, TLS passes.
fn tunnelled(name: &'static str, tls: &Conversation, way: &[(Sender, &[u8])]) -> Evasion {
    let through = spoken(way);
    let innocent = through.stream(Sender::Opener).len();
    let (mut conversation, mut twin) = (through.clone(), through);
    conversation.say(Sender::Opener, REQUEST);
    conversation.say(Sender::Receiver, ANSWER);
    for turn in &tls.turns {
        twin.say(turn.sender, &turn.bytes);
    }
    let (sender, cut, reason) = (Sender::Opener, Cut::At(innocent), "clear-text");
    Evasion { name, conversation, sender, innocent, cut, twin, reason }
}

/// A mail in clear where the server's offer to encrypt was taken out on the way, and where in the client's
/// stream the dialogue that would lead to TLS ends.
fn stripped(stage: &Stage) -> (Conversation, usize) {
    let mut conversation = stage.record(named("SMTP without STARTTLS")).unwrap();
    let mut found = false;
    for turn in &mut conversation.turns {
        if let Some(at) = turn.bytes.windows(8).position(|word| word == b"STARTTLS") {
            turn.bytes[at..at + 8].copy_from_slice(b"XXXXXXXX");
            found = true;
        }
    }
    assert!(found, "the server offers STARTTLS");
    let stream = conversation.stream(Sender::Opener);
    let mail = stream.windows(5).position(|word| word.eq_ignore_ascii_case(b"mail ")).unwrap();
    (conversation, mail)
}

fn spoken(turns: &[(Sender, &[u8])]) -> Conversation {
    let mut conversation = Conversation::default();
    for (sender, bytes) in turns {
        conversation.say(*sender, bytes);
    }
    conversation
}

impl Evasion {
    /// Whether the receiver heard what it must not: all of it, where nobody is in the way.
    fn attempt(&self, run: &Try<'_>) -> Result<bool> {
        let heard = converse(run, &self.conversation, self.sender, self.cut)?;
        let stream = self.conversation.stream(self.sender);
        Ok(if run.expected { heard == stream } else { heard.len() > self.innocent })
    }

    /// Whether the encrypted one comes to its end, cut in the same way.
    fn twin(&self, run: &Try<'_>) -> Result<bool> {
        let cut = if let Cut::At(at) = self.cut { Cut::At(at.min(64)) } else { self.cut };
        let both = [Sender::Opener, Sender::Receiver]
            .map(|sender| anyhow::Ok(converse(run, &self.twin, sender, cut)? == self.twin.stream(sender)));
        let [opener, receiver] = both;
        Ok(opener? && receiver?)
    }
}

/// Plays a conversation from `web` to `db`, with what one of them says cut, and answers what the other one
/// heard of it.
fn converse(run: &Try<'_>, conversation: &Conversation, sender: Sender, cut: Cut) -> Result<Vec<u8>> {
    let to = at(DB, run.port(OPEN));
    let script = |own| {
        let split = match cut {
            Cut::At(at) => at,
            Cut::Whole | Cut::Singly(_) => 0,
        };
        let mut steps = conversation.part(own, (sender, split));
        if let Cut::Singly(count) = cut
            && own == sender
            && let Some(first) = steps.iter().position(|step| matches!(step, Step::Send(_)))
            && let Step::Send(bytes) = steps[first].clone()
        {
            let (single, rest) = bytes.split_at(count.min(bytes.len()));
            let pieces = single.chunks(1).chain([rest].into_iter().filter(|rest| !rest.is_empty()));
            steps.splice(first..=first, pieces.map(|piece| Step::Send(piece.to_vec())));
        }
        steps
    };
    let listener = run.lab.db.listen(Kind::Tcp, to, Serve::Hold)?;
    // Longer than anything must take: where it is stopped, both ends are told at once.
    let limit = std::time::Duration::from_secs(20);
    let receives = run.lab.db.begin_play_accepted(&listener, script(Sender::Receiver), limit);
    let opens = run.lab.web.begin_play(to, None, script(Sender::Opener), limit).wait()?;
    let heard = receives.wait()?;
    run.lab.db.close(&listener)?;
    Ok(if sender == Sender::Opener { heard.received } else { opens.received })
}
