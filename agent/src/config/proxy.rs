//! `[proxy]`: whether this node gives programs mutual TLS, as whom, and within what limits.
//!
//! There is one source of certificates at a time: two would have to agree, and nobody could say which one
//! a certificate came from.

use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;

use bulkhead_credentials::SpiffeId;
use serde::Deserialize;
use toml::Spanned;

use super::guard::Switch;

/// What is configured of the proxy.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ProxyConfig {
    /// Whether there is one. Without it, what a rule wants mutual is denied.
    pub enabled: bool,
    /// The trust domain of this node and of every peer; empty only while the proxy is off.
    pub trust_domain: String,
    /// Where certificates come from.
    pub source: Source,
    /// How long a certificate that this node issues is good.
    pub leaf_lifetime: Duration,
    /// Most connections at a time, both directions together.
    pub connections: u32,
    /// Most handshakes begun in a second; more wait, and are refused when they wait too long.
    pub handshakes_per_second: u32,
    /// Bytes of memory that the proxy may hold before it refuses new connections.
    pub memory: u64,
    /// How long live connections may go on once the proxy was told to stop.
    pub drain: Duration,
}

/// Where certificates come from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Source {
    /// The built-in authority: a folder that `bulkhead ca issue node` made.
    Authority(PathBuf),
    /// Folders of files, as cert-manager mounts them.
    Certificates(PathBuf),
    /// The socket of a SPIFFE Workload API, by its path.
    WorkloadApi(PathBuf),
}

/// The shortest life of a certificate that can be renewed in time.
const SHORTEST: Duration = Duration::from_secs(60);
/// The longest that still is a short life.
const LONGEST: Duration = Duration::from_secs(7 * 86_400);
/// What a proxy needs to do anything at all.
const LEAST_MEMORY: u64 = 32 << 20;

impl Default for ProxyConfig {
    fn default() -> Self {
        Self {
            enabled: false,
            trust_domain: String::new(),
            source: Source::Authority("/etc/bulkhead/ca".into()),
            leaf_lifetime: Duration::from_secs(3600),
            connections: 65_536,
            handshakes_per_second: 1000,
            memory: 1 << 30,
            drain: Duration::from_secs(30),
        }
    }
}

/// The table as it stands in the file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Table {
    enabled: Option<Spanned<bool>>,
    trust_domain: Option<Spanned<String>>,
    authority: Option<Spanned<String>>,
    certificates: Option<Spanned<String>>,
    workload_api: Option<Spanned<String>>,
    leaf_lifetime: Option<Spanned<String>>,
    connections: Option<Spanned<u32>>,
    handshakes_per_second: Option<Spanned<u32>>,
    memory: Option<Spanned<String>>,
    drain_seconds: Option<u32>,
}

/// What the command line says about the proxy. `None` leaves the file's word.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct ProxyFlags {
    /// Whether programs are given mutual TLS where a rule wants it; `off` unless said otherwise
    #[arg(long, value_enum)]
    pub proxy: Option<Switch>,
    /// Trust domain of this node and of its peers, as `example.org`
    #[arg(long, value_name = "DOMAIN")]
    pub proxy_trust_domain: Option<String>,
    /// Folder of the built-in authority, which `bulkhead ca issue node` made
    #[arg(long, value_name = "DIR", group = "proxy_source")]
    pub proxy_authority: Option<String>,
    /// Folder of certificates, as cert-manager mounts them
    #[arg(long, value_name = "DIR", group = "proxy_source")]
    pub proxy_certificates: Option<String>,
    /// Socket of a SPIFFE Workload API, as `unix:///run/spire/agent.sock`
    #[arg(long, value_name = "URL", group = "proxy_source")]
    pub proxy_workload_api: Option<String>,
    /// How long a certificate that this node issues is good, as `1h`
    #[arg(long, value_name = "TIME")]
    pub proxy_leaf_lifetime: Option<String>,
    /// Most proxied connections at a time
    #[arg(long, value_name = "N")]
    pub proxy_connections: Option<u32>,
    /// Most TLS handshakes begun in a second
    #[arg(long, value_name = "N")]
    pub proxy_handshakes_per_second: Option<u32>,
    /// Memory that the proxy may hold before it refuses new connections, as `1GiB`
    #[arg(long, value_name = "SIZE")]
    pub proxy_memory: Option<String>,
    /// Seconds that live connections may go on once the proxy was told to stop
    #[arg(long, value_name = "N")]
    pub proxy_drain_seconds: Option<u32>,
}

