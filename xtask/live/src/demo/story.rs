//! The story: what passes and what does not; a file is edited; the agents are killed and come back;
//! what the metrics say about it.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use bulkhead_tests::harness::{Agent, Dial, Errno, Peer, Socket, wait_until};

use crate::attempt::{Outcome, millis};
use crate::interrupt::Interrupt;
use crate::lines::{Expected, LINES, Line, Port};
use crate::network::{self, NODES};
use crate::print::{Printer, Row};
use crate::shop::{self, FILE, Shop};

/// For what must happen, on a machine that may be busy.
const PATIENCE: Duration = Duration::from_secs(5);

/// What the edit takes out of the shop's zone file.
const BEFORE: &str = "ports = [\"tcp/8080\", \"tcp/9000-9100\"]";
const AFTER: &str = "ports = [\"tcp/9000-9100\"]";

/// Connections that the edit cuts. Each is a flow that was denied in its midst, and counted as one.
const CUT: usize = 2;

/// Plays it. Answers the shop, still running, and whether everything came out as expected.
pub(crate) fn play(policies: &Path, interrupt: &Interrupt) -> Result<(Shop, bool)> {
    let mut out = Printer::new();
    out.heading("A small shop on two nodes");
    let mut shop = Shop::build(policies)?;
    stage(&out);
    interrupt.check()?;

    out.heading("1  Before: no agent, and everybody reaches everybody");
    let all = shop.try_all(true, interrupt)?;
    let arrived = all.iter().filter(|outcome| outcome.answered).count();
    out.claim(&format!("{arrived} of {} tries are answered", LINES.len()), arrived == LINES.len());

    out.heading("2  The agents start: what the zone files allow passes, and nothing else");
    let started = Instant::now();
    shop.start()?;
    out.faint(&format!("{} agents enforce after {:.0} ms", NODES.len(), millis(started.elapsed())));
    table(&mut out, &shop, interrupt)?;

    edit(&mut out, &shop, interrupt)?;
    kill(&mut out, &mut shop, interrupt)?;
    metrics(&mut out, &shop)?;

    let (right, wrong) = out.score();
    out.heading(&match wrong {
        0 => format!("All {right} lines came out as expected."),
        _ => format!("{wrong} of {} lines did not come out as expected.", right + wrong),
    });
    Ok((shop, wrong == 0))
}

fn stage(out: &Printer) {
    for (node, name) in NODES.iter().enumerate() {
        let here = network::MACHINES.iter().filter(|machine| machine.node == node);
        let names: Vec<_> = here.map(|machine| machine.name).collect();
        out.text(&format!("{name}: {}", names.join(", ")));
    }
    out.faint("zones: web by address, api by address and unit, db by unit; intruder and outside are in none");
}

fn table(out: &mut Printer, shop: &Shop, interrupt: &Interrupt) -> Result<()> {
    let head = ["FROM", "TO", "PORT", "IP", "EXPECTED", "GOT", "HOW", "RULE"];
    let mut rows: Vec<Row> = Vec::new();
    for line in &LINES {
        interrupt.check()?;
        let (outcome, decision) = shop.try_one(line)?;
        let passes = line.expected.passes();
        let by_right =
            decision.rule.as_deref() == line.expected.rule() && decision.reason == line.expected.reason();
        let got = match (outcome.answered, outcome.nothing_arrived) {
            (true, _) => "passes",
            (false, true) => "denied",
            (false, false) => "arrived unanswered",
        };
        let rule = match (decision.rule, decision.place) {
            (Some(rule), Some(place)) => {
                let file = place.rsplit('/').next().unwrap_or(&place);
                format!("{rule} ({file})")
            }
            (Some(rule), None) => rule,
            (None, _) => format!("none: {}", decision.reason),
        };
        let cells = [
            line.from,
            line.to,
            &line.port.text(),
            if line.v6 { "v6" } else { "v4" },
            if passes { "passes" } else { "denied" },
            got,
            &outcome.how,
            &rule,
        ];
        rows.push((cells.map(str::to_owned).to_vec(), outcome.is(passes) && by_right));
    }
    out.table(&head, &rows);
    Ok(())
}

/// A live connection: who has it.
struct Live<'a> {
    peer: &'a Peer,
    socket: Socket,
    name: String,
}

