//! Tables and colour for people. Nothing here is meant to be parsed: that is what JSON is for.

use std::fmt::Write;

/// Rows under a head, columns as wide as they need.
#[derive(Debug)]
pub(super) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(super) fn new(head: &[&str]) -> Self {
        Self { rows: vec![head.iter().map(|text| (*text).to_owned()).collect()] }
    }

    pub(super) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// The table as text; `indent` stands in front of each line.
    pub(super) fn render(&self, indent: &str) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let mut text = String::new();
        for row in &self.rows {
            let cells = row.iter().zip(&widths);
            let line: Vec<String> = cells.map(|(cell, width)| format!("{cell:width$}")).collect();
            // Writing into a String cannot fail.
            let _ = writeln!(text, "{indent}{}", line.join("  ").trim_end());
        }
        text
    }
}

/// A word of a verdict in its colour, where colour is wanted.
pub(super) fn verdict(word: &str, colored: bool) -> String {
    let code = match word {
        "allow" => "32",
        "audit" => "33",
        "deny" => "31",
        _ => return word.to_owned(),
    };
    if colored { format!("\x1b[{code}m{word}\x1b[0m") } else { word.to_owned() }
}

/// A word of a severity in its colour, where colour is wanted.
pub(super) fn severity(word: &str, colored: bool) -> String {
    let code = match word {
        "medium" => "33",
        "high" => "31",
        "critical" => "1;31",
        _ => return word.to_owned(),
    };
    if colored { format!("\x1b[{code}m{word}\x1b[0m") } else { word.to_owned() }
}

/// Seconds since 1970 as how long ago that was.
pub(super) fn ago(seconds: f64) -> String {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let passed = (now.as_secs_f64() - seconds).max(0.0);
    match passed {
        passed if passed < 120.0 => format!("{passed:.0} s ago"),
        passed if passed < 7200.0 => format!("{:.0} min ago", passed / 60.0),
        passed if passed < 172_800.0 => format!("{:.0} h ago", passed / 3600.0),
        passed => format!("{:.0} days ago", passed / 86_400.0),
    }
}

/// Seconds since 1970 as a day, as `2026-11-22`.
pub(super) fn date(seconds: i64) -> String {
    let (year, month, day) = bulkhead_detect::calendar::date(seconds);
    format!("{year:04}-{month:02}-{day:02}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_lines_end_clean() {
        let mut table = Table::new(&["ZONE", "N"]);
        table.row(["a-long-name".to_owned(), "1".to_owned()]);
        table.row(["ü".to_owned()]);
        assert_eq!(table.render(" "), " ZONE         N\n a-long-name  1\n ü\n");
    }

    #[test]
    fn colour_only_where_wanted() {
        assert_eq!(verdict("deny", false), "deny");
        assert_eq!(verdict("deny", true), "\x1b[31mdeny\x1b[0m");
    }
}
