//! What must happen: everybody who is tried, and the answer that the zone files give.
//!
//! Written by hand, from the zone files, as an operator would: nothing here asks Bulkhead.

/// How it is tried.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Port {
    /// A connection.
    Tcp(u16),
    /// A datagram.
    Udp(u16),
    /// A ping.
    Echo,
}

/// What is expected of a try.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Expected {
    /// It is answered, by this rule.
    Rule(&'static str),
    /// It is answered, since both ends are in one zone.
    SameZone,
    /// It is denied, since no rule allows it.
    Nothing,
    /// It is denied by this rule.
    Denied(&'static str),
}

/// One try.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Line {
    pub(crate) from: &'static str,
    pub(crate) to: &'static str,
    pub(crate) port: Port,
    pub(crate) v6: bool,
    pub(crate) expected: Expected,
}

const REQUESTS: Expected = Expected::Rule("the shop's requests");
const QUERIES: Expected = Expected::Rule("the api's queries");
const STATISTICS: Expected = Expected::Rule("the api's statistics");
const PINGS: Expected = Expected::Rule("pings between neighbours");
const NAMES: Expected = Expected::Rule("names are looked up outside");
const LOGINS: Expected = Expected::Denied("no logins to the database");
const NOTHING: Expected = Expected::Nothing;

/// All tries, in the order in which they are made.
pub(crate) const LINES: [Line; 27] = [
    v4("web", "api", Port::Tcp(8080), REQUESTS),
    v6("web", "api", Port::Tcp(8080), REQUESTS),
    v6("web", "api", Port::Tcp(9100), REQUESTS),
    v4("web", "api", Port::Tcp(9101), NOTHING),
    v4("web", "api", Port::Udp(9000), NOTHING),
    v4("api", "db", Port::Tcp(5432), QUERIES),
    v6("api", "db", Port::Tcp(5432), QUERIES),
    v4("api", "db", Port::Udp(9125), STATISTICS),
    v6("api", "db", Port::Udp(9125), STATISTICS),
    v4("api", "db", Port::Tcp(22), LOGINS),
    v4("web", "db", Port::Tcp(5432), NOTHING),
    v6("web", "db", Port::Udp(9125), NOTHING),
    v4("api", "web", Port::Tcp(8080), NOTHING),
    v4("web", "api", Port::Echo, PINGS),
    v6("db", "web", Port::Echo, NOTHING),
    v4("intruder", "db", Port::Tcp(5432), NOTHING),
    v6("intruder", "db", Port::Tcp(5432), NOTHING),
    v6("intruder", "db", Port::Tcp(22), LOGINS),
    v4("intruder", "api", Port::Udp(9000), NOTHING),
    v4("db", "intruder", Port::Tcp(4444), NOTHING),
    v4("web-2", "api", Port::Tcp(8080), REQUESTS),
    v6("web-2", "api", Port::Tcp(8080), REQUESTS),
    v4("web-2", "db", Port::Tcp(5432), NOTHING),
    v4("web", "web-2", Port::Tcp(11211), Expected::SameZone),
    v6("web", "outside", Port::Udp(53), NAMES),
    v4("db", "outside", Port::Udp(53), NOTHING),
    v4("outside", "api", Port::Tcp(8080), NOTHING),
];

const fn v4(from: &'static str, to: &'static str, port: Port, expected: Expected) -> Line {
    Line { from, to, port, v6: false, expected }
}

const fn v6(from: &'static str, to: &'static str, port: Port, expected: Expected) -> Line {
    Line { from, to, port, v6: true, expected }
}

impl Port {
    /// As zone files write it.
    pub(crate) fn text(self) -> String {
        match self {
            Port::Tcp(port) => format!("tcp/{port}"),
            Port::Udp(port) => format!("udp/{port}"),
            Port::Echo => "icmp/echo".to_owned(),
        }
    }
}

impl Expected {
    /// Whether it passes.
    pub(crate) fn passes(self) -> bool {
        matches!(self, Expected::Rule(_) | Expected::SameZone)
    }

    /// The name of the rule that decides, if one does.
    pub(crate) fn rule(self) -> Option<&'static str> {
        match self {
            Expected::Rule(name) | Expected::Denied(name) => Some(name),
            Expected::SameZone | Expected::Nothing => None,
        }
    }

    /// The reason, by the word of metrics and events.
    pub(crate) fn reason(self) -> &'static str {
        match self {
            Expected::Rule(_) => "allow-rule",
            Expected::Denied(_) => "deny-rule",
            Expected::SameZone => "within-zone",
            Expected::Nothing => "default",
        }
    }
}