impl<'a> Live<'a> {
    fn open(shop: &'a Shop, line: &Line) -> Result<Live<'a>> {
        let Port::Tcp(port) = line.port else { bail!("only connections live") };
        let peer = shop.network.peer(line.from)?;
        let to = SocketAddr::new(network::address(line.to, line.v6)?, port);
        let name = format!("{} → {} {}", line.from, line.to, line.port.text());
        let socket =
            peer.connect(&Dial::tcp(to).within(PATIENCE)).with_context(|| format!("{name} cannot begin"))?;
        peer.exchange(&socket, 1, PATIENCE).with_context(|| format!("{name} is not answered"))?;
        Ok(Live { peer, socket, name })
    }

    fn works(&self) -> bool {
        self.peer.exchange(&self.socket, 1, PATIENCE).is_ok()
    }
}

/// The first line of the table from here to there that passes.
fn line(from: &str, to: &str, v6: bool) -> Result<&'static Line> {
    let wanted = |line: &&Line| line.from == from && line.to == to && line.v6 == v6 && line.expected.passes();
    LINES.iter().find(wanted).with_context(|| format!("no line from {from} to {to} passes"))
}

fn edit(out: &mut Printer, shop: &Shop, interrupt: &Interrupt) -> Result<()> {
    interrupt.check()?;
    out.heading(&format!("3  {FILE} is edited on {}, under live connections", NODES[0]));
    let agent = shop.agents.first().context("no agent")?;
    let text = std::fs::read_to_string(agent.policies().join(FILE))?;
    if !text.contains(BEFORE) {
        bail!("{FILE} does not say `{BEFORE}`: the demo cannot edit it");
    }
    let local = Live::open(shop, line("web", "api", false)?)?;
    let remote = Live::open(shop, line("web-2", "api", true)?)?;
    let other = Live::open(shop, line("api", "db", false)?)?;
    let ends = [&local, &remote].map(|live| (live, live.peer.begin_ended(&live.socket, PATIENCE)));

    out.text(&format!("- {BEFORE}"));
    out.text(&format!("+ {AFTER}"));
    agent.write_file(FILE, &text.replace(BEFORE, AFTER))?;
    let saved = Instant::now();
    for (live, end) in ends {
        match end.wait() {
            Ok(end) => {
                let error = match end.error() {
                    Some(Errno::CONNABORTED) => "ECONNABORTED".to_owned(),
                    Some(Errno::CONNRESET) => "ECONNRESET".to_owned(),
                    Some(errno) => errno.to_string(),
                    None => "closed in order".to_owned(),
                };
                let after = millis(saved.elapsed());
                out.claim(
                    &format!("{} was cut: {error}, at most {after:.0} ms after saving", live.name),
                    end.error().is_some(),
                );
            }
            Err(error) => out.claim(&format!("{} was not cut: {error}", live.name), false),
        }
    }
    out.claim(&format!("{} goes on: its rule did not change", other.name), other.works());
    for line in agent.metrics()?.lines().filter(|line| line.starts_with("bulkhead_flows_ended_total{")) {
        out.faint(line);
    }
    put_back(agent, &text)?;
    let again = Live::open(shop, line("web", "api", false)?);
    out.claim("the line is put back, and web → api tcp/8080 passes again", again.is_ok());
    Ok(())
}

/// Waits also until the agent has cleaned up behind the change: who is killed in its midst begins by
/// finishing it, and that is another story.
fn put_back(agent: &Agent, text: &str) -> Result<()> {
    let before = agent.status()?.policy.last_success;
    agent.write_file(FILE, text)?;
    let loaded = || agent.status().is_ok_and(|status| status.policy.last_success > before);
    wait_until(PATIENCE, "the file is put back and loaded", loaded)
}

fn kill(out: &mut Printer, shop: &mut Shop, interrupt: &Interrupt) -> Result<()> {
    interrupt.check()?;
    out.heading("4  The agents are killed with SIGKILL, under live connections");
    // The connections outlive every borrow of the shop's agents, so the agents are set aside.
    let mut agents = std::mem::take(&mut shop.agents);
    let played = killed(out, shop, &mut agents, interrupt);
    shop.agents = agents;
    played
}

