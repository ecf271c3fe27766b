//! The agent's own configuration: where things are, and what holds before any policy.
//!
//! Two sources, one value: the file (`/etc/bulkhead/bulkhead.toml`) and the flags of `bulkhead run`,
//! which win. Every key of the file is a flag and the other way round. The policy itself is not in
//! here. A file with a mistake is refused whole, with the place of the mistake: an agent that starts
//! on half of its configuration is worse than one that does not start.

mod file;
pub mod findings;
pub mod guard;
mod ports;
pub mod proxy;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use bulkhead_abi::limits;
use bulkhead_abi::tables::FailsafeKey;
use bulkhead_abi::verdict::Side;
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

pub use file::ConfigError;
pub use findings::FindingsConfig;
pub use guard::GuardConfig;
pub use ports::{PortError, display_failsafe};
pub use proxy::ProxyConfig;

/// Where the configuration is looked for when no `--config` is given; it may be absent.
pub const DEFAULT_FILE: &str = "/etc/bulkhead/bulkhead.toml";

/// What the agent runs with.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Config {
    /// Folder of zone files.
    pub policies: PathBuf,
    /// Subtree that is guarded: an absolute path, or one below the cgroup2 mount. `None` is the whole
    /// mount.
    pub cgroup_root: Option<PathBuf>,
    /// Mode of the whole node.
    pub mode: Mode,
    /// Whether somebody chose the mode, rather than nobody having said anything.
    pub mode_chosen: bool,
    /// Ports that are always open for the node itself.
    pub failsafe: Vec<FailsafeKey>,
    /// Where `/metrics`, `/healthz` and `/readyz` are served; `None` is nowhere.
    pub metrics: Option<SocketAddr>,
    /// Entries of the flow table; only read when the maps are first made.
    pub flow_capacity: u32,
    /// Seconds between two comparisons of the kernel's tables with the policy; 0 is only when asked.
    pub verify_seconds: u32,
    /// Whether the running agent's system calls are filtered.
    pub sandbox: Sandbox,
    /// Form of the log.
    pub log_format: LogFormat,
    /// Level of the log, or comma-separated `target=level` directives.
    pub log_level: String,
    /// Parent of the instances' run-time folders.
    pub run_dir: PathBuf,
    /// Parent of the instances' pins; must lie on a bpffs.
    pub pin_dir: PathBuf,
    /// Name of the instance; `None` derives it from the cgroup root.
    pub name: Option<String>,
    /// Kernel object to load in place of the built-in one.
    pub object: Option<PathBuf>,
    /// The guard on interfaces.
    pub guard: GuardConfig,
    /// Parent of the instances' folders for what outlives the machine's boots.
    pub state_dir: PathBuf,
    /// Findings.
    pub findings: FindingsConfig,
    /// The proxy that gives programs mutual TLS.
    pub proxy: ProxyConfig,
}

/// What a denial does on this node.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Report only.
    #[default]
    Audit,
    /// Deny.
    Enforce,
}

impl Mode {
    /// The word of the configuration.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Audit => "audit",
            Self::Enforce => "enforce",
        }
    }
}

/// Whether the running agent's system calls are filtered.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Sandbox {
    /// They are.
    #[default]
    On,
    /// They are not: for debuggers, and where the filter is in the way.
    Off,
}

/// How log lines look.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// One line of text each.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

impl LogFormat {
    /// The word of the configuration.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Json => "json",
        }
    }
}

