//! `[zone.NAME]`.

use std::sync::Arc;

use toml::Spanned;
use toml::de::{DeString, DeTable};

use super::prefixes::prefixes;
use super::{ZoneAst, names};
use crate::model::{CgroupPattern, Mode, PatternError, Posture, Zone};
use crate::prefix::Prefix;
use crate::reader::{Reader, Text, Value};

const KEYS: [&str; 9] =
    ["description", "cidrs", "except", "cgroups", "names", "name", "mode", "default", "isolated"];

/// What puts somebody into a zone.
const SELECTORS: [&str; 3] = ["cidrs", "cgroups", "names"];

/// Selectors of the language that this build has no part for.
const UNSUPPORTED: [(&str, &str); 1] = [("pods", "Kubernetes support")];

/// Names of selectors that no zone may have.
pub(crate) const BUILT_IN: [&str; 3] = ["any", "world", "node"];

/// What verdicts and metrics call virtual addresses.
pub(crate) const VIRTUAL: &str = "virtual";

const MAX_NAME: usize = 63;

pub(super) fn read(reader: &mut Reader, name: &Spanned<DeString<'_>>, body: &Value<'_>) -> Option<ZoneAst> {
    let span = name.span();
    let text = name.get_ref().to_string();
    check_name(reader, &Text { text: text.clone(), span: span.clone() });
    let table = reader.table(body, "a zone")?;
    let known: Vec<&str> = KEYS.into_iter().chain(UNSUPPORTED.map(|(key, _)| key)).chain([VIRTUAL]).collect();
    reader.check_keys(table, &known, "a zone");
    let refused = refuse_unsupported(reader, table) | refuse_virtual(reader, table);

    let mut zone = Zone { location: reader.location(span.start), ..Zone::new(&text) };
    if let Some(value) = table.get("description") {
        zone.description = reader.string(value, "`description`").map(|text| text.text);
    }
    let cidrs = prefixes(reader, table, "cidrs");
    let except = prefixes(reader, table, "except");
    check_except(reader, table, &cidrs, &except);
    zone.cidrs = cidrs.into_iter().map(|(prefix, _)| prefix).collect();
    zone.except = except.into_iter().map(|(prefix, _)| prefix).collect();
    zone.cgroups = patterns(reader, table);
    names::read(reader, table, &mut zone);
    if let Some(value) = table.get("mode") {
        let words = [("enforce", Mode::Enforce), ("audit", Mode::Audit)];
        zone.mode = reader.word(value, "`mode`", &words, "bulkhead::bad-mode").unwrap_or_default();
    }
    if let Some(value) = table.get("isolated") {
        zone.isolated = reader.boolean(value, "`isolated`").unwrap_or_default();
    }
    if let Some(value) = table.get("default") {
        read_default(reader, value, &mut zone);
    }
    if !refused && !SELECTORS.iter().any(|key| table.contains_key(*key)) {
        let help =
            "give it `cidrs`, `cgroups` or `names`; a selector that matches nothing at the moment is fine";
        let message = format!("zone `{text}` selects nothing");
        reader.error("bulkhead::zone-without-selector", span.clone(), message, "no selector", help);
    }
    Some(ZoneAst { zone: Arc::new(zone), span })
}

fn check_name(reader: &mut Reader, name: &Text) {
    let Text { text, span } = name;
    if BUILT_IN.contains(&text.as_str()) {
        let message = format!("`{text}` is built in and cannot be a zone");
        let help = "choose another name; rules may use the built-in one as it is";
        return reader.error("bulkhead::built-in-zone", span.clone(), message, "built in", help);
    }
    if text == VIRTUAL {
        let message = format!("`{text}` cannot be a zone: verdicts call virtual addresses so");
        let help = "choose another name; virtual addresses are declared under `[virtual]`";
        return reader.error("bulkhead::built-in-zone", span.clone(), message, "built in", help);
    }
    let inner = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_.".contains(byte);
    let outer = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let valid = text.len() <= MAX_NAME && text.as_bytes().iter().all(inner);
    if !(valid && text.as_bytes().first().is_some_and(outer)) {
        let message = format!("`{text}` cannot be the name of a zone");
        let help = format!(
            "a name begins with a-z or 0-9, goes on with those or `-`, `_`, `.`, and has at most {MAX_NAME} characters"
        );
        reader.error("bulkhead::zone-name", span.clone(), message, "not a name", help);
    }
}

