//! What goes with `tls = "mutual"` in a rule: `local`, `max_age`, and ports that the proxies keep for
//! themselves.

use bulkhead_abi::{Demand, Tls};
use toml::de::{DeTable, DeValue};

use crate::model::{Action, BadAge, MaxAge, PROXY_PORTS, PortMatch};
use crate::reader::{Reader, Text, Value};

/// What a rule says beside its level.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Mutual {
    /// What to add to the demand's `floor`.
    pub(super) floor: u8,
    /// See [`Rule::max_age`](crate::Rule::max_age).
    pub(super) max_age: Option<MaxAge>,
}

/// Reads the keys. `demand` is what `tls` says; `None` if it says nothing, or nothing that was understood.
pub(super) fn read(
    reader: &mut Reader,
    rule: &DeTable<'_>,
    action: Action,
    demand: Option<Demand>,
) -> Mutual {
    let mut mutual = Mutual::default();
    if let Some(value) = rule.get("local") {
        let words = [("tls", 0), ("attest", Demand::ATTEST)];
        mutual.floor = reader.word(value, "`local`", &words, "bulkhead::bad-local").unwrap_or_default();
    }
    if let Some(value) = rule.get("max_age") {
        mutual.max_age = age(reader, value);
    }
    let is_mutual = demand.is_some_and(|demand| demand.level == Tls::Mutual);
    // A level that was not understood may have been meant to be this one.
    let unclear = demand.is_none() && rule.contains_key("tls") && action == Action::Allow;
    if !is_mutual && !unclear {
        for key in ["local", "max_age"] {
            refuse(reader, rule, key, action);
        }
        return Mutual::default();
    }
    mutual
}

/// Who is in no zone has no name, so nobody dials him through the proxies, and he dials nobody; who comes
/// from the world has perhaps one that no zone knows.
pub(super) fn check_ends(reader: &mut Reader, from: &[Text], to: &[Text]) {
    let of_from = from.iter().filter(|name| name.text == "node");
    let of_to = to.iter().filter(|name| name.text == "node" || name.text == "world");
    for Text { text, span } in of_from.chain(of_to) {
        let message =
            format!("`{text}` has no name to show, so under `mutual` every such connection is refused");
        let help = "name a zone: its members have names";
        reader.warn("bulkhead::nameless", span.clone(), message, "in no zone", help);
    }
}

fn refuse(reader: &mut Reader, rule: &DeTable<'_>, key: &str, action: Action) {
    let Some((at, _)) = rule.get_key_value(key) else { return };
    let (message, help) = match action {
        Action::Allow => (
            format!("`{key}` goes with `tls = \"mutual\"` only"),
            "write `tls = \"mutual\"`, or take it out: without the proxy it means nothing",
        ),
        Action::Deny | Action::Pass => (
            format!("`{key}` has no meaning in `[[{}]]`", action.as_str()),
            "take it out: what is denied is not encrypted either",
        ),
    };
    reader.error("bulkhead::needs-mutual", at.span(), message, "not mutual", help);
}

fn age(reader: &mut Reader, value: &Value<'_>) -> Option<MaxAge> {
    const HELP: &str = "write a number and one of the units s, m, h, d in quotes, as in `\"12h\"`";
    if let DeValue::Integer(_) | DeValue::Float(_) = value.get_ref() {
        let message = "`max_age` must be a time in quotes";
        reader.error("bulkhead::wrong-type", value.span(), message, "a number without a unit", HELP);
        return None;
    }
    let Text { text, span } = reader.string(value, "`max_age`")?;
    let error = match text.parse() {
        Ok(age) => return Some(age),
        Err(error) => error,
    };
    let help = match error {
        BadAge::Form => HELP,
        BadAge::Short => {
            "write at least `1s`; to end connections with their certificates, `1s` is near enough"
        }
        BadAge::Long => "write at most `365d`, or leave it out: then connections live as long as they like",
    };
    reader.error("bulkhead::bad-age", span, format!("`max_age` cannot be `{text}`"), error.to_string(), help);
    None
}

/// A proxy takes no connection to a proxy's port, whatever the rule says. Of whole TCP that is understood.
pub(super) fn check_ports(reader: &mut Reader, list: &[(PortMatch, Text)]) {
    for (ports, text) in list {
        let kept: Vec<String> = PROXY_PORTS
            .iter()
            .filter(|port| (ports.first..=ports.last).contains(port))
            .map(u16::to_string)
            .collect();
        let whole = (ports.first, ports.last) == (0, u16::MAX);
        if kept.is_empty() || whole {
            continue;
        }
        let kept = kept.join(", ");
        let message = format!("the proxies keep port {kept} for themselves and refuse it as a target");
        if ports.first == ports.last {
            let help = "let the program listen on another port, or make a rule without `mutual` for this one";
            reader.error("bulkhead::proxy-port", text.span.clone(), message, "a proxy's port", help);
        } else {
            let help = "nothing needs to be done if no program listens there; else give it another port";
            reader.warn("bulkhead::proxy-port", text.span.clone(), message, "holds a proxy's port", help);
        }
    }
}
