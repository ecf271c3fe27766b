//! The configuration file: what it may say, and how a mistake in it is shown.

use std::net::SocketAddr;
use std::ops::Range;
use std::path::{Path, PathBuf};

use bulkhead_abi::limits;
use bulkhead_abi::verdict::Side;
use serde::Deserialize;
use toml::Spanned;

use super::{Config, LogFormat, Mode, Sandbox, findings, guard, ports, proxy};

/// Why the agent's configuration was refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration {}: {source}; check the path given with --config", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// Something in the file is wrong.
    #[error("{0}")]
    Invalid(Box<Mistake>),
    /// A flag's value is wrong.
    #[error("{flag}: {reason}")]
    Flag {
        /// The flag.
        flag: &'static str,
        /// What is wrong, and what would be right.
        reason: String,
    },
    /// More failsafe ports than the kernel's table holds.
    #[error("{count} failsafe ports do not fit; the table holds {limit}")]
    TooManyFailsafe {
        /// How many were given.
        count: usize,
        /// How many fit.
        limit: u32,
    },
}

/// A mistake in the file, with its place.
#[derive(Debug)]
pub struct Mistake {
    path: PathBuf,
    line: usize,
    column: usize,
    width: usize,
    source: String,
    message: String,
}

impl std::fmt::Display for Mistake {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { path, line, column, width, source, message } = self;
        let gutter = line.to_string();
        let blank = " ".repeat(gutter.len());
        let indent = " ".repeat(column.saturating_sub(1));
        let caret = "^".repeat(*width);
        writeln!(f, "{message}")?;
        writeln!(f, "{blank}--> {}:{line}:{column}", path.display())?;
        writeln!(f, "{blank} |")?;
        writeln!(f, "{gutter} | {source}")?;
        write!(f, "{blank} | {indent}{caret}")
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    policies: Option<PathBuf>,
    cgroup_root: Option<PathBuf>,
    mode: Option<Mode>,
    failsafe: Option<Failsafe>,
    guard: Option<guard::Table>,
    findings: Option<findings::Table>,
    proxy: Option<proxy::Table>,
    state_dir: Option<PathBuf>,
    metrics: Option<Spanned<String>>,
    flow_capacity: Option<Spanned<u32>>,
    verify_seconds: Option<u32>,
    sandbox: Option<Sandbox>,
    log: Option<Log>,
    run_dir: Option<PathBuf>,
    pin_dir: Option<PathBuf>,
    name: Option<Spanned<String>>,
    object: Option<PathBuf>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Failsafe {
    ingress: Option<Vec<Spanned<String>>>,
    egress: Option<Vec<Spanned<String>>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Log {
    format: Option<LogFormat>,
    level: Option<Spanned<String>>,
}

/// Reads the text of a configuration; `path` only names it.
pub(super) fn parse(path: &Path, text: &str) -> Result<Config, ConfigError> {
    let mistake = |span: Range<usize>, message: String| {
        ConfigError::Invalid(Box::new(locate(path, text, span, message)))
    };
    let file: File = toml::from_str(text)
        .map_err(|error| mistake(error.span().unwrap_or(0..0), error.message().to_owned()))?;

    let mut config = Config::default();
    super::replace(&mut config.policies, file.policies);
    super::replace(&mut config.run_dir, file.run_dir);
    super::replace(&mut config.pin_dir, file.pin_dir);
    config.cgroup_root = file.cgroup_root;
    config.object = file.object;
    if let Some(mode) = file.mode {
        config.mode = mode;
        config.mode_chosen = true;
    }
    if let Some(listen_at) = file.metrics {
        config.metrics = listen(listen_at.as_ref()).map_err(|message| mistake(listen_at.span(), message))?;
    }
    if let Some(capacity) = file.flow_capacity {
        if *capacity.as_ref() == 0 {
            let message = "0 flows would deny everything; give at least 1".to_owned();
            return Err(mistake(capacity.span(), message));
        }
        config.flow_capacity = *capacity.as_ref();
    }
    super::replace(&mut config.verify_seconds, file.verify_seconds);
    super::replace(&mut config.sandbox, file.sandbox);
    if let Some(name) = file.name {
        crate::instance::check_name(name.as_ref())
            .map_err(|error| mistake(name.span(), error.to_string()))?;
        config.name = Some(name.into_inner());
    }
    if let Some(log) = file.log {
        super::replace(&mut config.log_format, log.format);
        if let Some(level) = log.level {
            crate::log::check_level(level.as_ref())
                .map_err(|error| mistake(level.span(), error.to_string()))?;
            config.log_level = level.into_inner();
        }
    }
    super::replace(&mut config.state_dir, file.state_dir);
    if let Some(table) = file.findings {
        table.apply(&mut config.findings).map_err(|(span, message)| mistake(span, message))?;
    }
    if let Some(table) = file.proxy {
        table.apply(&mut config.proxy).map_err(|(span, message)| mistake(span, message))?;
    }
    if let Some(table) = file.guard {
        table.apply(&mut config.guard).map_err(|(span, message)| mistake(span, message))?;
    }
    if let Some(failsafe) = file.failsafe {
        for (side, list) in [(Side::Ingress, failsafe.ingress), (Side::Egress, failsafe.egress)] {
            let Some(list) = list else { continue };
            config.failsafe.retain(|key| key.side != side as u8);
            for item in list {
                let key = ports::parse_key(side, item.as_ref())
                    .map_err(|error| mistake(item.span(), error.to_string()))?;
                config.failsafe.push(key);
            }
        }
    }
    if config.failsafe.len() > limits::FAILSAFE as usize {
        return Err(ConfigError::TooManyFailsafe { count: config.failsafe.len(), limit: limits::FAILSAFE });
    }
    Ok(config)
}

/// `off`, or where to listen.
pub(super) fn listen(text: &str) -> Result<Option<SocketAddr>, String> {
    if text == "off" {
        return Ok(None);
    }
    text.parse()
        .map(Some)
        .map_err(|_| format!("`{text}` is not an address with a port; use 127.0.0.1:9642, [::1]:9642 or off"))
}

fn locate(path: &Path, text: &str, span: Range<usize>, message: String) -> Mistake {
    let start = span.start.min(text.len());
    let before = text.get(..start).unwrap_or_default();
    let line_start = before.rfind('\n').map_or(0, |at| at + 1);
    let source = text.get(line_start..).unwrap_or_default().lines().next().unwrap_or_default();
    let column = before.get(line_start..).unwrap_or_default().chars().count() + 1;
    let left = (source.chars().count() + 1).saturating_sub(column).max(1);
    let marked = text.get(start..span.end.min(text.len())).unwrap_or_default().chars().count();
    Mistake {
        path: path.to_owned(),
        line: before.matches('\n').count() + 1,
        column,
        width: marked.clamp(1, left),
        source: source.to_owned(),
        message,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn refused(text: &str) -> String {
        parse(Path::new("b.toml"), text).unwrap_err().to_string()
    }

    #[test]
    fn every_key_is_read() {
        let config = parse(
            Path::new("b.toml"),
            r#"
            policies = "/p"
            cgroup_root = "lab/a"
            mode = "enforce"
            failsafe = { ingress = [], egress = ["udp/53"] }
            metrics = "[::1]:1"
            flow_capacity = 7
            verify_seconds = 5
            sandbox = "off"
            run_dir = "/r"
            pin_dir = "/b"
            name = "lab"
            object = "/o"
            guard = { enabled = false, interfaces = ["a*"], wire = ["b"], mark = 0xff00, attach = "clsact" }
            log = { format = "json", level = "debug" }
            state_dir = "/s"
            findings = { log = "/f", off = ["new-edge"], learning_days = 1, certificate_days = 2, certificate_urgent_days = 3, lowest_tls = "1.3" }
            proxy = { trust_domain = "example.org", connections = 9 }
            "#,
        )
        .unwrap();
        let expected = Config {
            policies: "/p".into(),
            cgroup_root: Some("lab/a".into()),
            mode: Mode::Enforce,
            mode_chosen: true,
            failsafe: vec![ports::parse_key(Side::Egress, "udp/53").unwrap()],
            metrics: Some("[::1]:1".parse().unwrap()),
            flow_capacity: 7,
            verify_seconds: 5,
            sandbox: Sandbox::Off,
            log_format: LogFormat::Json,
            log_level: "debug".to_owned(),
            run_dir: "/r".into(),
            pin_dir: "/b".into(),
            name: Some("lab".to_owned()),
            object: Some("/o".into()),
            guard: guard::GuardConfig {
                enabled: false,
                interfaces: guard::Patterns::from_list("a*").unwrap(),
                wire: guard::Patterns::from_list("b").unwrap(),
                mark: 0xff00,
                attach: guard::Attach::Clsact,
            },
            state_dir: "/s".into(),
            findings: findings::FindingsConfig {
                settings: bulkhead_detect::findings::Settings {
                    learning: std::time::Duration::from_secs(86_400),
                    certificate_soon: std::time::Duration::from_secs(2 * 86_400),
                    certificate_urgent: std::time::Duration::from_secs(3 * 86_400),
                    tls_floor: 4,
                    off: [bulkhead_detect::findings::Kind::NewEdge].into(),
                },
                log: Some("/f".into()),
            },
            proxy: proxy::ProxyConfig {
                trust_domain: "example.org".to_owned(),
                connections: 9,
                ..proxy::ProxyConfig::default()
            },
        };
        assert_eq!(config, expected);
    }

    #[test]
    fn the_sample_configuration_is_the_default() {
        let sample = include_str!("../../../deploy/bulkhead.toml");
        let config = parse(Path::new("bulkhead.toml"), sample).unwrap();
        assert_eq!(Config { mode_chosen: false, ..config }, Config::default());
    }

    #[test]
    fn a_mistake_is_shown_where_it_stands() {
        let text = "mode = \"audit\"\nfailsafe = { ingress = [\"tcp/22\", \"tcp/x\"] }\n";
        let shown = refused(text);
        assert!(shown.contains("--> b.toml:2:35"), "{shown}");
        assert!(shown.ends_with("|                                   ^^^^^^^"), "{shown}");
    }

    #[test]
    fn unknown_keys_and_modes_are_refused() {
        assert!(refused("polices = \"/p\"").contains("unknown field `polices`"));
        assert!(refused("mode = \"enforcing\"").contains("enforcing"));
        assert!(refused("metrics = \"9642\"").contains("off"));
        assert!(refused("flow_capacity = 0").contains("at least 1"));
        assert!(refused("name = \"a/b\"").contains("--> b.toml:1:8"));
        assert!(refused("proxy = { memory = \"1TB\" }").contains("--> b.toml:1:20"));
        assert!(refused("guard = { mark = 0xf0f0 }").contains("--> b.toml:1:18"));
        assert!(refused("guard = { interfaces = [] }").contains("enabled = false"));
        assert!(refused("guard = { wire = [\"eth0\", \"a b\"] }").contains("--> b.toml:1:27"));
    }
}
