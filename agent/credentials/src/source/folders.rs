//! Certificates in files: one folder, or a folder for each name.
//!
//! Whose a certificate is, it says itself; a folder that once held one name is not taken for another's.
//! Believed is what any of the folders says, since while an authority is replaced some have the new root
//! before others.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Instant;

use super::folder::{Files, Folder};
use super::{AGAIN, Look};
use crate::certificate::Facts;
use crate::files::CHAIN;
use crate::material::{Bundle, Credentials, Der};
use crate::name::SpiffeId;

/// See the module.
#[derive(Debug)]
pub(super) struct Source {
    dir: PathBuf,
    domain: String,
    folders: BTreeMap<PathBuf, Watched>,
    /// What is wrong with the folder itself.
    trouble: Option<String>,
}

#[derive(Debug)]
struct Watched {
    folder: Folder,
    name: Option<SpiffeId>,
    roots: Vec<Der>,
    lists: Vec<Der>,
    trouble: Option<String>,
    /// When it is read again though it has not changed.
    again: Option<Instant>,
}

impl Source {
    pub(super) const fn new(dir: PathBuf, domain: String) -> Self {
        Self { dir, domain, folders: BTreeMap::new(), trouble: None }
    }

    /// What has changed since the last look.
    pub(super) fn look(&mut self) -> Option<Look> {
        let now = Instant::now();
        let (found, trouble) = self.find();
        let mut changed = self.trouble != trouble;
        self.trouble = trouble;
        let mut look = Look::default();
        if self.trouble.is_none() {
            self.folders.retain(|dir, watched| {
                let stays = found.contains(dir);
                changed |= !stays;
                if !stays {
                    look.gone.extend(watched.name.take());
                }
                stays
            });
            for dir in found {
                let folder = Folder::new(dir.clone());
                self.folders.entry(dir).or_insert_with(|| Watched::new(folder));
            }
        }
        let mut owners: BTreeMap<SpiffeId, PathBuf> = self
            .folders
            .iter()
            .filter_map(|(dir, watched)| Some((watched.name.clone()?, dir.clone())))
            .collect();
        for (dir, watched) in &mut self.folders {
            let again = watched.again.is_some_and(|at| at <= now);
            if !watched.folder.is_due() && !again {
                continue;
            }
            watched.again = None;
            changed = true;
            match watched.read(&owners) {
                Ok(credentials) => {
                    owners.insert(credentials.name.clone(), dir.clone());
                    look.credentials.push(credentials);
                    watched.trouble = None;
                }
                Err(trouble) => watched.trouble = Some(trouble),
            }
        }
        // A name whose folder went may have come back in another one.
        look.gone.retain(|name| !owners.contains_key(name));
        if !changed {
            return None;
        }
        look.bundle = Some(self.bundle()).filter(|bundle| !bundle.roots.is_empty());
        let troubles = self.folders.values().filter_map(|watched| watched.trouble.clone());
        look.troubles = Some(self.trouble.clone().into_iter().chain(troubles).collect());
        Some(look)
    }

    pub(super) fn retry(&mut self, name: &SpiffeId) {
        for watched in self.folders.values_mut().filter(|watched| watched.name.as_ref() == Some(name)) {
            watched.again = Some(Instant::now() + AGAIN);
        }
    }

    /// The folders that hold certificates at the moment.
    fn find(&self) -> (BTreeSet<PathBuf>, Option<String>) {
        let mut found = BTreeSet::new();
        if self.dir.join(CHAIN).exists() {
            found.insert(self.dir.clone());
        }
        let entries = match std::fs::read_dir(&self.dir) {
            Ok(entries) => entries,
            Err(error) => return (found, Some(format!("{}: {error}", self.dir.display()))),
        };
        for entry in entries.flatten() {
            let hidden = entry.file_name().to_string_lossy().starts_with('.');
            let path = entry.path();
            if !hidden && path.join(CHAIN).exists() {
                found.insert(path);
            }
        }
        let empty = found.is_empty().then(|| {
            format!(
                "{}: no certificate: it should hold tls.crt, tls.key and ca.crt, or folders of them",
                self.dir.display()
            )
        });
        (found, empty)
    }

    fn bundle(&self) -> Bundle {
        let mut bundle = Bundle { domain: self.domain.clone(), roots: Vec::new(), lists: Vec::new() };
        for watched in self.folders.values() {
            for (all, more) in [(&mut bundle.roots, &watched.roots), (&mut bundle.lists, &watched.lists)] {
                for der in more {
                    if !all.contains(der) {
                        all.push(der.clone());
                    }
                }
            }
        }
        bundle
    }
}

impl Watched {
    const fn new(folder: Folder) -> Self {
        Self { folder, name: None, roots: Vec::new(), lists: Vec::new(), trouble: None, again: None }
    }

    fn read(&mut self, owners: &BTreeMap<SpiffeId, PathBuf>) -> Result<Credentials, String> {
        let dir = self.folder.dir.clone();
        let Files { chain, key, roots, lists } = Files::read(&dir)?;
        let at = |text: String| format!("{}: {text}", dir.display());
        // Roots and lists count also where the certificate beside them is no good.
        (self.roots, self.lists) = (roots, lists);
        let Some(first) = chain.first() else { return Err(at("tls.crt is empty".to_owned())) };
        let Facts { name, .. } = Facts::read(&first.certificate()).map_err(|error| at(error.to_string()))?;
        match (&self.name, owners.get(&name)) {
            (Some(before), _) if *before != name => {
                return Err(at(format!(
                    "it held {before}, and now {name}: give another name another folder"
                )));
            }
            (_, Some(owner)) if *owner != dir => {
                return Err(at(format!("{name} is in {} already: take one of them away", owner.display())));
            }
            _ => self.name = Some(name.clone()),
        }
        Ok(Credentials { name, chain, key })
    }
}
