//! The reader of first bytes, asked on this side of the kernel about the same conversations.

use bulkhead_abi::Inspection;
use bulkhead_abi::{Accept, App, Class, Demand, Reason, Tls};
use bulkhead_core::inspect::{Ruling, demand, stream};

use crate::behind::TAILS;
use crate::evasions;
use crate::record::{Conversation, Sender};
use crate::require_speakers;
use crate::speakers::{SPEAKERS, Speaker};
use crate::stage::Stage;

/// Where the two streams begin: close to the end of the numbers, so that they go round.
const FIRST: [u32; 2] = [u32::MAX - 3, u32::MAX - 30];

/// As `require`, and SMTP that turns to TLS.
const REQUIRED: Demand =
    Demand { level: Tls::Require, accept: Accept(Accept::ENCRYPTED.0 | Accept::SMTP.0), floor: 0 };

/// What is read of a conversation, and how much of each stream passes until it is refused.
pub(crate) struct Read {
    class: Class,
    app: App,
    pub(crate) passed: [usize; 2],
    pub(crate) refused: Option<Reason>,
    /// Who said what was refused.
    pub(crate) refused_by: Option<Sender>,
}

#[test]
fn what_was_recorded_is_called_what_it_is_wherever_it_is_cut() {
    let kit = require_speakers!();
    let speakers: Vec<&Speaker> = SPEAKERS.iter().filter(|speaker| !speaker.udp).collect();
    let stage = Stage::new(kit.with_lines(40).unwrap(), &speakers).unwrap();
    let mut wrong = Vec::new();
    for speaker in speakers {
        let conversation = stage.record(speaker).unwrap();
        for sender in [Sender::Opener, Sender::Receiver] {
            for at in 1..=64 {
                for level in [Tls::Off, Tls::Report] {
                    let found = read(&conversation, (sender, at), Demand { level, ..Demand::OFF });
                    if (found.class, found.app) != (speaker.class, speaker.app) || found.refused.is_some() {
                        wrong.push(format!(
                            "{} under {level:?}, the {sender:?} cut at {at}: {:?} {:?} {:?}",
                            speaker.name, found.class, found.app, found.refused
                        ));
                    }
                }
                let found = read(&conversation, (sender, at), REQUIRED);
                if found.refused.is_some() != speaker.word.is_none() {
                    wrong.push(format!(
                        "{} required, the {sender:?} cut at {at}: {:?} {:?}",
                        speaker.name, found.refused, found.passed
                    ));
                }
            }
        }
        if speaker.class == Class::Tls {
            for (way, tail, innocent) in TAILS {
                for sender in [Sender::Opener, Sender::Receiver] {
                    let mut tailed = conversation.clone();
                    tailed.say(sender, tail);
                    let before = conversation.stream(sender).len();
                    for at in 0..7 {
                        let found = read(&tailed, (sender, before + at), REQUIRED);
                        let passed = found.passed[sender as usize];
                        if found.refused != Some(Reason::ClearText) || passed > before + innocent {
                            wrong.push(format!(
                                "{} then {way} of the {sender:?} cut at {at}: {:?}, {passed} of {before}",
                                speaker.name, found.refused
                            ));
                        }
                    }
                }
            }
        }
    }
    crate::takes::none(&wrong, 0);
}

#[test]
fn an_evasion_is_called_clear_text() {
    let stage = evasions::stage(require_speakers!());
    let report = Demand { level: Tls::Report, ..Demand::OFF };
    let mut wrong = Vec::new();
    for evasion in evasions::evasions(&stage).into_iter().chain(evasions::tunnels(&stage)) {
        let found = read(&evasion.conversation, (Sender::Opener, 0), report);
        if (found.class, found.refused) != (Class::Clear, None) {
            wrong.push(format!("{}: {:?} {:?} {:?}", evasion.name, found.class, found.app, found.refused));
        }
        let found = read(&evasion.conversation, (Sender::Opener, 0), REQUIRED);
        if found.refused.map(Reason::as_str) != Some(evasion.reason) {
            wrong.push(format!("{} required: {:?}", evasion.name, found.refused));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// What comes of a conversation of which one end's words are cut in two.
pub(crate) fn read(conversation: &Conversation, cut: (Sender, usize), wanted: Demand) -> Read {
    let mut inspection = Inspection::default();
    demand(&mut inspection, wanted);
    let (mut begun, mut passed) = ([false; 2], [0, 0]);
    for (sender, segment) in conversation.segments(cut) {
        let number = sender as usize;
        // As a hook does it: at the first that it sees of a direction.
        if !std::mem::replace(&mut begun[number], true) {
            stream::begin(&mut inspection, number as u8, FIRST[number]);
        }
        let seq = FIRST[number].wrapping_add(passed[number] as u32);
        match stream::segment(&mut inspection, number as u8, seq, &segment) {
            Ruling::Pass => passed[number] += segment.len(),
            // Everything comes in order, so nothing may be held.
            Ruling::Hold => {
                let refused = (Some(Reason::Inconsistent), Some(sender));
                return Read::of(&inspection, passed, refused);
            }
            Ruling::Refuse(reason) => {
                return Read::of(&inspection, passed, (Some(reason), Some(sender)));
            }
        }
    }
    Read::of(&inspection, passed, (None, None))
}

impl Read {
    fn of(
        inspection: &Inspection,
        passed: [usize; 2],
        (refused, refused_by): (Option<Reason>, Option<Sender>),
    ) -> Read {
        let (class, app) = (Class::from_code(inspection.class), App::from_code(inspection.app));
        Read { class, app, passed, refused, refused_by }
    }
}
