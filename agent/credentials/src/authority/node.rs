//! A node's folder, as `bulkhead ca issue node` makes it: the intermediate that workloads' certificates are
//! issued with. cert-manager's layout of files, so that an issuer of its (`isCA: true`) does as well.

use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::entry::{Entry, Kind};
use super::revoke::revoke;
use super::{AuthorityError, Issuing, io_at, pem, read};
use crate::certificate::{Serial, parse};
use crate::files::{self, CHAIN, KEY, LISTS, PUBLIC, ROOTS};
use crate::material::{Bundle, Der, certificates_from_pem, key_from_pem, lists_from_pem};
use crate::revocation::is_listed;

/// What such a folder holds, read at once.
#[derive(Debug)]
pub struct NodeFolder {
    dir: PathBuf,
    /// The intermediate, then what leads to the root.
    chain: Vec<Der>,
    roots: Vec<Der>,
    lists: Vec<Der>,
    issuing: Issuing,
}

impl NodeFolder {
    /// Reads `dir`.
    pub fn open(dir: &Path) -> Result<Self, AuthorityError> {
        let path = dir.join(CHAIN);
        if !path.exists() {
            return Err(AuthorityError::NotAnAuthority(dir.to_owned()));
        }
        let chain = certificates_from_pem(&read(&path)?).map_err(pem(&path))?;
        let path = dir.join(KEY);
        let key = key_from_pem(&Zeroizing::new(read(&path)?)).map_err(pem(&path))?;
        let path = dir.join(ROOTS);
        let roots = certificates_from_pem(&read(&path)?).map_err(pem(&path))?;
        let path = dir.join(LISTS);
        let lists =
            if path.exists() { lists_from_pem(&read(&path)?).map_err(pem(&path))? } else { Vec::new() };
        let unfit = |why| AuthorityError::Unfit { path: dir.join(CHAIN), why };
        let Some(first) = chain.first() else { return Err(unfit("it is empty".to_owned())) };
        let issuing = Issuing::new(first, &key, chain.clone()).map_err(unfit)?;
        Ok(Self { dir: dir.to_owned(), chain, roots, lists, issuing })
    }

    /// Issues workloads' certificates.
    pub const fn issuing(&self) -> &Issuing {
        &self.issuing
    }

    /// The node's own certificate, then what leads to the root.
    pub(crate) fn chain(&self) -> &[Der] {
        &self.chain
    }

    /// What peers are believed by.
    pub fn bundle(&self, domain: &str) -> Bundle {
        Bundle { domain: domain.to_owned(), roots: self.roots.clone(), lists: self.lists.clone() }
    }

    /// Puts a certificate that this node issued on the node's own revocation list, in `crl.pem`. To count
    /// elsewhere, the file has to come to the other nodes.
    pub fn revoke(&self, serial: &Serial) -> Result<(), AuthorityError> {
        let path = self.dir.join(LISTS);
        let unfit = |why: String| AuthorityError::Unfit { path: self.dir.join(CHAIN), why };
        let Some(first) = self.chain.first() else { return Err(unfit("it is empty".to_owned())) };
        let certificate = first.certificate();
        let parsed = parse(&certificate).map_err(|problem| unfit(problem.to_string()))?;
        let lists = revoke(&self.lists, &self.issuing, parsed.subject().as_raw(), serial)?;
        files::write(&path, files::lists_to_pem(&lists).as_bytes(), PUBLIC).map_err(io_at(&path))
    }

    /// The node's own certificate, and the roots.
    pub fn entries(&self) -> Vec<Entry> {
        let roots = self.roots.iter().map(|root| Entry::new(root, Kind::Root, false));
        let own = self.chain.first().map(|own| Entry::new(own, Kind::of(own), is_listed(&self.lists, own)));
        roots.chain(own).collect()
    }
}
