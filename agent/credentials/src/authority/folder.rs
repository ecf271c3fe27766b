//! The operator's folder: roots with their keys, the bundle and the revocation lists to spread, and every
//! certificate that was issued from here.
//!
//! ```text
//! ca.crt         the bundle: all roots that are believed
//! crl.pem        revocation lists, once something was revoked
//! roots/N.crt    root N, the newest has the highest number and issues
//! roots/N.key    its key, mode 0600
//! roots/N.by     root N's certificate from root N-1, for those who know only that one
//! issued/S.crt   the certificate with serial number S
//! ```
//!
//! Each file is replaced in one step, and nothing is overwritten that could not be made again.

use std::fs::{DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::entry::{Entry, Kind, State};
use super::issue::key_to_pem;
use super::revoke::revoke;
use super::{AuthorityError, Issuing, io_at, pem, read};
use crate::SpiffeId;
use crate::certificate::{Serial, parse};
use crate::files::{self, CHAIN, KEY, LISTS, PUBLIC, ROOTS, SECRET};
use crate::material::{Credentials, Der, Key, certificates_from_pem, key_from_pem, lists_from_pem};
use crate::revocation::is_listed;

const ROOT_FOLDER: &str = "roots";
const ISSUED: &str = "issued";
const DAY: i64 = 86_400;

/// An authority that the operator holds.
#[derive(Debug)]
pub struct RootFolder {
    dir: PathBuf,
    domain: String,
    /// Oldest first; never empty.
    roots: Vec<Root>,
}

#[derive(Debug)]
struct Root {
    number: u32,
    certificate: Der,
    /// From the root before it.
    crossed: Option<Der>,
}

impl RootFolder {
    /// Makes `dir`, with a root for `domain` that is good for `days`.
    pub fn init(dir: &Path, domain: &str, days: u32) -> Result<Self, AuthorityError> {
        if SpiffeId::new(domain, "a", "a").is_err() {
            return Err(AuthorityError::Domain(domain.to_owned()));
        }
        let (certificate, key, _) = Issuing::root(domain, seconds(days)?, None)?;
        make_new(dir, 0o700)?;
        for folder in [ROOT_FOLDER, ISSUED] {
            make(&dir.join(folder), 0o700)?;
        }
        let root = Root { number: 1, certificate, crossed: None };
        let folder = Self { dir: dir.to_owned(), domain: domain.to_owned(), roots: vec![root] };
        folder.write_newest(&key)?;
        folder.write_bundle()?;
        Ok(folder)
    }

    /// Opens the folder that [`RootFolder::init`] made.
    pub fn open(dir: &Path) -> Result<Self, AuthorityError> {
        let folder = dir.join(ROOT_FOLDER);
        let mut numbers = Vec::new();
        match std::fs::read_dir(&folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(AuthorityError::NotAnAuthority(dir.to_owned()));
            }
            entries => {
                for entry in entries.map_err(io_at(&folder))? {
                    let name = entry.map_err(io_at(&folder))?.file_name();
                    let number =
                        name.to_str().and_then(|name| name.strip_suffix(".crt")?.parse::<u32>().ok());
                    numbers.extend(number);
                }
            }
        }
        numbers.sort_unstable();
        let mut roots = Vec::new();
        for number in numbers {
            let certificate = first(&folder.join(format!("{number}.crt")))?;
            let path = folder.join(format!("{number}.by"));
            let crossed = if path.exists() { Some(first(&path)?) } else { None };
            roots.push(Root { number, certificate, crossed });
        }
        let Some(newest) = roots.last() else { return Err(AuthorityError::NotAnAuthority(dir.to_owned())) };
        let path = folder.join(format!("{}.crt", newest.number));
        let domain = domain_of(&newest.certificate).ok_or_else(|| AuthorityError::Unfit {
            path,
            why: "it names no trust domain: it is not from `bulkhead ca init`".to_owned(),
        })?;
        Ok(Self { dir: dir.to_owned(), domain, roots })
    }

    /// The trust domain.
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// Makes `out`, a folder that the node `name` mounts: its intermediate, good for `days`, the bundle and
    /// the revocation lists.
    pub fn issue_node(&self, name: &str, days: u32, out: &Path) -> Result<Entry, AuthorityError> {
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
        if name.is_empty() || name.len() > 63 || !name.bytes().all(is_name) {
            return Err(AuthorityError::NodeName(name.to_owned()));
        }
        let (chain, key) = self.newest()?.node(&self.domain, name, seconds(days)?)?;
        self.hand_out(chain, &key, out)
    }

    /// Makes `out`, a folder with the certificate and key of one workload, good for `days`.
    pub fn issue_workload(&self, name: &SpiffeId, days: u32, out: &Path) -> Result<Entry, AuthorityError> {
        if name.trust_domain() != self.domain {
            let (name, domain) = (name.to_string(), self.domain.clone());
            return Err(AuthorityError::ForeignName { name, domain });
        }
        let Credentials { chain, key, .. } = self.newest()?.workload(name, seconds(days)?)?;
        self.hand_out(chain, &key, out)
    }

    /// Makes a root, good for `days`, that issues from now on. The bundle has both; the elder signs the new
    /// one, so that nodes with the old bundle go on to believe what is issued.
    pub fn rotate(&mut self, days: u32) -> Result<Entry, AuthorityError> {
        let elder = self.newest()?;
        let (certificate, key, crossed) = Issuing::root(&self.domain, seconds(days)?, Some(&elder))?;
        let number = self.roots.last().map_or(1, |root| root.number + 1);
        self.roots.push(Root { number, certificate: certificate.clone(), crossed });
        self.write_newest(&key)?;
        self.write_bundle()?;
        Ok(self.entry(&certificate, Kind::Root, &self.lists()?))
    }

    /// Takes the oldest root out of the bundle and removes its key. Unless `force`, refused while
    /// certificates that it issued are still good.
    pub fn retire(&mut self, force: bool) -> Result<Entry, AuthorityError> {
        if self.roots.len() < 2 {
            return Err(AuthorityError::OneRoot);
        }
        let lists = self.lists()?;
        let oldest = self.roots.remove(0);
        let issuer = subject_of(&oldest.certificate);
        let in_use: Vec<Entry> = self
            .issued()?
            .into_iter()
            .filter(|der| issuer_of(der) == issuer)
            .map(|der| self.entry(&der, Kind::of(&der), &lists))
            .filter(|entry| entry.state == State::Good)
            .collect();
        if !force && let Some(until) = in_use.iter().map(|entry| entry.not_after).max() {
            self.roots.insert(0, oldest);
            return Err(AuthorityError::StillInUse { count: in_use.len(), until });
        }
        let entry = Entry { state: State::Retired, ..self.entry(&oldest.certificate, Kind::Root, &lists) };
        self.write_bundle()?;
        let kept: Vec<Der> = lists.into_iter().filter(|list| list_issuer(list) != issuer).collect();
        self.write_lists(&kept)?;
        let mut leftover = vec![format!("{}.key", oldest.number), format!("{}.crt", oldest.number)];
        if let Some(root) = self.roots.first_mut() {
            root.crossed = None;
            leftover.push(format!("{}.by", root.number));
        }
        for name in leftover {
            let path = self.dir.join(ROOT_FOLDER).join(name);
            match std::fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(io_at(&path)(error)),
                _ => {}
            }
        }
        Ok(entry)
    }

    /// Puts the certificate with `serial` on its root's revocation list, `crl.pem`.
    pub fn revoke(&self, serial: &Serial) -> Result<Entry, AuthorityError> {
        let unknown = || AuthorityError::UnknownSerial(serial.to_string());
        let der = self
            .issued()?
            .into_iter()
            .find(|der| serial_of(der).as_ref() == Some(serial))
            .ok_or_else(unknown)?;
        let issuer = issuer_of(&der).ok_or_else(unknown)?;
        let root = self
            .roots
            .iter()
            .find(|root| subject_of(&root.certificate).as_ref() == Some(&issuer))
            .ok_or_else(unknown)?;
        let lists = revoke(&self.lists()?, &self.issuing(root)?, &issuer, serial)?;
        self.write_lists(&lists)?;
        Ok(self.entry(&der, Kind::of(&der), &lists))
    }

    /// All that there is: roots first, then what they issued, by the end of its time.
    pub fn entries(&self) -> Result<Vec<Entry>, AuthorityError> {
        let lists = self.lists()?;
        let mut issued: Vec<Entry> =
            self.issued()?.iter().map(|der| self.entry(der, Kind::of(der), &lists)).collect();
        issued.sort_by(|a, b| (a.not_after, &a.serial).cmp(&(b.not_after, &b.serial)));
        let roots = self.roots.iter().map(|root| self.entry(&root.certificate, Kind::Root, &lists));
        Ok(roots.chain(issued).collect())
    }

    fn entry(&self, der: &Der, kind: Kind, lists: &[Der]) -> Entry {
        Entry::new(der, kind, is_listed(lists, der))
    }

    fn newest(&self) -> Result<Issuing, AuthorityError> {
        match self.roots.last() {
            Some(root) => self.issuing(root),
            None => Err(AuthorityError::NotAnAuthority(self.dir.clone())),
        }
    }

    fn issuing(&self, root: &Root) -> Result<Issuing, AuthorityError> {
        let path = self.dir.join(ROOT_FOLDER).join(format!("{}.key", root.number));
        let mode = std::fs::metadata(&path).map_err(io_at(&path))?.permissions().mode();
        if mode & 0o077 != 0 {
            return Err(AuthorityError::OpenKey(path));
        }
        let key = key_from_pem(&zeroize::Zeroizing::new(read(&path)?)).map_err(pem(&path))?;
        let above = self
            .roots
            .iter()
            .rev()
            .skip_while(|other| other.number > root.number)
            .map_while(|root| root.crossed.clone())
            .collect();
        Issuing::new(&root.certificate, &key, above).map_err(|why| AuthorityError::Unfit { path, why })
    }

    fn hand_out(&self, chain: Vec<Der>, key: &Key, out: &Path) -> Result<Entry, AuthorityError> {
        make_new(out, 0o700)?;
        let unfit = |why| AuthorityError::Unfit { path: out.join(KEY), why };
        write(&out.join(KEY), key_to_pem(key).map_err(unfit)?.as_bytes(), SECRET)?;
        write(&out.join(CHAIN), files::certificates_to_pem(&chain).as_bytes(), PUBLIC)?;
        write(&out.join(ROOTS), self.bundle().as_bytes(), PUBLIC)?;
        let lists = self.lists()?;
        if !lists.is_empty() {
            write(&out.join(LISTS), files::lists_to_pem(&lists).as_bytes(), PUBLIC)?;
        }
        let Some(first) = chain.first() else { return Err(AuthorityError::NoLife) };
        let name = format!("{}.crt", serial_of(first).map(|serial| serial.to_string()).unwrap_or_default());
        write(&self.dir.join(ISSUED).join(name), files::certificates_to_pem([first]).as_bytes(), PUBLIC)?;
        Ok(self.entry(first, Kind::of(first), &lists))
    }

    fn issued(&self) -> Result<Vec<Der>, AuthorityError> {
        let folder = self.dir.join(ISSUED);
        let mut found = Vec::new();
        for entry in std::fs::read_dir(&folder).map_err(io_at(&folder))? {
            let path = entry.map_err(io_at(&folder))?.path();
            if path.extension().is_some_and(|extension| extension == "crt") {
                found.push(first(&path)?);
            }
        }
        Ok(found)
    }

    fn lists(&self) -> Result<Vec<Der>, AuthorityError> {
        let path = self.dir.join(LISTS);
        if path.exists() { lists_from_pem(&read(&path)?).map_err(pem(&path)) } else { Ok(Vec::new()) }
    }

    fn write_lists(&self, lists: &[Der]) -> Result<(), AuthorityError> {
        let path = self.dir.join(LISTS);
        if lists.is_empty() && !path.exists() {
            return Ok(());
        }
        write(&path, files::lists_to_pem(lists).as_bytes(), PUBLIC)
    }

    fn bundle(&self) -> String {
        files::certificates_to_pem(self.roots.iter().map(|root| &root.certificate))
    }

    fn write_bundle(&self) -> Result<(), AuthorityError> {
        write(&self.dir.join(ROOTS), self.bundle().as_bytes(), PUBLIC)
    }

    /// The key first, the certificate last: a root without a key is never found.
    fn write_newest(&self, key: &Key) -> Result<(), AuthorityError> {
        let Some(root) = self.roots.last() else { return Ok(()) };
        let path = |extension: &str| self.dir.join(ROOT_FOLDER).join(format!("{}.{extension}", root.number));
        let unfit = |why| AuthorityError::Unfit { path: path("key"), why };
        write(&path("key"), key_to_pem(key).map_err(unfit)?.as_bytes(), SECRET)?;
        if let Some(crossed) = &root.crossed {
            write(&path("by"), files::certificates_to_pem([crossed]).as_bytes(), PUBLIC)?;
        }
        write(&path("crt"), files::certificates_to_pem([&root.certificate]).as_bytes(), PUBLIC)
    }
}

