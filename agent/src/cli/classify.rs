//! `bulkhead classify`.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::table::Table;
use super::{Format, Result, Verdict};
use crate::classify::{self, Row};

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Reads pcap and pcapng, without root and without an agent. A flow is told by its first \
                  bytes, as the kernel does it: ports are no evidence, and what cannot be told is \
                  `unknown`. docs/classify.md lists the columns and the keys of JSON.\n\nExit codes: 0 every \
                  capture was read to its end, 1 one could not be, 2 wrong usage."
)]
pub(super) struct Args {
    /// Capture files, as tcpdump, tshark or dumpcap write them
    #[arg(value_name = "CAPTURE", required = true)]
    captures: Vec<PathBuf>,
    /// How flows are printed; JSON is one line each
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

/// A row, and where it comes from.
#[derive(Serialize)]
struct Line<'a> {
    capture: &'a Path,
    #[serde(flatten)]
    row: &'a Row,
}

impl Args {
    pub(super) fn run(self) -> Result<Verdict> {
        let mut failed = Vec::new();
        let mut table = Table::new(&HEAD);
        let mut printed = Ok(());
        for capture in &self.captures {
            let result = classify::file(capture, &mut |row| match self.format {
                Format::Json => {
                    if printed.is_ok() {
                        printed = super::print_json(&Line { capture, row: &row });
                    }
                }
                Format::Text => table.row(cells(&row)),
            });
            // Nobody reads on.
            std::mem::replace(&mut printed, Ok(()))?;
            if let Err(error) = result {
                failed.push(error);
            }
        }
        if self.format == Format::Text {
            super::print(&table.render(""))?;
        }
        if failed.is_empty() {
            return Ok(Verdict::Fine);
        }
        let texts: Vec<String> = failed.iter().map(ToString::to_string).collect();
        Err(anyhow::anyhow!(texts.join("\nbulkhead: ")))
    }
}

const HEAD: [&str; 14] = [
    "SOURCE",
    "DESTINATION",
    "TRANSPORT",
    "CLASS",
    "PROTOCOL",
    "VERSION",
    "CIPHER",
    "SERVER NAME",
    "ALPN",
    "GROUP",
    "OFFERED",
    "JA4",
    "EXPIRES",
    "KNOWN AFTER",
];

fn cells(row: &Row) -> Vec<String> {
    let tls = row.tls.clone().unwrap_or_default();
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    let mut protocol = if row.protocol == "unknown" { "-".to_owned() } else { row.protocol.to_owned() };
    for (is, word) in
        [(row.upgraded, "upgraded"), (row.tunnelled, "tunnelled"), (row.midstream, "mid-stream")]
    {
        if is {
            protocol = format!("{protocol} ({word})");
        }
    }
    let alpn = tls.alpn.or_else(|| {
        let offered = tls.alpn_offered.join(",");
        (!offered.is_empty()).then(|| format!("offered {offered}"))
    });
    let offered = tls.groups_offered.join(",");
    vec![
        end(row.src, row.src_port),
        end(row.dst, row.dst_port),
        row.transport.to_owned(),
        row.class.to_owned(),
        protocol,
        or_dash(tls.version),
        or_dash(tls.cipher),
        or_dash(tls.server_name),
        or_dash(alpn),
        or_dash(tls.group),
        or_dash((!offered.is_empty()).then_some(offered)),
        or_dash(tls.ja4),
        or_dash(tls.certificate.map(|certificate| super::table::date(certificate.not_after))),
        or_dash(row.known_after.map(|bytes| format!("{bytes} bytes"))),
    ]
}

fn end(address: std::net::IpAddr, port: u16) -> String {
    if port == 0 { address.to_string() } else { std::net::SocketAddr::new(address, port).to_string() }
}
