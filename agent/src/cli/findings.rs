//! `bulkhead findings`.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::bail;
use bulkhead_detect::findings::Kind;

use super::table::{Table, ago, severity};
use super::{Format, Result, Verdict};
use crate::config::Selection;
use crate::control::protocol::{Acknowledge, FindingFilter, FindingView};
use crate::control::{Client, Reply, Request};

/// Time between two questions of `--follow`.
const PERIOD: Duration = Duration::from_secs(1);

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    /// Also those that somebody has acknowledged
    #[arg(long)]
    all: bool,
    /// Also those that are over
    #[arg(long)]
    history: bool,
    /// Only those of this kind
    #[arg(long, value_name = "KIND", value_parser = kind)]
    kind: Option<String>,
    /// Only those with this zone at either end
    #[arg(long, value_name = "ZONE")]
    zone: Option<String>,
    /// Only this one, with everything that is known of it
    #[arg(value_name = "ID")]
    id: Option<String>,
    /// Go on, and print what changes
    #[arg(long)]
    follow: bool,
    /// How they are printed; JSON is one line each
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Say that a finding was seen: it is silent until it ends, or for as long as you say
    Ack(Ack),
    /// Take that back: it is open again, if it goes on
    Unack(Unack),
}

#[derive(Debug, clap::Args)]
struct Unack {
    /// Its number
    #[arg(value_name = "ID")]
    id: String,
}

#[derive(Debug, clap::Args)]
struct Ack {
    /// Its number
    #[arg(value_name = "ID")]
    id: String,
    /// Keep it silent for this long, even if it ends and comes back: 30m, 12h, 7d
    #[arg(long = "for", value_name = "TIME", value_parser = time)]
    time: Option<Duration>,
    /// Why, for whoever looks next
    #[arg(long, value_name = "TEXT")]
    note: Option<String>,
}

impl Args {
    pub(super) fn run(self, selection: &Selection) -> Result<Verdict> {
        let client = super::client(selection)?;
        match self.command {
            Some(Command::Ack(ack)) => return ack.run(&client),
            Some(Command::Unack(Unack { id })) => return tell(&client, &Request::Unacknowledge { id }),
            None => {}
        }
        let one = self.id.is_some();
        let filter = FindingFilter {
            acknowledged: self.all || one,
            resolved: self.history || one,
            kind: self.kind,
            zone: self.zone,
        };
        if self.follow {
            return follow(&client, &filter, self.format);
        }
        let mut findings = ask(&client, &filter)?;
        if let Some(id) = &self.id {
            findings.retain(|finding| finding.id == *id);
            if findings.is_empty() {
                bail!("there is no finding `{id}`; `bulkhead findings --history` lists them");
            }
        }
        match self.format {
            Format::Json => findings.iter().try_for_each(super::print_json)?,
            Format::Text if one => findings.iter().try_for_each(|finding| super::print(&in_full(finding)))?,
            Format::Text => super::print(&text(&findings))?,
        }
        let open = findings.iter().any(|finding| finding.state == "open");
        Ok(if open { Verdict::Findings } else { Verdict::Fine })
    }
}

impl Ack {
    fn run(self, client: &Client) -> Result<Verdict> {
        let seconds = self.time.map(|time| time.as_secs());
        tell(client, &Request::Acknowledge(Acknowledge { id: self.id, seconds, note: self.note }))
    }
}

/// Says something of a finding, and prints how it stands then.
fn tell(client: &Client, request: &Request) -> Result<Verdict> {
    for reply in client.ask(request)? {
        if let Reply::Finding(finding) = reply {
            super::print(&in_full(&finding))?;
        }
    }
    Ok(Verdict::Fine)
}

fn ask(client: &Client, filter: &FindingFilter) -> Result<Vec<FindingView>> {
    let replies = client.ask(&Request::Findings(filter.clone()))?;
    let findings = replies.into_iter().filter_map(|reply| match reply {
        Reply::Finding(finding) => Some(*finding),
        _ => None,
    });
    Ok(findings.collect())
}

