//! The guest's only file system: programs with their libraries, modules, the list of runs, and init.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::archive::Archive;
use super::kernel::Kernel;
use super::modules;
use super::runs::Run;
use crate::process;

/// Mounts, loads modules, runs what `/runs` lists, tells how it ended, and turns the machine off.
const INIT: &str = include_str!("init.sh");

/// Programs of this machine that the tests call; everything else is busybox's.
const CALLED: [&str; 3] = ["ip", "tc", "bpftool"];

/// Writes the archive.
pub(crate) fn make(disk: &Path, kernel: &Kernel, programs: &[PathBuf], runs: &[Run]) -> Result<()> {
    let output = File::create(disk).with_context(|| format!("cannot write {}", disk.display()))?;
    let mut archive = Archive::new(BufWriter::new(output));
    for folder in ["/proc", "/sys", "/dev", "/tmp", "/run", "/root", "/etc"] {
        archive.folder(Path::new(folder))?;
    }
    archive.file(Path::new("/init"), INIT.as_bytes())?;
    let busybox = program("busybox")?;
    archive.file(Path::new("/bin/busybox"), &fs::read(&busybox)?)?;
    let mut libraries = BTreeSet::from_iter(libraries_of(&busybox)?);
    for name in CALLED {
        let path = program(name)?;
        archive.file(&place(name), &fs::read(&path)?)?;
        libraries.extend(libraries_of(&path)?);
    }
    let scratch = disk.with_extension("stripped");
    let tests = runs.iter().map(|run| (run.name.to_owned(), &run.binary));
    let ours = programs.iter().map(|path| (file_name(path), path));
    for (name, path) in ours.chain(tests) {
        archive.file(&place(&name), &stripped(path, &scratch)?)?;
        libraries.extend(libraries_of(path)?);
    }
    for library in &libraries {
        let content = fs::read(library).with_context(|| format!("cannot read {}", library.display()))?;
        archive.file(library, &content)?;
    }
    let mut order = String::new();
    for module in modules::collect(&kernel.modules)? {
        let file = format!("/modules/{}.ko", module.name);
        archive.file(Path::new(&file), &module.content)?;
        order.push_str(&format!("{file}\n"));
    }
    archive.file(Path::new("/modules/order"), order.as_bytes())?;
    archive.file(Path::new("/runs"), list(runs).as_bytes())?;
    archive.finish()?;
    Ok(())
}

/// One run a line: limit, name, command.
fn list(runs: &[Run]) -> String {
    let line = |run: &Run| {
        let (limit, name) = (run.limit, run.name);
        format!("{limit} {name} {} {} {}\n", run.variables, place(name).display(), run.arguments)
    };
    runs.iter().map(line).collect()
}

fn place(name: &str) -> PathBuf {
    Path::new("/usr/bin").join(name)
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn program(name: &str) -> Result<PathBuf> {
    process::find(name).with_context(|| format!("there is no {name}: `cargo xtask setup` installs it"))
}

/// A program without what only a debugger reads, which is most of it.
fn stripped(path: &Path, scratch: &Path) -> Result<Vec<u8>> {
    let mut strip = Command::new("strip");
    process::run(strip.arg("--strip-debug").arg("-o").arg(scratch).arg(path))?;
    let content = fs::read(scratch)?;
    fs::remove_file(scratch)?;
    Ok(content)
}

/// The shared libraries of a program, its loader among them, where this machine has them; none for a
/// program that needs none.
fn libraries_of(path: &Path) -> Result<Vec<PathBuf>> {
    let output = Command::new("ldd").arg(path).output().context("cannot run ldd")?;
    let (text, complaint) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let is_static = complaint.contains("not a dynamic executable");
    ensure!(output.status.success() || is_static, "ldd cannot read {}: {complaint}", path.display());
    Ok(text.split_whitespace().filter(|word| word.starts_with('/')).map(PathBuf::from).collect())
}
