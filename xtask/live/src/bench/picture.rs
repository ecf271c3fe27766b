//! What charts have in common: plain SVG with its own style, readable on light and dark pages.
//!
//! Classes: `t` is text and `s` small text, `grid` a line of the scale, `one` the dashed line of what is
//! compared with. Bars are `b` for Bulkhead, and `c`, `n`, `e`, `f` for what stands beside it.

use std::fmt::{Display, Write};

/// The beginning: size, style, background and headline. `label` is what a screen reader says.
pub(crate) fn head(width: f64, height: f64, label: &str, headline: &str) -> String {
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\" font-family=\"system-ui, sans-serif\" font-size=\"14\" role=\"img\" aria-label=\"{}\">\n{STYLE}  <rect class=\"bg\" width=\"{width}\" height=\"{height}\" rx=\"8\"/>\n  <text class=\"h\" x=\"{LEFT}\" y=\"34\">{}</text>\n",
        escaped(label),
        escaped(headline)
    )
}

/// Where everything begins, from the left.
pub(crate) const LEFT: f64 = 52.0;

/// A square of a bar's colour and what it stands for, at height 50.
pub(crate) fn legend(svg: &mut String, x: f64, class: &str, name: &str) {
    let _ = writeln!(
        svg,
        "  <rect class=\"{class}\" x=\"{x}\" y=\"50\" width=\"14\" height=\"14\" rx=\"3\"/><text class=\"s\" x=\"{}\" y=\"61.5\">{}</text>",
        x + 21.0,
        escaped(name)
    );
}

/// A bar that stands on `bottom`, with a text for whoever points at it.
pub(crate) fn bar(svg: &mut String, class: &str, x: f64, width: f64, (y, bottom): (f64, f64), told: &str) {
    let _ = writeln!(
        svg,
        "  <rect class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width}\" height=\"{:.1}\" rx=\"1.5\"><title>{}</title></rect>",
        bottom - y,
        escaped(told)
    );
}

/// Text around the middle `x`.
pub(crate) fn middle(svg: &mut String, class: &str, x: f64, y: f64, text: impl Display) {
    let _ = writeln!(
        svg,
        "  <text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"middle\">{}</text>",
        escaped(&text.to_string())
    );
}

/// Text that begins at `x`.
pub(crate) fn begin(svg: &mut String, class: &str, x: f64, y: f64, text: impl Display) {
    let _ = writeln!(
        svg,
        "  <text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\">{}</text>",
        escaped(&text.to_string())
    );
}

/// Text that ends at `x`.
pub(crate) fn end(svg: &mut String, class: &str, x: f64, y: f64, text: impl Display) {
    let _ = writeln!(
        svg,
        "  <text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"end\">{}</text>",
        escaped(&text.to_string())
    );
}

/// A level line from `from` to `to`.
pub(crate) fn line(svg: &mut String, class: &str, y: f64, from: f64, to: f64) {
    let _ = writeln!(svg, "  <path class=\"{class}\" d=\"M{from:.1} {y:.1} H{to:.1}\"/>");
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('"', "&quot;")
}

const STYLE: &str = "  <style>
    .bg { fill: #ffffff } .t { fill: #16283a } .s { fill: #4a5d70; font-size: 12px }
    .h { fill: #16283a; font-size: 16px; font-weight: 600 }
    .grid { stroke: #dde4ec; stroke-width: 1 } .one { stroke: #16283a; stroke-width: 1.5; stroke-dasharray: 5 4 }
    .c { fill: #c3ccd6 } .n { fill: #8496a9 } .e { fill: #5d7187 } .f { fill: #d9b48a } .b { fill: #1769c2 }
    @media (prefers-color-scheme: dark) {
      .bg { fill: #0f1720 } .t, .h { fill: #e8eff6 } .s { fill: #b3c2d1 }
      .grid { stroke: #243342 } .one { stroke: #e8eff6 }
      .c { fill: #44525f } .n { fill: #6f8194 } .e { fill: #98a9ba } .f { fill: #8a6d45 } .b { fill: #5aa9f5 }
    }
  </style>
";
