//! `tls` of a rule: how its flows are to be encrypted.
//!
//! A level by its word, or a table that says what `require` accepts. Whatever is misread here would let
//! clear text through, so nothing is guessed: what is not understood is an error, and so is a demand that
//! the rule's protocols cannot meet.

use std::ops::Range;

use bulkhead_abi::{Accept, Demand, Protocol, Tls};
use toml::de::{DeTable, DeValue};

use crate::load::Capabilities;
use crate::model::{Action, PortMatch, Ports, VERSIONED, VERSIONS, spoken_over, tls_name};
use crate::reader::{Reader, Text, Value};
use crate::suggest::closest;

/// Every level, by its word.
const LEVELS: [Tls; 6] = [Tls::Off, Tls::Report, Tls::Require, Tls::Mutual, Tls::Terminate, Tls::Originate];

const KEYS: [&str; 3] = ["require", "floor", "unknown"];

const BAD: &str = "bulkhead::bad-tls";

/// Reads the `tls` of a rule; `None` if it has none, or none that could be understood.
pub(super) fn read(
    reader: &mut Reader,
    rule: &DeTable<'_>,
    action: Action,
    ports: &Ports,
    capabilities: &Capabilities,
) -> Option<(Demand, Range<usize>)> {
    let (key, value) = rule.get_key_value("tls")?;
    if action == Action::Deny {
        let help = "take it out: what is denied is not encrypted either";
        let message = "`tls` has no meaning in `[[deny]]`";
        reader.error("bulkhead::tls-on-deny", key.span(), message, "on a deny", help);
        return None;
    }
    let (demand, listed) = match value.get_ref() {
        DeValue::Table(table) => require(reader, table, value.span())?,
        _ => (level(reader, value)?, Vec::new()),
    };
    let span = value.span();
    match demand.level {
        Tls::Off | Tls::Report => {}
        Tls::Require => check_ports(reader, demand.accept, ports, &span, &listed),
        Tls::Mutual | Tls::Terminate | Tls::Originate => check_tcp(reader, demand.level, ports, &span),
    }
    check_capabilities(reader, demand.level, capabilities, &span);
    Some((demand, span))
}

/// A level by its word.
fn level(reader: &mut Reader, value: &Value<'_>) -> Option<Demand> {
    if let DeValue::String(text) = value.get_ref()
        && version(text).is_some()
    {
        let help = format!("a version goes with its level: `tls = {{ require = \"{text}\" }}`");
        reader.error(BAD, value.span(), format!("`tls` cannot be `{text}`"), "not a level", help);
        return None;
    }
    let level = reader.word(value, "`tls`", &LEVELS.map(|level| (tls_name(level), level)), BAD)?;
    Some(if level == Tls::Require { Demand::REQUIRE } else { Demand { level, ..Demand::OFF } })
}

/// A class that a list names, with its place.
type Listed = (Accept, Text);

