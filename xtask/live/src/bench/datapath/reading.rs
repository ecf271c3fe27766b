//! What it costs that first bytes are read: the same policy with each `tls` in its rule, beside the same
//! programs with reading turned off, which no operator can do.
//!
//! What flows looks like TLS ([`super::load`]), so that it passes under `require`. Who reads what takes turns
//! within a round, as the firewalls do.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use object::{Object, ObjectSection, ObjectSymbol};
use serde::{Deserialize, Serialize};
use tempfile::NamedTempFile;

use super::load::Load;
use super::policy::Policy;
use super::results::Measure;
use super::stage::{Place, Stage, Variant};
use super::traffic::{Plan, values};
use crate::spread::Spread;

/// How much is read.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Reading {
    /// Nothing: the rule says `off`, and the programs do not look.
    None,
    /// Until the class is known.
    Off,
    /// Until the class is known; then records are followed.
    Report,
    /// The same, and what is not accepted is stopped.
    Require,
}

impl Reading {
    /// All of them.
    pub(crate) const ALL: [Reading; 4] = [Reading::None, Reading::Off, Reading::Report, Reading::Require];

    /// What the rule says.
    pub(crate) fn level(self) -> &'static str {
        match self {
            Reading::None | Reading::Off => "off",
            Reading::Report => "report",
            Reading::Require => "require",
        }
    }
}

/// One thing that was measured with so much read.
#[derive(Serialize, Deserialize)]
pub(crate) struct Cost {
    pub(crate) reading: Reading,
    pub(crate) measure: Measure,
    /// In the measure's unit.
    pub(crate) value: Spread,
    /// The ratio to the same round's, with nothing read.
    pub(crate) to_unread: Spread,
}

/// Rules of the policy: their number makes no difference to what is read.
const RULES: usize = 10;

const STEPS: [(Load, Place); 2] = [(Load::TlsStream, Place::Apart), (Load::TlsConnect, Place::Together)];

/// All rounds; nothing where nobody says which kernel object the agents load.
pub(crate) fn measure(plan: &Plan) -> Result<Vec<Cost>> {
    let Some(object) = std::env::var_os("BULKHEAD_OBJECT").map(PathBuf::from) else {
        eprintln!("[bench] what reading costs is left out: BULKHEAD_OBJECT names no kernel object");
        return Ok(Vec::new());
    };
    let unread = without_reading(&object)?;
    let mut stages = Vec::new();
    for reading in Reading::ALL {
        let mut stage = Stage::new(Policy::new(RULES).with_tls(reading.level()), plan.cpus)?;
        if reading == Reading::None {
            stage.load_object(unread.path());
        }
        stages.push((reading, stage));
    }
    let mut samples: BTreeMap<(Reading, Measure), Vec<f64>> = BTreeMap::new();
    for round in 0..plan.runs {
        // Who begins changes from round to round.
        stages.rotate_left(1);
        eprintln!("[bench] reading, round {} of {}", round + 1, plan.runs);
        for (reading, stage) in &mut stages {
            let _loaded = stage.switch(Variant::Bulkhead)?;
            for (load, place) in plan.wanted(&STEPS) {
                let outcome = stage.run(load, place, plan.time())?;
                for (measure, value) in values(load, &outcome) {
                    samples.entry((*reading, measure)).or_default().push(value);
                }
            }
            stage.switch(Variant::None)?;
        }
    }
    samples.iter().map(|(key, values)| cost(*key, values, &samples)).collect()
}

fn cost(
    (reading, measure): (Reading, Measure),
    values: &[f64],
    samples: &BTreeMap<(Reading, Measure), Vec<f64>>,
) -> Result<Cost> {
    let unread = samples.get(&(Reading::None, measure)).context("nothing was measured without reading")?;
    let ratios = values.iter().zip(unread).map(|(value, other)| value / other).collect();
    Ok(Cost { reading, measure, value: Spread::new(values.to_vec())?, to_unread: Spread::new(ratios)? })
}

/// A copy of the kernel object whose programs do not look at what streams carry.
fn without_reading(object: &Path) -> Result<NamedTempFile> {
    const SWITCH: &str = "READS_STREAMS";
    let mut bytes = std::fs::read(object).with_context(|| format!("cannot read {}", object.display()))?;
    let place = switch(&bytes, SWITCH)
        .with_context(|| format!("{} has no {SWITCH}: it is of another version", object.display()))?;
    bytes.get_mut(place..place + 4).context("a symbol behind the object's end")?.fill(0);
    let mut copy = NamedTempFile::new()?;
    copy.write_all(&bytes)?;
    Ok(copy)
}

/// Where in the file a variable of four bytes stands.
fn switch(bytes: &[u8], name: &str) -> Option<usize> {
    let file = object::File::parse(bytes).ok()?;
    let symbol = file.symbols().find(|symbol| symbol.name() == Ok(name))?;
    let section = file.section_by_index(symbol.section_index()?).ok()?;
    let (start, _) = section.file_range()?;
    usize::try_from(start + symbol.address()).ok()
}
