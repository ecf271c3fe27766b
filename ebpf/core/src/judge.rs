//! The verdict on a flow, from its two identities.
//!
//! Fails closed: where the tables are silent about an endpoint that is in a zone, the answer is a
//! denial with the reason [`Reason::Inconsistent`].

use bulkhead_abi::{
    Accept, Control, Demand, Identity, Protocol, Reason, Side, Tls, Verdict,
    tables::{FailsafeKey, SideAnswer},
};

use crate::tables::{Policy, Tables};

/// Whose rules are asked at this hook.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sides {
    /// One end is elsewhere: its own node judges for it.
    One(Side),
    /// Both ends are on this node.
    Both,
    /// Both ends' rules are asked, and who they are is told by their addresses alone.
    Apart,
}

impl Sides {
    /// As a number, for the border between two functions of the kernel's.
    #[inline(always)]
    pub const fn to_code(self) -> u8 {
        match self {
            Self::Both => 0,
            Self::One(Side::Egress) => 1,
            Self::One(Side::Ingress) => 2,
            Self::Apart => 3,
        }
    }

    /// From its number.
    #[inline(always)]
    pub const fn from_code(code: u8) -> Self {
        match code {
            1 => Self::One(Side::Egress),
            2 => Self::One(Side::Ingress),
            3 => Self::Apart,
            _ => Self::Both,
        }
    }
}

/// A flow to be judged.
#[derive(Clone, Copy, Debug)]
pub struct Question {
    /// The opener; [`Identity::UNKNOWN`] where it could not be told.
    pub from: Identity,
    /// The receiver; see `from`.
    pub to: Identity,
    /// The transport.
    pub protocol: Protocol,
    /// The receiver's port; ICMP's `type << 8 | code`.
    pub port: u16,
    /// Whose rules are asked.
    pub sides: Sides,
}

/// The answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Decision {
    /// What happens.
    pub verdict: Verdict,
    /// Why.
    pub reason: Reason,
    /// The rule that decided, 0 where none did.
    pub rule: u32,
    /// The opener's identity.
    pub from: Identity,
    /// The receiver's.
    pub to: Identity,
}

impl Decision {
    /// What holds where nothing was decided.
    pub const CLOSED: Self = Self {
        verdict: Verdict::Deny,
        reason: Reason::Inconsistent,
        rule: 0,
        from: Identity::UNKNOWN,
        to: Identity::UNKNOWN,
    };

    /// Whether the guard is to decide.
    #[inline(always)]
    pub const fn is_deferred(&self) -> bool {
        self.to.0 == Identity::VIRTUAL.0
    }

    /// Whether neither end is in a zone: such flows pass without leaving state.
    #[inline(always)]
    pub const fn is_unzoned(&self) -> bool {
        !self.from.is_zoned() && !self.to.is_zoned()
    }
}

/// Judges a flow. `node` tells, and is asked only for a denial, whether the end at this hook is the
/// node itself, and which end that is: then its failsafe ports hold.
#[inline(always)]
pub fn judge<T: Tables>(
    policy: &Policy<'_, T>,
    question: &Question,
    node: impl FnOnce() -> Option<Side>,
) -> Decision {
    let (from, to) = (question.from.or_world(), question.to.or_world());
    let answer = if !from.is_zoned() && !to.is_zoned() {
        OPEN
    } else if from == Identity::UNKNOWN || to == Identity::UNKNOWN {
        INCONSISTENT
    } else {
        policy.answer(&Question { from, to, ..*question }).unwrap_or(INCONSISTENT)
    };
    let decision = Decision { verdict: answer.verdict, reason: answer.reason, rule: answer.rule, from, to };
    if decision.verdict == Verdict::Deny
        && let Some(side) = node()
        && policy.tables.failsafe(&FailsafeKey {
            side: side as u8,
            protocol: question.protocol.0,
            port: question.port,
        })
    {
        return Decision { verdict: Verdict::Allow, reason: Reason::Failsafe, rule: 0, ..decision };
    }
    in_mode(policy, decision)
}

/// What the rules answer; `None` where the tables hold nothing for these two. What they allow by way of the
/// proxy only is refused: what goes that way is not asked about here.
#[inline(always)]
pub fn lookup<T: Tables>(policy: &Policy<'_, T>, question: &Question) -> Option<SideAnswer> {
    let cell = policy.cell(question.from, question.to, question.protocol, question.port)?;
    let answer = pick(question.sides, cell.egress(), cell.ingress());
    let demand = cell.demand();
    if answer.verdict != Verdict::Allow || demand.level != Tls::Mutual {
        return Some(answer);
    }
    // The kernel knows both ends, and no wire is between them.
    if question.sides == Sides::Both && demand.floor & Demand::ATTEST != 0 {
        return Some(SideAnswer { reason: Reason::Attested, ..answer });
    }
    let reports = !enforces(policy, question.from) && !enforces(policy, question.to);
    let verdict = if reports { Verdict::Audit } else { Verdict::Deny };
    Some(SideAnswer { verdict, reason: Reason::OutsideProxy, ..answer })
}

