//! Days of the calendar, in UTC.

/// The day on which so many seconds since 1970 end: year, month, day of the month.
///
/// Days are counted from the first of March of the year 0, so that a leap day ends its year (H. Hinnant,
/// "chrono-compatible low-level date algorithms").
pub fn date(seconds: i64) -> (i64, i64, i64) {
    let days = seconds.div_euclid(86_400) + 719_468;
    let (era, day_of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::date;

    #[test]
    fn days_have_their_names() {
        let days = [
            (0, (1970, 1, 1)),
            (951_782_400, (2000, 2, 29)),
            (1_795_348_799, (2026, 11, 22)),
            (4_107_542_400, (2100, 3, 1)),
            (-1, (1969, 12, 31)),
        ];
        for (seconds, day) in days {
            assert_eq!(date(seconds), day);
        }
    }
}
