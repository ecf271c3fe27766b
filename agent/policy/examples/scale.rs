//! How long a large policy takes: 1,000 zones, 100,000 prefixes, 10,000 rules in 100 files.
//!
//!     cargo run -p bulkhead-policy --release --example scale
#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic
)]

use std::fmt::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use bulkhead_abi::Addr;
use bulkhead_policy::model::Facts;
use bulkhead_policy::{Capabilities, Compiler, Image, Loader, Sources};

const FILES: usize = 100;
const ZONES: usize = 1_000;
const PREFIXES_PER_ZONE: usize = 100;
const RULES: usize = 10_000;

fn main() {
    let folder = tempfile::tempdir().unwrap();
    for file in 0..FILES {
        std::fs::write(path(folder.path(), file), text(file, 0)).unwrap();
    }
    // One zone around the others, and a few rules for everyone.
    std::fs::write(
        folder.path().join("common.toml"),
        "[zone.corp]\ncidrs = [\"10.0.0.0/8\"]\nisolated = true\n\
         [[deny]]\nfrom = \"any\"\nto = \"corp\"\nports = [\"tcp/23\"]\n\
         [[allow]]\nfrom = \"corp\"\nto = \"world\"\nports = [\"tcp/443\", \"udp/53\"]\nside = \"egress\"\n",
    )
    .unwrap();
    let facts = Facts {
        cgroups: (0..200).map(|n| (n + 1, format!("system.slice/unit-{n}.service"))).collect(),
        ..Facts::default()
    };
    let mut state = (Loader::new(Capabilities::this_build()), Compiler::default());
    state.1.set_local_addresses(Some((0..20).map(|n| Addr::v4([10, 0, n, 1])).collect()));
    let (first, image) = round(folder.path(), &facts, &mut state);
    println!("first      {first}");
    let tables = [
        ("prefixes", image.prefixes.len()),
        ("identities", image.identities.len()),
        ("unions", image.unions.len()),
        ("pairs", image.pairs.len()),
        ("rulesets", image.rulesets.len()),
        ("entries", image.rule_entries()),
        ("rules", image.rules.len()),
    ];
    println!("tables     {}", tables.map(|(name, count)| format!("{count} {name}")).join(", "));

    let mut before = image;
    let mut totals = Vec::new();
    for change in 1..=15 {
        std::fs::write(path(folder.path(), 50), text(50, change)).unwrap();
        let (times, after) = round(folder.path(), &facts, &mut state);
        let start = Instant::now();
        let diff = before.diff(&after);
        println!("one rule   {times}, diff {:.1} ms: {diff}", ms(start.elapsed()));
        totals.push(times.total());
        before = after;
    }
    totals.sort();
    println!("median     {:.1} ms from files to image", ms(totals[totals.len() / 2]));
}

/// How long the steps took.
struct Times {
    read: Duration,
    load: Duration,
    compile: Duration,
}

impl Times {
    fn total(&self) -> Duration {
        self.read + self.load + self.compile
    }
}

impl std::fmt::Display for Times {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { read, load, compile } = self;
        write!(
            f,
            "{:.1} ms: read {:.1}, load {:.1}, compile {:.1}",
            ms(self.total()),
            ms(*read),
            ms(*load),
            ms(*compile)
        )
    }
}

fn round(folder: &Path, facts: &Facts, (loader, compiler): &mut (Loader, Compiler)) -> (Times, Image) {
    let start = Instant::now();
    let sources = Sources::read_dir(folder).unwrap();
    let read = start.elapsed();
    let start = Instant::now();
    let loaded = loader.load(&sources).unwrap_or_else(|error| panic!("{error}"));
    let load = start.elapsed();
    let start = Instant::now();
    let image = compiler.compile(&loaded.model, facts).unwrap();
    (Times { read, load, compile: start.elapsed() }, image)
}

fn path(folder: &Path, file: usize) -> std::path::PathBuf {
    folder.join(format!("team-{file:03}.toml"))
}

/// A file of ten zones and a hundred rules; `change` moves the port of one rule.
fn text(file: usize, change: usize) -> String {
    let mut text = String::new();
    let zones = ZONES / FILES;
    for zone in file * zones..(file + 1) * zones {
        writeln!(text, "[zone.z{zone}]\ncidrs = [").unwrap();
        for n in 0..PREFIXES_PER_ZONE {
            let number = zone * PREFIXES_PER_ZONE + n;
            let (high, low) = (number / 256, number % 256);
            if n % 4 == 3 {
                writeln!(text, "    \"fd00:{high:x}:{low:x}::/48\",").unwrap();
            } else {
                writeln!(
                    text,
                    "    \"10.{}.{}.{}/30\",",
                    number >> 14,
                    (number >> 6) & 255,
                    (number & 63) * 4
                )
                .unwrap();
            }
        }
        writeln!(text, "]").unwrap();
        if zone % 100 == 0 {
            writeln!(text, "cgroups = [\"system.slice/unit-{}.service\"]", zone / 100).unwrap();
        }
    }
    for rule in 0..RULES / FILES {
        let number = file * RULES / FILES + rule;
        let from = (number * 7919) % ZONES;
        let to = (number * 104_729 + number / ZONES * 37 + 13) % ZONES;
        let port = 1024 + number % 40_000 + if rule == 0 { change } else { 0 };
        let action = if number.is_multiple_of(20) { "deny" } else { "allow" };
        writeln!(
            text,
            "[[{action}]]\nfrom = \"z{from}\"\nto = [\"z{to}\", \"z{}\"]\nports = [\"tcp/{port}\", \"udp/{port}-{}\"]",
            (to + 1) % ZONES,
            port + 10
        )
        .unwrap();
    }
    text
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}
