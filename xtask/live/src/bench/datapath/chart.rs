//! The chart: each variant's ratio to "no firewall", one panel for each measure, at every size.
//!
//! "No firewall" is the line at 1; who is above or near it costs nothing.

use super::reading::Reading;
use super::results::{Measure, Results};
use super::stage::Variant;
use super::table::{self, find};
use crate::picture::{self, LEFT};

/// Panels, from left to right.
const PANELS: [(Measure, &str, &str); 5] = [
    (Measure::Throughput, "Throughput", "TCP, one stream"),
    (Measure::Connections, "Connections", "connect, request, close"),
    (Measure::Rounds, "Requests", "TCP, one connection"),
    (Measure::UdpRounds, "Requests", "UDP"),
    (Measure::Udp, "Packets", "UDP, 18 bytes"),
];

/// Panels behind them: what it costs that first bytes are read.
const READ: [(Measure, &str, &str); 2] = [
    (Measure::Throughput, "Throughput", "first bytes read, to unread"),
    (Measure::Connections, "Connections", "first bytes read, to unread"),
];

const BARS: [(Variant, &str, &str); 3] = [
    (Variant::Conntrack, "c", "connection tracking alone"),
    (Variant::Nftables, "n", "nftables, the same policy"),
    (Variant::Bulkhead, "b", "Bulkhead"),
];

const LABEL: &str = "Speed with Bulkhead, nftables and connection tracking, as a ratio to no firewall";
const HEADLINE: &str = "Speed as a ratio to no firewall (the dashed line): higher is better";
const WIDTH: f64 = 1240.0;
const TOP: f64 = 112.0;
const HEIGHT: f64 = 190.0;
const BAR: f64 = 12.0;
const GAP: f64 = 10.0;
/// The scale ends a little above the line.
const FULL: f64 = 1.1;

/// The whole picture.
pub(crate) fn svg(results: &Results) -> String {
    let sizes = table::sizes(results);
    let bottom = TOP + HEIGHT;
    let mut svg = picture::head(WIDTH, 360.0, LABEL, HEADLINE);
    for (index, (_, class, name)) in BARS.iter().enumerate() {
        picture::legend(&mut svg, LEFT + 220.0 * index as f64, class, name);
    }
    for tenth in [0, 2, 4, 6, 8] {
        let y = height(f64::from(tenth) / 10.0);
        picture::line(&mut svg, "grid", y, LEFT, WIDTH - 20.0);
        picture::end(&mut svg, "s", LEFT - 8.0, y + 4.0, format_args!("0.{tenth}"));
    }
    let panel = (WIDTH - 20.0 - LEFT) / (PANELS.len() + READ.len()) as f64;
    for (index, (measure, title, detail)) in PANELS.iter().enumerate() {
        let middle = LEFT + panel * (index as f64 + 0.5);
        titles(&mut svg, middle, title, detail);
        let group = BAR * BARS.len() as f64;
        let all = group * sizes.len() as f64 + GAP * (sizes.len() as f64 - 1.0);
        for (nth, size) in sizes.iter().enumerate() {
            let start = middle - all / 2.0 + (group + GAP) * nth as f64;
            for (bar, (variant, class, _)) in BARS.iter().enumerate() {
                let Some(figure) = find(results, *size, *variant, *measure) else { continue };
                let ratio = figure.to_none.median;
                let told = format!("{variant}, {size} rules: {ratio:.3}");
                let x = start + BAR * bar as f64 + 0.5;
                picture::bar(&mut svg, class, x, BAR - 1.0, (height(ratio), bottom), &told);
            }
            picture::middle(&mut svg, "s", start + group / 2.0, bottom + 16.0, short(*size));
        }
    }
    for (index, (measure, title, detail)) in READ.iter().enumerate() {
        let middle = LEFT + panel * ((PANELS.len() + index) as f64 + 0.5);
        titles(&mut svg, middle, title, detail);
        read(&mut svg, results, middle, *measure);
    }
    let line = height(1.0);
    picture::line(&mut svg, "one", line, LEFT, WIDTH - 20.0);
    picture::end(&mut svg, "t", LEFT - 8.0, line + 4.5, 1);
    let machine = results.machine.short();
    let below = format!("below each group: prefixes and rules of the policy, or the rule's tls. {machine}");
    picture::begin(&mut svg, "s", LEFT, bottom + 42.0, below);
    svg.push_str("</svg>\n");
    svg
}

fn titles(svg: &mut String, middle: f64, title: &str, detail: &str) {
    picture::middle(svg, "t", middle, 88.0, title);
    picture::middle(svg, "s", middle, 104.0, detail);
}

/// A bar for each `tls` of the rule, with its name below.
fn read(svg: &mut String, results: &Results, middle: f64, measure: Measure) {
    const WIDE: f64 = 26.0;
    const APART: f64 = 48.0;
    let bottom = TOP + HEIGHT;
    let bars = results.reading.iter().filter(|cost| cost.measure == measure && cost.reading != Reading::None);
    for (bar, cost) in bars.enumerate() {
        let (x, ratio) = (middle + APART * (bar as f64 - 1.0), cost.to_unread.median);
        let (y, level) = (height(ratio), cost.reading.level());
        let told = format!("tls = {level}: {ratio:.3}");
        picture::bar(svg, "b", x - WIDE / 2.0, WIDE, (y, bottom), &told);
        picture::middle(svg, "s", x, bottom + 16.0, level);
    }
}

fn height(ratio: f64) -> f64 {
    TOP + HEIGHT * (1.0 - ratio.min(FULL) / FULL)
}

fn short(size: usize) -> String {
    if size >= 1_000 { format!("{}k", size / 1_000) } else { size.to_string() }
}