impl Table {
    /// Puts what is said into `config`. The error has its place in the file.
    pub(super) fn apply(self, config: &mut ProxyConfig) -> Result<(), (Range<usize>, String)> {
        if let Some(domain) = &self.trust_domain {
            config.trust_domain =
                trust_domain(domain.as_ref()).map_err(|message| (domain.span(), message))?;
        }
        let sources = [
            (self.authority, authority as fn(&str) -> Result<Source, String>),
            (self.certificates, certificates),
            (self.workload_api, workload_api),
        ];
        let mut said = false;
        for (text, read) in sources {
            let Some(text) = text else { continue };
            let at = |message| (text.span(), message);
            if said {
                return Err(at(
                    "certificates come from one place: leave one of authority, certificates and \
                               workload_api"
                        .to_owned(),
                ));
            }
            said = true;
            config.source = read(text.as_ref()).map_err(at)?;
        }
        if let Some(text) = self.leaf_lifetime {
            config.leaf_lifetime = lifetime(text.as_ref()).map_err(|message| (text.span(), message))?;
        }
        for (slot, number) in [
            (&mut config.connections, self.connections),
            (&mut config.handshakes_per_second, self.handshakes_per_second),
        ] {
            let Some(number) = number else { continue };
            *slot = at_least_one(*number.as_ref()).map_err(|message| (number.span(), message))?;
        }
        if let Some(text) = self.memory {
            config.memory = size(text.as_ref()).map_err(|message| (text.span(), message))?;
        }
        super::replace(&mut config.drain, self.drain_seconds.map(|n| Duration::from_secs(n.into())));
        if let Some(enabled) = self.enabled {
            config.enabled = *enabled.as_ref();
        }
        Ok(())
    }
}

impl ProxyConfig {
    /// Lets the command line have the last word. The error names the flag.
    pub(super) fn override_with(&mut self, flags: &ProxyFlags) -> Result<(), (&'static str, String)> {
        if let Some(switch) = flags.proxy {
            self.enabled = switch == Switch::On;
        }
        if let Some(domain) = &flags.proxy_trust_domain {
            self.trust_domain = trust_domain(domain).map_err(|message| ("--proxy-trust-domain", message))?;
        }
        let sources = [
            ("--proxy-authority", &flags.proxy_authority, authority as fn(&str) -> Result<Source, String>),
            ("--proxy-certificates", &flags.proxy_certificates, certificates),
            ("--proxy-workload-api", &flags.proxy_workload_api, workload_api),
        ];
        for (flag, text, read) in sources {
            let Some(text) = text else { continue };
            self.source = read(text).map_err(|message| (flag, message))?;
        }
        if let Some(text) = &flags.proxy_leaf_lifetime {
            self.leaf_lifetime = lifetime(text).map_err(|message| ("--proxy-leaf-lifetime", message))?;
        }
        for (flag, slot, number) in [
            ("--proxy-connections", &mut self.connections, flags.proxy_connections),
            (
                "--proxy-handshakes-per-second",
                &mut self.handshakes_per_second,
                flags.proxy_handshakes_per_second,
            ),
        ] {
            let Some(number) = number else { continue };
            *slot = at_least_one(number).map_err(|message| (flag, message))?;
        }
        if let Some(text) = &flags.proxy_memory {
            self.memory = size(text).map_err(|message| ("--proxy-memory", message))?;
        }
        super::replace(&mut self.drain, flags.proxy_drain_seconds.map(|n| Duration::from_secs(n.into())));
        if self.enabled && self.trust_domain.is_empty() {
            return Err((
                "proxy",
                "it is enabled, and has no trust domain; say trust_domain = \"example.org\" under [proxy], or \
                 --proxy-trust-domain"
                    .to_owned(),
            ));
        }
        Ok(())
    }
}

fn trust_domain(text: &str) -> Result<String, String> {
    match SpiffeId::new(text, "a", "a") {
        Ok(_) => Ok(text.to_owned()),
        Err(_) => Err(format!(
            "`{text}` is no trust domain; use letters a-z, digits, dots, dashes and underscores, as example.org"
        )),
    }
}

fn authority(text: &str) -> Result<Source, String> {
    folder(text).map(Source::Authority)
}

fn certificates(text: &str) -> Result<Source, String> {
    folder(text).map(Source::Certificates)
}

fn workload_api(text: &str) -> Result<Source, String> {
    match text.strip_prefix("unix://").or_else(|| text.strip_prefix("unix:")) {
        Some(path) if path.starts_with('/') => Ok(Source::WorkloadApi(path.into())),
        _ => Err(format!("`{text}` is no socket of a Workload API; use unix:///run/spire/agent.sock")),
    }
}

fn folder(text: &str) -> Result<PathBuf, String> {
    if text.starts_with('/') { Ok(text.into()) } else { Err(format!("`{text}` is no absolute path")) }
}

