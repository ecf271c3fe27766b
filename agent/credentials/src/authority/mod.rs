//! The built-in authority: roots in a folder of the operator's, an intermediate for each node, and
//! short-lived certificates for workloads that a node issues to itself.
//!
//! Three steps, so that what is lost is small: the root's key lies with the operator and is needed for
//! nothing but new nodes; a node's key issues names of the trust domain until the node's certificate is
//! revoked; a workload's key lives in memory for its short life and is never written.

mod entry;
mod folder;
mod issue;
mod node;
mod revoke;

pub use entry::{Entry, Kind, State};
pub use folder::RootFolder;
pub use issue::Issuing;
pub(crate) use issue::random;
pub use node::NodeFolder;

use std::io;
use std::path::{Path, PathBuf};

use crate::certificate::Moment;
use crate::material::PemError;
use crate::name::NameError;

/// Why the authority did not do what it was asked to.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AuthorityError {
    /// A file or folder.
    #[error("{}: {source}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// Something is there that must not be overwritten.
    #[error("{} is there already, and nothing of an authority is ever overwritten: choose another folder", .0.display())]
    Exists(PathBuf),
    /// Not an authority's folder.
    #[error("{} is no folder of an authority: make one with `bulkhead ca init --trust-domain DOMAIN --dir DIR`", .0.display())]
    NotAnAuthority(PathBuf),
    /// Not PEM, or not what it should be.
    #[error("{}: {error}", path.display())]
    Pem {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        error: PemError,
    },
    /// A certificate that cannot be used for issuing.
    #[error("{}: {why}", path.display())]
    Unfit {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// A key file that others may read.
    #[error("{} may be read by others than its owner: chmod 600 it, and if it has lain like this, replace the key", .0.display())]
    OpenKey(PathBuf),
    /// Not a trust domain.
    #[error("`{0}` is no trust domain: 1 to 255 letters a-z, digits, dots, dashes, underscores")]
    Domain(String),
    /// Not a workload's name.
    #[error(transparent)]
    Name(#[from] NameError),
    /// A name of another trust domain.
    #[error("{name} is not of this authority's trust domain, {domain}")]
    ForeignName {
        /// The name.
        name: String,
        /// Ours.
        domain: String,
    },
    /// A node's name that does not fit into a certificate and a file name.
    #[error("`{0}` is no name for a node: 1 to 63 letters, digits, dots, dashes, underscores")]
    NodeName(String),
    /// The issuer's time is over.
    #[error(
        "the issuing certificate expired at {0}: renew it (`bulkhead ca issue node`, or `bulkhead ca rotate` for a root)"
    )]
    Expired(Moment),
    /// A life of nothing.
    #[error("a certificate must be good for a while: give at least 1 day, or 1 minute for a workload's")]
    NoLife,
    /// Nothing to retire.
    #[error("there is one root only: `bulkhead ca rotate` makes the one that takes over")]
    OneRoot,
    /// What would break.
    #[error(
        "{count} certificates of the old root are good until {until}, and peers would refuse them: issue them anew first \
         (`bulkhead ca show` lists them), or say --force"
    )]
    StillInUse {
        /// How many.
        count: usize,
        /// The last of them.
        until: Moment,
    },
    /// Nobody knows this serial.
    #[error("no certificate with serial {0} was issued here: `bulkhead ca show` lists them")]
    UnknownSerial(String),
    /// Revoked before.
    #[error("serial {0} is revoked already")]
    Already(String),
    /// Making or signing a certificate failed.
    #[error("cannot make the certificate: {0}")]
    Make(#[from] rcgen::Error),
}

fn read(path: &Path) -> Result<Vec<u8>, AuthorityError> {
    std::fs::read(path).map_err(|source| AuthorityError::Io { path: path.to_owned(), source })
}

fn pem(path: &Path) -> impl Fn(PemError) -> AuthorityError + '_ {
    |error| AuthorityError::Pem { path: path.to_owned(), error }
}

fn io_at(path: &Path) -> impl Fn(io::Error) -> AuthorityError + '_ {
    |source| AuthorityError::Io { path: path.to_owned(), source }
}
