//! `bulkhead status`.

use anyhow::anyhow;
use serde::Serialize;

use super::table::{Table, ago};
use super::{Format, Result, Verdict};
use crate::config::Selection;
use crate::control::client::ClientError;
use crate::control::protocol::{DriftView, GuardView, PrivilegesView, ProxyView, Status};
use crate::control::{Client, Reply, Request};
use crate::datapath::Reader;
use crate::instance::Instance;

#[derive(Debug, clap::Args)]
#[command(after_help = "Exit codes: 0 the policy folder is enforced as it is, 1 it is not (its last reload \
                        failed, or no agent runs; with --verify, the kernel's tables differed), 2 wrong usage.")]
pub(super) struct Args {
    /// How it is printed
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    /// Read the kernel's tables back, compare them with the policy, and write right what differs
    #[arg(long)]
    verify: bool,
}

/// What `--format json` prints when no agent answers.
#[derive(Serialize)]
struct Absent<'a> {
    agent: bool,
    instance: &'a str,
    enforcing: bool,
    generation: Option<u64>,
    audit: Option<bool>,
}

impl Args {
    pub(super) fn run(self, selection: &Selection) -> Result<Verdict> {
        let instance = super::instance(selection)?;
        if self.verify {
            return self.verify(&instance);
        }
        let replies = match Client::new(&instance.control_path()).ask(&Request::Status) {
            Err(ClientError::NotRunning(_)) => return self.absent(&instance),
            answer => answer?,
        };
        let status = replies
            .into_iter()
            .find_map(|reply| match reply {
                Reply::Status(status) => Some(status),
                _ => None,
            })
            .ok_or_else(|| anyhow!("the agent did not tell its status; is it of this version?"))?;
        match self.format {
            Format::Json => super::print_json(&status)?,
            Format::Text => super::print(&text(&status))?,
        }
        Ok(if status.policy.error.is_none() { Verdict::Fine } else { Verdict::Findings })
    }

    fn verify(&self, instance: &Instance) -> Result<Verdict> {
        let replies = Client::new(&instance.control_path()).ask(&Request::Verify)?;
        let drift = replies
            .into_iter()
            .find_map(|reply| match reply {
                Reply::Drift(drift) => Some(drift),
                _ => None,
            })
            .ok_or_else(|| anyhow!("the agent did not compare; is it of this version?"))?;
        match self.format {
            Format::Json => super::print_json(&drift)?,
            Format::Text => super::print(&differences(&drift))?,
        }
        Ok(if drift.differing == 0 { Verdict::Fine } else { Verdict::Findings })
    }

    fn absent(&self, instance: &Instance) -> Result<Verdict> {
        let enforcing = crate::datapath::is_attached(&instance.pins);
        let reader = if enforcing { Reader::open(&instance.pins).ok() } else { None };
        let (generation, audit) =
            (reader.as_ref().map(Reader::generation), reader.as_ref().map(Reader::audit));
        let name = &instance.name;
        match self.format {
            Format::Json => {
                super::print_json(&Absent { agent: false, instance: name, enforcing, generation, audit })?;
            }
            Format::Text if enforcing => {
                let generation = generation.map_or_else(|| "unknown".to_owned(), |number| number.to_string());
                let mode = if audit == Some(true) { ", audit mode" } else { "" };
                super::print(&format!(
                    "instance {name}: no agent runs, and the kernel goes on enforcing generation \
                     {generation}{mode}\nstart the agent with `bulkhead run`, or take enforcement off with \
                     `bulkhead detach`\n"
                ))?;
            }
            Format::Text => {
                super::print(&format!("instance {name}: no agent runs, and nothing is enforced\n"))?;
            }
        }
        Ok(Verdict::Findings)
    }
}

