//! What stands between client and server.

use std::path::{Path, PathBuf};
use std::process::Command;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// Nothing, or two hops with mutual TLS between them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Subject {
    Direct,
    Bulkhead,
    Nginx,
    Haproxy,
    Stunnel,
    Envoy,
}

/// One that is to be measured, and what is known of it.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Known {
    pub(crate) subject: Subject,
    /// What it says of itself.
    pub(crate) version: String,
    /// Why there are no figures of it.
    pub(crate) unavailable: Option<String>,
}

/// Where Debian puts the module that lets nginx carry what is not HTTP.
pub(crate) const NGINX_STREAM: &str = "/usr/lib/nginx/modules/ngx_stream_module.so";

impl Subject {
    /// All of them, in the order of the table.
    pub(crate) const ALL: [Subject; 6] = [
        Subject::Direct,
        Subject::Bulkhead,
        Subject::Nginx,
        Subject::Haproxy,
        Subject::Stunnel,
        Subject::Envoy,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Subject::Direct => "direct",
            Subject::Bulkhead => "Bulkhead",
            Subject::Nginx => "nginx",
            Subject::Haproxy => "HAProxy",
            Subject::Stunnel => "stunnel",
            Subject::Envoy => "Envoy",
        }
    }

    /// Whether it is here, and which version.
    pub(crate) fn known(self) -> Known {
        let found = match self {
            Subject::Direct => Ok(String::new()),
            Subject::Bulkhead => Ok(env!("CARGO_PKG_VERSION").to_owned()),
            Subject::Nginx if !Path::new(NGINX_STREAM).is_file() => {
                Err("its stream module is not here: apt-get install libnginx-mod-stream".to_owned())
            }
            Subject::Nginx => said(&self.program(), "-v"),
            Subject::Haproxy => said(&self.program(), "-v"),
            Subject::Stunnel => said(&self.program(), "-version"),
            Subject::Envoy => said(&self.program(), "--version"),
        };
        let (version, unavailable) = match found {
            Ok(version) => (version, None),
            Err(why) => (String::new(), Some(why)),
        };
        Known { subject: self, version, unavailable }
    }

    /// Its program. `cargo xtask bench` tells where Envoy is.
    pub(crate) fn program(self) -> PathBuf {
        match self {
            Subject::Direct | Subject::Bulkhead => "bulkhead".into(),
            Subject::Nginx => "/usr/sbin/nginx".into(),
            Subject::Haproxy => "/usr/sbin/haproxy".into(),
            Subject::Stunnel => "/usr/bin/stunnel4".into(),
            Subject::Envoy => std::env::var_os("BULKHEAD_ENVOY").unwrap_or_else(|| "envoy".into()).into(),
        }
    }
}

/// The version in the first line that has one.
fn said(program: &Path, flag: &str) -> Result<String, String> {
    let output = Command::new(program).arg(flag).output();
    let output =
        output.map_err(|error| format!("{}: {error}: run `cargo xtask setup`", program.display()))?;
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    version(&text).ok_or_else(|| format!("{} {flag} does not tell its version", program.display()))
}

fn version(text: &str) -> Option<String> {
    let numbered =
        |word: &&str| word.starts_with(|first: char| first.is_ascii_digit()) && word.split('.').count() >= 2;
    let mut words = text.split([' ', '/', '\n', '-', '+']);
    words.find(numbered).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::version;

    #[test]
    fn versions_are_found() {
        for (text, found) in [
            ("nginx version: nginx/1.22.1\n", "1.22.1"),
            ("HAProxy version 2.6.12-1+deb12u4 2026/01/01 - https://haproxy.org/", "2.6.12"),
            ("stunnel 5.68 on x86_64-pc-linux-gnu platform", "5.68"),
            ("envoy  version: 1234abcd/1.40.0/Clean/RELEASE/BoringSSL", "1.40.0"),
        ] {
            assert_eq!(version(text).as_deref(), Some(found));
        }
    }
}
