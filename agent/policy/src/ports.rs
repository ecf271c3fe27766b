//! The port language of rules: `tcp/443`, `udp/9000-9100`, `icmp/echo`, `proto/47`.

use std::fmt;

use bulkhead_abi::Protocol;

use crate::model::PortMatch;

/// Protocols with ports, by their word.
const WITH_PORTS: [(&str, Protocol); 5] = [
    ("tcp", Protocol::TCP),
    ("udp", Protocol::UDP),
    ("sctp", Protocol::SCTP),
    ("dccp", Protocol::DCCP),
    ("udplite", Protocol::UDPLITE),
];

/// ICMP messages by their word: the type in each family, where that family has it (IANA "ICMP Type
/// Numbers" and "ICMPv6 \"type\" Numbers").
const ICMP: [(&str, Option<u8>, Option<u8>); 6] = [
    ("echo", Some(8), Some(128)),
    ("echo-reply", Some(0), Some(129)),
    ("unreachable", Some(3), Some(1)),
    ("time-exceeded", Some(11), Some(3)),
    ("parameter-problem", Some(12), Some(4)),
    ("timestamp", Some(13), None),
];

/// Why an entry of `ports` is refused, with what to write instead.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{message}")]
pub struct PortError {
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub help: String,
}

/// Reads one entry. One entry may stand for two matches: ICMP has two families.
pub fn parse(text: &str) -> Result<Vec<PortMatch>, PortError> {
    let (word, rest) = match text.split_once('/') {
        Some((word, rest)) => (word, Some(rest)),
        None => (text, None),
    };
    if let Some((_, protocol)) = WITH_PORTS.iter().find(|(name, _)| *name == word) {
        return ports(*protocol, word, rest);
    }
    match word {
        "icmp" => icmp(rest),
        "proto" => number(rest),
        _ => Err(unknown_protocol(word, text)),
    }
}

fn ports(protocol: Protocol, word: &str, rest: Option<&str>) -> Result<Vec<PortMatch>, PortError> {
    let Some(rest) = rest else { return Ok(vec![PortMatch::whole(protocol)]) };
    let (first, last) = rest.split_once('-').unwrap_or((rest, rest));
    let (first, last) = (port(first, word)?, port(last, word)?);
    if first > last {
        return Err(error(
            format!("the range {first}-{last} is reversed"),
            format!("write `{word}/{last}-{first}`"),
        ));
    }
    Ok(vec![PortMatch { protocol, first, last }])
}

fn port(text: &str, word: &str) -> Result<u16, PortError> {
    match decimal::<u16>(text) {
        Some(0) => Err(error(
            "port 0 cannot be received on",
            format!("write a port from 1 to 65535, or `{word}` for every port"),
        )),
        Some(port) => Ok(port),
        None => Err(error(
            format!("`{text}` is not a port"),
            format!(
                "write a port from 1 to 65535 as in `{word}/443`, a range as in `{word}/9000-9100`, or `{word}` for every port"
            ),
        )),
    }
}

fn icmp(rest: Option<&str>) -> Result<Vec<PortMatch>, PortError> {
    let Some(rest) = rest else {
        return Ok(vec![PortMatch::whole(Protocol::ICMP), PortMatch::whole(Protocol::ICMPV6)]);
    };
    if let Some((_, v4, v6)) = ICMP.iter().find(|(name, ..)| *name == rest) {
        let of = |protocol, kind: Option<u8>| kind.map(|kind| icmp_type(protocol, kind));
        return Ok([of(Protocol::ICMP, *v4), of(Protocol::ICMPV6, *v6)].into_iter().flatten().collect());
    }
    let known = ICMP.map(|(name, ..)| name);
    let help = match crate::suggest::closest(rest, known) {
        _ if rest.bytes().all(|b| b.is_ascii_digit()) => {
            format!("types have other numbers in ICMPv6, so they go by name: {}", known.join(", "))
        }
        Some(name) => format!("did you mean `icmp/{name}`?"),
        None => format!("write `icmp` for every message, or one of: {}", known.join(", ")),
    };
    Err(error(format!("`{rest}` is not an ICMP message that rules know"), help))
}

const fn icmp_type(protocol: Protocol, kind: u8) -> PortMatch {
    let first = (kind as u16) << 8;
    PortMatch { protocol, first, last: first | 0xff }
}

fn number(rest: Option<&str>) -> Result<Vec<PortMatch>, PortError> {
    let help = "write the IP protocol number, 0 to 255, as in `proto/47`";
    let Some(rest) = rest else { return Err(error("`proto` needs a number", help)) };
    let Some(number) = decimal::<u8>(rest) else {
        return Err(error(format!("`{rest}` is not an IP protocol number"), help));
    };
    let protocol = Protocol(number);
    match word_of(protocol) {
        Some(word) => {
            Err(error(format!("protocol {number} goes by its name here"), format!("write `{word}`")))
        }
        None => Ok(vec![PortMatch::whole(protocol)]),
    }
}