/// What the command line says about the configuration. `None` leaves the file's word.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Flags {
    /// Folder of zone files
    #[arg(long, value_name = "DIR")]
    pub policies: Option<PathBuf>,
    /// What a denial does on this node; `audit` unless said otherwise
    #[arg(long, value_enum)]
    pub mode: Option<Mode>,
    /// Ports of the node that are always open to others, as `tcp/22,udp/68`; an empty string for none
    #[arg(long, value_name = "PORTS")]
    pub failsafe_ingress: Option<String>,
    /// Ports of others that are always open to the node; an empty string for none
    #[arg(long, value_name = "PORTS")]
    pub failsafe_egress: Option<String>,
    /// Address and port of `/metrics`, `/healthz` and `/readyz`, or `off`
    #[arg(long, value_name = "ADDRESS:PORT|off")]
    pub metrics: Option<String>,
    /// Entries of the flow table, when the maps are first made
    #[arg(long, value_name = "N")]
    pub flow_capacity: Option<u32>,
    /// Seconds between two comparisons of the kernel's tables with the policy; 0 for only when asked
    #[arg(long, value_name = "N")]
    pub verify_seconds: Option<u32>,
    /// Whether the running agent's system calls are filtered; `on` unless something is in the way
    #[arg(long, value_enum)]
    pub sandbox: Option<Sandbox>,
    /// Form of the log
    #[arg(long, value_enum)]
    pub log_format: Option<LogFormat>,
    /// Level of the log: error, warn, info, debug, trace, or `target=level` directives
    #[arg(long, value_name = "LEVEL")]
    pub log_level: Option<String>,
    /// Kernel object to load in place of the built-in one
    #[arg(long, value_name = "FILE")]
    pub object: Option<PathBuf>,
    /// Whether the guard sits on interfaces; `on` unless said otherwise
    #[arg(long, value_enum)]
    pub guard: Option<guard::Switch>,
    /// Interfaces that the guard sits on, as `veth*,eth0`
    #[arg(long, value_name = "NAMES")]
    pub guard_interfaces: Option<String>,
    /// Those of them that lead to other machines, as `eth*`
    #[arg(long, value_name = "NAMES")]
    pub guard_wire: Option<String>,
    /// Bits of the packet mark that the guard may use, as `0xffff0000`
    #[arg(long, value_name = "MASK")]
    pub guard_mark: Option<String>,
    /// How the guard hangs on an interface
    #[arg(long, value_enum)]
    pub guard_attach: Option<guard::Attach>,
    /// Parent of the instances' folders for the history of findings
    #[arg(long, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// Findings.
    #[command(flatten)]
    pub findings: findings::FindingsFlags,
    /// The proxy.
    #[command(flatten)]
    pub proxy: proxy::ProxyFlags,
}

/// Which instance a command is about.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Selection {
    /// Agent configuration [default: /etc/bulkhead/bulkhead.toml, if it exists]
    #[arg(long, global = true, value_name = "FILE", help_heading = "Instance")]
    pub config: Option<PathBuf>,
    /// Guard this cgroup subtree only: an absolute path, or one below the cgroup2 mount
    #[arg(long, global = true, value_name = "PATH", help_heading = "Instance")]
    pub cgroup_root: Option<PathBuf>,
    /// Name of the instance [default: derived from the cgroup root]
    #[arg(long, global = true, value_name = "NAME", help_heading = "Instance")]
    pub instance: Option<String>,
    /// Parent of the instances' lock, socket and state
    #[arg(long, global = true, value_name = "DIR", help_heading = "Instance")]
    pub run_dir: Option<PathBuf>,
    /// Parent of the instances' pins, on a bpffs
    #[arg(long, global = true, value_name = "DIR", help_heading = "Instance")]
    pub pin_dir: Option<PathBuf>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            policies: PathBuf::from("/etc/bulkhead/policies"),
            cgroup_root: None,
            mode: Mode::Audit,
            mode_chosen: false,
            failsafe: ports::default_failsafe(),
            metrics: Some(SocketAddr::from(([127, 0, 0, 1], 9642))),
            flow_capacity: limits::FLOWS,
            verify_seconds: 30,
            sandbox: Sandbox::On,
            log_format: LogFormat::Text,
            log_level: "info".to_owned(),
            run_dir: PathBuf::from("/run/bulkhead"),
            pin_dir: PathBuf::from("/sys/fs/bpf/bulkhead"),
            name: None,
            object: None,
            guard: GuardConfig::default(),
            state_dir: PathBuf::from("/var/lib/bulkhead"),
            findings: FindingsConfig::default(),
            proxy: ProxyConfig::default(),
        }
    }
}

impl Config {
    /// Reads the file that `selection` names, or the default one if it is there, then lets the
    /// command line have the last word.
    pub fn load(selection: &Selection, flags: &Flags) -> Result<Self, ConfigError> {
        let mut config = match &selection.config {
            Some(path) => Self::from_file(path)?,
            None if Path::new(DEFAULT_FILE).exists() => Self::from_file(Path::new(DEFAULT_FILE))?,
            None => Self::default(),
        };
        config.select(selection);
        config.override_with(flags)?;
        Ok(config)
    }

    /// The configuration in `path`.
    pub fn from_file(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        file::parse(path, &text)
    }

    fn select(&mut self, selection: &Selection) {
        let Selection { config: _, cgroup_root, instance, run_dir, pin_dir } = selection.clone();
        // An instance named in the file belongs to the root in the file; another root has another name.
        if cgroup_root.is_some() {
            self.name = None;
        }
        replace_some(&mut self.cgroup_root, cgroup_root);
        replace_some(&mut self.name, instance);
        replace(&mut self.run_dir, run_dir);
        replace(&mut self.pin_dir, pin_dir);
    }

