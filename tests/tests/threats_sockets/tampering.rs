//! Row 26: somebody with root takes the kernel's objects away. When they are back, everything has the verdict
//! that it had. How soon that is, and what passes meanwhile, is `tamper`'s to measure.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};

use anyhow::{Context, Result, ensure};
use bulkhead_abi::names;
use bulkhead_sys::{link, pin};
use bulkhead_tests::harness::threat::{Case, DB, Lab, Threat, Try, WEB_AND_DB};
use bulkhead_tests::harness::{Agent, Cgroup, Setup, wait_until};
use bulkhead_tests::require_agent;

use crate::acts::{LONG, at, connects};

/// What somebody does, and what the agent then counts, by `object/action`.
struct Attack<'a> {
    name: &'static str,
    act: Box<Act<'a>>,
    restored: Vec<(&'static str, u64)>,
}

type Act<'a> = dyn Fn(&Agent) -> Result<()> + 'a;

fn open(agent: &Agent, path: &str) -> Result<OwnedFd> {
    Ok(pin::open(&agent.pins().join(path))?)
}

/// Every link at once.
fn detach(agent: &Agent) -> Result<()> {
    let links = names::PROGRAMS.map(|name| open(agent, &format!("links/{name}")));
    for link in links {
        link::detach(link?.as_fd())?;
    }
    Ok(())
}

/// The same programs, over tables that say nothing.
fn replace(agent: &Agent, lax: &Agent) -> Result<()> {
    for name in ["skb_ingress", "skb_egress", "connect4"] {
        let theirs = link::info(open(lax, &format!("links/{name}"))?.as_fd())?.program;
        let program = link::program(theirs)?;
        link::update(open(agent, &format!("links/{name}"))?.as_fd(), program.as_fd(), None)?;
    }
    Ok(())
}

fn unpin(agent: &Agent) -> Result<()> {
    std::fs::remove_file(agent.pins().join("links/skb_egress"))?;
    let maps = agent.pins().join(format!("maps-{}", names::LAYOUT));
    Ok(std::fs::remove_file(maps.join(names::FLOWS))?)
}

/// A connection when the attack is over, and everything is back.
fn afterwards(run: &Try<'_>, attack: &Attack<'_>, port: u16) -> Result<bool> {
    let restored: BTreeMap<String, u64> =
        attack.restored.iter().map(|(what, times)| ((*what).to_owned(), *times)).collect();
    let mut before = BTreeMap::new();
    run.meanwhile(|agent| {
        before = counted(agent);
        (attack.act)(agent)?;
        let done = wait_until(LONG, "all is put back", || since(&before, agent) == restored);
        done.with_context(|| format!("counted {:?}, not {restored:?}", since(&before, agent)))
    })?;
    let arrived = connects(run, &run.lab.web, at(DB, run.port(port)))?;
    run.meanwhile(|agent| {
        let told = since(&before, agent);
        ensure!(told == restored, "counted {told:?}, not {restored:?}");
        Ok(())
    })?;
    Ok(arrived)
}

/// What was counted of tampering since `before`.
fn since(before: &BTreeMap<String, u64>, agent: &Agent) -> BTreeMap<String, u64> {
    let moved = |(what, times): (String, u64)| {
        let by = times - before.get(&what).copied().unwrap_or(0);
        (by > 0).then_some((what, by))
    };
    counted(agent).into_iter().filter_map(moved).collect()
}

/// `bulkhead_tamper_total` where it is not 0, by `object/action`.
fn counted(agent: &Agent) -> BTreeMap<String, u64> {
    let page = agent.metrics().unwrap();
    let row = |line: &str| {
        let (labels, value) = line.strip_prefix("bulkhead_tamper_total{")?.split_once("} ")?;
        // Labels are in alphabetical order.
        let words: Vec<&str> = labels.split('"').skip(1).step_by(2).collect();
        Some((format!("{}/{}", words[1], words[0]), value.parse::<f64>().ok()? as u64))
    };
    page.lines().filter_map(row).filter(|(_, value)| *value > 0).collect()
}

#[test]
fn row_26_what_was_denied_is_denied_again_when_the_kernels_objects_are_back() {
    require_agent!();
    let lab = Lab::new().unwrap();
    let elsewhere = Cgroup::new("lax").unwrap();
    let lax = Agent::start(&elsewhere, "[zone.z]\ncidrs = [\"192.0.2.1/32\"]\n").unwrap();
    let links = names::PROGRAMS.len() as u64;
    let attacks = [
        Attack { name: "links detached", act: Box::new(detach), restored: vec![("link/restored", links)] },
        Attack {
            name: "programs replaced",
            act: Box::new(|agent| replace(agent, &lax)),
            restored: vec![("link/restored", 3)],
        },
        Attack {
            name: "pins deleted",
            act: Box::new(unpin),
            restored: vec![("link-pin/restored", 1), ("map-pin/restored", 1)],
        },
    ];
    let rule = "[[allow]]\nfrom = \"web\"\nto = \"db\"\nports = [\"tcp/7000-7099\"]\n";
    let mut threat = Threat::new(&format!("{WEB_AND_DB}{rule}")).setup(Setup::with_metrics);
    for attack in &attacks {
        threat = threat.case(
            Case::new(attack.name)
                .attempt(|run| afterwards(run, attack, 9000))
                .twin(|run| afterwards(run, attack, 7000))
                .counts("web", "db", "deny", "default", 1),
        );
    }
    threat.run(&lab).unwrap();
}
