//! The figures as text.

use std::fmt::Write;

use super::results::{Aim, Figure, Measure, Results};
use super::subject::{Known, Subject};

/// Everything, for a terminal.
pub(crate) fn text(results: &Results) -> String {
    let mut text = format!("{}\n", results.machine);
    let _ = writeln!(
        text,
        "client, server and both hops on processors {:?}; medians of {} rounds of {} s; in brackets the ratio to direct,\n\
         median of the rounds' own ratios\n",
        results.cpus, results.rounds, results.seconds
    );
    let here: Vec<&Known> = results.subjects.iter().filter(|known| known.unavailable.is_none()).collect();
    let _ = write!(text, "{:<40}", "");
    for known in &here {
        let _ = write!(text, "{:>17}", known.subject.name());
    }
    let _ = write!(text, "  aim for Bulkhead\n{:<40}", "");
    for known in &here {
        let _ = write!(text, "{:>17}", known.version);
    }
    text.push('\n');
    for measure in Measure::ALL {
        row(&mut text, results, &here, measure);
    }
    for known in &results.subjects {
        if let Some(why) = &known.unavailable {
            let _ = writeln!(text, "\n{}: not available: {why}", known.subject.name());
        }
    }
    for note in &results.notes {
        let _ = writeln!(text, "\n{}: {}", note.subject.name(), note.what);
    }
    text
}

fn row(text: &mut String, results: &Results, here: &[&Known], measure: Measure) {
    let (title, digits) = measure.told();
    let _ = write!(text, "{title:<40}");
    for known in here {
        let cell = match results.find(known.subject, measure) {
            Some(figure) => cell(figure, digits),
            None if known.subject == Subject::Direct && measure >= Measure::CpuPerGb => String::new(),
            None => "-".to_owned(),
        };
        let _ = write!(text, "{cell:>17}");
    }
    if let Some((aim, figure)) = measure.aim().zip(results.find(Subject::Bulkhead, measure)) {
        let (told, met) = Aim::judge(aim, figure);
        let _ = write!(text, "  {told}: {}", if met { "met" } else { "missed" });
    }
    let place = place(results, measure);
    if !place.is_empty() {
        let _ = write!(text, "  {place}");
    }
    let trimmed = text.trim_end().len();
    text.truncate(trimmed);
    text.push('\n');
}

fn cell(figure: &Figure, digits: usize) -> String {
    let value = format!("{:.digits$}", figure.value.median);
    match figure.to_direct {
        None => value,
        Some(ratio) if ratio.median < 10.0 => format!("{value} ({:.2})", ratio.median),
        Some(ratio) => format!("{value} ({:.1})", ratio.median),
    }
}

/// Who is ahead of Bulkhead.
fn place(results: &Results, measure: Measure) -> String {
    let value = |subject| results.find(subject, measure).map(|figure| figure.value.median);
    let Some(own) = value(Subject::Bulkhead) else { return String::new() };
    let ahead = |subject: &Subject| {
        let theirs = value(*subject);
        theirs.is_some_and(|theirs| if measure.is_speed() { theirs > own } else { theirs < own })
    };
    let peers = Subject::ALL.into_iter().skip(2).filter(ahead).map(Subject::name).collect::<Vec<_>>();
    if peers.is_empty() { String::new() } else { format!("behind {}", peers.join(", ")) }
}