    fn override_with(&mut self, flags: &Flags) -> Result<(), ConfigError> {
        let flags = flags.clone();
        replace(&mut self.policies, flags.policies);
        replace(&mut self.log_format, flags.log_format);
        replace(&mut self.log_level, flags.log_level);
        replace(&mut self.flow_capacity, flags.flow_capacity);
        replace(&mut self.verify_seconds, flags.verify_seconds);
        replace(&mut self.sandbox, flags.sandbox);
        replace(&mut self.state_dir, flags.state_dir);
        self.findings
            .override_with(&flags.findings)
            .map_err(|(flag, reason)| ConfigError::Flag { flag, reason })?;
        self.proxy
            .override_with(&flags.proxy)
            .map_err(|(flag, reason)| ConfigError::Flag { flag, reason })?;
        replace_some(&mut self.object, flags.object);
        if let Some(mode) = flags.mode {
            self.mode = mode;
            self.mode_chosen = true;
        }
        for (side, list, flag) in [
            (Side::Ingress, flags.failsafe_ingress, "--failsafe-ingress"),
            (Side::Egress, flags.failsafe_egress, "--failsafe-egress"),
        ] {
            let Some(list) = list else { continue };
            let keys = ports::parse_list(side, &list)
                .map_err(|error| ConfigError::Flag { flag, reason: error.to_string() })?;
            self.failsafe.retain(|key| key.side != side as u8);
            self.failsafe.extend(keys);
        }
        if let Some(switch) = flags.guard {
            self.guard.enabled = switch == guard::Switch::On;
        }
        replace(&mut self.guard.attach, flags.guard_attach);
        for (slot, list, flag) in [
            (&mut self.guard.interfaces, flags.guard_interfaces, "--guard-interfaces"),
            (&mut self.guard.wire, flags.guard_wire, "--guard-wire"),
        ] {
            let Some(list) = list else { continue };
            *slot = guard::Patterns::from_list(&list).map_err(|reason| ConfigError::Flag { flag, reason })?;
        }
        if let Some(mark) = flags.guard_mark {
            self.guard.mark = guard::parse_mark(&mark)
                .map_err(|reason| ConfigError::Flag { flag: "--guard-mark", reason })?;
        }
        if let Some(listen) = flags.metrics {
            self.metrics =
                file::listen(&listen).map_err(|reason| ConfigError::Flag { flag: "--metrics", reason })?;
        }
        if self.failsafe.len() > limits::FAILSAFE as usize {
            return Err(ConfigError::TooManyFailsafe { count: self.failsafe.len(), limit: limits::FAILSAFE });
        }
        if self.flow_capacity == 0 {
            return Err(ConfigError::Flag {
                flag: "--flow-capacity",
                reason: "0 flows would deny everything; give at least 1".to_owned(),
            });
        }
        Ok(())
    }
}

fn replace<T>(slot: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *slot = value;
    }
}

fn replace_some<T>(slot: &mut Option<T>, value: Option<T>) {
    if value.is_some() {
        *slot = value;
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn flags_win_over_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bulkhead.toml");
        std::fs::write(&path, "mode = \"audit\"\npolicies = \"/a\"\nfailsafe = { ingress = [\"tcp/22\"] }\n")
            .unwrap();
        let selection = Selection { config: Some(path), ..Selection::default() };
        let flags = Flags {
            mode: Some(Mode::Enforce),
            failsafe_ingress: Some(String::new()),
            metrics: Some("off".to_owned()),
            ..Flags::default()
        };
        let config = Config::load(&selection, &flags).unwrap();
        assert_eq!(config.mode, Mode::Enforce);
        assert!(config.mode_chosen);
        assert_eq!(config.policies, Path::new("/a"));
        assert_eq!(config.metrics, None);
        assert!(config.failsafe.iter().all(|key| key.side == Side::Egress as u8));
        assert!(!config.failsafe.is_empty(), "the egress list keeps its default");
    }

    #[test]
    fn nobody_having_said_anything_is_audit_and_known_to_be_unsaid() {
        let config = Config::load(&Selection::default(), &Flags::default()).unwrap();
        assert_eq!((config.mode, config.mode_chosen), (Mode::Audit, false));
    }

    #[test]
    fn another_root_forgets_the_name_in_the_file() {
        let mut config = Config { name: Some("prod".to_owned()), ..Config::default() };
        config.select(&Selection { cgroup_root: Some("lab".into()), ..Selection::default() });
        assert_eq!(config.name, None);
    }
}
