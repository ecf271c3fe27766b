//! One zone file by itself: everything that can be known, and everything that is wrong, without the
//! other files.

use std::ops::Range;
use std::sync::Arc;

use bulkhead_abi::Demand;
use toml::de::DeTable;

use crate::load::Capabilities;
use crate::model::{Rule, Zone};
use crate::prefix::Prefix;
use crate::reader::{Reader, Text};
use crate::source::Source;

mod mutual;
mod names;
mod prefixes;
mod rule;
mod syntax;
mod tls;
mod virtuals;
mod zone;

pub(crate) use syntax::document;
pub(crate) use zone::VIRTUAL;

/// What a file says.
#[derive(Debug)]
pub(crate) struct FileAst {
    pub(crate) source: Arc<Source>,
    pub(crate) zones: Vec<ZoneAst>,
    pub(crate) rules: Vec<RuleAst>,
    /// Virtual addresses, with their places.
    pub(crate) virtuals: Vec<(Prefix, Text)>,
    /// Some of the file could not be read, so what it names is not known.
    pub(crate) broken: bool,
    pub(crate) diagnostics: Vec<crate::diagnostic::Diagnostic>,
}

/// A zone, with the place of its name.
#[derive(Debug)]
pub(crate) struct ZoneAst {
    pub(crate) zone: Arc<Zone>,
    pub(crate) span: Range<usize>,
}

/// A rule, with the places that other files can make wrong.
#[derive(Debug)]
pub(crate) struct RuleAst {
    pub(crate) rule: Arc<Rule>,
    /// The zones that it names.
    pub(crate) zones: Vec<Text>,
    /// Its name.
    pub(crate) name: Option<Text>,
    /// How its flows are to be encrypted, if it says so.
    pub(crate) tls: Option<(Demand, Range<usize>)>,
}

impl FileAst {
    /// Reads a file.
    pub(crate) fn parse(source: &Arc<Source>, capabilities: &Capabilities) -> Self {
        let mut reader = Reader::new(source);
        let mut ast = Self {
            source: Arc::clone(source),
            zones: Vec::new(),
            rules: Vec::new(),
            virtuals: Vec::new(),
            broken: false,
            diagnostics: Vec::new(),
        };
        match document(&mut reader, source) {
            Some(table) => ast.read(&mut reader, &table, capabilities),
            None => ast.broken = true,
        }
        ast.diagnostics = reader.diagnostics;
        ast
    }

    fn read(&mut self, reader: &mut Reader, table: &DeTable<'_>, capabilities: &Capabilities) {
        reader.check_keys(table, &["zone", VIRTUAL, "allow", "deny"], "a zone file");
        if let Some(zones) = table.get("zone") {
            match reader.table(zones, "`zone`") {
                Some(zones) => {
                    let mut zones: Vec<_> = zones.iter().collect();
                    zones.sort_by_key(|(name, _)| name.span().start);
                    self.zones
                        .extend(zones.into_iter().filter_map(|(name, body)| zone::read(reader, name, body)));
                }
                None => self.broken = true,
            }
        }
        if let Some(value) = table.get(VIRTUAL) {
            self.virtuals = virtuals::read(reader, value);
        }
        for (key, action) in rule::ACTIONS {
            let Some(list) = table.get(key) else { continue };
            for (span, body) in reader.tables(list, key) {
                self.rules.push(rule::read(reader, action, span, body, capabilities));
            }
        }
    }
}