/// Asks again and again, also for those that are over, and prints what is new or stands otherwise.
fn follow(client: &Client, filter: &FindingFilter, format: Format) -> Result<Verdict> {
    let everything = FindingFilter { acknowledged: true, resolved: true, ..filter.clone() };
    let mut known: BTreeMap<String, (String, u32, String)> = BTreeMap::new();
    let mut first = true;
    loop {
        for finding in ask(client, &everything)? {
            let now = (finding.state.clone(), finding.times, finding.severity.clone());
            let before = known.insert(finding.id.clone(), now.clone());
            let shown = match finding.state.as_str() {
                "open" => true,
                "acknowledged" => filter.acknowledged || !first,
                _ => filter.resolved || !first,
            };
            if before.as_ref() == Some(&now) || !shown {
                continue;
            }
            match format {
                Format::Json => super::print_json(&finding)?,
                Format::Text => super::print(&line(&finding))?,
            }
        }
        first = false;
        std::thread::sleep(PERIOD);
    }
}

fn text(findings: &[FindingView]) -> String {
    if findings.is_empty() {
        return "nothing to look at\n".to_owned();
    }
    let mut table =
        Table::new(&["ID", "KIND", "FROM", "TO", "SUBJECT", "COUNT", "LAST SEEN", "STATE", "SEVERITY"]);
    let colored = super::colored();
    for finding in findings {
        table.row([
            finding.id.clone(),
            finding.kind.clone(),
            finding.from.clone(),
            finding.to.clone(),
            finding.subject.clone(),
            finding.count.to_string(),
            ago(finding.last_seen),
            finding.state.clone(),
            severity(&finding.severity, colored),
        ]);
    }
    table.render("")
}

fn line(finding: &FindingView) -> String {
    let FindingView { id, kind, severity, state, from, to, subject, count, .. } = finding;
    format!("{id}  {state}  {severity}  {kind}  {from} -> {to}  {subject}  {count}\n")
}

fn in_full(finding: &FindingView) -> String {
    let FindingView { id, kind, severity, state, from, to, subject, .. } = finding;
    let mut text = format!("{id}  {kind}, {severity}, {state}\n");
    text.push_str(&format!("  from {from} to {to}, about {subject}\n"));
    text.push_str(&format!(
        "  {} times; first seen {}, last {}, opened {} times\n",
        finding.count,
        ago(finding.first_seen),
        ago(finding.last_seen),
        finding.times
    ));
    for (name, value) in &finding.evidence {
        text.push_str(&format!("  {name}: {value}\n"));
    }
    if let Some(ack) = &finding.acknowledged {
        let note = ack.note.as_deref().unwrap_or("without a note");
        text.push_str(&format!("  acknowledged {}: {note}\n", ago(ack.at)));
    }
    text.push_str(&format!("  what to do: {}\n", finding.advice));
    text
}

fn kind(text: &str) -> std::result::Result<String, String> {
    match Kind::from_word(text) {
        Some(kind) => Ok(kind.as_str().to_owned()),
        None => {
            let all = Kind::ALL.iter().map(|kind| kind.as_str()).collect::<Vec<_>>().join(", ");
            Err(format!("there is no such kind; there are {all}"))
        }
    }
}

fn time(text: &str) -> std::result::Result<Duration, String> {
    let error = || format!("`{text}` is no time; use 30m, 12h or 7d");
    let (number, unit) = text.split_at_checked(text.len().saturating_sub(1)).ok_or_else(error)?;
    let number: u64 = number.parse().map_err(|_| error())?;
    let unit = match unit {
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return Err(error()),
    };
    Ok(Duration::from_secs(number.saturating_mul(unit)))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read() {
        assert_eq!(time("7d").unwrap(), Duration::from_secs(7 * 86_400));
        assert_eq!(time("30m").unwrap(), Duration::from_secs(1800));
        for bad in ["", "d", "7", "7w", "-1h", "ü"] {
            assert!(time(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn kinds_are_the_words_of_the_metrics() {
        assert_eq!(kind("port-scan").unwrap(), "port-scan");
        assert!(kind("portscan").unwrap_err().contains("port-scan"));
    }
}