fn text(status: &Status) -> String {
    let policy = &status.policy;
    let mut text = format!(
        "bulkhead {}, process {}, instance {}, started {}\n",
        status.version,
        status.pid,
        status.instance,
        ago(status.started)
    );
    let mut line = |name: &str, value: String| text.push_str(&format!("{name:<12}{value}\n"));
    line("guards", status.cgroup_root.display().to_string());
    let kernel = &status.kernel;
    line("kernel", format!("Linux {}", kernel.release));
    let (hook, cookie) = (kernel.interface_hook.as_str(), kernel.netns_cookie.as_str());
    line("", format!("interfaces by {}", if hook == "tcx" { hook } else { "clsact filters (no TCX here)" }));
    let storage = "sockets' storage (no helper here)";
    line("", format!("namespace cookies from {}", if cookie == "helper" { "the helper" } else { storage }));
    line("mode", status.mode.as_str().to_owned());
    line("privileges", privileges(&status.privileges));
    if let Some(proxy) = &status.proxy {
        line("proxy", proxy_line(proxy));
        if let Some(problem) = &proxy.problem {
            line("", problem.clone());
        }
    }
    let enforcing = if status.enforcing { "" } else { " (not in force yet)" };
    line("generation", format!("{}{enforcing}", status.generation));
    line("policy", policy.folder.display().to_string());
    line(
        "",
        format!(
            "{} zones, {} rules, {} prefixes, {} workloads",
            policy.zones, policy.rules, policy.prefixes, policy.workloads
        ),
    );
    let loaded = policy.last_success.map_or_else(|| "never by this agent".to_owned(), ago);
    line("loaded", format!("{loaded}, in {:.1} ms", policy.last_duration * 1e3));
    if let Some(at) = status.verified {
        let found = match (status.drift, status.drift_repaired) {
            (0, 0) => "the kernel's tables are as written".to_owned(),
            (0, before) => format!("the kernel's tables are as written; {before} entries were not, before"),
            (now, _) => format!("{now} ENTRIES DIFFERED from what was written"),
        };
        line("verified", format!("{}: {found}", ago(at)));
    }
    if let Some(error) = &policy.error {
        let since = policy.failing_since.map(ago).unwrap_or_default();
        line("RELOAD", format!("FAILED, since {since}; what is enforced is the last good policy"));
        text.push_str(&indent(error));
    }
    for unreadable in &status.unreadable {
        text.push_str(&format!("cannot read {unreadable}\n"));
    }
    text.push_str(&guard(&status.guard));
    text.push_str(&tables(status));
    text
}

fn guard(guard: &GuardView) -> String {
    let mut text = match &guard.failure {
        Some(failure) => format!("GUARD       NONE: {failure}\n"),
        None if guard.attachment == "off" => {
            "guard       off: what goes round sockets is not judged\n".to_owned()
        }
        None => format!(
            "guard       on {} interfaces by {}, mark {}\n",
            guard.interfaces.iter().filter(|interface| interface.guarded).count(),
            guard.attachment,
            guard.mark
        ),
    };
    if guard.interfaces.is_empty() {
        return text;
    }
    let mut table = Table::new(&["INTERFACE", "STATE", "BEHIND IT", "PROBLEM"]);
    for interface in &guard.interfaces {
        let behind = match (interface.netns, interface.wire) {
            (Some(netns), _) => format!("workload, namespace {netns}"),
            (None, true) => "other machines".to_owned(),
            (None, false) => "not known".to_owned(),
        };
        table.row([
            interface.name.clone(),
            if interface.guarded { "guarded" } else { "OPEN" }.to_owned(),
            behind,
            interface.problem.clone().unwrap_or_default(),
        ]);
    }
    text.push_str(&format!("\nguarded interfaces\n{}", table.render("  ")));
    text
}

fn proxy_line(proxy: &ProxyView) -> String {
    let lost = if proxy.lost > 0 { format!("; lost {} times", proxy.lost) } else { String::new() };
    match proxy.pid {
        Some(pid) => format!(
            "process {pid}, listens in {} namespaces, {} connections, {} certificates{lost}",
            proxy.namespaces, proxy.open, proxy.certificates
        ),
        None => format!("does not answer: edges under tls = \"mutual\" are closed{lost}"),
    }
}

