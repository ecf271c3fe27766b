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
    // Days are counted from the first of March of the year 0, so that a leap day ends its year
    // (H. Hinnant, "chrono-compatible low-level date algorithms").
    let days = seconds.div_euclid(86_400) + 719_468;
    let (era, day_of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
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
    fn days_have_their_names() {
        let days = [
            (0, "1970-01-01"),
            (951_782_400, "2000-02-29"),
            (1_795_348_799, "2026-11-22"),
            (4_107_542_400, "2100-03-01"),
            (-1, "1969-12-31"),
        ];
        for (seconds, name) in days {
            assert_eq!(date(seconds), name);
        }
    }

    #[test]
    fn colour_only_where_wanted() {
        assert_eq!(verdict("deny", false), "deny");
        assert_eq!(verdict("deny", true), "\x1b[31mdeny\x1b[0m");
    }
}
