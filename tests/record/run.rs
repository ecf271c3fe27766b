//! A scenario's run: a namespace, dumpcap, the server, the client.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bulkhead_tests::harness::{Ns, wait_until};
use rustix::process::{Pid, Signal, kill_process_group};

use crate::scenario::Scenario;

/// How long a server may take to listen, and a client to be done.
const PATIENCE: Duration = Duration::from_secs(90);

/// A certificate for the servers, made for this run.
pub(crate) struct Certificates(tempfile::TempDir);

impl Certificates {
    pub(crate) fn make() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let script = "openssl req -x509 -newkey rsa:2048 -nodes -keyout key.pem -out cert.pem -days 30 \
                      -subj '/O=Example/CN=server.example' \
                      -addext 'subjectAltName=DNS:server.example,DNS:localhost,IP:127.0.0.1' 2>&1 && \
                      openssl dhparam -dsaparam -out dh.pem 2048 2>&1 && cat cert.pem key.pem > both.pem && chmod a+r *.pem && chmod a+rx .";
        let output = Command::new("sh").args(["-c", script]).current_dir(&folder).output()?;
        if !output.status.success() {
            bail!("openssl: {}", String::from_utf8_lossy(&output.stdout));
        }
        Ok(Self(folder))
    }
}

/// Where a scenario runs.
pub(crate) struct Run<'a> {
    ns: Ns,
    folder: tempfile::TempDir,
    certificates: &'a Certificates,
}

impl<'a> Run<'a> {
    pub(crate) fn new(certificates: &'a Certificates) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        // Servers give up root.
        fs::set_permissions(&folder, std::os::unix::fs::PermissionsExt::from_mode(0o777))?;
        Ok(Self { ns: Ns::new("corpus")?, folder, certificates })
    }

    /// Runs the scenario, and answers where its capture is.
    pub(crate) fn perform(&self, scenario: &Scenario) -> Result<PathBuf> {
        if !scenario.prepare.is_empty() {
            self.client("prepare", &scenario.prepare, scenario)?;
        }
        let path = self.folder.path().join("capture.pcapng");
        let file = path.to_string_lossy().into_owned();
        let mut dumpcap = self.ns.command("dumpcap");
        dumpcap.args(["-q", "-i", "lo", "-w", &file]).stdout(Stdio::null());
        dumpcap.stderr(File::create(self.folder.path().join("dumpcap.log"))?);
        let dumpcap = Group(dumpcap.process_group(0).spawn().context("cannot run dumpcap")?);
        wait_until(PATIENCE, "dumpcap writes", || path.metadata().is_ok_and(|file| file.len() > 0))?;
        let mut server = None;
        if !scenario.server.is_empty() {
            server =
                Some(Group(self.command("server", &scenario.server, scenario)?.process_group(0).spawn()?));
            wait_until(PATIENCE, "the server listens", || self.listens(scenario).unwrap_or(false))
                .with_context(|| format!("the log says\n{}", self.log()))?;
        }
        let client = self.client("client", &scenario.client, scenario);
        // dumpcap takes what it has not yet taken when it is told to stop.
        std::thread::sleep(Duration::from_millis(300));
        drop(server);
        dumpcap.end(Signal::INT)?;
        client?;
        Ok(path)
    }

    /// What the programs said.
    pub(crate) fn log(&self) -> String {
        let parts = ["prepare", "server", "client", "dumpcap"].map(|part| {
            let text = fs::read(self.folder.path().join(part).with_extension("log")).unwrap_or_default();
            let text = String::from_utf8_lossy(&text).into_owned();
            let lines: Vec<&str> = text.lines().rev().take(8).collect();
            lines.into_iter().rev().map(|line| format!("  {part}: {line}\n")).collect::<String>()
        });
        parts.concat()
    }

    /// Runs a client to its end; how it ends says nothing.
    fn client(&self, part: &str, script: &str, scenario: &Scenario) -> Result<()> {
        let child = self.command(part, script, scenario)?.process_group(0).spawn()?;
        let mut child = Group(child);
        wait_until(PATIENCE, "the client is done", || child.ended())
    }

    fn command(&self, part: &str, script: &str, scenario: &Scenario) -> Result<Command> {
        let log = File::create(self.folder.path().join(part).with_extension("log"))?;
        let mut command = self.ns.command("sh");
        command.args(["-c", script]).current_dir(&self.folder);
        let pem = |name: &str| self.certificates.0.path().join(name);
        command.env("T", self.folder.path()).env("PORT", scenario.port.to_string());
        command.env("CERT", pem("cert.pem")).env("KEY", pem("key.pem")).env("BOTH", pem("both.pem"));
        command.env("DH", pem("dh.pem")).env("DATA", data());
        // The project's own Python, where setup told of it.
        command.env("PYTHON", std::env::var_os("BULKHEAD_PYTHON").unwrap_or_else(|| "python3".into()));
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        Ok(command)
    }

    fn listens(&self, scenario: &Scenario) -> Result<bool> {
        let (tables, state) = if scenario.transport == "tcp" {
            (["/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"], "0A")
        } else {
            (["/proc/thread-self/net/udp", "/proc/thread-self/net/udp6"], "07")
        };
        let port = format!(":{:04X}", scenario.port);
        self.ns.enter(|| {
            tables.iter().filter_map(|table| fs::read_to_string(table).ok()).any(|table| {
                table.lines().any(|line| {
                    let mut words = line.split_whitespace().skip(1);
                    let local = words.next().is_some_and(|local| local.ends_with(&port));
                    local && words.nth(1) == Some(state)
                })
            })
        })
    }
}

/// Files that scenarios use.
fn data() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus")
}

/// A program with its children, ended when dropped.
struct Group(Child);

impl Group {
    fn end(mut self, signal: Signal) -> Result<()> {
        self.signal(signal);
        wait_until(PATIENCE, "a program ends", || self.ended())
    }

    fn ended(&mut self) -> bool {
        self.0.try_wait().is_ok_and(|status| status.is_some())
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.0.id()).ok().and_then(Pid::from_raw);
        if let Some(pid) = pid {
            // It may have ended by itself.
            let _ = kill_process_group(pid, signal);
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.signal(Signal::TERM);
        let ended = wait_until(Duration::from_secs(5), "a program ends", || self.ended());
        self.signal(Signal::KILL);
        if ended.is_err() {
            let _ = self.0.wait();
        }
    }
}