fn killed(out: &mut Printer, shop: &Shop, agents: &mut [Agent], interrupt: &Interrupt) -> Result<()> {
    let lives = [
        Live::open(shop, line("web", "api", true)?)?,
        Live::open(shop, line("api", "db", false)?)?,
        Live::open(shop, line("web-2", "api", false)?)?,
    ];
    let before: Vec<u64> =
        agents.iter().map(|agent| Ok(agent.reader()?.generation())).collect::<Result<_>>()?;
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| -> Result<()> {
        let talks: Vec<_> = lives.iter().map(|live| (live, scope.spawn(|| talk(live, &stop)))).collect();
        let told = (|| -> Result<()> {
            for agent in agents.iter_mut() {
                agent.kill9()?;
            }
            same(out, "with no agent, the verdicts are the same", &shop.try_all(false, interrupt)?);
            shop::start(agents, &shop.network)?;
            same(out, "the agents are back, and the verdicts are the same", &shop.try_all(false, interrupt)?);
            let now: Vec<u64> =
                agents.iter().map(|agent| Ok(agent.reader()?.generation())).collect::<Result<_>>()?;
            let text = match now == before {
                true => format!("the kernel never left generation {}", list(&before)),
                false => format!("the kernel went from generation {} to {}", list(&before), list(&now)),
            };
            out.claim(&text, now == before);
            Ok(())
        })();
        stop.store(true, Ordering::Relaxed);
        for (live, thread) in talks {
            match thread.join() {
                Ok(Ok((count, slowest))) => out.claim(
                    &format!(
                        "{} never noticed: {count} questions, all answered, the slowest in {:.1} ms",
                        live.name,
                        millis(slowest)
                    ),
                    count > 0,
                ),
                Ok(Err(error)) => out.claim(&format!("{} broke: {error}", live.name), false),
                Err(_) => bail!("a thread panicked"),
            }
        }
        told
    })
}

/// Questions without pause until told to stop: how many, and the slowest.
fn talk(live: &Live<'_>, stop: &AtomicBool) -> Result<(u64, Duration)> {
    let (mut count, mut slowest) = (0, Duration::ZERO);
    while !stop.load(Ordering::Relaxed) {
        let done = live.peer.exchange(&live.socket, 20, PATIENCE)?;
        count += done.count;
        slowest = slowest.max(Duration::from_micros(done.slowest_us));
        // Enough to notice any gap, and not so much that the two cores of a small machine are full.
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok((count, slowest))
}

fn same(out: &mut Printer, what: &str, outcomes: &[Outcome]) {
    let as_expected = |(line, outcome): &(&Line, &Outcome)| outcome.is(line.expected.passes());
    let tried: Vec<_> = LINES.iter().zip(outcomes).collect();
    let right = tried.iter().filter(|pair| as_expected(pair)).count();
    out.claim(&format!("{what}: {right} of {} lines", LINES.len()), right == LINES.len());
    for (line, outcome) in tried.iter().filter(|pair| !as_expected(pair)) {
        let family = if line.v6 { "v6" } else { "v4" };
        out.text(&format!("{} → {} {} {family}: {}", line.from, line.to, line.port.text(), outcome.how));
    }
}

fn list(numbers: &[u64]) -> String {
    let named = NODES.iter().zip(numbers).map(|(node, number)| format!("{number} ({node})"));
    named.collect::<Vec<_>>().join(" and ")
}

fn metrics(out: &mut Printer, shop: &Shop) -> Result<()> {
    out.heading("5  The metrics that tell this story");
    for (agent, node) in shop.agents.iter().zip(NODES) {
        out.text(&format!("{node}, /metrics"));
        for line in agent.metrics()?.lines().filter(|line| tells(line)) {
            out.faint(line);
        }
    }
    let mut denied = 0.0;
    for agent in &shop.agents {
        let text = agent.metrics()?;
        let rows = text
            .lines()
            .filter(|line| line.starts_with("bulkhead_flows_total{") && line.contains("verdict=\"deny\""));
        denied += rows.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum::<f64>();
    }
    let tries =
        LINES.iter().filter(|line| matches!(line.expected, Expected::Nothing | Expected::Denied(_))).count();
    let expected = 3 * tries + CUT;
    #[expect(clippy::cast_precision_loss, reason = "a small number")]
    let exact = (denied - expected as f64).abs() < 0.5;
    let text = format!(
        "{denied} flows were denied: {tries} tries, each in three rounds, and the {CUT} that were cut"
    );
    out.claim(&text, exact);
    Ok(())
}

/// Whether a line of the metrics is part of the story.
fn tells(line: &str) -> bool {
    [
        "bulkhead_flows_total{",
        "bulkhead_flows_ended_total{",
        "bulkhead_generation ",
        "bulkhead_policy_reloads_total{",
        "bulkhead_policy_last_reload_success ",
    ]
    .iter()
    .any(|start| line.starts_with(start))
        && !line.ends_with(" 0")
}