fn seconds(days: u32) -> Result<i64, AuthorityError> {
    if days == 0 { Err(AuthorityError::NoLife) } else { Ok(i64::from(days) * DAY) }
}

/// Makes a folder, or takes an empty one.
fn make_new(dir: &Path, mode: u32) -> Result<(), AuthorityError> {
    match make(dir, mode) {
        Err(AuthorityError::Io { source, .. }) if source.kind() == io::ErrorKind::AlreadyExists => {
            let mut entries = std::fs::read_dir(dir).map_err(io_at(dir))?;
            if entries.next().is_some() {
                return Err(AuthorityError::Exists(dir.to_owned()));
            }
            std::fs::set_permissions(dir, Permissions::from_mode(mode)).map_err(io_at(dir))
        }
        made => made,
    }
}

fn make(dir: &Path, mode: u32) -> Result<(), AuthorityError> {
    DirBuilder::new().mode(mode).create(dir).map_err(io_at(dir))
}

fn write(path: &Path, contents: &[u8], mode: u32) -> Result<(), AuthorityError> {
    files::write(path, contents, mode).map_err(io_at(path))
}

fn first(path: &Path) -> Result<Der, AuthorityError> {
    let mut certificates = certificates_from_pem(&read(path)?).map_err(pem(path))?;
    Ok(certificates.swap_remove(0))
}

fn subject_of(der: &Der) -> Option<Vec<u8>> {
    Some(parse(&der.certificate()).ok()?.subject().as_raw().to_vec())
}

fn issuer_of(der: &Der) -> Option<Vec<u8>> {
    Some(parse(&der.certificate()).ok()?.issuer().as_raw().to_vec())
}

fn serial_of(der: &Der) -> Option<Serial> {
    Some(Serial::new(parse(&der.certificate()).ok()?.raw_serial()))
}

fn list_issuer(list: &Der) -> Option<Vec<u8>> {
    crate::revocation::issuer_of(list)
}

/// The trust domain that an authority's certificate names: a URI name without a path.
fn domain_of(der: &Der) -> Option<String> {
    let names = crate::certificate::presented(&der.certificate()).names;
    let domain = names.first()?.strip_prefix("spiffe://")?.to_owned();
    SpiffeId::new(&domain, "a", "a").ok().map(|_| domain)
}
