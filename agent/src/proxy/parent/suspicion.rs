//! What the detection hears of the proxy's refusals.

use bulkhead_credentials::Reason;
use bulkhead_detect::findings::{Edge, Observation};

use crate::proxy::wire::{Record, reason};

/// Refusals of peers who could not prove who they are, be it those who dial or those who are dialled, or who may
/// not be here under the name that they have.
pub(super) fn suspicious(records: &[Record]) -> Vec<Observation> {
    let seen = |record: &Record| {
        let is_dialled = record.direction == "outbound";
        let zone = |zone: Option<&String>| zone.map_or("unknown", String::as_str).into();
        let edge = record.edge.as_ref();
        Some(Observation::AuthenticationFailed {
            edge: Edge { from: zone(edge.map(|edge| &edge.from)), to: zone(edge.map(|edge| &edge.to)) },
            src: if is_dialled { record.destination.ip() } else { record.client.ip() },
            why: if is_dialled { unproven(&record.reason)? } else { unwelcome(&record.reason)? },
        })
    };
    records.iter().filter_map(seen).collect()
}

/// What may be wrong with a peer that dials us.
fn unwelcome(word: &str) -> Option<&'static str> {
    let ours = [Reason::NoOwnCertificate, Reason::OwnExpired, Reason::Closed];
    let known = Reason::ALL.iter().find(|known| known.as_str() == word && !ours.contains(known));
    let known = known.map(|known| known.as_str());
    known.or_else(|| [reason::UNKNOWN_NAME, reason::DENIED].into_iter().find(|known| *known == word))
}

/// What may be wrong with the certificate of a peer that we dial. That it breaks off, is slow or speaks something
/// else proves nothing: it may be anybody's server.
fn unproven(word: &str) -> Option<&'static str> {
    use Reason::{
        AuthorityAsLeaf, BadCertificate, BadName, BadSignature, Constraint, Expired, NoName, NotYetValid,
        RevocationUnknown, Revoked, TwoNames, UnknownIssuer, WrongName, WrongTrustDomain, WrongUsage,
    };
    let reasons = [
        AuthorityAsLeaf,
        BadCertificate,
        BadName,
        BadSignature,
        Constraint,
        Expired,
        NoName,
        NotYetValid,
        Revoked,
        RevocationUnknown,
        TwoNames,
        UnknownIssuer,
        WrongName,
        WrongTrustDomain,
        WrongUsage,
    ];
    reasons.into_iter().map(Reason::as_str).find(|known| *known == word)
}
