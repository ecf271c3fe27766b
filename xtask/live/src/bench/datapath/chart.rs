//! The chart: each variant's ratio to "no firewall", one panel for each measure, at every size.
//!
//! "No firewall" is the line at 1; who is above or near it costs nothing. Plain SVG with its own style,
//! readable on light and dark pages.

use std::fmt::Write;

use super::reading::Reading;
use super::results::{Measure, Results};
use super::stage::Variant;
use super::table::{self, find};

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

const WIDTH: f64 = 1240.0;
const LEFT: f64 = 52.0;
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
    let mut svg = String::from(HEAD);
    for (index, (_, class, name)) in BARS.iter().enumerate() {
        let x = LEFT + 220.0 * index as f64;
        let _ = writeln!(
            svg,
            "  <rect class=\"{class}\" x=\"{x}\" y=\"50\" width=\"14\" height=\"14\" rx=\"3\"/><text class=\"s\" x=\"{}\" y=\"61.5\">{name}</text>",
            x + 21.0
        );
    }
    for tenth in [0, 2, 4, 6, 8] {
        let y = height(f64::from(tenth) / 10.0);
        let _ = writeln!(svg, "  <path class=\"grid\" d=\"M{LEFT} {y:.1} H{}\"/>", WIDTH - 20.0);
        let _ = writeln!(
            svg,
            "  <text class=\"s\" x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">0.{tenth}</text>",
            LEFT - 8.0,
            y + 4.0
        );
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
                let y = height(figure.to_none.median);
                let _ = writeln!(
                    svg,
                    "  <rect class=\"{class}\" x=\"{:.1}\" y=\"{y:.1}\" width=\"{}\" height=\"{:.1}\" rx=\"1.5\"><title>{variant}, {size} rules: {:.3}</title></rect>",
                    start + BAR * bar as f64 + 0.5,
                    BAR - 1.0,
                    bottom - y,
                    figure.to_none.median
                );
            }
            let _ = writeln!(
                svg,
                "  <text class=\"s\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
                start + group / 2.0,
                bottom + 16.0,
                short(*size)
            );
        }
    }
    for (index, (measure, title, detail)) in READ.iter().enumerate() {
        let middle = LEFT + panel * ((PANELS.len() + index) as f64 + 0.5);
        titles(&mut svg, middle, title, detail);
        read(&mut svg, results, middle, *measure);
    }
    let line = height(1.0);
    let _ = writeln!(svg, "  <path class=\"one\" d=\"M{LEFT} {line:.1} H{}\"/>", WIDTH - 20.0);
    let _ = writeln!(
        svg,
        "  <text class=\"t\" x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">1</text>",
        LEFT - 8.0,
        line + 4.5
    );
    let _ = writeln!(
        svg,
        "  <text class=\"s\" x=\"{LEFT}\" y=\"{:.1}\">below each group: prefixes and rules of the policy, or the rule's tls. {}</text>",
        bottom + 42.0,
        escaped(&results.machine.short())
    );
    svg.push_str("</svg>\n");
    svg
}

fn titles(svg: &mut String, middle: f64, title: &str, detail: &str) {
    for (class, y, text) in [("t", 88, title), ("s", 104, detail)] {
        let _ = writeln!(
            svg,
            "  <text class=\"{class}\" x=\"{middle:.1}\" y=\"{y}\" text-anchor=\"middle\">{text}</text>"
        );
    }
}

/// A bar for each `tls` of the rule, with its name below.
fn read(svg: &mut String, results: &Results, middle: f64, measure: Measure) {
    const WIDE: f64 = 26.0;
    const APART: f64 = 48.0;
    let bars = results.reading.iter().filter(|cost| cost.measure == measure && cost.reading != Reading::None);
    for (bar, cost) in bars.enumerate() {
        let (x, ratio) = (middle + APART * (bar as f64 - 1.0), cost.to_unread.median);
        let (y, level) = (height(ratio), cost.reading.level());
        let _ = writeln!(
            svg,
            "  <rect class=\"b\" x=\"{:.1}\" y=\"{y:.1}\" width=\"{WIDE}\" height=\"{:.1}\" rx=\"1.5\"><title>tls = {level}: {ratio:.3}</title></rect>",
            x - WIDE / 2.0,
            TOP + HEIGHT - y
        );
        let _ = writeln!(
            svg,
            "  <text class=\"s\" x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{level}</text>",
            TOP + HEIGHT + 16.0
        );
    }
}

const HEAD: &str = r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 1240 360" width="1240" height="360" font-family="system-ui, sans-serif" font-size="14" role="img" aria-label="Speed with Bulkhead, nftables and connection tracking, as a ratio to no firewall">
  <style>
    .bg { fill: #ffffff } .t { fill: #16283a } .s { fill: #4a5d70; font-size: 12px }
    .h { fill: #16283a; font-size: 16px; font-weight: 600 }
    .grid { stroke: #dde4ec; stroke-width: 1 } .one { stroke: #16283a; stroke-width: 1.5; stroke-dasharray: 5 4 }
    .c { fill: #c3ccd6 } .n { fill: #8496a9 } .b { fill: #1769c2 }
    @media (prefers-color-scheme: dark) {
      .bg { fill: #0f1720 } .t, .h { fill: #e8eff6 } .s { fill: #b3c2d1 }
      .grid { stroke: #243342 } .one { stroke: #e8eff6 }
      .c { fill: #44525f } .n { fill: #6f8194 } .b { fill: #5aa9f5 }
    }
  </style>
  <rect class="bg" width="1240" height="360" rx="8"/>
  <text class="h" x="52" y="34">Speed as a ratio to no firewall (the dashed line): higher is better</text>
"##;

fn height(ratio: f64) -> f64 {
    TOP + HEIGHT * (1.0 - ratio.min(FULL) / FULL)
}

fn short(size: usize) -> String {
    if size >= 1_000 { format!("{}k", size / 1_000) } else { size.to_string() }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}