fn privileges(held: &PrivilegesView) -> String {
    let beyond = held.bounding.iter().filter(|name| !held.capabilities.contains(name)).count();
    let beyond = if beyond == 0 { String::new() } else { format!(" (and {beyond} within bounds)") };
    let capabilities = held.capabilities.join(" ");
    let gain = if held.no_new_privileges { "no new privileges" } else { "NEW PRIVILEGES POSSIBLE" };
    let calls = if held.seccomp == "filter" { "system calls filtered" } else { "SYSTEM CALLS NOT FILTERED" };
    format!("{capabilities}{beyond}; {gain}; {calls}")
}

fn differences(drift: &DriftView) -> String {
    if drift.differing == 0 {
        return format!("the kernel holds the policy as it is (compared in {:.1} ms)\n", drift.took * 1e3);
    }
    let mut table = Table::new(&["TABLE", "KEY", "THE KERNEL HELD", "THE POLICY SAYS"]);
    let side = |side: &Option<String>| side.clone().unwrap_or_else(|| "nothing".to_owned());
    for entry in &drift.entries {
        table.row([entry.table.clone(), entry.key.clone(), side(&entry.held), side(&entry.wanted)]);
    }
    let more = drift.differing - drift.entries.len().min(drift.differing);
    let more = if more == 0 { String::new() } else { format!("  and {more} more\n") };
    let now = if drift.repaired {
        "they are written right now; find out who changed them"
    } else {
        "they could NOT be written right; see the agent's log"
    };
    format!(
        "{} entries of the kernel's tables were not what the policy says\n{}{more}{now}\n",
        drift.differing,
        table.render("  ")
    )
}

fn tables(status: &Status) -> String {
    let mut text = String::new();
    let mut section = |name: &str, table: Table, empty: bool| {
        if !empty {
            text.push_str(&format!("\n{name}\n{}", table.render("  ")));
        }
    };
    let mut maps = Table::new(&["TABLE", "ENTRIES", "CAPACITY", "FULL"]);
    for map in &status.maps {
        #[expect(clippy::cast_precision_loss, reason = "a percentage for people")]
        let full = 100.0 * map.entries as f64 / map.capacity.max(1) as f64;
        maps.row([
            map.name.clone(),
            map.entries.to_string(),
            map.capacity.to_string(),
            format!("{full:.1} %"),
        ]);
    }
    section("kernel tables", maps, status.maps.is_empty());
    let mut programs = Table::new(&["PROGRAM", "INSTRUCTIONS", "RUNS", "NS PER RUN"]);
    for program in &status.programs {
        #[expect(clippy::cast_precision_loss, reason = "an average for people")]
        let each = if program.runs == 0 { 0.0 } else { program.seconds * 1e9 / program.runs as f64 };
        programs.row([
            program.name.clone(),
            program.instructions.to_string(),
            program.runs.to_string(),
            format!("{each:.0}"),
        ]);
    }
    section("kernel programs", programs, status.programs.is_empty());
    let mut failsafe = Table::new(&["SIDE", "PORT", "PACKETS"]);
    for port in &status.failsafe {
        failsafe.row([port.side.clone(), port.port.clone(), port.packets.to_string()]);
    }
    section("failsafe ports of the node", failsafe, status.failsafe.is_empty());
    let mut counts = Table::new(&["WHAT", "COUNT"]);
    for (what, count) in &status.lost {
        counts.row([format!("lost {what}"), count.to_string()]);
    }
    for (reason, count) in &status.flows_ended {
        counts.row([format!("flows ended, {reason}"), count.to_string()]);
    }
    let mut tamper = Table::new(&["OBJECT", "NAME", "WAS", "AND IS", "TIMES", "LAST"]);
    for finding in &status.tamper {
        tamper.row([
            finding.object.clone(),
            finding.name.clone(),
            finding.how.clone(),
            finding.action.clone(),
            finding.times.to_string(),
            ago(finding.last),
        ]);
    }
    section("TAMPERED WITH", tamper, status.tamper.is_empty());
    section("counts", counts, status.lost.is_empty() && status.flows_ended.is_empty());
    text
}

fn indent(text: &str) -> String {
    text.trim_end().lines().map(|line| format!("  {line}\n")).collect()
}
