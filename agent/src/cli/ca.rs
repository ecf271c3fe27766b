//! `bulkhead ca`: the built-in authority. It works on folders alone: no agent, no kernel, no root.

use std::path::{Path, PathBuf};

use bulkhead_credentials::authority::{AuthorityError, Entry, NodeFolder, RootFolder};
use bulkhead_credentials::{Serial, SpiffeId};
use clap::Subcommand;

use super::table::Table;
use super::{Format, Result, Verdict};

#[derive(Debug, clap::Args)]
#[command(
    after_help = "The folder of `init` holds the roots' keys: keep it where operators work, not on the nodes. \
                        docs/certificates.md tells the whole way."
)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make an authority: a folder with a root and its key
    Init {
        /// Trust domain of all names, as `example.org`
        #[arg(long, value_name = "DOMAIN")]
        trust_domain: String,
        #[command(flatten)]
        folder: Folder,
        /// How long the root is good
        #[arg(long, value_name = "N", default_value_t = 3650)]
        days: u32,
    },
    /// Issue a certificate into a folder of its own
    #[command(subcommand)]
    Issue(Issue),
    /// Make a new root beside the old one; both are believed, the new one issues
    Rotate {
        #[command(flatten)]
        folder: Folder,
        /// How long the root is good
        #[arg(long, value_name = "N", default_value_t = 3650)]
        days: u32,
    },
    /// Take the oldest root out of the bundle, once nothing that it issued is in use
    Retire {
        #[command(flatten)]
        folder: Folder,
        /// Also while certificates that it issued are still good
        #[arg(long)]
        force: bool,
    },
    /// Put a certificate on the revocation list, crl.pem
    Revoke {
        /// Its serial number, as `bulkhead ca show` prints it
        serial: Serial,
        #[command(flatten)]
        folder: Folder,
    },
    /// Show what an authority, or a node, has
    Show {
        #[command(flatten)]
        folder: Folder,
        /// How it is printed; JSON is one line each
        #[arg(long, value_enum, default_value_t)]
        format: Format,
    },
}

#[derive(Debug, Subcommand)]
enum Issue {
    /// A node's own issuer, for `authority` under [proxy]
    Node {
        /// Name of the node
        #[arg(long, value_name = "NAME")]
        name: String,
        #[command(flatten)]
        issue: Common,
        /// How long it is good
        #[arg(long, value_name = "N", default_value_t = 365)]
        days: u32,
    },
    /// A workload's certificate, for peers that have no agent
    Workload {
        /// Its name, as `spiffe://example.org/ns/host/sa/web`
        #[arg(long, value_name = "SPIFFE-NAME")]
        name: SpiffeId,
        #[command(flatten)]
        issue: Common,
        /// How long it is good
        #[arg(long, value_name = "N", default_value_t = 30)]
        days: u32,
    },
}

