//! Ports in the agent's configuration and on its command line: `tcp/22`, `icmp/8`, `proto/47`.

use bulkhead_abi::addr::Protocol;
use bulkhead_abi::tables::FailsafeKey;
use bulkhead_abi::verdict::Side;

/// Why a port was not understood.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum PortError {
    /// No such protocol word.
    #[error("unknown protocol `{0}`; use tcp, udp, sctp, dccp, udplite, icmp, icmpv6 or proto/NUMBER")]
    Protocol(String),
    /// The part after the slash is not a port.
    #[error("`{0}` is not a port; use a number from 1 to 65535")]
    Port(String),
    /// A protocol with ports was named without one.
    #[error("`{0}` needs a port, as in `{0}/443`")]
    Missing(String),
    /// An ICMP type that is not understood.
    #[error("`{0}` is not an ICMP message; use echo, or TYPE or TYPE.CODE in numbers")]
    Icmp(String),
    /// Failsafe ports need a protocol that has ports.
    #[error("`{0}` has no ports; a failsafe entry is a port of tcp, udp, sctp, dccp or udplite")]
    NoPorts(String),
}

/// Reads `tcp/22`, `icmp/echo` or `proto/47` as the kernel counts them: the "port" of ICMP is
/// `type << 8 | code`, of a protocol without ports 0.
pub fn parse_port(text: &str) -> Result<(Protocol, u16), PortError> {
    let (word, rest) = match text.trim().split_once('/') {
        Some((word, rest)) => (word, Some(rest)),
        None => (text.trim(), None),
    };
    let number = |rest: &str| {
        rest.parse::<u16>().ok().filter(|&port| port != 0).ok_or_else(|| PortError::Port(rest.to_owned()))
    };
    match (named(word), rest) {
        (Some(protocol), Some(rest)) if protocol.has_ports() => Ok((protocol, number(rest)?)),
        (Some(_), None) if named(word).is_some_and(Protocol::has_ports) => {
            Err(PortError::Missing(word.to_owned()))
        }
        (Some(protocol), Some(rest)) => Ok((protocol, icmp_message(protocol, rest)?)),
        (Some(protocol), None) => Ok((protocol, icmp_message(protocol, "echo")?)),
        (None, Some(rest)) if word == "proto" => {
            Ok((Protocol(rest.parse().map_err(|_| PortError::Protocol(text.to_owned()))?), 0))
        }
        (None, _) => Err(PortError::Protocol(word.to_owned())),
    }
}

/// A failsafe key as it is written in the configuration, without its side.
pub fn display_failsafe(key: &FailsafeKey) -> String {
    let word = WORDS.iter().find(|(_, protocol)| protocol.0 == key.protocol);
    match word {
        Some((word, _)) => format!("{word}/{}", key.port),
        None => format!("proto/{}/{}", key.protocol, key.port),
    }
}

/// What an operator needs in order not to lock himself out: ssh in; DNS, DHCP and the API server out.
pub(super) fn default_failsafe() -> Vec<FailsafeKey> {
    let key =
        |side: Side, protocol: Protocol, port| FailsafeKey { side: side as u8, protocol: protocol.0, port };
    vec![
        key(Side::Ingress, Protocol::TCP, 22),
        key(Side::Egress, Protocol::UDP, 53),
        key(Side::Egress, Protocol::TCP, 53),
        key(Side::Egress, Protocol::UDP, 67),
        key(Side::Egress, Protocol::UDP, 547),
        key(Side::Egress, Protocol::TCP, 6443),
    ]
}

pub(super) fn parse_list(side: Side, list: &str) -> Result<Vec<FailsafeKey>, PortError> {
    list.split(',').map(str::trim).filter(|item| !item.is_empty()).map(|item| parse_key(side, item)).collect()
}

pub(super) fn parse_key(side: Side, text: &str) -> Result<FailsafeKey, PortError> {
    let (protocol, port) = parse_port(text)?;
    if !protocol.has_ports() {
        return Err(PortError::NoPorts(text.to_owned()));
    }
    Ok(FailsafeKey { side: side as u8, protocol: protocol.0, port })
}

const WORDS: [(&str, Protocol); 7] = [
    ("tcp", Protocol::TCP),
    ("udp", Protocol::UDP),
    ("sctp", Protocol::SCTP),
    ("dccp", Protocol::DCCP),
    ("udplite", Protocol::UDPLITE),
    ("icmp", Protocol::ICMP),
    ("icmpv6", Protocol::ICMPV6),
];

fn named(word: &str) -> Option<Protocol> {
    WORDS.iter().find(|(name, _)| *name == word).map(|(_, protocol)| *protocol)
}

fn icmp_message(protocol: Protocol, text: &str) -> Result<u16, PortError> {
    if text == "echo" {
        let echo: u16 = if protocol == Protocol::ICMP { 8 } else { 128 };
        return Ok(echo << 8);
    }
    let error = || PortError::Icmp(text.to_owned());
    let (kind, code) = text.split_once('.').unwrap_or((text, "0"));
    let kind: u8 = kind.parse().map_err(|_| error())?;
    let code: u8 = code.parse().map_err(|_| error())?;
    Ok(u16::from_be_bytes([kind, code]))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn ports_read_as_the_kernel_counts_them() {
        assert_eq!(parse_port("tcp/22"), Ok((Protocol::TCP, 22)));
        assert_eq!(parse_port("icmp/echo"), Ok((Protocol::ICMP, 8 << 8)));
        assert_eq!(parse_port("icmp"), Ok((Protocol::ICMP, 8 << 8)));
        assert_eq!(parse_port("icmpv6/echo"), Ok((Protocol::ICMPV6, 128 << 8)));
        assert_eq!(parse_port("icmp/3.4"), Ok((Protocol::ICMP, 3 << 8 | 4)));
        assert_eq!(parse_port("proto/47"), Ok((Protocol(47), 0)));
    }

    #[test]
    fn what_is_not_a_port_is_refused() {
        assert_eq!(parse_port("tcp"), Err(PortError::Missing("tcp".to_owned())));
        assert_eq!(parse_port("tcp/0"), Err(PortError::Port("0".to_owned())));
        assert_eq!(parse_port("tcp/65536"), Err(PortError::Port("65536".to_owned())));
        assert_eq!(parse_port("tpc/22"), Err(PortError::Protocol("tpc".to_owned())));
        assert!(parse_port("").is_err());
    }

    #[test]
    fn failsafe_lists_may_be_empty_and_hold_ports_only() {
        assert_eq!(parse_list(Side::Egress, " "), Ok(vec![]));
        assert_eq!(parse_list(Side::Egress, "tcp/1, udp/2").unwrap().len(), 2);
        assert!(parse_list(Side::Egress, "icmp").is_err());
    }

    #[test]
    fn a_failsafe_key_is_shown_as_it_is_written() {
        for key in default_failsafe() {
            let side = if key.side == Side::Egress as u8 { Side::Egress } else { Side::Ingress };
            assert_eq!(parse_key(side, &display_failsafe(&key)), Ok(key));
        }
    }
}