/// `{ require = …, floor = …, unknown = … }`.
fn require(reader: &mut Reader, table: &DeTable<'_>, span: Range<usize>) -> Option<(Demand, Vec<Listed>)> {
    reader.check_keys(table, &KEYS, "`tls`");
    let unknown = table.get("unknown").and_then(|value| {
        let words = [("allow", Accept::UNKNOWN), ("deny", Accept::NONE)];
        reader.word(value, "`unknown`", &words, BAD)
    });
    let floor = table.get("floor").and_then(|value| floor(reader, value, "`floor`"));
    let Some(value) = table.get("require") else {
        let level = LEVELS.map(tls_name).into_iter().find(|level| table.contains_key(*level));
        let help = match level {
            Some(level) => format!("this level stands alone: `tls = \"{level}\"`"),
            None => {
                "write `require = true`, a version as in `require = \"1.2\"`, or a list of what is accepted"
                    .into()
            }
        };
        let message = "`tls` as a table needs `require`";
        reader.error("bulkhead::missing-key", span, message, "no `require`", help);
        return None;
    };
    let (accept, listed, own_floor) = match value.get_ref() {
        DeValue::Boolean(true) if table.contains_key("floor") => (VERSIONED, Vec::new(), None),
        DeValue::Boolean(true) => (Accept::ENCRYPTED, Vec::new(), None),
        DeValue::String(_) => (VERSIONED, Vec::new(), Some(self::floor(reader, value, "`require`")?)),
        DeValue::Array(_) => {
            let listed = classes(reader, value);
            (listed.iter().fold(Accept::NONE, |all, (class, _)| all.or(*class)), listed, None)
        }
        _ => {
            let help = "write `true`, a version in quotes as in `\"1.2\"`, or a list of what is accepted; \
                        to ask for nothing, `tls = \"off\"`";
            let message = "`require` must be true, a TLS version, or a list";
            reader.error("bulkhead::wrong-type", value.span(), message, "none of these", help);
            return None;
        }
    };
    if let Some((key, _)) = table.get_key_value("floor") {
        check_floor(reader, key.span(), accept, own_floor, !listed.is_empty());
    }
    let demand = Demand {
        level: Tls::Require,
        accept: accept.or(unknown.unwrap_or(Accept::NONE)),
        floor: own_floor.or(floor).unwrap_or(0),
    };
    Some((demand, listed))
}

/// A TLS version.
fn floor(reader: &mut Reader, value: &Value<'_>, what: &str) -> Option<u8> {
    let text = match value.get_ref() {
        DeValue::String(text) => text,
        DeValue::Float(_) => {
            let help = "put the version in double quotes, as in `\"1.2\"`";
            let message = format!("{what} must be a TLS version in quotes");
            reader.error("bulkhead::wrong-type", value.span(), message, "this is a number", help);
            return None;
        }
        other => return reader.wrong_type(value, other, what, "a string"),
    };
    if let Some(minor) = version(text) {
        return Some(minor);
    }
    let versions = VERSIONS.map(|(name, _)| format!("\"{name}\"")).join(", ");
    let help = match text.as_ref() {
        class if Accept::WORDS.iter().any(|(_, word)| *word == class) => {
            format!("what is accepted is a list: `require = [\"{class}\"]`")
        }
        _ => format!("write one of: {versions}"),
    };
    reader.error(BAD, value.span(), format!("{what} cannot be `{text}`"), "not a TLS version", help);
    None
}

fn version(text: &str) -> Option<u8> {
    VERSIONS.iter().find(|(name, _)| *name == text).map(|(_, minor)| *minor)
}

/// The classes of a list.
fn classes(reader: &mut Reader, value: &Value<'_>) -> Vec<Listed> {
    let mut listed = Vec::new();
    for text in reader.strings(value, "`require`") {
        let known = Accept::WORDS.iter().find(|(_, word)| *word == text.text);
        if let Some((class, _)) = known {
            listed.push((*class, text));
            continue;
        }
        let help = match text.text.as_str() {
            "unknown" => "write `unknown = \"allow\"` beside the list".to_owned(),
            "starttls" => "name the protocol, as in `starttls/smtp`".to_owned(),
            name if version(name).is_some() => format!("write `floor = \"{name}\"` beside the list"),
            name => match closest(name, Accept::WORDS.map(|(_, word)| word)) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("write one of: {}", Accept::WORDS.map(|(_, word)| word).join(", ")),
            },
        };
        let message = format!("`{}` is no kind of encryption that rules know", text.text);
        reader.error("bulkhead::bad-class", text.span, message, "not known", help);
    }
    listed
}

