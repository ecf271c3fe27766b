//! The agent's own log, on standard error, as text or as one JSON object a line.
//!
//! Levels are a contract: WARN is for what somebody should look at, INFO tells the agent's life and
//! names zones and rules, addresses appear at DEBUG, single packets at TRACE.

use std::io::IsTerminal;

use tracing_subscriber::Layer;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};

use crate::config::LogFormat;

/// Why the log cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The level is none.
    #[error("`{0}` is not a log level; use error, warn, info, debug, trace, or `target=level` directives")]
    Level(String),
    /// A second set-up in one process.
    #[error("the log is already set up: {0}")]
    Twice(#[from] TryInitError),
}

/// Sends what the process logs to standard error from now on.
pub fn init(format: LogFormat, level: &str) -> Result<(), LogError> {
    let filter = targets(level)?;
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_target(false);
    let layer = match format {
        LogFormat::Text => lines.with_ansi(std::io::stderr().is_terminal()).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).with_current_span(false).boxed(),
    };
    tracing_subscriber::registry().with(layer.with_filter(filter)).try_init()?;
    Ok(())
}

/// Whether `level` can be given to [`init`].
pub fn check_level(level: &str) -> Result<(), LogError> {
    targets(level).map(|_| ())
}

fn targets(level: &str) -> Result<Targets, LogError> {
    let error = || LogError::Level(level.to_owned());
    // A bare word that is no level would be read as a target and log everything of it.
    let words = level.split(',').filter(|word| !word.contains('='));
    for word in words {
        word.trim().parse::<tracing::Level>().map_err(|_| error())?;
    }
    level.parse().map_err(|_| error())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_and_directives_are_told_from_typing_errors() {
        assert!(check_level("info").is_ok());
        assert!(check_level("info,bulkhead::watch=debug").is_ok());
        assert!(check_level("inof").is_err());
        assert!(check_level("info,bulkhead=loud").is_err());
        assert!(check_level("").is_err());
    }
}
