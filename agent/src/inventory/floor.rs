//! Floors that the kernel cannot read: `tls = { require = "1.3" }`, where a ServerHello says 1.2 in the
//! same place as one of 1.3 does, and the truth is in an extension behind it.
//!
//! Judged by the live policy, with the kernel's own code over the kernel's own tables, so that what is
//! ended here is what the rules say now. Where the kernel would only report, nothing is ended here either.

use bulkhead_abi::flow::Doomed;
use bulkhead_abi::{Control, Protocol, Reason, Tls, Verdict};
use bulkhead_core::judge::{self, Question, Sides};
use bulkhead_core::tables::Policy;
use bulkhead_detect::hello::{Opening, Stream, Version};

use crate::datapath::Reader;

/// A flow that is below its rule's floor.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Below {
    /// What it speaks.
    pub(super) version: Version,
    /// What its rule asks for, as TLS's minor number.
    pub(super) floor: u8,
    /// Deny, or audit where it is only reported.
    pub(super) verdict: Verdict,
}

/// Whether what was agreed on is below the floor of the flow's rule.
pub(super) fn judge(reader: &Reader, opening: &Opening) -> Option<Below> {
    let stream = &opening.stream;
    let server = opening.handshake.server.as_ref().filter(|server| !server.retry)?;
    let minor = server.version.minor()?;
    // The kernel says `off` of what passes whatever the rules say: failsafe ports.
    if stream.level == Tls::Off as u8 {
        return None;
    }
    let policy = Policy::live(reader);
    let question = Question {
        from: stream.from,
        to: stream.to,
        protocol: Protocol(stream.protocol),
        port: stream.dst.1,
        sides: Sides::Both,
    };
    let wanted = judge::wanted(&policy, &question);
    if wanted.demand.level != Tls::Require || minor >= wanted.demand.floor {
        return None;
    }
    let audit = wanted.reports || policy.control.flags & (Control::FLAG_AUDIT | Control::FLAG_ADOPTING) != 0;
    let verdict = if audit { Verdict::Audit } else { Verdict::Deny };
    Some(Below { version: server.version, floor: wanted.demand.floor, verdict })
}

/// The flow's socket, as the list of those to be ended has it. The kernel does not say which end it is of,
/// so it stands there as either; only one of them exists.
pub(super) fn sentence(stream: &Stream) -> [(u64, Doomed); 2] {
    let doomed = |local: (bulkhead_abi::Addr, u16), remote: (bulkhead_abi::Addr, u16)| Doomed {
        netns: stream.netns,
        local: local.0,
        remote: remote.0,
        local_port: local.1,
        remote_port: remote.1,
        protocol: stream.protocol,
        reason: Reason::WeakEncryption as u8,
        _reserved: [0; 2],
    };
    [(stream.cookie, doomed(stream.src, stream.dst)), (stream.cookie, doomed(stream.dst, stream.src))]
}
