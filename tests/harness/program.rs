//! Programs that are not ours, run where a workload would be: in a cgroup and a network namespace.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use super::wait::wait_until;
use super::{Cgroup, Ns};

/// A program that runs, with all its children killed when this is dropped.
///
/// It has a cgroup of its own below the one that it was put into, so that the zones of that one hold, and
/// a folder of its own that it is in.
#[derive(Debug)]
pub struct Program {
    name: String,
    child: Child,
    output: PathBuf,
    // Emptied before it is waited for, or a child could still write into the folder.
    _cgroup: Cgroup,
    folder: TempDir,
}

/// What a program that ended has said.
#[derive(Debug)]
pub struct Said {
    /// How it ended; `None` when it was given up.
    pub status: Option<ExitStatus>,
    /// Its standard output.
    pub output: Vec<u8>,
    /// Its standard error.
    pub errors: String,
}

/// A program and how it is to be run. See [`Program`].
#[derive(Clone, Debug)]
pub struct Launch {
    command: Vec<String>,
    input: Vec<u8>,
    files: Vec<(String, Vec<u8>)>,
    environment: Vec<(String, String)>,
}

impl Launch {
    /// A program by name or path, and its arguments.
    #[must_use]
    pub fn new<S: AsRef<str>>(command: impl IntoIterator<Item = S>) -> Launch {
        let command = command.into_iter().map(|part| part.as_ref().to_owned()).collect();
        Launch { command, input: Vec::new(), files: Vec::new(), environment: Vec::new() }
    }

    /// More arguments.
    #[must_use]
    pub fn and<S: AsRef<str>>(mut self, arguments: impl IntoIterator<Item = S>) -> Launch {
        self.command.extend(arguments.into_iter().map(|part| part.as_ref().to_owned()));
        self
    }

    /// What it reads on standard input; nothing if it is not said.
    #[must_use]
    pub fn input(mut self, input: &[u8]) -> Launch {
        self.input = input.to_vec();
        self
    }

    /// A file in its folder.
    #[must_use]
    pub fn file(mut self, name: &str, content: impl Into<Vec<u8>>) -> Launch {
        self.files.push((name.to_owned(), content.into()));
        self
    }

    /// A variable of its environment.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Launch {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Starts it in a namespace and below a cgroup.
    pub fn start(&self, ns: &Ns, cgroup: &Path) -> Result<Program> {
        let name = self.command.first().context("a program needs a name")?.clone();
        let label = Path::new(&name).file_name().unwrap_or_default().to_string_lossy().into_owned();
        let own = Cgroup::new_in(cgroup, &label)?;
        let folder = tempfile::Builder::new().prefix("bh-").tempdir()?;
        // Programs that leave root behind must still find their files.
        fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
        for (name, content) in &self.files {
            fs::write(folder.path().join(name), content)?;
        }
        let input = folder.path().join(".input");
        fs::write(&input, &self.input)?;
        let output = folder.path().join(".output");
        // It joins before it is itself, so that no socket of it is made elsewhere.
        const JOIN: &str =
            "echo $$ > \"$0/cgroup.procs\" && ns=\"$1\" && shift && exec nsenter --net=\"$ns\" -- \"$@\"";
        let child = Command::new("sh")
            .args(["-c", JOIN])
            .arg(own.path())
            .arg(ns.path())
            .args(&self.command)
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .current_dir(folder.path())
            .stdin(File::open(&input)?)
            .stdout(File::create(&output)?)
            .stderr(File::create(folder.path().join(".errors"))?)
            .spawn()
            .with_context(|| format!("cannot start {name}"))?;
        Ok(Program { name, child, output, _cgroup: own, folder })
    }

    /// Runs it to its end, or until it is given up.
    pub fn run(&self, ns: &Ns, cgroup: &Path, limit: Duration) -> Result<Said> {
        self.start(ns, cgroup)?.wait_ended(limit)
    }
}

impl Program {
    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Waits until it is ready; fails with what it said when it ends instead.
    pub fn wait_until(&mut self, limit: Duration, mut ready: impl FnMut() -> bool) -> Result<()> {
        let mut ended = false;
        let what = format!("{} is ready", self.name);
        let waited = wait_until(limit, &what, || {
            ended = self.has_ended();
            ended || ready()
        });
        match waited {
            Ok(()) if !ended => Ok(()),
            Ok(()) => bail!("{} ended:\n{}", self.name, self.errors()),
            Err(error) => bail!("{error}:\n{}", self.errors()),
        }
    }

    /// Waits until it ends, or gives it up after `limit`; what it has said.
    pub fn wait_ended(mut self, limit: Duration) -> Result<Said> {
        let ended = wait_until(limit, "the program has ended", || self.has_ended());
        let status = match ended {
            Ok(()) => self.child.try_wait()?,
            Err(_) => None,
        };
        Ok(Said { status, output: fs::read(&self.output)?, errors: self.errors() })
    }

    /// What it has written to its standard error so far.
    #[must_use]
    pub fn errors(&self) -> String {
        let errors = fs::read(self.folder.path().join(".errors")).unwrap_or_default();
        String::from_utf8_lossy(&errors).into_owned()
    }

    fn has_ended(&mut self) -> bool {
        self.child.try_wait().is_ok_and(|status| status.is_some())
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Said {
    /// Whether it ended as one that did what it was asked.
    #[must_use]
    pub fn succeeded(&self) -> bool {
        self.status.is_some_and(|status| status.success())
    }
}