/// How a flow is to be encrypted, and whether anybody enforces that.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Wanted {
    /// What its rule asks for.
    pub demand: Demand,
    /// Not one zone of either end enforces: what would be refused is only reported.
    pub reports: bool,
}

impl Wanted {
    /// As a number, for the border between two functions of the kernel's.
    #[inline(always)]
    pub const fn to_code(self) -> u64 {
        (self.demand.accept.0 as u64) << 24
            | if self.reports { 1 << 16 } else { 0 }
            | (self.demand.floor as u64) << 8
            | self.demand.level as u64
    }

    /// From its number.
    #[inline(always)]
    pub const fn from_code(code: u64) -> Self {
        Self {
            demand: Demand {
                level: Tls::from_code(code as u8),
                accept: Accept((code >> 24) as u16),
                floor: (code >> 8) as u8,
            },
            reports: code & 1 << 16 != 0,
        }
    }
}

/// How a flow that is allowed is to be encrypted. Between ends that no zone speaks for, anything goes;
/// where the tables are silent about one, nothing unencrypted.
#[inline(always)]
pub fn wanted<T: Tables>(policy: &Policy<'_, T>, question: &Question) -> Wanted {
    let (from, to) = (question.from.or_world(), question.to.or_world());
    if !from.is_zoned() && !to.is_zoned() {
        return Wanted { demand: Demand::OFF, reports: false };
    }
    let demand = match policy.cell(from, to, question.protocol, question.port) {
        Some(cell) => cell.demand(),
        None => Demand::REQUIRE,
    };
    let reports = demand.level != Tls::Off && !enforces(policy, from) && !enforces(policy, to);
    Wanted { demand, reports }
}

#[inline(always)]
fn enforces<T: Tables>(policy: &Policy<'_, T>, identity: Identity) -> bool {
    identity.is_zoned() && policy.state(identity).is_none_or(|state| state.is_enforcing())
}

/// The answer of a socket layer for a flow to a virtual address: the guard judges it, when it is known
/// who receives it.
#[inline(always)]
pub const fn deferred(from: Identity) -> Decision {
    Decision {
        verdict: Verdict::Allow,
        reason: Reason::Virtual,
        rule: 0,
        from: from.or_world(),
        to: Identity::VIRTUAL,
    }
}

/// The verdict on a packet that cannot be judged by rules: it is denied to or from a zone that
/// enforces, reported where the zones are in audit mode, and let through elsewhere.
#[inline(always)]
pub fn anomaly<T: Tables>(
    policy: &Policy<'_, T>,
    reason: Reason,
    own: Identity,
    from: Identity,
    to: Identity,
) -> Decision {
    let verdict = if !own.is_zoned() {
        Verdict::Allow
    } else {
        match policy.state(own) {
            Some(state) if !state.is_enforcing() => Verdict::Audit,
            _ => Verdict::Deny,
        }
    };
    let reason = if verdict == Verdict::Allow { Reason::Open } else { reason };
    in_mode(policy, Decision { verdict, reason, rule: 0, from, to })
}

const OPEN: SideAnswer = SideAnswer { verdict: Verdict::Allow, reason: Reason::Open, rule: 0 };
const INCONSISTENT: SideAnswer = SideAnswer { verdict: Verdict::Deny, reason: Reason::Inconsistent, rule: 0 };

/// The worse of the two answers; of two equal ones, the one that a rule or a zone stands behind.
#[inline(always)]
fn pick(sides: Sides, egress: SideAnswer, ingress: SideAnswer) -> SideAnswer {
    match sides {
        Sides::One(Side::Egress) => egress,
        Sides::One(Side::Ingress) => ingress,
        _ if ingress.verdict > egress.verdict => ingress,
        _ if ingress.verdict < egress.verdict => egress,
        _ if matches!(egress.reason, Reason::Open) => ingress,
        _ => egress,
    }
}

/// A denial in a node that only reports, or that has not begun to enforce.
#[inline(always)]
pub(crate) fn in_mode<T: Tables>(policy: &Policy<'_, T>, decision: Decision) -> Decision {
    if decision.verdict == Verdict::Deny
        && policy.control.flags & (Control::FLAG_AUDIT | Control::FLAG_ADOPTING) != 0
    {
        return Decision { verdict: Verdict::Audit, ..decision };
    }
    decision
}