fn at_least_one(number: u32) -> Result<u32, String> {
    if number == 0 { Err("0 would refuse everything; give at least 1".to_owned()) } else { Ok(number) }
}

fn lifetime(text: &str) -> Result<Duration, String> {
    let units = [("s", 1), ("m", 60), ("h", 3600), ("d", 86_400)];
    let lifetime = scaled(text, &units)
        .map(Duration::from_secs)
        .ok_or_else(|| format!("`{text}` is no length of time; use a number and s, m, h or d, as 1h"))?;
    if (SHORTEST..=LONGEST).contains(&lifetime) {
        Ok(lifetime)
    } else {
        Err(format!("{text} is no life for a certificate that renews itself; use 1m to 7d"))
    }
}

fn size(text: &str) -> Result<u64, String> {
    let units = [("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30)];
    match scaled(text, &units) {
        None => Err(format!("`{text}` is no size; use a number and KiB, MiB or GiB, as 1GiB")),
        Some(size) if size < LEAST_MEMORY => Err(format!("{text} is too little; give at least 32MiB")),
        Some(size) => Ok(size),
    }
}

/// A whole number followed by one of `units`, times what that stands for.
fn scaled(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let (number, unit) = units.iter().find_map(|(suffix, unit)| Some((text.strip_suffix(suffix)?, unit)))?;
    if number.is_empty() || !number.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    number.parse::<u64>().ok()?.checked_mul(*unit)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<ProxyConfig, String> {
        let mut config = ProxyConfig::default();
        let table: Table = toml::from_str(text).map_err(|error| error.message().to_owned())?;
        table.apply(&mut config).map_err(|(_, message)| message)?;
        Ok(config)
    }

    #[test]
    fn a_table_is_read() {
        let config = read(
            "enabled = true\ntrust_domain = \"example.org\"\nworkload_api = \"unix:///run/s\"\n\
             leaf_lifetime = \"10m\"\nconnections = 5\nhandshakes_per_second = 6\nmemory = \"64MiB\"\n\
             drain_seconds = 7",
        )
        .unwrap();
        let expected = ProxyConfig {
            enabled: true,
            trust_domain: "example.org".to_owned(),
            source: Source::WorkloadApi("/run/s".into()),
            leaf_lifetime: Duration::from_secs(600),
            connections: 5,
            handshakes_per_second: 6,
            memory: 64 << 20,
            drain: Duration::from_secs(7),
        };
        assert_eq!(config, expected);
    }

    #[test]
    fn mistakes_name_what_would_be_right() {
        for (text, hint) in [
            ("trust_domain = \"Example.org\"", "example.org"),
            ("trust_domain = \"\"", "example.org"),
            ("authority = \"ca\"", "absolute"),
            ("authority = \"/a\"\ncertificates = \"/b\"", "one place"),
            ("workload_api = \"/run/s\"", "unix:///"),
            ("workload_api = \"unix:s\"", "unix:///"),
            ("leaf_lifetime = \"1\"", "1h"),
            ("leaf_lifetime = \"+1h\"", "1h"),
            ("leaf_lifetime = \"59s\"", "1m to 7d"),
            ("leaf_lifetime = \"8d\"", "1m to 7d"),
            ("leaf_lifetime = \"99999999999999999d\"", "1h"),
            ("connections = 0", "at least 1"),
            ("handshakes_per_second = 0", "at least 1"),
            ("memory = \"1GB\"", "GiB"),
            ("memory = \"1KiB\"", "32MiB"),
            ("lifetime = \"1h\"", "unknown field"),
        ] {
            let message = read(text).unwrap_err();
            assert!(message.contains(hint), "{text}: {message}");
        }
    }

    #[test]
    fn flags_win_and_a_proxy_needs_a_trust_domain() {
        let mut config = ProxyConfig::default();
        let on = ProxyFlags { proxy: Some(Switch::On), ..ProxyFlags::default() };
        assert!(config.override_with(&on).unwrap_err().1.contains("trust_domain"));
        let flags = ProxyFlags {
            proxy: Some(Switch::On),
            proxy_trust_domain: Some("example.org".to_owned()),
            proxy_certificates: Some("/c".to_owned()),
            proxy_memory: Some("2GiB".to_owned()),
            ..ProxyFlags::default()
        };
        config.override_with(&flags).unwrap();
        assert_eq!((config.enabled, config.source), (true, Source::Certificates("/c".into())));
        let bad = ProxyFlags { proxy_connections: Some(0), ..ProxyFlags::default() };
        assert_eq!(ProxyConfig::default().override_with(&bad).unwrap_err().0, "--proxy-connections");
    }
}
