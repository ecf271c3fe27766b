//! One policy in two languages: zone files, and an nftables ruleset.
//!
//! Zones of equal size hold the prefixes; each rule lets one zone open one port of another. The two
//! measured ends are a prefix each, in the middle of the list, and the rule that lets them talk is in the
//! middle of the rules. Zones are isolated within themselves, so that a rule is all that lets anybody
//! through, in both languages.
//!
//! nftables gets the form that its own manual recommends for large sets: an interval map from address to
//! zone, a hash from (zone, zone, protocol, port) to the verdict, both asked once for a connection;
//! `ct state established` lets the rest through first.

use std::fmt::Write;

use super::load::{CONNECT, ECHO, SINK, STREAM, TLS_CONNECT, TLS_STREAM};

/// Addresses of the measured ends.
pub(crate) const CLIENT: &str = "10.77.0.1";
/// See [`CLIENT`].
pub(crate) const SERVER: &str = "10.77.0.2";

/// Name of the nftables table.
pub(crate) const TABLE: &str = "bulkhead_bench";

/// Prefixes, and rules.
#[derive(Clone, Copy)]
pub(crate) struct Policy {
    size: usize,
    /// What the rule between the ends asks for.
    tls: Option<&'static str>,
}

struct Rule {
    from: usize,
    to: usize,
    /// (tcp or udp, port)
    ports: Vec<(&'static str, u16)>,
    /// It is the one between the ends.
    measured: bool,
}

impl Policy {
    /// A policy of `size` prefixes and `size` rules.
    pub(crate) fn new(size: usize) -> Policy {
        Policy { size: size.max(10), tls: None }
    }

    /// The same, where the rule between the ends asks for this `tls`.
    pub(crate) fn with_tls(self, level: &'static str) -> Policy {
        Policy { tls: Some(level), ..self }
    }

    /// As a zone file.
    pub(crate) fn zone_file(self) -> String {
        let mut text = String::new();
        let each = self.prefixes_per_zone();
        for zone in 0..self.zones() {
            let cidrs: Vec<_> = (zone * each..(zone + 1) * each)
                .map(|number| format!("\"{}\"", self.prefix(number)))
                .collect();
            let _ = writeln!(text, "[zone.z{zone}]\nisolated = true\ncidrs = [{}]", cidrs.join(", "));
        }
        for rule in self.rules() {
            let ports: Vec<_> = rule.ports.iter().map(|(name, port)| format!("\"{name}/{port}\"")).collect();
            let _ = writeln!(
                text,
                "[[allow]]\nfrom = \"z{}\"\nto = \"z{}\"\nports = [{}]",
                rule.from,
                rule.to,
                ports.join(", ")
            );
            if let Some(level) = self.tls.filter(|_| rule.measured) {
                let _ = writeln!(text, "tls = \"{level}\"");
            }
        }
        text
    }

    /// As a file for `nft -f`.
    pub(crate) fn ruleset(self) -> String {
        let zones = (0..self.zones() * self.prefixes_per_zone())
            .map(|number| format!("{} : {}", self.prefix(number), number / self.prefixes_per_zone() + 1));
        let rules = self.rules().into_iter().flat_map(|rule| {
            let key = format!("{} . {}", rule.from + 1, rule.to + 1);
            rule.ports.into_iter().map(move |(name, port)| format!("{key} . {name} . {port} : accept"))
        });
        let (zones, rules): (Vec<_>, Vec<_>) = (zones.collect(), rules.collect());
        format!(
            "table inet {TABLE} {{
  map zone {{ type ipv4_addr : mark; flags interval; elements = {{ {} }}; }}
  map rules {{ type mark . mark . inet_proto . inet_service : verdict; elements = {{ {} }}; }}
  chain judge {{
    ct state established,related accept
    meta mark set ip saddr map @zone ct mark set ip daddr map @zone meta mark . ct mark . meta l4proto . th dport vmap @rules
    drop
  }}
  chain input {{ type filter hook input priority filter; policy accept; jump judge; }}
  chain output {{ type filter hook output priority filter; policy accept; jump judge; }}
}}
",
            zones.join(", "),
            rules.join(", ")
        )
    }

    fn zones(self) -> usize {
        match self.size {
            ..100 => self.size / 2,
            100..10_000 => self.size / 10,
            _ => self.size / 100,
        }
    }

    fn prefixes_per_zone(self) -> usize {
        self.size / self.zones()
    }

    fn client_zone(self) -> usize {
        self.zones() / 2
    }

    fn prefix(self, number: usize) -> String {
        let first = self.client_zone() * self.prefixes_per_zone();
        if number == first {
            format!("{CLIENT}/32")
        } else if number == first + self.prefixes_per_zone() {
            format!("{SERVER}/32")
        } else {
            format!("10.{}.{}.{}/30", 128 + (number >> 14), (number >> 6) & 255, (number & 63) * 4)
        }
    }

    fn rules(self) -> Vec<Rule> {
        let zones = self.zones();
        let middle = self.size / 2;
        let rule = |number: usize| {
            if number == middle {
                let tcp = [STREAM, CONNECT, ECHO, TLS_STREAM, TLS_CONNECT].map(|port| ("tcp", port));
                let ports = tcp.into_iter().chain([("udp", ECHO), ("udp", SINK)]).collect();
                return Rule { from: self.client_zone(), to: self.client_zone() + 1, ports, measured: true };
            }
            // Every zone opens something, to a zone that is not itself, a port for each of its rules.
            let (from, round) = (number % zones, number / zones);
            let to = (from + 1 + (number * 7) % (zones - 1)) % zones;
            let ports = vec![("tcp", u16::try_from(10_000 + round).unwrap_or(u16::MAX))];
            Rule { from, to, ports, measured: false }
        };
        (0..self.size).map(rule).collect()
    }
}

/// A ruleset that tracks connections and judges none.
pub(crate) fn conntrack_only() -> String {
    format!(
        "table inet {TABLE} {{
  chain input {{ type filter hook input priority filter; policy accept; ct state invalid drop; }}
  chain output {{ type filter hook output priority filter; policy accept; ct state invalid drop; }}
}}
"
    )
}

#[cfg(test)]
mod tests {
    use super::Policy;

    #[test]
    fn both_languages_hold_as_much_as_was_asked_for() {
        for size in [10, 1_000, 100_000] {
            let policy = Policy::new(size);
            let (zones, nft) = (policy.zone_file(), policy.ruleset());
            assert_eq!(zones.matches("[[allow]]").count(), size);
            assert_eq!(zones.matches("/30\"").count() + zones.matches("/32\"").count(), size);
            assert_eq!(nft.matches("/30 : ").count() + nft.matches("/32 : ").count(), size);
            // The measured rule has seven ports.
            assert_eq!(nft.matches(": accept").count(), size + 6);
            assert_eq!(policy.with_tls("require").zone_file().matches("tls = \"require\"").count(), 1);
        }
    }

    #[test]
    fn no_rule_is_there_twice() {
        let rules = Policy::new(1_000).ruleset();
        let mut seen = std::collections::BTreeSet::new();
        for element in rules.split(['{', ',']).filter(|element| element.contains(": accept")) {
            assert!(seen.insert(element.trim().to_owned()), "{element}");
        }
    }
}
