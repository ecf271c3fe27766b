//! What the configuration says about findings.

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;

use bulkhead_detect::findings::{Kind, Settings};
use serde::Deserialize;
use toml::Spanned;

const DAY: Duration = Duration::from_secs(86_400);

/// See the fields.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct FindingsConfig {
    /// What the machines are told.
    pub settings: Settings,
    /// File that every change of a finding is a line of JSON in; `None` is none.
    pub log: Option<PathBuf>,
}

/// The table as it stands in the file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Table {
    log: Option<Spanned<String>>,
    off: Option<Vec<Spanned<String>>>,
    learning_days: Option<u32>,
    certificate_days: Option<u32>,
    certificate_urgent_days: Option<u32>,
    lowest_tls: Option<Spanned<String>>,
}

/// What the command line says about findings. `None` leaves the file's word.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct FindingsFlags {
    /// File that every change of a finding is a line of JSON in, or `off`
    #[arg(long, value_name = "FILE|off")]
    pub findings_log: Option<String>,
    /// Kinds of findings that nobody wants to hear of, as `new-edge,unusual-rate`
    #[arg(long, value_name = "KINDS")]
    pub findings_off: Option<String>,
    /// Days for which edges are learned before a new one is a finding
    #[arg(long, value_name = "N")]
    pub findings_learning_days: Option<u32>,
    /// Days before its end from which on a certificate is a finding
    #[arg(long, value_name = "N")]
    pub findings_certificate_days: Option<u32>,
    /// Days before its end from which on it is a grave one
    #[arg(long, value_name = "N")]
    pub findings_certificate_urgent_days: Option<u32>,
    /// Lowest TLS version that is no finding: 1.0, 1.1, 1.2, 1.3
    #[arg(long, value_name = "VERSION")]
    pub findings_lowest_tls: Option<String>,
}

impl Table {
    /// Puts what is said into `config`. The error has its place in the file.
    pub(super) fn apply(self, config: &mut FindingsConfig) -> Result<(), (Range<usize>, String)> {
        if let Some(log) = self.log {
            config.log = log_file(log.as_ref()).map_err(|message| (log.span(), message))?;
        }
        if let Some(list) = self.off {
            let kinds = list.iter().map(|word| kind(word.as_ref()).map_err(|message| (word.span(), message)));
            config.settings.off = kinds.collect::<Result<_, _>>()?;
        }
        config.days(self.learning_days, self.certificate_days, self.certificate_urgent_days);
        if let Some(lowest) = self.lowest_tls {
            config.settings.tls_floor =
                version(lowest.as_ref()).map_err(|message| (lowest.span(), message))?;
        }
        Ok(())
    }
}

impl FindingsConfig {
    /// Lets the command line have the last word. The error names the flag.
    pub(super) fn override_with(&mut self, flags: &FindingsFlags) -> Result<(), (&'static str, String)> {
        if let Some(log) = &flags.findings_log {
            self.log = log_file(log).map_err(|message| ("--findings-log", message))?;
        }
        if let Some(list) = &flags.findings_off {
            let words = list.split(',').map(str::trim).filter(|word| !word.is_empty());
            let kinds: Result<BTreeSet<Kind>, String> = words.map(kind).collect();
            self.settings.off = kinds.map_err(|message| ("--findings-off", message))?;
        }
        self.days(
            flags.findings_learning_days,
            flags.findings_certificate_days,
            flags.findings_certificate_urgent_days,
        );
        if let Some(lowest) = &flags.findings_lowest_tls {
            self.settings.tls_floor =
                version(lowest).map_err(|message| ("--findings-lowest-tls", message))?;
        }
        Ok(())
    }

    fn days(&mut self, learning: Option<u32>, soon: Option<u32>, urgent: Option<u32>) {
        let settings = &mut self.settings;
        for (slot, days) in [
            (&mut settings.learning, learning),
            (&mut settings.certificate_soon, soon),
            (&mut settings.certificate_urgent, urgent),
        ] {
            super::replace(slot, days.map(|days| DAY.saturating_mul(days)));
        }
    }
}

fn log_file(text: &str) -> Result<Option<PathBuf>, String> {
    match text {
        "off" => Ok(None),
        text if text.starts_with('/') => Ok(Some(PathBuf::from(text))),
        text => Err(format!("`{text}` is neither an absolute path nor off")),
    }
}

fn kind(word: &str) -> Result<Kind, String> {
    Kind::from_word(word).ok_or_else(|| {
        let all = Kind::ALL.iter().map(|kind| kind.as_str()).collect::<Vec<_>>().join(", ");
        format!("`{word}` is no kind of finding; there are {all}")
    })
}

fn version(text: &str) -> Result<u8, String> {
    match text {
        "1.0" => Ok(1),
        "1.1" => Ok(2),
        "1.2" => Ok(3),
        "1.3" => Ok(4),
        _ => Err(format!("`{text}` is no version of TLS; use 1.0, 1.1, 1.2 or 1.3")),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn flags_win_and_mistakes_name_what_would_be_right() {
        let mut config = FindingsConfig::default();
        let flags = FindingsFlags {
            findings_log: Some("/var/log/f".to_owned()),
            findings_off: Some("new-edge, syn-flood".to_owned()),
            findings_learning_days: Some(0),
            findings_lowest_tls: Some("1.3".to_owned()),
            ..FindingsFlags::default()
        };
        config.override_with(&flags).unwrap();
        assert_eq!(config.log, Some("/var/log/f".into()));
        assert_eq!(config.settings.off, [Kind::NewEdge, Kind::SynFlood].into());
        assert_eq!((config.settings.learning, config.settings.tls_floor), (Duration::ZERO, 4));
        assert_eq!(config.settings.certificate_soon, DAY * 14);
        let bad = FindingsFlags { findings_off: Some("all".to_owned()), ..FindingsFlags::default() };
        assert!(config.override_with(&bad).unwrap_err().1.contains("plaintext"));
        let bad = FindingsFlags { findings_log: Some("f".to_owned()), ..FindingsFlags::default() };
        assert!(config.override_with(&bad).unwrap_err().1.contains("absolute"));
    }
}
