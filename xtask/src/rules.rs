//! Rules for source files that no lint of the compiler knows.
//!
//! A file of ours says at its head why it exists; `unsafe` stays in the two places that are named
//! here. A long file is told, but not an error: where to cut is a matter of judgement.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// Above this many lines a file asks to be two.
const LONG: usize = 400;

/// Folders with our sources.
const SOURCES: [&str; 4] = ["agent", "ebpf", "tests", "xtask"];

/// Where `unsafe` may be.
const UNSAFE: [&str; 2] = ["ebpf/src", "agent/sys"];

/// Checks every source file; all faults at once.
pub(crate) fn check(root: &Path) -> Result<()> {
    let mut faults = 0;
    for folder in SOURCES {
        for file in sources(&root.join(folder))? {
            let text =
                fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
            let name = file.strip_prefix(root).unwrap_or(&file);
            for fault in faults_of(name, &text) {
                eprintln!("{}: {fault}", name.display());
                faults += 1;
            }
            let lines = text.lines().count();
            if lines > LONG {
                eprintln!("{}: note: {lines} lines ask to be two files", name.display());
            }
        }
    }
    if faults > 0 {
        bail!("{faults} faults in source files");
    }
    Ok(())
}

fn sources(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))? {
        let path = entry?.path();
        if path.is_dir() && path.file_name().is_some_and(|name| name != "target") {
            files.extend(sources(&path)?);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn faults_of(name: &Path, text: &str) -> Vec<&'static str> {
    let mut faults = Vec::new();
    if !text.lines().any(|line| line.starts_with("//!")) {
        faults.push("no module comment: say at the top why this file exists, and which way it fails");
    }
    let allowed = UNSAFE.iter().any(|folder| name.starts_with(folder));
    if !allowed && text.lines().any(is_unsafe) {
        faults.push("unsafe code outside of ebpf/src and agent/sys: give it a safe function there");
    }
    faults
}

fn is_unsafe(line: &str) -> bool {
    let code = line.split("//").next().unwrap_or_default();
    let what = code.split("unsafe ").skip(1);
    what.map(str::trim_start)
        .any(|rest| ["{", "fn ", "impl", "extern"].iter().any(|form| rest.starts_with(form)))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::faults_of;

    #[test]
    fn a_file_without_a_comment_and_unsafe_in_a_wrong_place_are_faults() {
        let good = "//! Why.\nfn f() {} // unsafe { in words }\n";
        assert!(faults_of(Path::new("agent/src/a.rs"), good).is_empty());
        assert_eq!(faults_of(Path::new("agent/src/a.rs"), "fn f() {}\n").len(), 1);
        let bad = format!("//! Why.\nfn f() {{ {} {{ g() }} }}\n", "unsafe");
        assert_eq!(faults_of(Path::new("agent/src/a.rs"), &bad).len(), 1);
        assert!(faults_of(Path::new("agent/sys/src/a.rs"), &bad).is_empty());
    }
}
