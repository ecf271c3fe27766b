//! The test file itself.

use std::net::IpAddr;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use bulkhead_abi::{Addr, Protocol, Verdict};
use toml::de::{DeTable, DeValue};

use super::VERDICTS;
use crate::ast::document;
use crate::check::suggest_zone;
use crate::diagnostic::Diagnostics;
use crate::model::{Endpoint, Facts, Location, Model};
use crate::oracle::{self, Party};
use crate::ports;
use crate::prefix::{from_ip, to_ip};
use crate::reader::{Reader, Text, Value};
use crate::source::Source;
use crate::suggest::closest;

/// A test file.
pub(super) struct TestFile {
    source: Arc<Source>,
    pub(super) policy: PathBuf,
    pub(super) tests: Vec<Test>,
}

/// One expectation.
pub(super) struct Test {
    pub(super) name: String,
    pub(super) location: Location,
    pub(super) from: End,
    pub(super) to: End,
    pub(super) ports: Vec<(Protocol, u16)>,
    pub(super) expect: Verdict,
    pub(super) rule: Option<Text>,
}

/// One end of a flow.
pub(super) enum End {
    World,
    Node,
    Zone(Text),
    At(Endpoint, Range<usize>),
}

impl End {
    pub(super) fn party(&self, model: &Model, facts: &Facts) -> Party {
        match self {
            Self::World => Party::World,
            Self::Node => Party::Node,
            Self::Zone(name) => Party::Zones(vec![name.text.as_str().into()]),
            Self::At(end, _) => oracle::party(model, facts, end),
        }
    }

    /// The endpoint, where one was given; verdicts between parties do not look at it.
    pub(super) fn end(&self) -> Endpoint {
        match self {
            Self::At(end, _) => end.clone(),
            Self::World | Self::Node | Self::Zone(_) => Endpoint::at(Addr::ANY),
        }
    }

    fn is_v4(&self) -> Option<bool> {
        match self {
            Self::At(end, _) => Some(end.addr.is_v4()),
            Self::World | Self::Node | Self::Zone(_) => None,
        }
    }
}

impl TestFile {
    pub(super) fn parse(source: &Arc<Source>) -> Result<Self, Diagnostics> {
        let mut reader = Reader::new(source);
        let mut file = Self { source: Arc::clone(source), policy: PathBuf::new(), tests: Vec::new() };
        if let Some(table) = document(&mut reader, source) {
            file.read(&mut reader, &table);
        }
        finish(reader, file)
    }

    /// Looks up the zones and rules that the tests name.
    pub(super) fn check(&self, model: &Model) -> Result<(), Diagnostics> {
        let mut reader = Reader::new(&self.source);
        let zones = || model.zones().iter().map(|zone| &*zone.name);
        let rules: Vec<&str> = model.rules().iter().filter_map(|rule| rule.name.as_deref()).collect();
        for test in &self.tests {
            for end in [&test.from, &test.to] {
                let End::Zone(Text { text, span }) = end else { continue };
                if model.zone(text).is_none() {
                    let help = suggest_zone(text, zones());
                    let message = format!("unknown zone `{text}`");
                    reader.error(
                        "bulkhead::unknown-zone",
                        span.clone(),
                        message,
                        "no zone of this name",
                        help,
                    );
                }
            }
            if let End::At(end, span) = &test.to
                && oracle::party(model, &Facts::default(), end) == Party::Virtual
            {
                let message = format!("`{}` is a virtual address", to_ip(end.addr));
                let help = "the guard judges who really receives: test that address, or its zone";
                reader.error(
                    "bulkhead::virtual-end",
                    span.clone(),
                    message,
                    "nobody before translation",
                    help,
                );
            }
            let Some(Text { text, span }) = test.rule.as_ref().filter(|rule| !rules.contains(&&*rule.text))
            else {
                continue;
            };
            let help = match closest(text, rules.iter().copied()) {
                Some(near) => format!("did you mean `{near}`?"),
                None => "a rule is known by its `name`: give it one, or leave `rule` out".into(),
            };
            let message = format!("no rule is named `{text}`");
            reader.error("bulkhead::unknown-rule", span.clone(), message, "no rule of this name", help);
        }
        finish(reader, ())
    }

    fn read(&mut self, reader: &mut Reader, table: &DeTable<'_>) {
        reader.check_keys(table, &["policy", "test"], "a test file");
        if let Some(value) = table.get("policy") {
            self.policy = reader.string(value, "`policy`").map(|text| text.text.into()).unwrap_or_default();
        }
        let Some(tests) = table.get("test") else {
            let help = "write `[[test]]` with name, from, to, port and expect";
            return reader.error("bulkhead::missing-key", 0..0, "there is no test", "nothing to run", help);
        };
        for (span, body) in reader.tables(tests, "test") {
            self.tests.extend(test(reader, span, body));
        }
    }
}

