//! `names` and `name` of a zone: who is in it by certificate, and what its own workloads show.

use bulkhead_credentials::{NameError, SpiffeId};
use toml::de::DeTable;

use crate::diagnostic::Diagnostic;
use crate::model::Zone;
use crate::reader::{Reader, Text};

/// Reads both keys into the zone.
pub(super) fn read(reader: &mut Reader, table: &DeTable<'_>, zone: &mut Zone) {
    let mut names: Vec<(SpiffeId, Text)> = Vec::new();
    if let Some(value) = table.get("names") {
        for text in reader.strings(value, "`names`") {
            names.extend(parse(reader, "an entry of `names`", &text).map(|name| (name, text)));
        }
    }
    if let Some(text) = table.get("name").and_then(|value| reader.string(value, "`name`")) {
        zone.own_name = parse(reader, "`name`", &text);
        let listed = names.iter().find(|(name, _)| zone.own_name.as_ref() == Some(name));
        if let Some((name, first)) = listed {
            let message = format!("`{name}` is the zone's `name` and stands in its `names` too");
            let code = "bulkhead::duplicate-entry";
            let again = Diagnostic::error(code, &reader.source, text.span, message, "the zone's own name");
            let again = again.also(first.span.clone(), "the same again");
            reader
                .diagnostics
                .push(again.help("take it out of `names`: who shows the zone's own name is in it"));
        }
    }
    zone.names = names.into_iter().map(|(name, _)| name).collect();
}

fn parse(reader: &mut Reader, what: &str, text: &Text) -> Option<SpiffeId> {
    let NameError { text: name, why } = match text.text.parse() {
        Ok(name) => return Some(name),
        Err(error) => error,
    };
    let message = format!("{what} cannot be `{name}`: {why}");
    let help = "write it as certificates have it: `spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/ACCOUNT`";
    reader.error("bulkhead::bad-name", text.span.clone(), message, "not a name that proxies take", help);
    None
}
