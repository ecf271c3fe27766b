//! The built-in authority, by its command: certificates for several nodes, and for peers without an agent.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use super::agent;

/// Trust domain of everybody here.
const DOMAIN: &str = "example.org";

/// An authority in a folder of its own, with a folder for each node beside it.
#[derive(Debug)]
pub struct Authority {
    folder: TempDir,
}

impl Authority {
    /// A new one, with certificates for so many nodes.
    pub fn new(nodes: usize) -> Result<Authority> {
        let folder = tempfile::Builder::new().prefix("bh-ca-").tempdir()?;
        let authority = Authority { folder };
        authority.run(&["init", "--trust-domain", DOMAIN, "--dir", "ca"])?;
        for node in 0..nodes {
            authority.issue_node(node, "0")?;
        }
        Ok(authority)
    }

    /// `bulkhead ca …`, in the folder of all of them; what it says.
    pub fn run(&self, arguments: &[&str]) -> Result<String> {
        let program = agent::program().context("the agent is not built")?;
        let output = Command::new(program).arg("ca").args(arguments).current_dir(self.path()).output()?;
        if !output.status.success() {
            bail!("ca {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(String::from_utf8(output.stdout)?)
    }

    /// The folder of all of them; the authority itself is `ca` in it.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// A node's folder: a link, so that all of it is replaced at once.
    #[must_use]
    pub fn node(&self, node: usize) -> PathBuf {
        self.path().join(format!("node-{node}"))
    }

    /// Issues a node's folder (anew, under a word that was not used before) and puts it in its place.
    pub fn issue_node(&self, node: usize, round: &str) -> Result<()> {
        let name = format!("node-{node}");
        let out = format!("{name}.{round}");
        self.run(&["issue", "node", "--name", &name, "--dir", "ca", "--out", &out])?;
        let next = self.path().join(format!("{name}.next"));
        std::os::unix::fs::symlink(&out, &next)?;
        fs::rename(next, self.node(node))?;
        Ok(())
    }

    /// Makes another root, which so many nodes believe beside the old one; what is issued next is by it.
    pub fn rotate(&self, nodes: usize) -> Result<()> {
        self.run(&["rotate", "--dir", "ca"])?;
        for node in 0..nodes {
            let roots = self.node(node).join("ca.crt");
            fs::copy(self.path().join("ca/ca.crt"), roots.with_extension("next"))?;
            fs::rename(roots.with_extension("next"), roots)?;
        }
        Ok(())
    }

    /// Issues a certificate for a peer without an agent; its folder.
    pub fn issue_workload(&self, account: &str) -> Result<PathBuf> {
        let name = format!("spiffe://{DOMAIN}/ns/host/sa/{account}");
        self.run(&["issue", "workload", "--name", &name, "--dir", "ca", "--out", account])?;
        Ok(self.path().join(account))
    }

    /// What stands in the configuration of a node's agent.
    #[must_use]
    pub fn config(&self, node: usize) -> String {
        let folder = self.node(node);
        format!(
            "[proxy]\nenabled = true\ntrust_domain = \"{DOMAIN}\"\nauthority = \"{}\"\n",
            folder.display()
        )
    }
}
