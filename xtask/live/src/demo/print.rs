//! What is seen on the terminal: headings, a table with aligned columns, a mark for each claim.
//!
//! Colour only on a terminal, and never where `NO_COLOR` is set.

use std::io::{IsTerminal, Write};

/// Writes to standard output.
pub(crate) struct Printer {
    colored: bool,
    wrong: u64,
    right: u64,
}

/// Cells of a table's row, and whether the row came out as expected.
pub(crate) type Row = (Vec<String>, bool);

impl Printer {
    /// For this process' standard output.
    pub(crate) fn new() -> Printer {
        let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Printer { colored: std::io::stdout().is_terminal() && !plain, wrong: 0, right: 0 }
    }

    /// How many claims held, and how many did not.
    pub(crate) fn score(&self) -> (u64, u64) {
        (self.right, self.wrong)
    }

    /// A new part of the story.
    pub(crate) fn heading(&self, text: &str) {
        say(&format!("\n{}", self.paint("1", text)));
    }

    /// A line of text.
    pub(crate) fn text(&self, text: &str) {
        say(&format!("   {text}"));
    }

    /// A line of less weight.
    pub(crate) fn faint(&self, text: &str) {
        say(&format!("   {}", self.paint("2", text)));
    }

    /// A claim that can turn out wrong.
    pub(crate) fn claim(&mut self, text: &str, holds: bool) {
        self.count(holds);
        say(&format!(" {} {text}", self.mark(holds)));
    }

    /// A table; each row is a claim.
    pub(crate) fn table(&mut self, head: &[&str], rows: &[Row]) {
        let mut widths: Vec<usize> = head.iter().map(|cell| cell.chars().count()).collect();
        for (cells, _) in rows {
            for (width, cell) in widths.iter_mut().zip(cells) {
                *width = (*width).max(cell.chars().count());
            }
        }
        let line = |cells: &mut dyn Iterator<Item = &str>| {
            let padded = cells.zip(&widths).map(|(cell, &width)| format!("{cell:<width$}"));
            padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
        };
        self.faint(&line(&mut head.iter().copied()));
        for (cells, holds) in rows {
            self.count(*holds);
            let text = line(&mut cells.iter().map(String::as_str));
            let text = if *holds { text } else { self.paint("31", &text) };
            say(&format!(" {} {text}", self.mark(*holds)));
        }
    }

    fn count(&mut self, holds: bool) {
        if holds {
            self.right += 1;
        } else {
            self.wrong += 1;
        }
    }

    fn mark(&self, holds: bool) -> String {
        if holds { self.paint("32", "✓") } else { self.paint("1;31", "✗") }
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.colored { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// A reader that closed the pipe is no reason to leave anything behind.
pub(crate) fn say(text: &str) {
    let _ = writeln!(std::io::stdout().lock(), "{text}");
}
