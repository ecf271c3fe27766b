//! `bulkhead check`.

use std::path::PathBuf;

use bulkhead_abi::Tls;
use bulkhead_policy::{Capabilities, Compiler, Diagnostics, Facts, Sources, load};
use serde::Serialize;

use super::{Format, Result, Verdict};

#[derive(Debug, clap::Args)]
#[command(after_help = "Exit codes: 0 the policy can be enforced (there may be warnings), 1 it has errors \
                        or cannot be read, 2 wrong usage.")]
pub(super) struct Args {
    /// Zone files, or folders of them; together they are one policy
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// How findings are printed
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

/// What `--format json` prints.
#[derive(Serialize)]
struct Findings<'a> {
    ok: bool,
    files: usize,
    zones: usize,
    rules: usize,
    /// Prefixes of virtual addresses.
    virtuals: usize,
    /// Rules that want the proxies.
    mutual: usize,
    diagnostics: &'a Diagnostics,
    /// An error that belongs to no line: a path that cannot be read, a policy that does not fit.
    error: Option<String>,
}

impl Args {
    pub(super) fn run(self) -> Result<Verdict> {
        let none = Diagnostics::default();
        let sources = match Sources::from_paths(&self.paths) {
            Ok(sources) => sources,
            Err(error) => return self.report(&Findings::failed(&none, 0, error.to_string())),
        };
        let files = sources.files().len();
        let loaded = match load(&sources, &Capabilities::this_build()) {
            Ok(loaded) => loaded,
            Err(diagnostics) => {
                let findings = Findings::none(&diagnostics, files);
                return self.report(&findings);
            }
        };
        // Whether it fits the kernel's tables shows only when it is compiled.
        if let Err(error) = Compiler::default().compile(&loaded.model, &Facts::default()) {
            return self.report(&Findings::failed(&loaded.warnings, files, error.to_string()));
        }
        self.report(&Findings {
            ok: true,
            files,
            zones: loaded.model.zones().len(),
            rules: loaded.model.rules().len(),
            virtuals: loaded.model.virtuals().len(),
            mutual: loaded.model.rules().iter().filter(|rule| rule.tls.level == Tls::Mutual).count(),
            diagnostics: &loaded.warnings,
            error: None,
        })
    }

    fn report(&self, findings: &Findings<'_>) -> Result<Verdict> {
        match self.format {
            Format::Json => super::print_json(findings)?,
            Format::Text => super::print(&findings.text())?,
        }
        Ok(if findings.ok { Verdict::Fine } else { Verdict::Findings })
    }
}

impl<'a> Findings<'a> {
    fn failed(diagnostics: &'a Diagnostics, files: usize, error: String) -> Self {
        Self { error: Some(error), ..Self::none(diagnostics, files) }
    }

    /// No policy came of it.
    fn none(diagnostics: &'a Diagnostics, files: usize) -> Self {
        Self { ok: false, files, zones: 0, rules: 0, virtuals: 0, mutual: 0, diagnostics, error: None }
    }

    fn text(&self) -> String {
        let mut text = self.diagnostics.render(super::colored());
        if let Some(error) = &self.error {
            text.push_str(&format!("error: {error}\n"));
        }
        let errors = self.diagnostics.errors() + usize::from(self.error.is_some());
        let warnings = self.diagnostics.len() - self.diagnostics.errors();
        text.push_str(&if self.ok {
            let Self { files, zones, rules, .. } = self;
            let virtuals = match self.virtuals {
                0 => String::new(),
                some => format!("{some} virtual prefixes, "),
            };
            let mutual = match self.mutual {
                0 => String::new(),
                some => format!(" ({some} mutual)"),
            };
            format!(
                "ok: {files} files, {zones} zones, {rules} rules{mutual}, {virtuals}{warnings} warnings\n"
            )
        } else {
            format!("{errors} errors, {warnings} warnings\n")
        });
        text
    }
}