#[derive(Debug, clap::Args)]
struct Common {
    #[command(flatten)]
    folder: Folder,
    /// Folder to make: tls.crt, tls.key, ca.crt and, if anything is revoked, crl.pem
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

#[derive(Debug, clap::Args)]
struct Folder {
    /// Folder of the authority
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
}

impl Args {
    pub(super) fn run(self) -> Result<Verdict> {
        match self.command {
            Command::Init { trust_domain, folder, days } => {
                let root = RootFolder::init(&folder.dir, &trust_domain, days)?;
                tell(&format!(
                    "made the authority of {trust_domain} in {0}; next, for each node:\n\
                     bulkhead ca issue node --dir {0} --name NODE --out FOLDER\n",
                    folder.dir.display()
                ))?;
                list(&root.entries()?, Format::Text)
            }
            Command::Issue(Issue::Node { name, issue, days }) => {
                let entry = RootFolder::open(&issue.folder.dir)?.issue_node(&name, days, &issue.out)?;
                tell(&format!(
                    "made {0}: bring it to the node, readable by root alone, and name it there:\n\
                     [proxy] authority = \"/etc/bulkhead/ca\"\n",
                    issue.out.display()
                ))?;
                list(&[entry], Format::Text)
            }
            Command::Issue(Issue::Workload { name, issue, days }) => {
                let entry = RootFolder::open(&issue.folder.dir)?.issue_workload(&name, days, &issue.out)?;
                tell(&format!("made {}: tls.crt, tls.key, ca.crt\n", issue.out.display()))?;
                list(&[entry], Format::Text)
            }
            Command::Rotate { folder, days } => {
                let entry = RootFolder::open(&folder.dir)?.rotate(days)?;
                tell(&format!(
                    "a new root issues from now on; next: bring {}/ca.crt to every node, issue each node anew, \
                     then `bulkhead ca retire`\n",
                    folder.dir.display()
                ))?;
                list(&[entry], Format::Text)
            }
            Command::Retire { folder, force } => {
                let entry = RootFolder::open(&folder.dir)?.retire(force)?;
                tell(&format!(
                    "the old root is out of the bundle; next: bring {}/ca.crt to every node\n",
                    folder.dir.display()
                ))?;
                list(&[entry], Format::Text)
            }
            Command::Revoke { serial, folder } => {
                match RootFolder::open(&folder.dir) {
                    Ok(root) => drop(root.revoke(&serial)?),
                    Err(AuthorityError::NotAnAuthority(_)) => {
                        NodeFolder::open(&folder.dir)?.revoke(&serial)?
                    }
                    Err(error) => return Err(error.into()),
                }
                tell(&format!(
                    "revoked {serial}; it counts on each node as soon as {}/crl.pem lies in its folder\n",
                    folder.dir.display()
                ))?;
                Ok(Verdict::Fine)
            }
            Command::Show { folder, format } => list(&entries(&folder.dir)?, format),
        }
    }
}

fn entries(dir: &Path) -> Result<Vec<Entry>> {
    match RootFolder::open(dir) {
        Ok(root) => Ok(root.entries()?),
        Err(AuthorityError::NotAnAuthority(_)) => Ok(NodeFolder::open(dir)?.entries()),
        Err(error) => Err(error.into()),
    }
}

/// What to do next goes to standard error: standard output has what was asked for.
fn tell(text: &str) -> Result<()> {
    use std::io::Write;
    std::io::stderr().lock().write_all(text.as_bytes())?;
    Ok(())
}

fn list(entries: &[Entry], format: Format) -> Result<Verdict> {
    match format {
        Format::Json => entries.iter().try_for_each(super::print_json)?,
        Format::Text => super::print(&text(entries))?,
    }
    Ok(Verdict::Fine)
}

fn text(entries: &[Entry]) -> String {
    let mut table = Table::new(&["KIND", "NAME", "SERIAL", "FROM", "UNTIL", "STATE", "SHA-256"]);
    for entry in entries {
        table.row([
            entry.kind.as_str().to_owned(),
            entry.name.clone(),
            entry.serial.clone(),
            entry.not_before.to_string(),
            entry.not_after.to_string(),
            entry.state.as_str().to_owned(),
            entry.fingerprint.chars().take(16).collect(),
        ]);
    }
    table.render("")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use clap::Parser;

    use super::super::Cli;

    fn run(words: &[&str]) -> Result<(), String> {
        let cli =
            Cli::try_parse_from(["bulkhead", "ca"].iter().chain(words)).map_err(|error| error.to_string())?;
        let super::super::Command::Ca(args) = cli.command else { return Err("another command".to_owned()) };
        args.run().map(drop).map_err(|error| format!("{error:#}"))
    }

    #[test]
    fn an_authority_is_made_used_and_replaced_by_commands() {
        let lab = tempfile::tempdir().unwrap();
        let path = |name: &str| lab.path().join(name).to_str().unwrap().to_owned();
        let (ca, node, web) = (path("ca"), path("node"), path("web"));
        let name = "spiffe://example.org/ns/host/sa/web";
        run(&["init", "--trust-domain", "example.org", "--dir", &ca]).unwrap();
        assert!(
            run(&["init", "--trust-domain", "example.org", "--dir", &ca])
                .unwrap_err()
                .contains("another folder")
        );
        run(&["issue", "node", "--dir", &ca, "--name", "one", "--out", &node]).unwrap();
        run(&["issue", "workload", "--dir", &ca, "--name", name, "--out", &web]).unwrap();
        run(&["show", "--dir", &ca, "--format", "json"]).unwrap();
        run(&["show", "--dir", &node]).unwrap();
        run(&["rotate", "--dir", &ca]).unwrap();
        assert!(run(&["retire", "--dir", &ca]).unwrap_err().contains("--force"));
        let serial = super::entries(std::path::Path::new(&ca)).unwrap().pop().unwrap().serial;
        run(&["revoke", "--dir", &ca, &serial]).unwrap();
        assert!(run(&["revoke", "--dir", &ca, "xyz"]).unwrap_err().contains("hexadecimal"));
        run(&["revoke", "--dir", &node, "0102"]).unwrap();
        run(&["retire", "--dir", &ca, "--force"]).unwrap();
        assert!(run(&["show", "--dir", &path("none")]).unwrap_err().contains("bulkhead ca init"));
        let issue = ["issue", "workload", "--dir", &ca, "--name", "spiffe://example.org/web", "--out", &web];
        assert!(run(&issue).unwrap_err().contains("/ns/NAMESPACE/sa/ACCOUNT"));
    }
}
