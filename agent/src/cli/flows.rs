//! `bulkhead flows`.

use clap::ValueEnum;

use super::table::{Table, verdict};
use super::{Format, Result, Verdict};
use crate::config::Selection;
use crate::control::protocol::{FlowFilter, FlowView};
use crate::control::{Reply, Request};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Only flows that somebody in this zone opened
    #[arg(long, value_name = "ZONE")]
    from: Option<String>,
    /// Only flows that somebody in this zone receives
    #[arg(long, value_name = "ZONE")]
    to: Option<String>,
    /// Only flows with this verdict
    #[arg(long, value_enum)]
    verdict: Option<Word>,
    /// Only flows to this port, as tcp/443, or of this protocol, as udp
    #[arg(long, value_name = "PORT")]
    port: Option<String>,
    /// How they are printed; JSON is one line each
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Word {
    Allow,
    Audit,
    Deny,
}

impl Args {
    pub(super) fn run(self, selection: &Selection) -> Result<Verdict> {
        let verdict = self.verdict.map(|word| match word {
            Word::Allow => "allow".to_owned(),
            Word::Audit => "audit".to_owned(),
            Word::Deny => "deny".to_owned(),
        });
        let filter = FlowFilter { from: self.from, to: self.to, verdict, port: self.port };
        let replies = super::client(selection)?.ask(&Request::Flows(filter))?;
        let flows = replies.into_iter().filter_map(|reply| match reply {
            Reply::Flow(flow) => Some(*flow),
            _ => None,
        });
        match self.format {
            Format::Json => {
                for flow in flows {
                    super::print_json(&flow)?;
                }
            }
            Format::Text => super::print(&text(flows))?,
        }
        Ok(Verdict::Fine)
    }
}

fn text(flows: impl Iterator<Item = FlowView>) -> String {
    let head = ["FROM", "TO", "SOURCE", "DESTINATION", "PROTOCOL", "REASON", "RULE", "GENERATION", "VERDICT"];
    let mut table = Table::new(&head);
    // Colour has a width of its own: it goes into the last column.
    let colored = super::colored();
    for flow in flows {
        let rule = flow.rule.as_ref().map(|rule| format!("{}:{}", rule.file, rule.line));
        table.row([
            flow.from.clone(),
            flow.to.clone(),
            end(&flow.src, flow.src_port),
            end(&flow.dst, flow.dst_port),
            flow.protocol.clone(),
            flow.reason.clone(),
            rule.unwrap_or_else(|| "-".to_owned()),
            flow.generation.to_string(),
            verdict(&flow.verdict, colored),
        ]);
    }
    table.render("")
}

fn end(address: &str, port: u16) -> String {
    if address.contains(':') { format!("[{address}]:{port}") } else { format!("{address}:{port}") }
}
