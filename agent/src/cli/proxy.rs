//! `bulkhead proxy`: what the node's proxy serves, shows and has ended.

use std::time::Duration;

use clap::Subcommand;

use super::table::{Table, date};
use super::{Format, Result, Verdict};
use crate::config::Selection;
use crate::control::{Reply, Request};
use crate::proxy::view::Certificate;
use crate::proxy::wire::Record;

/// Time between two looks of `trace`.
const PAUSE: Duration = Duration::from_millis(300);

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Show the connections that are open
    Connections(Shown),
    /// Show the certificates that workloads of this node are given
    Certs(Shown),
    /// Show what ended and was refused lately, with the reasons, and follow it until interrupted
    Trace {
        #[command(flatten)]
        shown: Shown,
        /// Do not follow
        #[arg(long)]
        once: bool,
    },
}

#[derive(Debug, clap::Args)]
struct Shown {
    /// How it is printed; JSON is one line each
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

impl Args {
    pub(super) fn run(self, selection: &Selection) -> Result<Verdict> {
        let client = super::client(selection)?;
        match self.what {
            What::Connections(Shown { format }) => {
                show(format, &records(client.ask(&Request::ProxyConnections)?), connections)?;
            }
            What::Certs(Shown { format }) => {
                let replies = client.ask(&Request::ProxyCertificates)?;
                let all: Vec<Certificate> = replies
                    .into_iter()
                    .filter_map(|reply| match reply {
                        Reply::ProxyCertificate(one) => Some(*one),
                        _ => None,
                    })
                    .collect();
                show(format, &all, certificates)?;
            }
            What::Trace { shown: Shown { format }, once } => {
                let mut after = 0;
                loop {
                    for reply in client.ask(&Request::ProxyTrace { after })? {
                        let Reply::ProxyTraced { number, record } = reply else { continue };
                        after = after.max(number);
                        match format {
                            Format::Json => super::print_json(&record)?,
                            Format::Text => super::print(&line(&record))?,
                        }
                    }
                    if once {
                        break;
                    }
                    std::thread::sleep(PAUSE);
                }
            }
        }
        Ok(Verdict::Fine)
    }
}

fn show<T: serde::Serialize>(format: Format, all: &[T], text: fn(&[T]) -> String) -> Result<()> {
    match format {
        Format::Json => all.iter().try_for_each(super::print_json),
        Format::Text => super::print(&text(all)),
    }
}

fn records(replies: Vec<Reply>) -> Vec<Record> {
    let record = |reply| if let Reply::ProxyConnection(record) = reply { Some(*record) } else { None };
    replies.into_iter().filter_map(record).collect()
}

fn connections(all: &[Record]) -> String {
    let mut table = Table::new(&[
        "DIRECTION",
        "FROM",
        "TO",
        "CLIENT",
        "DESTINATION",
        "CLIENT NAME",
        "SERVER NAME",
        "SENT",
        "RECEIVED",
        "AGE",
        "RULE",
    ]);
    for record in all {
        let (from, to, rule) = edge(record);
        table.row([
            record.direction.clone(),
            from,
            to,
            record.client.to_string(),
            record.destination.to_string(),
            record.client_name.clone().unwrap_or_default(),
            record.server_name.clone().unwrap_or_default(),
            record.sent.to_string(),
            record.received.to_string(),
            format!("{:.0} s", record.seconds),
            rule,
        ]);
    }
    table.render("")
}

fn certificates(all: &[Certificate]) -> String {
    let mut table = Table::new(&["NAME", "FROM", "UNTIL", "SERIAL", "SOURCE", "PROBLEM"]);
    for one in all {
        let time = |seconds: i64| if seconds == 0 { String::new() } else { date(seconds) };
        table.row([
            one.name.clone(),
            time(one.not_before),
            time(one.not_after),
            one.serial.clone(),
            one.source.clone(),
            one.problem.clone().unwrap_or_default(),
        ]);
    }
    table.render("")
}

fn line(record: &Record) -> String {
    let (from, to, rule) = edge(record);
    let mut line = format!(
        "{} {} -> {} ({from} -> {to}) {}: {} bytes sent, {} received, {:.3} s",
        record.direction,
        record.client,
        record.destination,
        record.outcome,
        record.sent,
        record.received,
        record.seconds
    );
    if !rule.is_empty() {
        line.push_str("; rule ");
        line.push_str(&rule);
    }
    if !record.text.is_empty() {
        line.push_str("; ");
        line.push_str(&record.text);
    }
    line.push('\n');
    line
}

fn edge(record: &Record) -> (String, String, String) {
    match &record.edge {
        Some(edge) => (edge.from.clone(), edge.to.clone(), edge.rule.clone()),
        None => ("?".to_owned(), "?".to_owned(), String::new()),
    }
}
