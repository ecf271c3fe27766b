//! Zones that only names of peers are in, where a rule needs addresses or workloads.

use std::sync::Arc;

use super::{Zones, rules};
use crate::ast::FileAst;
use crate::diagnostic::Diagnostic;
use crate::model::{Action, Selector, Zone};

/// Warns of allows towards zones that nobody can be reached in: a name tells who comes, not where to go.
pub(super) fn check(files: &[Arc<FileAst>], zones: &Zones<'_>, diagnostics: &mut Vec<Diagnostic>) {
    for (file, rule) in rules(files).filter(|(_, rule)| rule.rule.action == Action::Allow) {
        for selector in &rule.rule.to {
            let Selector::Zone(name) = selector else { continue };
            let Some((_, zone)) = zones.get(&**name).filter(|(_, zone)| has_names_only(&zone.zone)) else {
                continue;
            };
            // Of a name that stands at both ends, the last place is `to`.
            let Some(text) = rule.zones.iter().rev().find(|text| text.text == **name) else { continue };
            let message = format!("nobody can be reached in zone `{name}`: it has `names` only");
            let help = format!(
                "give the zone in {} `cidrs` or `cgroups` too; names tell who comes, not where to go",
                zone.zone.location
            );
            let (code, span) = ("bulkhead::names-only", text.span.clone());
            let found = Diagnostic::error(code, &file.source, span, message, "known by name only");
            diagnostics.push(found.help(help).warning());
        }
    }
}

fn has_names_only(zone: &Zone) -> bool {
    !zone.names.is_empty() && zone.cidrs.is_empty() && zone.cgroups.is_empty()
}
