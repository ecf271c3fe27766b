//! `bulkhead zones`.

use super::{Format, Result, Verdict};
use crate::config::Selection;
use crate::control::protocol::ZoneView;
use crate::control::{Reply, Request};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Only sets of zones with this one in it
    #[arg(value_name = "ZONE")]
    zone: Option<String>,
    /// How they are printed; JSON is one line each
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

impl Args {
    pub(super) fn run(self, selection: &Selection) -> Result<Verdict> {
        for reply in super::client(selection)?.ask(&Request::Zones)? {
            let Reply::Zone(zone) = reply else { continue };
            if self.zone.as_ref().is_some_and(|wanted| zone.zone.split('+').all(|part| part != wanted)) {
                continue;
            }
            match self.format {
                Format::Json => super::print_json(&zone)?,
                Format::Text => super::print(&text(&zone))?,
            }
        }
        Ok(Verdict::Fine)
    }
}

fn text(zone: &ZoneView) -> String {
    let ZoneView { zone: name, identity, mode, prefixes, workloads } = zone;
    let mode = if mode.is_empty() { String::new() } else { format!(", {mode}") };
    let mut text = format!("{name} (identity {identity}{mode})\n");
    for prefix in prefixes {
        text.push_str(&format!("  {prefix}\n"));
    }
    for workload in workloads {
        text.push_str(&format!("  cgroup {workload}\n"));
    }
    text
}
