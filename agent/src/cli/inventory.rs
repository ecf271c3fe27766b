//! `bulkhead inventory`.

use bulkhead_detect::inventory::{Line, ServiceView, csv};
use clap::ValueEnum;

use super::table::{Table, ago, date, verdict};
use super::{Result, Verdict};
use crate::config::Selection;
use crate::control::protocol::InventoryFilter;
use crate::control::{Reply, Request};

#[derive(Debug, clap::Args)]
#[command(after_help = "Handshakes are read from the first bytes that the kernel hands over; TLS 1.3 \
                        encrypts its certificates and the application protocol. docs/inventory.md lists \
                        the columns and the keys of JSON.")]
pub(super) struct Args {
    /// Only flows from this zone
    #[arg(long, value_name = "ZONE")]
    from: Option<String>,
    /// Only flows to this zone
    #[arg(long, value_name = "ZONE")]
    to: Option<String>,
    /// How it is printed; JSON is one line each, CSV is for auditors
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

/// How the inventory is printed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, ValueEnum)]
enum Format {
    /// For people
    #[default]
    Text,
    /// For machines
    Json,
    /// For spreadsheets: a row for each edge, port, class, protocol, version, cipher and group
    Csv,
}

impl Args {
    pub(super) fn run(self, selection: &Selection) -> Result<Verdict> {
        let filter = InventoryFilter { from: self.from, to: self.to };
        let replies = super::client(selection)?.ask(&Request::Inventory(filter))?;
        let lines = replies.into_iter().filter_map(|reply| match reply {
            Reply::Inventory(line) => Some(*line),
            _ => None,
        });
        let lines: Vec<Line> = lines.collect();
        match self.format {
            Format::Json => lines.iter().try_for_each(super::print_json)?,
            Format::Csv => super::print(&csv(&lines))?,
            Format::Text => super::print(&text(&lines, super::colored()))?,
        }
        Ok(Verdict::Fine)
    }
}

fn text(lines: &[Line], colored: bool) -> String {
    let mut services = Table::new(&[
        "FROM",
        "TO",
        "PORT",
        "CLASS",
        "PROTOCOL",
        "VERSION",
        "CIPHER",
        "STRENGTH",
        "GROUP",
        "NAME",
        "EXPIRES",
        "FLOWS",
        "LAST SEEN",
    ]);
    let mut edges = Table::new(&["FROM", "TO", "CLASS", "PROTOCOL", "TLS", "FLOWS", "VERDICT"]);
    for line in lines {
        match line {
            Line::Edge(edge) => edges.row([
                edge.from.clone(),
                edge.to.clone(),
                edge.class.clone(),
                dash(&edge.protocol),
                edge.tls.clone(),
                edge.flows.to_string(),
                verdict(&edge.verdict, colored),
            ]),
            Line::Service(service) => rows(&mut services, service),
        }
    }
    format!("{}\n{}", services.render(""), edges.render(""))
}

fn rows(table: &mut Table, service: &ServiceView) {
    let port = format!("{}/{}", service.transport, service.port);
    let ends = [service.from.clone(), service.to.clone(), port];
    let mut name =
        service.server_names.names.first().map_or_else(|| "-".to_owned(), |(name, _)| name.clone());
    let others = (service.server_names.names.len() as u64).saturating_sub(1) + service.server_names.more;
    if others > 0 {
        name.push_str(&format!(" and {others} more"));
    }
    let expires = service.certificates.iter().map(|certificate| certificate.not_after).min();
    let expires = expires.map_or_else(|| "-".to_owned(), date);
    for row in &service.handshakes {
        let rest = [
            row.class.clone(),
            dash(&row.protocol),
            row.version.clone(),
            row.cipher.clone(),
            row.cipher_strength.clone(),
            row.group.clone(),
            name.clone(),
            expires.clone(),
            row.flows.to_string(),
            ago(row.last_seen as f64),
        ];
        table.row(ends.iter().cloned().chain(rest));
    }
    let told = |class: &str| service.handshakes.iter().any(|row| row.class == class);
    for class in service.classes.iter().filter(|class| !told(&class.class)) {
        let unknown = std::iter::repeat_n("-".to_owned(), 7);
        let rest = [class.class.clone(), dash(&class.protocol)].into_iter().chain(unknown);
        table.row(ends.iter().cloned().chain(rest).chain([ago(class.last_seen as f64)]));
    }
}

fn dash(word: &str) -> String {
    if word == "unknown" { "-".to_owned() } else { word.to_owned() }
}
