//! Kernel modules for the guest: those that the tests use and what they need in turn, in the order in
//! which they can be loaded.
//!
//! Each module says itself what it needs (`depends=` in its `.modinfo`), so no `depmod` is called for.
//! What a kernel has built in, or does not have, is no module of its package and is left out.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

/// What the tests use, beside what every kernel of Debian has built in.
const WANTED: [&str; 27] = [
    // Wires and hosts.
    "veth",
    "bridge",
    "br_netfilter",
    "tun",
    "dummy",
    "macvlan",
    "ipip",
    "ip6_tunnel",
    // Ending sockets.
    "inet_diag",
    "tcp_diag",
    "udp_diag",
    "raw_diag",
    "mptcp_diag",
    // Filters on interfaces.
    "sch_ingress",
    "cls_bpf",
    "sch_fq_codel",
    // Address translation, to test beside it.
    "nf_tables",
    "nf_conntrack",
    "nf_nat",
    "nft_ct",
    "nft_nat",
    "nft_chain_nat",
    "nft_masq",
    "nft_redir",
    "nf_reject_ipv6",
    // Protocols.
    "sctp",
    "dccp",
];

/// A module: its file's name without the folder, and its content, not compressed.
pub(crate) struct Module {
    pub(crate) name: String,
    pub(crate) content: Vec<u8>,
}

/// All that is wanted, each after what it needs.
pub(crate) fn collect(folder: &Path) -> Result<Vec<Module>> {
    let mut files = BTreeMap::new();
    find(folder, &mut files)?;
    let (mut done, mut modules) = (BTreeSet::new(), Vec::new());
    for name in WANTED {
        add(name, &files, &mut done, &mut modules)?;
    }
    Ok(modules)
}

fn add(
    name: &str,
    files: &BTreeMap<String, PathBuf>,
    done: &mut BTreeSet<String>,
    modules: &mut Vec<Module>,
) -> Result<()> {
    let Some(file) = files.get(name) else { return Ok(()) };
    if !done.insert(name.to_owned()) {
        return Ok(());
    }
    let content = read(file)?;
    for needed in needs(&content) {
        add(&needed, files, done, modules)?;
    }
    modules.push(Module { name: name.to_owned(), content });
    Ok(())
}

/// Module files below a folder, by the name that the kernel knows them by.
fn find(folder: &Path, files: &mut BTreeMap<String, PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))? {
        let (path, kind) = entry.and_then(|entry| Ok((entry.path(), entry.file_type()?)))?;
        if kind.is_dir() {
            find(&path, files)?;
        } else if let Some(name) = path
            .file_name()
            .and_then(|name| name.to_string_lossy().split_once(".ko").map(|(name, _)| known_as(name)))
        {
            files.insert(name, path);
        }
    }
    Ok(())
}

/// The kernel takes `-` and `_` for the same.
fn known_as(name: &str) -> String {
    name.replace('-', "_")
}

fn read(file: &Path) -> Result<Vec<u8>> {
    let unpack = |program: &str| -> Result<Vec<u8>> {
        let output = Command::new(program).args(["--decompress", "--stdout"]).arg(file).output();
        let output = output.with_context(|| format!("cannot run {program} for {}", file.display()))?;
        anyhow::ensure!(output.status.success(), "{program} cannot unpack {}", file.display());
        Ok(output.stdout)
    };
    match file.extension().and_then(|extension| extension.to_str()) {
        Some("xz") => unpack("xz"),
        Some("zst") => unpack("zstd"),
        _ => fs::read(file).with_context(|| format!("cannot read {}", file.display())),
    }
}

/// What a module says that it needs.
fn needs(content: &[u8]) -> Vec<String> {
    const KEY: &[u8] = b"\0depends=";
    let Some(at) = content.windows(KEY.len()).position(|window| window == KEY) else { return Vec::new() };
    let list = content.get(at + KEY.len()..).unwrap_or_default();
    let list: Vec<u8> = list.iter().copied().take_while(|byte| *byte != 0).collect();
    let list = String::from_utf8_lossy(&list);
    list.split(',').filter(|name| !name.is_empty()).map(known_as).collect()
}

#[cfg(test)]
mod tests {
    use super::needs;

    #[test]
    fn what_a_module_needs_stands_in_it() {
        assert_eq!(needs(b"license=GPL\0depends=bridge,nf-conntrack\0name=x\0"), ["bridge", "nf_conntrack"]);
        assert!(needs(b"license=GPL\0depends=\0name=x\0").is_empty());
        assert!(needs(b"nothing").is_empty());
    }
}
