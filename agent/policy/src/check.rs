//! All files together: what one file says and another contradicts.

use std::collections::HashMap;
use std::sync::Arc;

use crate::ast::{FileAst, RuleAst, VIRTUAL, ZoneAst};
use crate::diagnostic::Diagnostic;
use crate::model::{Model, Rule};
use crate::source::Source;
use crate::suggest::closest;

mod levels;
mod names;
mod virtuals;

/// How many zones a hint lists.
const LISTED: usize = 12;

/// The model, and everything that is wrong with it. The model is of use only if nothing is.
pub(crate) fn check(files: &[Arc<FileAst>]) -> (Model, Vec<Diagnostic>) {
    let mut diagnostics: Vec<Diagnostic> = files.iter().flat_map(|file| file.diagnostics.clone()).collect();
    let zones = zones(files, &mut diagnostics);
    rule_names(files, &mut diagnostics);
    // What a broken file defines is not known, so nothing can be called unknown.
    if !files.iter().any(|file| file.broken) {
        unknown_zones(files, &zones, &mut diagnostics);
    }
    levels::check(files, &mut diagnostics);
    names::check(files, &zones, &mut diagnostics);
    virtuals::check(files, &mut diagnostics);
    let rules = files.iter().flat_map(|file| &file.rules).map(|rule| Arc::clone(&rule.rule)).collect();
    let zones = zones.values().map(|(_, zone)| Arc::clone(&zone.zone)).collect();
    let virtuals = files.iter().flat_map(|file| &file.virtuals).map(|(prefix, _)| *prefix).collect();
    (Model::new(zones, rules).with_virtuals(virtuals), diagnostics)
}

type Zones<'a> = HashMap<&'a str, (&'a Arc<Source>, &'a ZoneAst)>;

fn zones<'a>(files: &'a [Arc<FileAst>], diagnostics: &mut Vec<Diagnostic>) -> Zones<'a> {
    let mut zones: Zones<'a> = HashMap::new();
    for file in files {
        for zone in &file.zones {
            let name = &*zone.zone.name;
            match zones.get(name) {
                Some((_, first)) => {
                    let message = format!("zone `{name}` is defined twice");
                    let span = zone.span.clone();
                    let diagnostic = Diagnostic::error(
                        "bulkhead::duplicate-zone",
                        &file.source,
                        span,
                        message,
                        "the second time",
                    );
                    let place = &first.zone.location;
                    diagnostics.push(
                        diagnostic.help(format!("it is defined in {place}: join the two, or rename one")),
                    );
                }
                None => _ = zones.insert(name, (&file.source, zone)),
            }
        }
    }
    zones
}

fn rule_names(files: &[Arc<FileAst>], diagnostics: &mut Vec<Diagnostic>) {
    let mut names: HashMap<&str, &Rule> = HashMap::new();
    for (file, rule) in rules(files) {
        let Some(name) = &rule.name else { continue };
        match names.get(name.text.as_str()) {
            Some(first) => {
                let message = format!("two rules are named `{}`", name.text);
                let span = name.span.clone();
                let diagnostic = Diagnostic::error(
                    "bulkhead::duplicate-rule",
                    &file.source,
                    span,
                    message,
                    "the second one",
                );
                let help =
                    format!("the first is in {}: rename one, so that verdicts can name it", first.location);
                diagnostics.push(diagnostic.help(help));
            }
            None => _ = names.insert(&name.text, &rule.rule),
        }
    }
}

fn unknown_zones(files: &[Arc<FileAst>], zones: &Zones<'_>, diagnostics: &mut Vec<Diagnostic>) {
    for (file, rule) in rules(files) {
        for name in rule.zones.iter().filter(|name| !zones.contains_key(name.text.as_str())) {
            let help = suggest_zone(&name.text, zones.keys().copied());
            let message = format!("unknown zone `{}`", name.text);
            let span = name.span.clone();
            let diagnostic = Diagnostic::error(
                "bulkhead::unknown-zone",
                &file.source,
                span,
                message,
                "no zone of this name",
            );
            diagnostics.push(diagnostic.help(help));
        }
    }
}

/// What to write instead of a zone that is not there.
pub(crate) fn suggest_zone<'a>(name: &str, zones: impl Iterator<Item = &'a str>) -> String {
    if name == VIRTUAL {
        return "a virtual address is nobody's: name the zone that receives after translation".into();
    }
    let mut known: Vec<&str> = zones.collect();
    known.sort_unstable();
    let built_in = ["any", "world", "node"];
    if let Some(near) = closest(name, known.iter().copied().chain(built_in)) {
        return format!("did you mean `{near}`?");
    }
    match known.len() {
        0 => format!("define it with `[zone.{name}]`, or use any, world or node"),
        1..=LISTED => format!("there are {}; define it with `[zone.{name}]`", known.join(", ")),
        more => format!("none of the {more} zones has a name like it; define it with `[zone.{name}]`"),
    }
}

fn rules(files: &[Arc<FileAst>]) -> impl Iterator<Item = (&FileAst, &RuleAst)> {
    files.iter().flat_map(|file| file.rules.iter().map(move |rule| (&**file, rule)))
}
