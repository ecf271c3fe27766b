//! The chart: above, how fast it is as a ratio to a direct connection; below, what it takes.

use super::results::{Figure, Measure, Results};
use super::subject::Subject;
use crate::picture::{self, LEFT};

/// A panel: what is shown, its title and what is beneath it.
type Panel = (Measure, &'static str, &'static str);

/// Ratios to direct.
const SPEED: [Panel; 5] = [
    (Measure::OneStream, "Throughput", "one stream"),
    (Measure::EightStreams, "Throughput", "8 streams"),
    (Measure::Connections, "Connections", "16 at a time"),
    (Measure::FreshConnections, "Connections", "a handshake each"),
    (Measure::Requests, "Requests", "16 open connections"),
];

/// Each with a scale of its own.
const COST: [Panel; 5] = [
    (Measure::ConnectP50, "Connect and echo", "p50, times direct"),
    (Measure::RequestP50, "Request and answer", "p50, times direct"),
    (Measure::CpuPerGb, "CPU seconds per GB", "one stream, both hops"),
    (Measure::CpuPerRequest, "CPU µs per request", "both hops"),
    (Measure::ProxyRestFar, "Memory at rest", "MiB, one proxy"),
];

const BARS: [(Subject, &str); 5] = [
    (Subject::Bulkhead, "b"),
    (Subject::Envoy, "e"),
    (Subject::Nginx, "n"),
    (Subject::Haproxy, "c"),
    (Subject::Stunnel, "f"),
];

const WIDTH: f64 = 1240.0;
const HEIGHT: f64 = 580.0;
/// Top of the bars' field, in both rows.
const TOPS: [f64; 2] = [124.0, 386.0];
const FIELD: f64 = 130.0;
const BAR: f64 = 36.0;

/// The whole picture.
pub(crate) fn svg(results: &Results) -> String {
    let mut svg = picture::head(
        WIDTH,
        HEIGHT,
        "What two hops of mutual TLS cost with Bulkhead, Envoy, nginx, HAProxy and stunnel",
        "Two hops of mutual TLS as a ratio to a direct connection: higher is better",
    );
    for (index, (subject, class)) in BARS.iter().enumerate() {
        let missing =
            results.subjects.iter().any(|known| known.subject == *subject && known.unavailable.is_some());
        let name = format!("{}{}", subject.name(), if missing { ": not available" } else { "" });
        picture::legend(&mut svg, LEFT + 170.0 * index as f64, class, &name);
    }
    row(&mut svg, results, &SPEED, TOPS[0]);
    picture::begin(&mut svg, "h", LEFT, TOPS[1] - 58.0, "What it takes: lower is better");
    row(&mut svg, results, &COST, TOPS[1]);
    let machine = results.machine.short();
    let below = format!("Client, server and both hops share {} processors. {machine}", results.cpus.len());
    picture::begin(&mut svg, "s", LEFT, HEIGHT - 18.0, below);
    svg.push_str("</svg>\n");
    svg
}

fn row(svg: &mut String, results: &Results, panels: &[Panel], top: f64) {
    let bottom = top + FIELD;
    let panel = (WIDTH - 20.0 - LEFT) / panels.len() as f64;
    for (index, (measure, title, detail)) in panels.iter().enumerate() {
        let middle = LEFT + panel * (index as f64 + 0.5);
        picture::middle(svg, "t", middle, top - 28.0, title);
        picture::middle(svg, "s", middle, bottom + 18.0, detail);
        let values: Vec<Option<f64>> =
            BARS.iter().map(|(subject, _)| results.find(*subject, *measure).and_then(shown)).collect();
        let most = values.iter().flatten().copied().fold(f64::MIN_POSITIVE, f64::max);
        let start = middle - BAR * BARS.len() as f64 / 2.0;
        picture::line(svg, "grid", bottom, start, start + BAR * BARS.len() as f64);
        for (bar, ((subject, class), value)) in BARS.iter().zip(&values).enumerate() {
            let x = start + BAR * bar as f64 + 2.0;
            let Some(value) = value else {
                picture::middle(svg, "s", x + BAR / 2.0 - 2.0, bottom - 6.0, "–");
                continue;
            };
            let y = bottom - FIELD * 0.9 * value / most;
            let told = format!("{}: {value:.3}", subject.name());
            picture::bar(svg, class, x, BAR - 4.0, (y, bottom), &told);
            picture::middle(svg, "s", x + BAR / 2.0 - 2.0, y - 4.0, short(*value));
        }
    }
}

/// The ratio where there is one, else the value.
fn shown(figure: &Figure) -> Option<f64> {
    let value = figure.to_direct.map_or(figure.value.median, |ratio| ratio.median);
    value.is_finite().then_some(value)
}

fn short(value: f64) -> String {
    let digits = if value < 1.0 { 2 } else { usize::from(value < 10.0) };
    format!("{value:.digits$}")
}
