//! The kernel to boot: found, fetched once, unpacked.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::process;
use crate::progress::Progress;
use crate::workspace::Workspace;

/// Names of Debian 12's own kernels for virtual machines: the same source and version as its kernel for
/// PCs, with fewer drivers.
const OWN: &str = "linux-image-6.1.0-";
const FLAVOUR: &str = "-cloud-amd64";

/// An unpacked kernel package.
#[derive(Debug)]
pub(crate) struct Kernel {
    /// What `uname -r` will say.
    pub(crate) release: String,
    /// The image that is booted.
    pub(crate) image: PathBuf,
    /// The folder of its modules.
    pub(crate) modules: PathBuf,
}

/// Finds what the command line named, or Debian 12's kernel. What is fetched is kept for the next time.
pub(crate) fn find(workspace: &Workspace, wanted: Option<&str>, progress: &Progress) -> Result<Kernel> {
    let cache = workspace.target().join("vm/kernels");
    fs::create_dir_all(&cache).with_context(|| format!("cannot make {}", cache.display()))?;
    let folder = match wanted {
        Some(wanted) if Path::new(wanted).is_dir() => PathBuf::from(wanted),
        Some(wanted) if Path::new(wanted).is_file() => unpack(Path::new(wanted), &cache)?,
        Some(wanted) => fetch(wanted, &cache, progress)?,
        None => match newest(kept(&cache)?) {
            Some(name) => cache.join(name),
            None => fetch(&own()?, &cache, progress)?,
        },
    };
    let kernel = unpacked(&folder)?;
    progress.found("kernel", &format!("Linux {}", kernel.release));
    Ok(kernel)
}

/// Debian 12's newest kernel that apt knows.
fn own() -> Result<String> {
    let ask = || process::ask(Command::new("apt-cache").args(["pkgnames", OWN])).unwrap_or_default();
    let mut names = ask();
    if names.is_empty() {
        let _ = process::ask(Command::new("apt-get").args(["-q", "update"]));
        names = ask();
    }
    newest(names.lines().map(str::to_owned)).with_context(|| {
        format!("apt knows no {OWN}*{FLAVOUR}: name a kernel's package or file with --kernel")
    })
}

fn newest(names: impl IntoIterator<Item = String>) -> Option<String> {
    let number = |name: &str| name.strip_prefix(OWN)?.strip_suffix(FLAVOUR)?.parse::<u32>().ok();
    names.into_iter().filter_map(|name| Some((number(&name)?, name))).max().map(|(_, name)| name)
}

/// Packages that were fetched before.
fn kept(cache: &Path) -> Result<Vec<String>> {
    let entries = fs::read_dir(cache)?.flatten();
    Ok(entries
        .filter(|entry| entry.path().join("boot").is_dir())
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect())
}

fn fetch(package: &str, cache: &Path, progress: &Progress) -> Result<PathBuf> {
    let folder = cache.join(package);
    if folder.join("boot").is_dir() {
        return Ok(folder);
    }
    progress.step("kernel", &format!("fetching the package {package}"), || {
        let download = || {
            let mut apt = Command::new("apt-get");
            apt.current_dir(cache).args(["-q", "download", package]).stdout(std::io::stderr());
            process::run(&mut apt)
        };
        if download().is_err() {
            // The list of packages may be older than the archive.
            let _ = process::ask(Command::new("apt-get").args(["-q", "update"]));
            download()?;
        }
        let prefix = format!("{package}_");
        let files = fs::read_dir(cache)?.flatten().map(|entry| entry.path());
        let file = files
            .filter(|path| path.extension().is_some_and(|extension| extension == "deb"))
            .find(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&prefix)));
        let file = file.with_context(|| format!("apt-get left no file of {package}"))?;
        let unpacked = unpack(&file, cache)?;
        fs::remove_file(&file)?;
        Ok(unpacked)
    })
}

/// Unpacks a package into a folder of its name. Complete, or not there.
fn unpack(file: &Path, cache: &Path) -> Result<PathBuf> {
    let name = process::ask(Command::new("dpkg-deb").args(["--field"]).arg(file).arg("Package"))
        .with_context(|| format!("{} is no Debian package", file.display()))?;
    let folder = cache.join(name);
    if folder.join("boot").is_dir() {
        return Ok(folder);
    }
    let unfinished = folder.with_extension("unpacking");
    if unfinished.exists() {
        fs::remove_dir_all(&unfinished)?;
    }
    process::run(Command::new("dpkg-deb").arg("--extract").arg(file).arg(&unfinished))?;
    fs::rename(&unfinished, &folder)?;
    Ok(folder)
}

fn unpacked(folder: &Path) -> Result<Kernel> {
    let boot = folder.join("boot");
    let files = fs::read_dir(&boot).with_context(|| format!("no kernel package: {}", folder.display()))?;
    let names = files.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
    let mut releases = names.filter_map(|name| name.strip_prefix("vmlinuz-").map(str::to_owned));
    let Some(release) = releases.next() else {
        bail!("{} holds no vmlinuz: name a package linux-image-VERSION-amd64", boot.display());
    };
    let modules = [folder.join("lib/modules"), folder.join("usr/lib/modules")]
        .into_iter()
        .map(|modules| modules.join(&release))
        .find(|modules| modules.is_dir())
        .with_context(|| format!("{} has no modules of {release}", folder.display()))?;
    Ok(Kernel { image: boot.join(format!("vmlinuz-{release}")), modules, release })
}

#[cfg(test)]
mod tests {
    use super::newest;

    #[test]
    fn the_newest_is_taken_by_number() {
        let names = [
            "linux-image-6.1.0-9-cloud-amd64",
            "linux-image-6.1.0-47-cloud-amd64",
            "linux-image-6.1.0-48-cloud-amd64-dbg",
            "linux-image-6.1.0-50-cloud-amd64-unsigned",
            "linux-image-6.1.0-56-amd64",
        ];
        let names = names.map(str::to_owned);
        assert_eq!(newest(names).as_deref(), Some("linux-image-6.1.0-47-cloud-amd64"));
    }
}
