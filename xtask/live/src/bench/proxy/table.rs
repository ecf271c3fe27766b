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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::text;
    use crate::machine::Machine;
    use crate::proxy::chart;
    use crate::proxy::results::{Measure, Note, Results, Samples};
    use crate::proxy::subject::{Known, Subject};

    #[test]
    fn who_has_no_figures_is_named_with_the_reason() {
        let mut samples = Samples::default();
        samples.add(Subject::Direct, Measure::OneStream, 0, 20.0);
        samples.add(Subject::Bulkhead, Measure::OneStream, 0, 9.0);
        samples.add(Subject::Nginx, Measure::OneStream, 0, 10.0);
        let known = |subject, why: Option<&str>| Known {
            subject,
            version: "1.0".to_owned(),
            unavailable: why.map(str::to_owned),
        };
        let results = Results {
            machine: Machine::here(),
            cpus: vec![0, 1],
            rounds: 1,
            seconds: 1.0,
            subjects: vec![
                known(Subject::Direct, None),
                known(Subject::Bulkhead, None),
                known(Subject::Nginx, None),
                known(Subject::Envoy, Some("no such package")),
            ],
            figures: samples.figures().unwrap(),
            notes: vec![Note { subject: Subject::Nginx, what: "it broke".to_owned() }],
        };
        let text = text(&results);
        assert!(text.contains("Envoy: not available: no such package"), "{text}");
        assert!(text.contains("nginx: it broke"), "{text}");
        let row = text.lines().find(|line| line.starts_with("one stream")).unwrap();
        assert!(row.ends_with("9.00 (0.45)     10.00 (0.50)  >= 0.40 of direct: met  behind nginx"), "{row}");
        // What is missing is no bar.
        assert_eq!(chart::svg(&results).matches("<title>").count(), 2);
    }
}
