//! A file as TOML.

use std::ops::Range;

use toml::de::DeTable;

use crate::diagnostic::Diagnostic;
use crate::reader::Reader;
use crate::source::Source;

/// The file as TOML, or every mistake of syntax at once.
pub(crate) fn document<'i>(reader: &mut Reader, source: &'i Source) -> Option<DeTable<'i>> {
    if let Some(at) = source.invalid() {
        let (span, help) = (at..at + '\u{fffd}'.len_utf8(), "save the file as UTF-8");
        reader.error("bulkhead::not-utf8", span, "the file is not UTF-8", "here", help);
        return None;
    }
    let (table, errors) = DeTable::parse_recoverable(source.text());
    let valid = errors.is_empty();
    // Under a header that stands twice, every key that both have is an error too: one is enough.
    let mut repeated: Option<usize> = None;
    for error in errors {
        let span = error.span().unwrap_or(0..0);
        if !error.message().contains("duplicate key") {
            let help = "the file must be TOML: see the line at the caret, and the one before it";
            let message = format!("not valid TOML: {}", error.message());
            reader.error("bulkhead::syntax", span, message, "here", help);
        } else if let Some(header) = header_at(source.text(), span.start) {
            repeated = Some(header.end);
            duplicate_header(reader, source.text(), &header, span);
        } else if !repeated.is_some_and(|end| same_section(source.text(), end, span.start)) {
            let name = source.text().get(span.clone()).unwrap_or_default().to_string();
            let help = "a key is written once: take one of them out, or join the two";
            let message = format!("the key `{name}` stands twice");
            reader.error("bulkhead::duplicate-key", span, message, "the second time", help);
        }
    }
    valid.then(|| table.into_inner())
}

/// The line around `at`, if it is a header in brackets.
fn header_at(text: &str, at: usize) -> Option<Range<usize>> {
    let start = text.get(..at)?.rfind('\n').map_or(0, |newline| newline + 1);
    let end = text.get(at..)?.find('\n').map_or(text.len(), |newline| at + newline);
    text.get(start..end)?.trim_start().starts_with('[').then_some(start..end)
}

/// Whether no header stands between the two.
fn same_section(text: &str, from: usize, to: usize) -> bool {
    text.get(from..to).is_some_and(|between| !between.lines().any(|line| line.trim_start().starts_with('[')))
}

fn duplicate_header(reader: &mut Reader, text: &str, header: &Range<usize>, span: Range<usize>) {
    let line = text.get(header.clone()).unwrap_or_default().trim();
    let name = text.get(span.clone()).unwrap_or_default().to_string();
    let is_zone = line.starts_with("[zone.") || line.starts_with("[ zone");
    let (code, message) = if is_zone {
        ("bulkhead::duplicate-zone", format!("zone `{name}` is defined twice"))
    } else {
        ("bulkhead::duplicate-key", format!("`{name}` stands twice"))
    };
    let mut diagnostic = Diagnostic::error(code, &reader.source, span.clone(), message, "the second time")
        .help("join the two, or rename one");
    if let Some(first) = text.get(..header.start).and_then(|before| before.find(line)) {
        let within = span.start.saturating_sub(header.start);
        diagnostic = diagnostic.also(first + within..first + within + span.len(), "the first time");
    }
    reader.diagnostics.push(diagnostic);
}
