//! TOML values to plain ones, with a diagnostic for everything that is not as it should be.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::diagnostic::Diagnostic;
use crate::model::Location;
use crate::source::Source;
use crate::suggest::closest;

/// A TOML value with its place.
pub(crate) type Value<'i> = Spanned<DeValue<'i>>;

/// A string with its place.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Text {
    pub(crate) text: String,
    pub(crate) span: Range<usize>,
}

/// Reads one file and collects what is wrong with it.
#[derive(Debug)]
pub(crate) struct Reader {
    pub(crate) source: Arc<Source>,
    pub(crate) diagnostics: Vec<Diagnostic>,
}

impl Reader {
    pub(crate) fn new(source: &Arc<Source>) -> Self {
        Self { source: Arc::clone(source), diagnostics: Vec::new() }
    }

    /// Notes an error.
    pub(crate) fn error(
        &mut self,
        code: &'static str,
        span: Range<usize>,
        message: impl Into<String>,
        label: impl Into<String>,
        help: impl Into<String>,
    ) {
        let diagnostic = Diagnostic::error(code, &self.source, span, message, label).help(help);
        self.diagnostics.push(diagnostic);
    }

    /// Notes a warning.
    pub(crate) fn warn(
        &mut self,
        code: &'static str,
        span: Range<usize>,
        message: impl Into<String>,
        label: impl Into<String>,
        help: impl Into<String>,
    ) {
        let diagnostic = Diagnostic::error(code, &self.source, span, message, label).help(help);
        self.diagnostics.push(diagnostic.warning());
    }

    /// Where a byte of the file is.
    pub(crate) fn location(&self, byte: usize) -> Location {
        let (line, column) = self.source.position(byte);
        Location { file: self.source.name().into(), line, column }
    }

    /// Notes keys that are not known here. `noun` is what the table is.
    pub(crate) fn check_keys(&mut self, table: &DeTable<'_>, known: &[&str], noun: &str) {
        for key in table.keys().filter(|key| !known.contains(&&**key.get_ref())) {
            let name = key.get_ref().to_string();
            let help = match closest(&name, known.iter().copied()) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("{noun} has: {}", known.join(", ")),
            };
            let message = format!("unknown key `{name}` in {noun}");
            self.error("bulkhead::unknown-key", key.span(), message, "not known here", help);
        }
    }

    /// The value as a table.
    pub(crate) fn table<'v, 'i>(&mut self, value: &'v Value<'i>, what: &str) -> Option<&'v DeTable<'i>> {
        match value.get_ref() {
            DeValue::Table(table) => Some(table),
            other => self.wrong_type(value, other, what, "a table"),
        }
    }

    /// The value as a list of tables, as `[[…]]` makes one.
    pub(crate) fn tables<'v, 'i>(
        &mut self,
        value: &'v Value<'i>,
        key: &str,
    ) -> Vec<(Range<usize>, &'v DeTable<'i>)> {
        let DeValue::Array(array) = value.get_ref() else {
            let help = format!("write `[[{key}]]` with double brackets, once for each");
            let message = format!("`{key}` is a list of tables");
            self.error("bulkhead::wrong-type", value.span(), message, "not a list of tables", help);
            return Vec::new();
        };
        let mut tables = Vec::new();
        for item in array.iter() {
            if let Some(table) = self.table(item, &format!("each `{key}`")) {
                tables.push((item.span(), table));
            }
        }
        tables
    }

    /// The value as a string.
    pub(crate) fn string(&mut self, value: &Value<'_>, what: &str) -> Option<Text> {
        match value.get_ref() {
            DeValue::String(text) => Some(Text { text: text.to_string(), span: value.span() }),
            other => self.wrong_type(value, other, what, "a string"),
        }
    }

    /// The value as a boolean.
    pub(crate) fn boolean(&mut self, value: &Value<'_>, what: &str) -> Option<bool> {
        match value.get_ref() {
            DeValue::Boolean(yes) => Some(*yes),
            other => self.wrong_type(value, other, what, "true or false"),
        }
    }

    /// The value as a list of strings that is not empty and names nothing twice.
    pub(crate) fn strings(&mut self, value: &Value<'_>, what: &str) -> Vec<Text> {
        let DeValue::Array(array) = value.get_ref() else {
            if let DeValue::String(text) = value.get_ref() {
                let message = format!("{what} must be a list of strings");
                let help = format!("write `[\"{text}\"]`");
                self.error("bulkhead::wrong-type", value.span(), message, "one string", help);
            } else {
                self.wrong_type::<()>(value, value.get_ref(), what, "a list of strings");
            }
            return Vec::new();
        };
        if array.is_empty() {
            let message = format!("{what} must not be empty");
            let help = "list at least one, or leave the key out: an empty list never means everything";
            self.error("bulkhead::empty-list", value.span(), message, "nothing in it", help);
        }
        let mut texts: Vec<Text> = Vec::new();
        // Lists of addresses are long: looked up, not searched.
        let mut known: HashMap<String, Range<usize>> = HashMap::new();
        for item in array.iter() {
            let Some(text) = self.string(item, &format!("each entry of {what}")) else { continue };
            match known.get(&text.text) {
                Some(first) => {
                    let message = format!("`{}` stands twice in {what}", text.text);
                    let diagnostic = Diagnostic::error(
                        "bulkhead::duplicate-entry",
                        &self.source,
                        text.span,
                        message,
                        "the second time",
                    );
                    let diagnostic = diagnostic.also(first.clone(), "the first time");
                    self.diagnostics.push(diagnostic.help("take one of them out"));
                }
                None => {
                    known.insert(text.text.clone(), text.span.clone());
                    texts.push(text);
                }
            }
        }
        texts
    }

    /// The value as one string or a list of them.
    pub(crate) fn string_or_list(&mut self, value: &Value<'_>, what: &str) -> Vec<Text> {
        match value.get_ref() {
            DeValue::String(_) => self.string(value, what).into_iter().collect(),
            DeValue::Array(_) => self.strings(value, what),
            other => {
                self.wrong_type::<()>(value, other, what, "a string or a list of strings");
                Vec::new()
            }
        }
    }

    /// The value as one of a few words.
    pub(crate) fn word<T: Copy>(
        &mut self,
        value: &Value<'_>,
        what: &str,
        words: &[(&str, T)],
        code: &'static str,
    ) -> Option<T> {
        let Text { text, span } = self.string(value, what)?;
        if let Some((_, meaning)) = words.iter().find(|(word, _)| *word == text) {
            return Some(*meaning);
        }
        let known: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        let help = match closest(&text, known.iter().copied()) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("write one of: {}", known.join(", ")),
        };
        self.error(code, span, format!("{what} cannot be `{text}`"), "not a word for it", help);
        None
    }

    pub(crate) fn wrong_type<T>(
        &mut self,
        value: &Value<'_>,
        found: &DeValue<'_>,
        what: &str,
        wanted: &str,
    ) -> Option<T> {
        let label = format!("this is {}", type_name(found));
        let message = format!("{what} must be {wanted}");
        let help = match wanted {
            "a table" => "write it under a header in brackets, or as `{ key = value }`",
            "true or false" => "write `true` or `false`, without quotes",
            "a string" => "put it in double quotes",
            _ => "put each string in double quotes, and a list of them in brackets",
        };
        self.error("bulkhead::wrong-type", value.span(), message, label, help);
        None
    }
}

fn type_name(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "a number",
        DeValue::Float(_) => "a number",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}
