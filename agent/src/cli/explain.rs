//! `bulkhead explain`.

use std::path::PathBuf;

use anyhow::anyhow;
use bulkhead_policy::{Capabilities, Facts, Sources, load};

use super::table::verdict;
use super::{Format, Result, Verdict};
use crate::config::Selection;
use crate::control::protocol::{Answer, EndView, Explanation, Question, SideView};
use crate::control::{Reply, Request};
use crate::explain::Case;

#[derive(Debug, clap::Args)]
#[command(after_help = "SRC and DST are an address, the name of a zone, `world`, `node`, `virtual`, a \
                        cgroup's path below the cgroup root, or ADDRESS@CGROUP.\n\nExit codes: 0 answered, 1 no answer, or \
                        the kernel disagrees with the zone files, 2 wrong usage.")]
pub(super) struct Args {
    /// Who opens the flow
    #[arg(value_name = "SRC")]
    from: String,
    /// Who receives it
    #[arg(value_name = "DST")]
    to: String,
    /// tcp/5432, udp/53, icmp/echo, proto/47
    #[arg(value_name = "PORT")]
    port: String,
    /// Answer from these zone files, without agent and kernel; may be repeated
    #[arg(long, value_name = "PATH")]
    policy: Vec<PathBuf>,
    /// How the answer is printed
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

impl Args {
    pub(super) fn run(self, selection: &Selection) -> Result<Verdict> {
        let question = Question { from: self.from.clone(), to: self.to.clone(), port: self.port.clone() };
        let explanation =
            if self.policy.is_empty() { online(selection, question)? } else { self.offline(&question)? };
        match self.format {
            Format::Json => super::print_json(&explanation)?,
            Format::Text => super::print(&text(&explanation, super::colored()))?,
        }
        let agrees = explanation.kernel.as_ref().is_none_or(|kernel| kernel.agrees);
        Ok(if agrees { Verdict::Fine } else { Verdict::Findings })
    }

    fn offline(&self, question: &Question) -> Result<Explanation> {
        let sources = Sources::from_paths(&self.policy)?;
        let loaded = load(&sources, &Capabilities::this_build())
            .map_err(|diagnostics| anyhow!("the policy has errors\n{}", diagnostics.render(false)))?;
        Ok(Case::new(&loaded.model, &Facts::default(), question)?.explain())
    }
}

fn online(selection: &Selection, question: Question) -> Result<Explanation> {
    let replies = super::client(selection)?.ask(&Request::Explain(question))?;
    replies
        .into_iter()
        .find_map(|reply| match reply {
            Reply::Explanation(explanation) => Some(*explanation),
            _ => None,
        })
        .ok_or_else(|| anyhow!("the agent did not explain; is it of this version?"))
}

fn text(explanation: &Explanation, colored: bool) -> String {
    let Explanation { from, to, port, policy, kernel, notes } = explanation;
    let mut text = format!("{} -> {}  {port}: {}\n", end(from), end(to), verdict(&policy.verdict, colored));
    sides(&mut text, policy, colored);
    match kernel {
        None => {}
        Some(kernel) if kernel.agrees => {
            text.push_str(&format!("  kernel   agrees (generation {})\n", kernel.generation));
        }
        Some(kernel) => {
            let generation = kernel.generation;
            text.push_str(&format!("  kernel   DISAGREES (generation {generation}), please report this:\n"));
            text.push_str(&format!("           from {} to {}\n", kernel.from, kernel.to));
            match &kernel.answer {
                Some(answer) => sides(&mut text, answer, colored),
                None => text.push_str("           its tables have no answer, so it denies\n"),
            }
        }
    }
    for note in notes {
        text.push_str(&format!("  note     {note}\n"));
    }
    text
}

fn end(view: &EndView) -> String {
    if view.asked == view.zone { view.zone.clone() } else { format!("{} ({})", view.asked, view.zone) }
}

fn sides(text: &mut String, answer: &Answer, colored: bool) {
    for (name, side) in [("egress ", &answer.egress), ("ingress", &answer.ingress)] {
        let SideView { verdict: word, reason, rule } = side;
        let rule = match rule {
            Some(rule) => format!(": {} at {}:{}", rule.name, rule.file, rule.line),
            None => String::new(),
        };
        text.push_str(&format!("  {name}  {} ({reason}){rule}\n", verdict(word, colored)));
    }
    if !answer.tls.is_off() {
        text.push_str(&format!("  tls      {}\n", answer.tls));
    }
}
