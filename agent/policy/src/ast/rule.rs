//! `[[allow]]` and `[[deny]]`.

use std::ops::Range;
use std::sync::Arc;

use bulkhead_abi::{Demand, Tls};
use toml::de::DeTable;

use super::{RuleAst, mutual};
use crate::load::Capabilities;
use crate::model::{Action, PortMatch, Ports, Rule, Selector, Sides, Tier};
use crate::ports;
use crate::reader::{Reader, Text};

/// The tables that hold rules, and what these say.
pub(super) const ACTIONS: [(&str, Action); 2] = [("allow", Action::Allow), ("deny", Action::Deny)];

const KEYS: [&str; 9] = ["name", "from", "to", "ports", "side", "tls", "local", "max_age", "http"];

/// Reads a rule. What is wrong with it leaves a gap in it, and an error, so it is never used so.
pub(super) fn read(
    reader: &mut Reader,
    action: Action,
    span: Range<usize>,
    table: &DeTable<'_>,
    capabilities: &Capabilities,
) -> RuleAst {
    let noun = format!("`[[{}]]`", action.as_str());
    reader.check_keys(table, &KEYS, &noun);
    if let Some((key, _)) = table.get_key_value("http") {
        let message = "`http` needs the proxy, which this build does not have";
        let help = "leave the section out, or use a build that has it";
        reader.error("bulkhead::unsupported", key.span(), message, "not in this build", help);
    }
    let name = table.get("name").and_then(|value| reader.string(value, "`name`"));
    if let Some(name) = name.as_ref().filter(|name| name.text.trim().is_empty()) {
        let help = "write what the rule is for, or leave the name out";
        reader.error("bulkhead::rule-name", name.span.clone(), "a rule's name is empty", "empty", help);
    }
    let from = ends(reader, table, "from", &noun, &span);
    let to = ends(reader, table, "to", &noun, &span);
    let listed = table.get("ports").map(|value| {
        let texts = reader.strings(value, "`ports`");
        port_list(reader, &texts)
    });
    let ports = match &listed {
        None => Ports::All,
        Some(list) => Ports::Only(list.iter().map(|(ports, _)| *ports).collect()),
    };
    let mut sides = Sides::Both;
    if let Some(value) = table.get("side") {
        let words = [("egress", Sides::Egress), ("ingress", Sides::Ingress), ("both", Sides::Both)];
        sides = reader.word(value, "`side`", &words, "bulkhead::bad-side").unwrap_or_default();
    }
    let mut tls = super::tls::read(reader, table, action, &ports, capabilities);
    let mutual = mutual::read(reader, table, action, tls.as_ref().map(|(demand, _)| *demand));
    if let Some((demand, _)) = tls.as_mut().filter(|(demand, _)| demand.level == Tls::Mutual) {
        demand.floor |= mutual.floor;
        mutual::check_ports(reader, listed.as_deref().unwrap_or_default());
        mutual::check_ends(reader, &from, &to);
    }
    let selectors =
        |texts: &[Text]| -> Vec<Selector> { texts.iter().map(|text| Selector::named(&text.text)).collect() };
    let rule = Rule {
        name: name.as_ref().map(|name| name.text.as_str().into()),
        tier: Tier::Normal,
        action,
        from: selectors(&from),
        to: selectors(&to),
        ports,
        sides,
        tls: tls.as_ref().map_or(Demand::OFF, |(demand, _)| *demand),
        max_age: mutual.max_age,
        location: reader.location(span.start),
    };
    warn_if_idle(reader, &rule, &from, &to);
    let zones =
        from.into_iter().chain(to).filter(|text| matches!(Selector::named(&text.text), Selector::Zone(_)));
    RuleAst { zones: zones.collect(), rule: Arc::new(rule), name, tls }
}

/// The names of one end.
fn ends(reader: &mut Reader, table: &DeTable<'_>, key: &str, noun: &str, span: &Range<usize>) -> Vec<Text> {
    let Some(value) = table.get(key) else {
        let message = format!("{noun} needs `{key}`");
        let help = format!("write `{key} = \"any\"` if everyone is meant");
        reader.error("bulkhead::missing-key", span.clone(), message, format!("no `{key}`"), help);
        return Vec::new();
    };
    let names = reader.string_or_list(value, &format!("`{key}`"));
    if let Some(any) = names.iter().find(|name| name.text == "any").filter(|_| names.len() > 1) {
        let help = "write `\"any\"` alone, or take it out";
        let message = format!("`any` makes the other entries of `{key}` idle");
        reader.warn("bulkhead::idle-entry", any.span.clone(), message, "everyone already", help);
    }
    names
}

/// The ports, each with its place.
fn port_list(reader: &mut Reader, texts: &[Text]) -> Vec<(PortMatch, Text)> {
    let mut found = Vec::new();
    for text in texts {
        match ports::parse(&text.text) {
            Ok(matches) => found.extend(matches.into_iter().map(|ports| (ports, text.clone()))),
            Err(error) => {
                let span = text.span.clone();
                reader.error("bulkhead::bad-port", span, error.message, "not understood", error.help);
            }
        }
    }
    found
}

/// A rule that speaks for no side of any flow.
fn warn_if_idle(reader: &mut Reader, rule: &Rule, from: &[Text], to: &[Text]) {
    let unzoned = |selectors: &[Selector]| {
        selectors.iter().all(|selector| matches!(selector, Selector::World | Selector::Node))
    };
    let egress_idle = unzoned(&rule.from) || rule.sides == Sides::Ingress;
    let ingress_idle = unzoned(&rule.to) || rule.sides == Sides::Egress;
    if let (true, true, Some(from), Some(to)) = (egress_idle, ingress_idle, from.first(), to.first()) {
        let span = if unzoned(&rule.from) { from.span.clone() } else { to.span.clone() };
        let message = "this rule can never matter";
        let label = "in no zone";
        let help = "ends in no zone are open anyway: name a zone at an end that the rule speaks for, \
                    check `side`, or take the rule out";
        reader.warn("bulkhead::idle-rule", span, message, label, help);
    }
}
