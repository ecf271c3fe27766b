//! Failsafe ports, in the language of the zone files: `tcp/22`.

use bulkhead_abi::Protocol;
use bulkhead_abi::tables::FailsafeKey;
use bulkhead_abi::verdict::Side;
use bulkhead_policy::model::PortMatch;

/// Why a failsafe port was not understood.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum PortError {
    /// Not in the language at all.
    #[error("{}; {}", .0.message, .0.help)]
    Syntax(bulkhead_policy::ports::PortError),
    /// More than one port, or none.
    #[error("`{0}` is not one port; name each failsafe port, as in `tcp/22`")]
    NotOne(String),
}

/// A failsafe key as it is written in the configuration, without its side.
pub fn display_failsafe(key: &FailsafeKey) -> String {
    PortMatch { protocol: Protocol(key.protocol), first: key.port, last: key.port }.to_string()
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
    let matches = bulkhead_policy::ports::parse(text).map_err(PortError::Syntax)?;
    match matches.as_slice() {
        [one] if one.protocol.has_ports() && one.first == one.last => {
            Ok(FailsafeKey { side: side as u8, protocol: one.protocol.0, port: one.first })
        }
        _ => Err(PortError::NotOne(text.to_owned())),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn lists_may_be_empty_and_hold_single_ports_only() {
        assert_eq!(parse_list(Side::Egress, " "), Ok(vec![]));
        assert_eq!(parse_list(Side::Egress, "tcp/1, udp/2").unwrap().len(), 2);
        for wrong in ["icmp", "tcp", "tcp/1-2", "proto/47", "tpc/22", "tcp/0"] {
            assert!(parse_list(Side::Egress, wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_key_is_shown_as_it_is_written() {
        for key in default_failsafe() {
            let side = if key.side == Side::Egress as u8 { Side::Egress } else { Side::Ingress };
            assert_eq!(parse_key(side, &display_failsafe(&key)), Ok(key));
        }
    }
}
