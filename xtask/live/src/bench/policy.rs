//! The policies that are measured, each with a file in which one rule changes.

use std::fmt::Write;
use std::path::Path;

use anyhow::{Context, Result};

const FILES: usize = 100;
const ZONES: usize = 1_000;
const PREFIXES_PER_ZONE: usize = 100;
const RULES: usize = 10_000;

/// A policy, and a change to it.
pub(crate) struct Subject {
    pub(crate) name: &'static str,
    /// The agreed aim, in milliseconds.
    pub(crate) aim: f64,
    /// Name and text of each file.
    pub(crate) files: Vec<(String, String)>,
    /// Cgroups to be there, by path below the root.
    pub(crate) cgroups: Vec<String>,
    /// Name of the file that changes, and its text after change `n`; 0 is the text at the start.
    pub(crate) changing: (String, Box<dyn Fn(usize) -> String>),
}

/// The shop of the demo.
pub(crate) fn shop(folder: &Path) -> Result<Subject> {
    const RULE: &str = "\"tcp/8080\"";
    let path = folder.join("shop.toml");
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let change = {
        let text = text.clone();
        move |n: usize| text.replace(RULE, &format!("\"tcp/{}\"", 8080 + n))
    };
    anyhow::ensure!(text.contains(RULE), "{} has no rule about {RULE} to change", path.display());
    Ok(Subject {
        name: "shop",
        aim: 20.0,
        files: vec![("shop.toml".to_owned(), text)],
        cgroups: ["api", "db"].map(|unit| format!("shop.slice/{unit}.service")).to_vec(),
        changing: ("shop.toml".to_owned(), Box::new(change)),
    })
}

/// 1,000 zones, 100,000 prefixes and 10,000 rules in 100 files; one zone around the others.
pub(crate) fn large() -> Subject {
    const CHANGED: usize = FILES / 2;
    let mut files: Vec<_> = (0..FILES).map(|file| (name(file), text(file, 0))).collect();
    files.push(("common.toml".to_owned(), COMMON.to_owned()));
    Subject {
        name: "large",
        aim: 100.0,
        files,
        cgroups: (0..ZONES / 100).map(|unit| format!("system.slice/unit-{unit}.service")).collect(),
        changing: (name(CHANGED), Box::new(|n| text(CHANGED, n))),
    }
}

const COMMON: &str = r#"
[zone.corp]
cidrs = ["10.0.0.0/8"]
isolated = true

[[deny]]
from = "any"
to = "corp"
ports = ["tcp/23"]

[[allow]]
from = "corp"
to = "world"
ports = ["tcp/443", "udp/53"]
side = "egress"
"#;

fn name(file: usize) -> String {
    format!("team-{file:03}.toml")
}

/// Ten zones and a hundred rules; `change` moves the port of the first rule.
fn text(file: usize, change: usize) -> String {
    let mut text = String::new();
    let zones = ZONES / FILES;
    for zone in file * zones..(file + 1) * zones {
        let prefixes: Vec<_> =
            (zone * PREFIXES_PER_ZONE..(zone + 1) * PREFIXES_PER_ZONE).map(prefix).collect();
        let _ = write!(text, "[zone.z{zone}]\ncidrs = [\n    {}\n]\n", prefixes.join(",\n    "));
        if zone.is_multiple_of(100) {
            let _ = writeln!(text, "cgroups = [\"system.slice/unit-{}.service\"]", zone / 100);
        }
    }
    let rules = RULES / FILES;
    for (index, number) in (file * rules..(file + 1) * rules).enumerate() {
        // Spread over the zones by steps that share no factor with their number.
        let from = (number * 7_919) % ZONES;
        let to = (number * 104_729 + number / ZONES * 37 + 13) % ZONES;
        let port = 1024 + number + if index == 0 { change } else { 0 };
        let action = if number.is_multiple_of(20) { "deny" } else { "allow" };
        let _ = writeln!(
            text,
            "[[{action}]]\nfrom = \"z{from}\"\nto = [\"z{to}\", \"z{}\"]\nports = [\"tcp/{port}\", \"udp/{port}-{}\"]",
            (to + 1) % ZONES,
            port + 10
        );
    }
    text
}

/// The prefix of a number: one in four is IPv6.
fn prefix(number: usize) -> String {
    if number % 4 == 3 {
        format!("\"fd00:{:x}:{:x}::/48\"", number >> 8, number & 255)
    } else {
        format!("\"10.{}.{}.{}/30\"", number >> 14, (number >> 6) & 255, (number & 63) * 4)
    }
}