fn refuse_unsupported(reader: &mut Reader, table: &DeTable<'_>) -> bool {
    let mut found = false;
    for (key, part) in UNSUPPORTED {
        if let Some((at, _)) = table.get_key_value(key) {
            found = true;
            let message = format!("`{key}` needs {part}, which this build does not have");
            let help = "select by `cidrs`, `cgroups` or `names`, or use a build that has it";
            reader.error("bulkhead::unsupported", at.span(), message, "not in this build", help);
        }
    }
    found
}

fn refuse_virtual(reader: &mut Reader, table: &DeTable<'_>) -> bool {
    let Some((key, _)) = table.get_key_value(VIRTUAL) else { return false };
    let message = "a zone has no virtual addresses: they are nobody's";
    let help = "declare them under `[virtual]`, once for all zones: `cidrs = [\"10.96.0.0/12\"]`";
    reader.error("bulkhead::virtual-in-zone", key.span(), message, "in a zone", help);
    true
}

fn read_default(reader: &mut Reader, value: &Value<'_>, zone: &mut Zone) {
    let Some(table) = reader.table(value, "`default`") else { return };
    reader.check_keys(table, &["ingress", "egress"], "`default`");
    if table.is_empty() {
        let help =
            "write `default = { ingress = \"allow\" }`, or leave it out: zones isolate both directions";
        let message = "`default` must not be empty";
        reader.error("bulkhead::empty-table", value.span(), message, "nothing in it", help);
    }
    let words = [("isolate", Posture::Isolate), ("allow", Posture::Allow)];
    for (key, posture) in [("ingress", &mut zone.ingress), ("egress", &mut zone.egress)] {
        if let Some(value) = table.get(key) {
            let what = format!("`default.{key}`");
            *posture = reader.word(value, &what, &words, "bulkhead::bad-default").unwrap_or_default();
        }
    }
}

fn check_except(
    reader: &mut Reader,
    table: &DeTable<'_>,
    cidrs: &[(Prefix, Text)],
    except: &[(Prefix, Text)],
) {
    let Some((key, _)) = table.get_key_value("except") else { return };
    if table.get("cidrs").is_none() {
        let help = "`except` takes addresses out of `cidrs`: give the zone `cidrs`, or leave `except` out";
        let message = "`except` without `cidrs`";
        return reader.error(
            "bulkhead::except-without-cidrs",
            key.span(),
            message,
            "nothing to except from",
            help,
        );
    }
    for (prefix, text) in except {
        if !cidrs.is_empty() && !cidrs.iter().any(|(cidr, _)| cidr.overlaps(prefix)) {
            let message = format!("`{}` is not in the zone's `cidrs`", text.text);
            let help = "leave it out, or correct the prefix: what is not in a zone need not be excepted";
            reader.error("bulkhead::except-outside", text.span.clone(), message, "takes nothing out", help);
        }
        if let Some((cidr, _)) = cidrs.iter().find(|(cidr, _)| prefix.covers_prefix(cidr)) {
            let message = format!("`{}` takes all of `{cidr}` out of the zone", text.text);
            let help = format!("leave `{cidr}` out of `cidrs`, or except a part of it");
            reader.warn("bulkhead::except-all", text.span.clone(), message, "takes all of it out", help);
        }
    }
}

fn patterns(reader: &mut Reader, table: &DeTable<'_>) -> Vec<CgroupPattern> {
    let Some(value) = table.get("cgroups") else { return Vec::new() };
    let mut found = Vec::new();
    for Text { text, span } in reader.strings(value, "`cgroups`") {
        let error = match CgroupPattern::new(&text) {
            Ok(pattern) => {
                found.push(pattern);
                continue;
            }
            Err(error) => error,
        };
        let trimmed = text.trim_matches('/');
        let (code, help) = match error {
            PatternError::Absolute if trimmed.is_empty() => {
                ("bulkhead::bad-cgroup", "write `**` for every cgroup".to_string())
            }
            PatternError::Absolute => {
                ("bulkhead::bad-cgroup", format!("write it as it is below the root: `{trimmed}`"))
            }
            PatternError::Empty => ("bulkhead::bad-cgroup", "write `**` for every cgroup".to_string()),
            PatternError::EmptyLevel => {
                ("bulkhead::bad-cgroup", "write one slash between levels and none at the end".to_string())
            }
            PatternError::Escaping => {
                ("bulkhead::bad-cgroup", "write the path from the cgroup root on, level by level".to_string())
            }
            PatternError::DoubleStar => (
                "bulkhead::bad-pattern",
                "write `*` within a level, or `**` alone between slashes, as in `**/payload`".to_string(),
            ),
            PatternError::Unsupported(_) => (
                "bulkhead::bad-pattern",
                "the wildcards are `*` within a level and `**` across levels".to_string(),
            ),
        };
        reader.error(code, span, error.to_string(), "in this path", help);
    }
    found
}
