//! Files to model, or to everything that is wrong with them.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use bulkhead_abi::Tls;

use crate::ast::FileAst;
use crate::check::check;
use crate::diagnostic::Diagnostics;
use crate::model::Model;
use crate::source::Sources;

/// What the rest of this build can enforce.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Capabilities {
    /// The TLS levels that it can enforce.
    pub tls: Vec<Tls>,
}

impl Capabilities {
    /// Those of this build.
    pub fn this_build() -> Self {
        Self { tls: vec![Tls::Off, Tls::Report, Tls::Require, Tls::Mutual] }
    }
}

/// A policy without errors.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Loaded {
    /// The policy.
    pub model: Model,
    /// What somebody should look at all the same.
    pub warnings: Diagnostics,
}

/// Loads a policy from nothing. Who loads again and again keeps a [`Loader`].
pub fn load(sources: &Sources, capabilities: &Capabilities) -> Result<Loaded, Diagnostics> {
    Loader::new(capabilities.clone()).load(sources)
}

/// A loader that remembers: a file that did not change is not read again.
#[derive(Debug)]
pub struct Loader {
    capabilities: Capabilities,
    files: HashMap<PathBuf, Arc<FileAst>>,
}

impl Loader {
    /// A loader for a build that can enforce this.
    pub fn new(capabilities: Capabilities) -> Self {
        Self { capabilities, files: HashMap::new() }
    }

    /// Loads a policy. On error it returns every mistake of all files, warnings too.
    pub fn load(&mut self, sources: &Sources) -> Result<Loaded, Diagnostics> {
        let mut files = Vec::with_capacity(sources.files().len());
        for source in sources.files() {
            let known = self.files.remove(source.path()).filter(|file| file.source == *source);
            files.push(known.unwrap_or_else(|| Arc::new(FileAst::parse(source, &self.capabilities))));
        }
        self.files = files.iter().map(|file| (file.source.path().into(), Arc::clone(file))).collect();
        let (model, diagnostics) = check(&files);
        let diagnostics = Diagnostics::new(diagnostics);
        if diagnostics.errors() > 0 { Err(diagnostics) } else { Ok(Loaded { model, warnings: diagnostics }) }
    }
}
