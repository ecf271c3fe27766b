//! The figures as text.

use std::fmt::Write;

use super::reading::Reading;
use super::results::{Figure, Measure, Results};
use super::stage::Variant;

/// Everything, for a terminal.
pub(crate) fn text(results: &Results) -> String {
    let mut text = format!("{}\n", results.machine);
    let _ = writeln!(
        text,
        "medians of {} rounds of {} s; ratios are medians of the rounds' own ratios (least to greatest)\n",
        results.runs, results.seconds
    );
    for size in sizes(results) {
        let _ = writeln!(text, "{size} prefixes and rules");
        for measure in Measure::ALL {
            if find(results, size, Variant::None, measure).is_none() {
                continue;
            }
            let _ = write!(text, "{:<40}", measure.title());
            for variant in Variant::ALL {
                let Some(figure) = find(results, size, variant, measure) else { continue };
                let value = format!("{:.*}", measure.digits(), figure.value.median);
                let _ = match variant {
                    Variant::None => write!(text, "{value:>12}"),
                    _ => write!(
                        text,
                        "{:>14} {:.3} ({:.2}-{:.2})",
                        value, figure.to_none.median, figure.to_none.min, figure.to_none.max
                    ),
                };
                if variant == Variant::Bulkhead {
                    let _ = write!(text, "  {:.3} of nft", figure.to_nftables.median);
                }
            }
            text.push('\n');
        }
        text.push('\n');
    }
    reading(&mut text, results);
    loads(&mut text, results);
    programs(&mut text, results);
    text
}

fn reading(text: &mut String, results: &Results) {
    if results.reading.is_empty() {
        return;
    }
    let _ = writeln!(text, "reading first bytes: nothing read, then by the rule's `tls`, as a ratio to that");
    let names: Vec<&str> = Reading::ALL.iter().skip(1).map(|reading| reading.level()).collect();
    let _ = write!(text, "{:<40}{:>12}", "", "none");
    for name in names {
        let _ = write!(text, "{name:>14}{:18}", "");
    }
    text.push('\n');
    for measure in [Measure::Throughput, Measure::Connections] {
        let _ = write!(text, "{:<40}", measure.title());
        for cost in results.reading.iter().filter(|cost| cost.measure == measure) {
            let value = format!("{:.*}", measure.digits(), cost.value.median);
            let ratio = &cost.to_unread;
            let _ = match cost.reading {
                Reading::None => write!(text, "{value:>12}"),
                _ => write!(text, "{value:>14} {:.3} ({:.2}-{:.2})", ratio.median, ratio.min, ratio.max),
            };
        }
        text.push('\n');
    }
    text.push('\n');
}

fn loads(text: &mut String, results: &Results) {
    let _ = writeln!(text, "loading: both namespaces' rulesets, or the agent's start to enforcing");
    for load in results.loads.iter().filter(|load| load.variant != Variant::None) {
        let _ = write!(text, "{:>9} {:<12}{:>8.2} s", load.size, load.variant, load.seconds.median);
        if load.maps_kib > 0 {
            let (agent, maps) = (load.agent_kib / 1024, load.maps_kib / 1024);
            let _ = write!(text, ", agent {agent} MiB, maps {maps} MiB");
        }
        text.push('\n');
    }
    text.push('\n');
}

fn programs(text: &mut String, results: &Results) {
    let _ =
        writeln!(text, "{:<24}{:>10}{:>14}{:>16}", "program", "verified", "instructions", "machine code, B");
    for size in &results.programs {
        let _ = writeln!(
            text,
            "{:<24}{:>10}{:>14}{:>16}",
            size.name, size.verified, size.translated, size.machine_code
        );
    }
    let _ = writeln!(text, "\nby hand (BPF_PROG_TEST_RUN), ns/packet; an empty program; ratio");
    for run in &results.by_hand {
        let packet = format!("{:?}", run.packet).to_lowercase();
        let (nanos, empty) = (run.nanos.median, run.empty.median);
        let (size, program) = (run.size, &run.program);
        let _ = writeln!(
            text,
            "{size:>9} {program:<14}{packet:<8}{nanos:>8.0}{empty:>8.0}{:>8.1}",
            nanos / empty
        );
    }
    let _ =
        writeln!(text, "\nlive (run statistics, less the clock's own), ns/run and runs for each thing done");
    for run in &results.live {
        let load = format!("{:?}", run.load);
        let (size, program) = (run.size, &run.program);
        let _ = writeln!(text, "{size:>9} {load:<16}{program:<14}{:>8.0}{:>8.2}", run.nanos, run.runs);
    }
}

/// The sizes of policy that were measured, in order.
pub(crate) fn sizes(results: &Results) -> Vec<usize> {
    let mut sizes: Vec<usize> = results.traffic.iter().map(|figure| figure.size).collect();
    sizes.sort_unstable();
    sizes.dedup();
    sizes
}

/// One figure.
pub(crate) fn find(results: &Results, size: usize, variant: Variant, measure: Measure) -> Option<&Figure> {
    results
        .traffic
        .iter()
        .find(|figure| figure.size == size && figure.variant == variant && figure.measure == measure)
}
