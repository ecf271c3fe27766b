//! Virtual addresses of all files: each declared once, and none of them anybody's.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use crate::ast::{FileAst, ZoneAst};
use crate::diagnostic::Diagnostic;
use crate::prefix::Prefix;
use crate::reader::Text;

pub(super) fn check(files: &[Arc<FileAst>], diagnostics: &mut Vec<Diagnostic>) {
    let mut all: Vec<Virtual<'_>> = Vec::new();
    for file in files {
        all.extend(file.virtuals.iter().map(|(prefix, text)| Virtual { file, prefix: *prefix, text }));
    }
    twice(&all, diagnostics);
    let ranges = Ranges::new(&all);
    for zone in files.iter().flat_map(|file| &file.zones) {
        ranges.meet(zone, diagnostics);
    }
}

/// A virtual prefix, and where it is declared.
#[derive(Clone, Copy)]
struct Virtual<'a> {
    file: &'a FileAst,
    prefix: Prefix,
    text: &'a Text,
}

/// The same prefix in two files. Within one, whoever reads it says so.
fn twice(all: &[Virtual<'_>], diagnostics: &mut Vec<Diagnostic>) {
    let mut firsts: HashMap<Prefix, &Virtual<'_>> = HashMap::new();
    for this in all {
        let first = firsts.entry(this.prefix).or_insert(this);
        if Arc::ptr_eq(&first.file.source, &this.file.source) {
            continue;
        }
        let (line, _) = first.file.source.position(first.text.span.start);
        let message = format!("`{}` is declared virtual twice", this.prefix);
        let help = format!("it is declared in {}:{line} too: take one of them out", first.file.source.name());
        let span = this.text.span.clone();
        let code = "bulkhead::duplicate-entry";
        let diagnostic = Diagnostic::error(code, &this.file.source, span, message, "the second time");
        diagnostics.push(diagnostic.help(help));
    }
}

/// Virtual prefixes in address order, for zones may have a hundred thousand to be compared with.
struct Ranges<'a> {
    sorted: Vec<Virtual<'a>>,
    /// The lengths that occur.
    lengths: BTreeSet<u8>,
}

impl<'a> Ranges<'a> {
    fn new(all: &[Virtual<'a>]) -> Self {
        let mut sorted = all.to_vec();
        sorted.sort_by_key(|this| this.prefix);
        sorted.dedup_by_key(|this| this.prefix);
        let lengths = sorted.iter().map(|this| this.prefix.len).collect();
        Self { sorted, lengths }
    }

    /// Notes, for every virtual prefix of which the zone holds a part, the first such part.
    fn meet(&self, zone: &ZoneAst, diagnostics: &mut Vec<Diagnostic>) {
        let body = &zone.zone;
        let mut noted: Vec<Prefix> = Vec::new();
        for cidr in &body.cidrs {
            for this in self.near(cidr) {
                let Some(common) = this.prefix.intersection(cidr) else { continue };
                if !noted.contains(&this.prefix) && !common.is_covered_by(&body.except) {
                    noted.push(this.prefix);
                    diagnostics.push(overlap(this, zone, cidr));
                }
            }
        }
    }

    /// The virtual prefixes around `cidr` and those inside it.
    fn near(&self, cidr: &Prefix) -> impl Iterator<Item = &Virtual<'a>> {
        let around = self.lengths.range(..=cidr.len).filter_map(|len| {
            let wanted = Prefix::new(cidr.addr, *len);
            let found = self.sorted.binary_search_by_key(&wanted, |this| this.prefix).ok()?;
            self.sorted.get(found)
        });
        let from = self.sorted.partition_point(|this| this.prefix <= *cidr);
        let inside = self.sorted.iter().skip(from).take_while(|this| cidr.covers_prefix(&this.prefix));
        around.chain(inside)
    }
}

fn overlap(this: &Virtual<'_>, zone: &ZoneAst, cidr: &Prefix) -> Diagnostic {
    let (prefix, name, place) = (this.prefix, &zone.zone.name, &zone.zone.location);
    let message = format!("`{prefix}` is virtual, and zone `{name}` has `{cidr}`");
    let help = if cidr.covers_prefix(&prefix) && *cidr != prefix {
        format!(
            "an address is either virtual or somebody's: write `except = [\"{prefix}\"]` in the zone \
             ({place}), or take the prefix out here"
        )
    } else {
        format!(
            "an address is either virtual or somebody's: take `{cidr}` out of the zone ({place}), or \
             declare less than `{prefix}`"
        )
    };
    let (source, span) = (&this.file.source, this.text.span.clone());
    Diagnostic::error("bulkhead::virtual-overlap", source, span, message, "somebody's too").help(help)
}
