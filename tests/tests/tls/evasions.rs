//! Ways around the reading of first bytes: each is found where clear text is a finding, and stopped where
//! it is stopped.

use anyhow::Result;
use bulkhead_tests::harness::threat::{Case, DB, Threat, Try, WEB_AND_DB, at};
use bulkhead_tests::harness::{Kind, Serve, Step};

use crate::record::{Conversation, Sender};
use crate::require_speakers;
use crate::speakers::{SPEAKERS, Speaker};
use crate::stage::Stage;

const OPEN: u16 = 7000;
const REQUEST: &[u8] = b"GET /secret HTTP/1.1\r\nHost: db\r\n\r\n";

/// A conversation that contradicts from some byte of one end's stream on, and how it is cut.
struct Evasion {
    name: &'static str,
    conversation: Conversation,
    sender: Sender,
    innocent: usize,
    cut: Cut,
    twin: Conversation,
    reason: &'static str,
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
    let kit = require_speakers!();
    let stage = stage(kit);
    let evasions = evasions(&stage);
    let tls = r#"{ require = ["tls", "starttls/smtp"] }"#;
    let mut threat = Threat::new(&policy(tls));
    for evasion in &evasions {
        threat =
            threat.case(
                Case::new(evasion.name)
                    .attempt(|run| evasion.attempt(run))
                    .twin(|run| evasion.twin(run))
                    .counts("web", "db", "deny", evasion.reason, 1),
            );
    }
    threat.run(&stage.lab).unwrap();
}

fn stage(kit: crate::speakers::Kit) -> Stage {
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

fn evasions(stage: &Stage) -> Vec<Evasion> {
    let tls = stage.record(named("openssl by TLS 1.3")).unwrap();
    let upgraded = stage.record(named("SMTP with STARTTLS")).unwrap();
    let clear = said(Sender::Opener, REQUEST);
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
    let disguised = said(Sender::Opener, &[b"\x16\x03", REQUEST].concat());
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

fn said(sender: Sender, bytes: &[u8]) -> Conversation {
    let mut conversation = Conversation::default();
    conversation.say(sender, bytes);
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