fn finish<T>(reader: Reader, value: T) -> Result<T, Diagnostics> {
    let diagnostics = Diagnostics::new(reader.diagnostics);
    if diagnostics.errors() > 0 { Err(diagnostics) } else { Ok(value) }
}

fn test(reader: &mut Reader, span: Range<usize>, table: &DeTable<'_>) -> Option<Test> {
    reader.check_keys(table, &["name", "from", "to", "port", "expect", "rule"], "`[[test]]`");
    let mut required = |key: &str, example: &str| {
        let value = table.get(key);
        if value.is_none() {
            let message = format!("`[[test]]` needs `{key}`");
            let help = format!("write `{key} = \"{example}\"`, for example");
            reader.error("bulkhead::missing-key", span.clone(), message, format!("no `{key}`"), help);
        }
        value
    };
    let name = required("name", "the api queries the database");
    let (from, to) = (required("from", "api"), required("to", "10.20.3.5"));
    let (port, expect) = (required("port", "tcp/5432"), required("expect", "allow"));
    let name = name.and_then(|value| reader.string(value, "`name`"));
    let from = from.and_then(|value| end(reader, value, "from"));
    let to = to.and_then(|value| end(reader, value, "to"));
    let port = port.and_then(|value| port_of(reader, value));
    let expect = expect.and_then(|value| reader.word(value, "`expect`", &VERDICTS, "bulkhead::bad-verdict"));
    let rule = match table.get("rule") {
        Some(value) => Some(reader.string(value, "`rule`")?),
        None => None,
    };
    let (from, to) = (from?, to?);
    let mut ports = port?;
    if let Some(v4) = from.is_v4().or(to.is_v4()) {
        ports.retain(|(protocol, _)| !protocol.is_icmp() || (*protocol == Protocol::ICMP) == v4);
    }
    let location = reader.location(span.start);
    Some(Test { name: name?.text, location, from, to, ports, expect: expect?, rule })
}

fn end(reader: &mut Reader, value: &Value<'_>, key: &str) -> Option<End> {
    if let DeValue::Table(table) = value.get_ref() {
        reader.check_keys(table, &["addr", "cgroup"], &format!("`{key}`"));
        let cgroup = match table.get("cgroup") {
            Some(value) => Some(reader.string(value, &format!("`{key}.cgroup`"))?.text),
            None => None,
        };
        let Some(value) = table.get("addr") else {
            let message = format!("`{key}` needs `addr` beside `cgroup`");
            let help = "give the workload's address too: it is in the zones of both";
            reader.error("bulkhead::missing-key", value.span(), message, "no `addr`", help);
            return None;
        };
        let text = reader.string(value, &format!("`{key}.addr`"))?;
        let Ok(ip) = text.text.parse::<IpAddr>() else {
            let message = format!("`{}` is not an address", text.text);
            let help = "write an address without a length, as in `10.20.3.5`";
            reader.error("bulkhead::bad-address", text.span, message, "not an address", help);
            return None;
        };
        return Some(End::At(Endpoint { addr: from_ip(ip), cgroup }, value.span()));
    }
    let text = reader.string(value, &format!("`{key}`"))?;
    if let Ok(ip) = text.text.parse::<IpAddr>() {
        return Some(End::At(Endpoint::at(from_ip(ip)), text.span));
    }
    match text.text.as_str() {
        "world" => Some(End::World),
        "node" => Some(End::Node),
        "any" => {
            let message = "a test is about one flow, and `any` is not one end";
            let help = "name a zone, world, node or an address";
            reader.error("bulkhead::bad-end", text.span, message, "not one end", help);
            None
        }
        _ => Some(End::Zone(text)),
    }
}

/// The flow's protocol and port; both families' for ICMP.
fn port_of(reader: &mut Reader, value: &Value<'_>) -> Option<Vec<(Protocol, u16)>> {
    let Text { text, span } = reader.string(value, "`port`")?;
    let matches = match ports::parse(&text) {
        Ok(matches) => matches,
        Err(error) => {
            reader.error("bulkhead::bad-port", span, error.message, "not understood", error.help);
            return None;
        }
    };
    let one = |m: &crate::model::PortMatch| {
        let code = m.protocol.is_icmp() && m.first & 0xff == 0 && m.last == m.first | 0xff;
        let portless = !m.protocol.has_ports() && !m.protocol.is_icmp();
        (m.first == m.last || code || portless).then_some((m.protocol, m.first))
    };
    let flows: Option<Vec<(Protocol, u16)>> = matches.iter().map(one).collect();
    if flows.is_none() {
        let message = format!("`{text}` is more than one flow");
        let help = "write one port, as in `tcp/5432`, or `icmp/echo`";
        reader.error("bulkhead::bad-port", span, message, "a test is about one flow", help);
    }
    flows
}
