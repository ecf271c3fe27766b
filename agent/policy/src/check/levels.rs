//! Levels of encryption that exclude each other.
//!
//! Several allows may match one flow, and all of them must be content with it. Where two can never be, the
//! flow would be refused by rules that both allow it, which nobody means.
//!
//! It goes by names: a workload of two zones may still meet rules that share no zone. Such a flow is
//! refused, and `bulkhead explain` shows that nothing is accepted.

use std::ops::Range;

use bulkhead_abi::{Accept, Demand, Tls};

use super::rules;
use crate::ast::FileAst;
use crate::diagnostic::Diagnostic;
use crate::model::{Ports, Rule, Selector, accepted_names, spoken_over, tls_name};

/// A rule that asks for encryption.
struct Asking<'a> {
    file: &'a FileAst,
    rule: &'a Rule,
    demand: Demand,
    span: &'a Range<usize>,
}

/// Notes every rule that excludes an earlier one.
pub(super) fn check(files: &[std::sync::Arc<FileAst>], diagnostics: &mut Vec<Diagnostic>) {
    let asking: Vec<Asking<'_>> = rules(files)
        .filter_map(|(file, rule)| {
            let (demand, span) = rule.tls.as_ref().filter(|(demand, _)| demand.level >= Tls::Require)?;
            Some(Asking { file, rule: &rule.rule, demand: *demand, span })
        })
        .collect();
    for (at, asks) in asking.iter().enumerate() {
        let excluded = asking.iter().take(at).find_map(|other| Some((other, exclude(asks, other)?)));
        let Some((other, message)) = excluded else { continue };
        let code = "bulkhead::tls-conflict";
        let (source, span) = (&asks.file.source, asks.span.clone());
        let diagnostic = Diagnostic::error(code, source, span, message, "the second level");
        let help = format!(
            "{} allows the same flows with the other level: part the two by zones or ports",
            other.rule.location
        );
        diagnostics.push(diagnostic.help(help));
    }
}

/// How two rules exclude each other, if they do.
fn exclude(a: &Asking<'_>, b: &Asking<'_>) -> Option<String> {
    let (this, that) = (a.demand.level, b.demand.level);
    if this == Tls::Require && that == Tls::Require {
        let common = a.demand.accept.and(b.demand.accept);
        let (this, that) = (accepted_names(a.demand.accept), accepted_names(b.demand.accept));
        return nothing_left(common, a.rule, b.rule).then(|| {
            format!("this rule accepts {this}, another one {that}: no flow would be accepted by both")
        });
    }
    // The proxy can do one thing with a flow.
    let differ = this != that && this >= Tls::Mutual && that >= Tls::Mutual;
    let (word, other) = (tls_name(this), tls_name(that));
    (differ && overlap(a.rule, b.rule))
        .then(|| format!("`tls = \"{word}\"` and `\"{other}\"` exclude each other on the same flow"))
}

/// Whether some flow matches both rules and can be nothing that is accepted. To let pass only what nobody
/// can tell is meant by nobody either.
fn nothing_left(common: Accept, a: &Rule, b: &Rule) -> bool {
    let (Ports::Only(ports), Ports::Only(others)) = (&a.ports, &b.ports) else { return false };
    let shared = ports.iter().filter(|ports| others.iter().any(|other| ports.overlaps(other)));
    let mut closed =
        shared.filter(|ports| spoken_over(ports.protocol).is_some_and(|spoken| !common.intersects(spoken)));
    closed.next().is_some() && meet(&a.from, &b.from) && meet(&a.to, &b.to)
}

/// Whether some flow may match both, as far as names tell.
fn overlap(a: &Rule, b: &Rule) -> bool {
    let ports = match (&a.ports, &b.ports) {
        (Ports::Only(a), Ports::Only(b)) => a.iter().any(|x| b.iter().any(|y| x.overlaps(y))),
        _ => true,
    };
    ports && meet(&a.from, &b.from) && meet(&a.to, &b.to)
}

fn meet(a: &[Selector], b: &[Selector]) -> bool {
    a.contains(&Selector::Any) || b.contains(&Selector::Any) || a.iter().any(|selector| b.contains(selector))
}
