//! Real programs under every level.

use std::fmt::Write;
use std::time::Duration;

use bulkhead_abi::{App, Class};
use bulkhead_tests::harness::{Agent, Counters, Pair, Said, wait_until};

use crate::require_speakers;
use crate::speakers::{SPEAKERS, Speaker, every_word};
use crate::stage::{Classes, Stage, classes, policy, since};

/// Of a TLS version below 1.2.
const OLD: [&str; 2] = ["openssl by TLS 1.0", "openssl by TLS 1.1"];

/// How long counters may take.
const SOON: Duration = Duration::from_secs(10);

/// Without an agent all of them understand each other, or the other tests would prove nothing.
#[test]
fn every_pair_of_programs_understands_each_other() {
    let kit = require_speakers!();
    let stage = Stage::new(kit, &SPEAKERS.iter().collect::<Vec<_>>()).unwrap();
    let mut failures = Failures::default();
    for speaker in SPEAKERS {
        let said = stage.converse(speaker).unwrap();
        failures.check(speaker, "no agent", stage.answered(speaker, &said), || said.errors.clone());
    }
    failures.none();
}

/// What is encrypted passes under every level; what is clear passes until it is required not to. Then both
/// ends are told, nothing else is counted, and STARTTLS passes where the rule names its protocol.
#[test]
fn a_level_stops_what_it_says_and_nothing_else() {
    let kit = require_speakers!();
    let stage = Stage::new(kit, &SPEAKERS.iter().collect::<Vec<_>>()).unwrap();
    let agent = stage.agent(r#""off""#).unwrap();
    let mut failures = Failures::default();
    let listed = format!("{{ require = {} }}", every_word(true));
    for (tls, accepts) in [
        (r#""off""#, (|_| true) as fn(&Speaker) -> bool),
        (r#""report""#, |_| true),
        (r#""require""#, Speaker::is_encrypted),
        (&listed, |speaker| speaker.word.is_some()),
        (r#"{ require = "1.0" }"#, has_version),
        (r#"{ require = "1.2" }"#, |speaker| has_version(speaker) && !OLD.contains(&speaker.name)),
    ] {
        agent.apply(&policy(tls)).unwrap();
        for speaker in SPEAKERS {
            let (before, classes_before) = (agent.counters().unwrap(), classes(&agent));
            let said = stage.converse(speaker).unwrap();
            let answered = stage.answered(speaker, &said);
            let expected = accepts(speaker);
            failures.check(speaker, tls, answered == expected, || {
                format!("answered {answered}, expected {expected}: {}", said.errors)
            });
            // To be refused is to be counted once, and to be accepted not at all.
            let reason = if speaker.is_encrypted() { "weak-encryption" } else { "clear-text" };
            let refused = if expected { None } else { Some(Pair::new("web", "db", "deny", reason)) };
            let moved = settled(&agent, &before, refused.as_ref());
            let denied: Vec<(Pair, u64)> =
                moved.flows().into_iter().filter(|(pair, _)| is_refusal(pair)).collect();
            let wanted: Vec<(Pair, u64)> = refused.into_iter().map(|pair| (pair, 1)).collect();
            failures.check(speaker, tls, denied == wanted, || format!("counted {denied:?}, not {wanted:?}"));
            let wanted = class_of(speaker, tls, expected);
            let mut found = Classes::new();
            let told = wait_until(SOON, "the class is counted", || {
                found = since(&classes(&agent), &classes_before);
                wanted.is_none_or(|wanted| found == [(wanted, 1)].into())
            });
            failures.check(speaker, tls, told.is_ok(), || format!("classes {found:?}, not {wanted:?}"));
        }
    }
    failures.none();
}

/// Whether a floor accepts it without its being named.
fn has_version(speaker: &Speaker) -> bool {
    speaker.is_encrypted() && !matches!(speaker.word, Some("ssh" | "dtls"))
}

/// Programs look up names, too, which is nobody's business here.
fn is_refusal(pair: &Pair) -> bool {
    pair.verdict != "allow" && pair.from == "web"
}

/// What a flow is counted as; `None` where it was stopped before anybody could tell.
fn class_of(
    speaker: &Speaker,
    tls: &str,
    accepted: bool,
) -> Option<(&'static str, &'static str, &'static str, &'static str)> {
    let level = if tls.contains("require") { "require" } else { tls.trim_matches('"') };
    let level = ["off", "report", "require"].into_iter().find(|word| *word == level)?;
    match accepted {
        true => Some((speaker.class.as_str(), speaker.app.as_str(), level, "allow")),
        // Where the dialogue is accepted, it is the mail that is stopped. Where it is not, its greeting is,
        // which several protocols begin with.
        false if speaker.app == App::Smtp => {
            let app = if tls.contains("starttls/smtp") { "smtp" } else { "unknown" };
            Some(("starttls", app, level, "deny"))
        }
        false if speaker.class == Class::Clear => Some(("clear", speaker.app.as_str(), level, "deny")),
        false => None,
    }
}

/// Counters once the one that must move has.
fn settled(agent: &Agent, before: &Counters, wanted: Option<&Pair>) -> Counters {
    let mut moved = Counters::default();
    let _ = wait_until(SOON, "the denial is counted", || {
        moved = agent.counters().unwrap().since(before);
        wanted.is_none_or(|pair| moved.get(pair).flows > 0)
    });
    moved
}

impl Stage {
    fn answered(&self, speaker: &Speaker, said: &Said) -> bool {
        speaker.is_answered(&self.kit, said)
    }
}

/// What went wrong, all of it.
#[derive(Default)]
struct Failures(String);

impl Failures {
    fn check(&mut self, speaker: &Speaker, under: &str, right: bool, why: impl FnOnce() -> String) {
        if !right {
            writeln!(self.0, "{} under {under}: {}", speaker.name, why().trim()).unwrap();
        }
    }

    fn none(&self) {
        assert!(self.0.is_empty(), "{} failures:\n{}", self.0.lines().count(), self.0);
    }
}
