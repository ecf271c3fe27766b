//! Which test binaries go to the guest, and how each is run there.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, bail};

use crate::build;
use crate::workspace::Workspace;

/// A test binary, and what its run in the guest looks like.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) name: &'static str,
    pub(crate) binary: PathBuf,
    /// Variables before it and arguments behind it.
    pub(crate) variables: &'static str,
    pub(crate) arguments: &'static str,
    /// It is ended after so many seconds.
    pub(crate) limit: u32,
}

/// Name, variables, arguments, limit in seconds. In the order of what is learned first: does it load and
/// judge, then traffic. Of the guard's attachment what is not about links, which this kernel has none of on
/// interfaces; and nothing that needs thousands of sockets in a few seconds, for which an emulated machine is
/// too slow.
const USUAL: [(&str, &str, &str, u32); 6] = [
    (
        "bulkhead_sys",
        "",
        "--skip links_on_an_interface_have_a_place --skip tens_of_thousands --skip storage_of_a_thousand",
        300,
    ),
    ("bulkhead_datapath", "", "", 300),
    ("judges", "BULKHEAD_POLICIES=12 BULKHEAD_GUARD_POLICIES=16", "--test-threads=2", 1200),
    ("guard_attach", "", "--test-threads=2 filters_of the_kernel_is_told", 600),
    ("failsafe", "", "", 300),
    ("refusals", "", "--test-threads=2 at_once", 600),
];

/// Only where they are named: they start agents by the dozen, and some of their tests give an agent less time
/// than the verifier of an emulated machine takes. `--kvm` is for them.
const ASKED: [(&str, &str, &str, u32); 4] = [
    ("harness", "", "", 300),
    ("matrix", "", "--test-threads=1", 1800),
    ("switch", "", "", 600),
    ("life", "", "--test-threads=2", 900),
];

/// The names that a user may choose from.
pub(crate) fn names() -> String {
    USUAL.iter().chain(&ASKED).map(|(name, ..)| *name).collect::<Vec<_>>().join(", ")
}

/// Packages whose test binaries these are.
const PACKAGES: [&str; 3] = ["bulkhead-sys", "bulkhead-datapath", "bulkhead-tests"];

/// Builds the test binaries and answers those of the names in `only`, or the usual ones.
pub(crate) fn build(workspace: &Workspace, object: &Path, only: &[String]) -> Result<Vec<Run>> {
    let built = binaries(workspace, object)?;
    let asked: &[_] = if only.is_empty() { &[] } else { &ASKED };
    let wanted = |name: &str| only.is_empty() || only.iter().any(|wanted| wanted == name);
    let chosen = USUAL.iter().chain(asked).filter(|(name, ..)| wanted(name));
    chosen
        .map(|&(name, variables, arguments, limit)| {
            let found = built.iter().find(|(built, _)| built == name);
            let binary =
                found.with_context(|| format!("the build made no test binary named {name}"))?.1.clone();
            Ok(Run { name, binary, variables, arguments, limit })
        })
        .collect()
}

/// Name and path of each test binary, as cargo tells them.
fn binaries(workspace: &Workspace, object: &Path) -> Result<Vec<(String, PathBuf)>> {
    let mut cargo = build::host_cargo(workspace, object);
    cargo.args(["test", "--no-run", "--message-format=json-render-diagnostics"]);
    cargo.args(PACKAGES.iter().flat_map(|package| ["--package", package]));
    let output =
        cargo.stdin(Stdio::null()).stderr(Stdio::inherit()).output().context("cannot start cargo")?;
    if !output.status.success() {
        bail!("the tests do not compile: the errors are above");
    }
    Ok(String::from_utf8_lossy(&output.stdout).lines().filter_map(test_binary).collect())
}

/// The test binary that a line of cargo's output tells of.
fn test_binary(line: &str) -> Option<(String, PathBuf)> {
    let message: serde_json::Value = serde_json::from_str(line).ok()?;
    let is_test = message.get("profile")?.get("test")?.as_bool()?;
    let path = message.get("executable")?.as_str()?;
    let name = message.get("target")?.get("name")?.as_str()?;
    is_test.then(|| (name.to_owned(), PathBuf::from(path)))
}

#[cfg(test)]
mod tests {
    use super::test_binary;

    #[test]
    fn cargo_tells_where_a_test_binary_is() {
        let line = r#"{"reason":"compiler-artifact","target":{"name":"judges"},"profile":{"test":true},"executable":"/t/judges-1"}"#;
        assert_eq!(test_binary(line), Some(("judges".to_owned(), "/t/judges-1".into())));
        assert_eq!(test_binary(&line.replace("true", "false")), None);
        assert_eq!(test_binary("not json"), None);
    }
}