/// A floor says something only of what has a TLS version, and is said once.
fn check_floor(reader: &mut Reader, key: Range<usize>, accept: Accept, own: Option<u8>, listed: bool) {
    if own.is_some() {
        let help = "take `floor` out: the version after `require` is one";
        reader.error(BAD, key, "the floor is written twice", "the second one", help);
    } else if listed && !accept.intersects(FLOORED) {
        let help = "take `floor` out, or accept `tls` or one of `starttls/…`: it says nothing of the others, \
                    and QUIC is always TLS 1.3";
        let message = "`floor` has no meaning for what is accepted";
        reader.error("bulkhead::idle-floor", key, message, "nothing here has a TLS version to compare", help);
    }
}

/// What a floor can refuse.
const FLOORED: Accept = Accept(spoken(Protocol::TCP).0 & !Accept::SSH.0);

const fn spoken(protocol: Protocol) -> Accept {
    match spoken_over(protocol) {
        Some(accept) => accept,
        None => Accept::NONE,
    }
}

/// Only what is looked at can be required to be encrypted, and something must be left that may pass.
fn check_ports(reader: &mut Reader, accept: Accept, ports: &Ports, span: &Range<usize>, listed: &[Listed]) {
    let help = "give the rule `ports` of TCP and UDP, such as `[\"tcp\", \"udp\"]`: without it covers every protocol";
    let list = match ports {
        Ports::Only(list) => list,
        Ports::All => return needs(reader, "TCP, UDP and ESP", Tls::Require, span, help),
    };
    if let Some(unseen) = list.iter().find(|ports| spoken_over(ports.protocol).is_none()) {
        let help = format!("make two rules: one with `{unseen}` and no level, one with the others");
        return needs(reader, "TCP, UDP and ESP", Tls::Require, span, &help);
    }
    let over = |ports: &PortMatch| spoken_over(ports.protocol).unwrap_or_default();
    for (class, text) in listed {
        if !list.is_empty() && !list.iter().any(|ports| over(ports).intersects(*class)) {
            let help = "take it out, or add the ports where it is spoken";
            let message = format!("`{}` is not spoken over the protocols of this rule", text.text);
            reader.warn("bulkhead::idle-entry", text.span.clone(), message, "never seen here", help);
        }
    }
    let closed = list.iter().find(|ports| !over(ports).or(Accept::UNKNOWN).intersects(accept));
    if let Some(ports) = closed.filter(|_| accept != Accept::NONE) {
        let message = format!("nothing that `tls` accepts is spoken over `{ports}`, so nothing would pass");
        let help = format!("accept what is, or take `{ports}` out of this rule");
        reader.error("bulkhead::tls-nothing-passes", span.clone(), message, "none of it", help);
    }
}

/// The proxy speaks TCP.
fn check_tcp(reader: &mut Reader, level: Tls, ports: &Ports, span: &Range<usize>) {
    let help = match ports {
        Ports::Only(list) if list.iter().all(|ports| ports.protocol == Protocol::TCP) => return,
        Ports::Only(_) => "make two rules: one with the `tcp/…` ports and this level, one with the others",
        Ports::All => "give the rule `ports`: without it covers every protocol",
    };
    needs(reader, "TCP", level, span, help);
}

fn needs(reader: &mut Reader, protocols: &str, level: Tls, span: &Range<usize>, help: &str) {
    let message = format!("`tls = \"{}\"` works on {protocols} only", tls_name(level));
    reader.error("bulkhead::tls-needs-ports", span.clone(), message, "this rule covers more", help);
}

fn check_capabilities(reader: &mut Reader, level: Tls, capabilities: &Capabilities, span: &Range<usize>) {
    if capabilities.tls.contains(&level) {
        return;
    }
    let supported: Vec<String> =
        capabilities.tls.iter().map(|level| format!("`{}`", tls_name(*level))).collect();
    let message = format!("this build cannot enforce tls = \"{}\"", tls_name(level));
    let help = format!(
        "it enforces {}; a level is never weakened in silence, so the policy is refused",
        supported.join(", ")
    );
    reader.error("bulkhead::tls-unsupported", span.clone(), message, "not in this build", help);
}
