//! Who knocks at the tunnels' port without an agent: in the client's namespace, in no cgroup of any node.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bulkhead_tests::harness::{Cgroup, Launch, Ns, Said};
use serde::Deserialize;

use crate::lab::{Lab, SOON, python};

/// A place for such programs.
pub(crate) struct Stranger(Cgroup);

/// What came of it; see `tunnel.py`.
#[derive(Debug, Deserialize)]
pub(crate) struct Told {
    pub(crate) handshake: bool,
    pub(crate) status: Option<u16>,
    pub(crate) answer: String,
    /// How it ended instead.
    #[serde(default)]
    #[expect(dead_code, reason = "printed where a test fails")]
    pub(crate) error: String,
}

impl Stranger {
    pub(crate) fn new() -> Stranger {
        Stranger(Cgroup::new("stranger").unwrap())
    }

    /// Knocks, showing the certificate in a folder.
    pub(crate) fn knock(
        &self,
        lab: &Lab,
        host: &str,
        shows: Option<&Path>,
        authority: &str,
        way: &str,
    ) -> Told {
        let shows = shows.map_or_else(|| "-".into(), |folder| folder.to_string_lossy().into_owned());
        let launch = python("mutual/python/tunnel.py").and([host, &shows, authority, way]);
        let said = self.run(lab.web_ns(), &launch);
        assert!(said.succeeded(), "{:?}: {}", said.status, said.errors);
        serde_json::from_slice(&said.output).unwrap()
    }

    /// Runs any program.
    pub(crate) fn run(&self, ns: &Ns, launch: &Launch) -> Said {
        launch.run(ns, self.0.path(), SOON).unwrap()
    }

    pub(crate) fn cgroup(&self) -> &Cgroup {
        &self.0
    }
}

/// A certificate of a kind that nobody should believe; its folder.
pub(crate) fn forge(lab: &Lab, stranger: &Stranger, kind: &str) -> PathBuf {
    forge_with(lab, stranger, &[kind])
}

/// A good certificate for an account, and not for long; its folder.
pub(crate) fn forge_short(lab: &Lab, stranger: &Stranger, account: &str, life: Duration) -> PathBuf {
    forge_with(lab, stranger, &[&format!("for-{account}"), &life.as_secs().to_string()])
}

fn forge_with(lab: &Lab, stranger: &Stranger, what: &[&str]) -> PathBuf {
    let folder = lab.authority.path().join(what[0]);
    let (authority, out) = (lab.authority.path().join("ca"), folder.to_string_lossy().into_owned());
    let launch = python("mutual/python/forge.py").and([&authority.to_string_lossy(), &*out]).and(what);
    let said = stranger.run(lab.web_ns(), &launch);
    assert!(said.succeeded() && fs::exists(&folder).unwrap(), "{}", said.errors);
    folder
}