fn unknown_protocol(word: &str, text: &str) -> PortError {
    if decimal::<u16>(text.split_once('-').map_or(text, |(first, _)| first)).is_some() {
        return error(
            format!("`{text}` does not say which protocol"),
            format!("write `tcp/{text}` or `udp/{text}`"),
        );
    }
    if decimal::<u16>(word).is_some()
        && let Some((_, rest)) = text.split_once('/')
    {
        return error(
            format!("`{text}` has the protocol behind the port"),
            format!("write the protocol first: `{rest}/{word}`"),
        );
    }
    if matches!(word, "icmpv6" | "icmp6" | "ipv6-icmp") {
        return error(format!("`{word}` is not a word here"), "`icmp` means both families");
    }
    let known = WITH_PORTS.map(|(name, _)| name).into_iter().chain(["icmp", "proto"]);
    let rest = text.strip_prefix(word).unwrap_or_default();
    let help = match crate::suggest::closest(word, known) {
        Some(name) => format!("did you mean `{name}{rest}`?"),
        None => "known are tcp, udp, sctp, dccp, udplite, icmp, and any other as `proto/NUMBER`".into(),
    };
    error(format!("unknown protocol `{word}`"), help)
}

fn error(message: impl Into<String>, help: impl Into<String>) -> PortError {
    PortError { message: message.into(), help: help.into() }
}

/// Digits only: no sign, no blank.
fn decimal<T: std::str::FromStr>(text: &str) -> Option<T> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten()
}

/// The word of a protocol that has one.
pub fn word_of(protocol: Protocol) -> Option<&'static str> {
    if protocol.is_icmp() {
        return Some("icmp");
    }
    WITH_PORTS.iter().find(|(_, known)| *known == protocol).map(|(word, _)| *word)
}

/// Writes a match as a rule would; ICMPv6 apart, since a match is of one family.
pub(crate) struct PortName(pub(crate) PortMatch);

impl fmt::Display for PortName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let PortMatch { protocol, first, last } = self.0;
        let word = if protocol == Protocol::ICMPV6 { Some("icmpv6") } else { word_of(protocol) };
        match word {
            Some(word) => f.write_str(word)?,
            None => write!(f, "proto/{}", protocol.0)?,
        }
        if (first, last) == (0, u16::MAX) {
            return Ok(());
        }
        if protocol.is_icmp() && first & 0xff == 0 && last == first | 0xff {
            let kind = (first >> 8) as u8;
            let of_family = |v4: Option<u8>, v6| if protocol == Protocol::ICMP { v4 } else { v6 };
            return match ICMP.iter().find(|(_, v4, v6)| of_family(*v4, *v6) == Some(kind)) {
                Some((name, ..)) => write!(f, "/{name}"),
                None => write!(f, "/type-{kind}"),
            };
        }
        if first == last { write!(f, "/{first}") } else { write!(f, "/{first}-{last}") }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use super::*;

    fn one(protocol: Protocol, first: u16, last: u16) -> Vec<PortMatch> {
        vec![PortMatch { protocol, first, last }]
    }

    #[test]
    fn every_form_is_read() {
        assert_eq!(parse("tcp/443").unwrap(), one(Protocol::TCP, 443, 443));
        assert_eq!(parse("udp/9000-9100").unwrap(), one(Protocol::UDP, 9000, 9100));
        assert_eq!(parse("sctp").unwrap(), one(Protocol::SCTP, 0, 65535));
        assert_eq!(parse("proto/47").unwrap(), one(Protocol(47), 0, 65535));
        assert_eq!(parse("icmp").unwrap().len(), 2);
        let echo = parse("icmp/echo").unwrap();
        assert_eq!((echo[0].first, echo[0].last), (0x0800, 0x08ff));
        assert_eq!((echo[1].protocol, echo[1].first), (Protocol::ICMPV6, 0x8000));
        assert_eq!(parse("icmp/timestamp").unwrap(), one(Protocol::ICMP, 0x0d00, 0x0dff));
    }

    #[test]
    fn mistakes_say_what_to_write() {
        let help = |text| parse(text).unwrap_err().help;
        assert_eq!(help("tpc/443"), "did you mean `tcp/443`?");
        assert_eq!(help("443"), "write `tcp/443` or `udp/443`");
        assert_eq!(help("443/tcp"), "write the protocol first: `tcp/443`");
        assert_eq!(help("tcp/90-80"), "write `tcp/80-90`");
        assert_eq!(help("proto/6"), "write `tcp`");
        assert_eq!(help("icmp/ecko"), "did you mean `icmp/echo`?");
        for text in ["tcp/", "tcp/0", "tcp/65536", "tcp/+1", "tcp/1-", "tcp/-1", "proto/256", "proto", ""] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_match_is_written_as_it_was_read() {
        for text in ["tcp/443", "udp/9000-9100", "dccp", "proto/47", "icmp/echo", "icmp"] {
            assert_eq!(parse(text).unwrap()[0].to_string(), text);
        }
    }
}
