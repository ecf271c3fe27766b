//! One side of a pair, decided: the tiers and modes of the model become final answers.

use bulkhead_abi::tables::SideAnswer;
use bulkhead_abi::{Reason, Verdict};

use crate::model::{Action, Tier};

/// What one side of a pair is like, apart from rules.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct SideShape {
    /// In a zone at all; else the side is open.
    pub(super) zoned: bool,
    /// In a zone that is in enforce mode.
    pub(super) enforcing: bool,
    /// A zone isolates the direction; one in enforce mode does.
    pub(super) isolates: (bool, bool),
    /// Shares a zone in which traffic flows with the other end; one in enforce mode.
    pub(super) shares: (bool, bool),
}

impl SideShape {
    /// The shape as bits, for a key.
    pub(super) fn bits(&self) -> u64 {
        [self.zoned, self.enforcing, self.isolates.0, self.isolates.1, self.shares.0, self.shares.1]
            .iter()
            .fold(0, |bits, bit| bits << 1 | u64::from(*bit))
    }
}

/// A rule as one side sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Voice {
    pub(super) tier: Tier,
    pub(super) action: Action,
    pub(super) number: u32,
    /// It speaks for the zones in enforce mode too, not only for all zones together.
    pub(super) enforced: bool,
}

/// The side's answer, given the rules that match, in the model's order.
pub(super) fn decide(shape: &SideShape, voices: &[Voice], known: bool) -> SideAnswer {
    if !shape.zoned {
        return answer(Verdict::Allow, Reason::Open, 0);
    }
    let full = tiers(voices.iter(), shape.shares.0, shape.isolates.0, known);
    if full.verdict != Verdict::Deny {
        return full;
    }
    let held = shape.enforcing && {
        let enforced = voices.iter().filter(|voice| voice.enforced);
        tiers(enforced, shape.shares.1, shape.isolates.1, known).verdict == Verdict::Deny
    };
    if held { full } else { SideAnswer { verdict: Verdict::Audit, ..full } }
}

/// The tiers, one after the other, in one pass over the rules.
fn tiers<'a>(
    voices: impl Iterator<Item = &'a Voice>,
    shares: bool,
    isolates: bool,
    known: bool,
) -> SideAnswer {
    let (mut admin, mut baseline) = (None::<(u32, &Voice)>, None::<(u32, &Voice)>);
    let (mut deny, mut allow) = (None, None);
    for voice in voices {
        let earlier = |best: &Option<(u32, &Voice)>, priority: u32| {
            best.is_none_or(|(p, v)| (priority, voice.action) < (p, v.action))
        };
        match (voice.tier, voice.action) {
            (Tier::Admin { priority }, _) if earlier(&admin, priority) => admin = Some((priority, voice)),
            (Tier::Baseline { priority }, _) if earlier(&baseline, priority) => {
                baseline = Some((priority, voice));
            }
            (Tier::Normal, Action::Deny) => deny = deny.or(Some(voice.number)),
            (Tier::Normal, Action::Allow) => allow = allow.or(Some(voice.number)),
            _ => {}
        }
    }
    let by_rule = |voice: &Voice| match voice.action {
        Action::Deny => Some(answer(Verdict::Deny, Reason::DenyRule, voice.number)),
        Action::Allow => Some(answer(Verdict::Allow, Reason::AllowRule, voice.number)),
        Action::Pass => None,
    };
    if let Some(decided) = admin.and_then(|(_, voice)| by_rule(voice)) {
        return decided;
    }
    match (deny, allow) {
        (Some(rule), _) => answer(Verdict::Deny, Reason::DenyRule, rule),
        (None, Some(rule)) => answer(Verdict::Allow, Reason::AllowRule, rule),
        (None, None) if shares => answer(Verdict::Allow, Reason::WithinZone, 0),
        (None, None) if isolates && known => answer(Verdict::Deny, Reason::Default, 0),
        (None, None) if isolates => answer(Verdict::Deny, Reason::UnknownProtocol, 0),
        (None, None) => {
            baseline.and_then(|(_, voice)| by_rule(voice)).unwrap_or(answer(Verdict::Allow, Reason::Open, 0))
        }
    }
}

fn answer(verdict: Verdict, reason: Reason, rule: u32) -> SideAnswer {
    SideAnswer { verdict, reason, rule }
}
