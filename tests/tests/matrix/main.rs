//! The verdict matrix, by real sockets: every way to talk, by every verdict, wherever the two ends are.
//!
//! Each cell is tried without an agent (it arrives), allowed (it arrives), denied in two ways (it does
//! not) and in audit mode, of the zones and of the node (it arrives); each time the named counter moves by one flow, on the node that
//! must count it, and no other counter moves at all. Cells that do not exist say why in
//! [`Cell::missing`](axes::Cell::missing) and [`Placement::skips`](placement::Placement::skips).
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, missing_docs, unreachable_pub)]

mod axes;
mod placement;
mod world;

use std::fmt::Write;
use std::time::Duration;

use axes::{Cell, Kind, Server};
use bulkhead_tests::harness::{Agent, Counters, Errno, Pair, wait_until};
use bulkhead_tests::require_agent;
use placement::{Placement, Sign};
use world::{Got, Tried, World};

#[test]
fn zones_by_prefix() {
    require_agent!();
    run(Placement::Prefix);
}

#[test]
fn zones_by_cgroup() {
    require_agent!();
    run(Placement::Cgroup);
}

#[test]
fn zones_by_prefix_and_by_cgroup() {
    require_agent!();
    run(Placement::Both);
}

#[test]
fn two_cgroups_on_loopback() {
    require_agent!();
    run(Placement::Loopback);
}

#[test]
fn across_two_nodes() {
    require_agent!();
    run(Placement::TwoNodes);
}

#[test]
fn across_two_nodes_with_only_the_receiver_in_a_zone() {
    require_agent!();
    run(Placement::ReceiverAlone);
}

/// Tries all cells of a placement, prints them as a table, and fails with all that are wrong.
fn run(placement: Placement) {
    let mut world = World::new(placement);
    let mut table = Table::default();
    world.serve(Server::Older);
    // Without an agent age means nothing, but every server must be known to answer.
    world.serve(Server::Younger);
    for cell in cells(placement) {
        table.enter(cell, Kind::Off, judge(placement, cell, Kind::Off, world.try_once(cell, true)));
    }
    world.close_younger();
    let policy = placement.policy(Kind::Allowed);
    let mut agents: Vec<Agent> =
        world.roots.iter().map(|root| Agent::start(root, &policy).unwrap()).collect();
    world.serve(Server::Younger);
    for kind in Kind::ALL.into_iter().filter(|kind| *kind != Kind::Off) {
        for agent in &mut agents {
            agent.apply(&placement.policy(kind)).unwrap();
            if kind == Kind::NodeAudits {
                agent.set_mode("audit");
                agent.restart().unwrap();
            }
        }
        for cell in cells(placement) {
            let before: Vec<Counters> = agents.iter().map(settled).collect();
            let tried = world.try_once(cell, !kind.is_denied());
            let outcome = judge(placement, cell, kind, tried)
                .and_then(|()| counted(&agents, &before, &placement.counted(cell, kind)));
            table.enter(cell, kind, outcome);
        }
    }
    table.finish(placement);
}

fn cells(placement: Placement) -> Vec<Cell> {
    Cell::all().into_iter().filter(|cell| placement.skips(*cell).is_none()).collect()
}

/// Whether both ends saw what they must see.
fn judge(placement: Placement, cell: Cell, kind: Kind, tried: Tried) -> Result<(), String> {
    let expected = match (kind.is_denied(), placement.sign(cell)) {
        (false, _) => Got::Answer,
        (true, Sign::Eperm) => Got::Error(Errno::PERM),
        (true, Sign::Silence) => Got::Silence,
    };
    let Tried { got, seen } = tried;
    if got != expected || seen.is_some_and(|seen| seen == kind.is_denied()) {
        return Err(format!("expected {expected:?}, got {got:?}, the server saw {seen:?}"));
    }
    Ok(())
}

/// Whether on each node the named counter moved by one flow, and nothing else did.
fn counted(agents: &[Agent], before: &[Counters], expected: &[Option<Pair>]) -> Result<(), String> {
    for (node, ((agent, before), expected)) in agents.iter().zip(before).zip(expected).enumerate() {
        let is_right = |moved: &Counters| {
            let named =
                moved.iter().all(|(pair, counter)| Some(pair) == expected.as_ref() && counter.flows == 1);
            named && moved.is_empty() == expected.is_none()
        };
        let moved = || agent.counters().unwrap().since(before);
        // The last packets of a connection may still be under way.
        let _ = wait_until(Duration::from_secs(10), "", || is_right(&moved()));
        let moved = moved();
        if !is_right(&moved) {
            let expected =
                expected.as_ref().map_or_else(|| "nothing".to_owned(), |pair| format!("{pair}, once"));
            return Err(format!("node {node}: expected {expected}; moved: {moved:?}"));
        }
    }
    Ok(())
}

/// The counters, once what went before has come to rest.
fn settled(agent: &Agent) -> Counters {
    let (mut last, mut same) = (agent.counters().unwrap(), 0);
    // Packets wait for their turn on a busy machine: one equal look is not enough.
    while same < 3 {
        std::thread::sleep(Duration::from_millis(3));
        let now = agent.counters().unwrap();
        same = if now == last { same + 1 } else { 0 };
        last = now;
    }
    last
}

/// What came of each cell.
#[derive(Default)]
struct Table {
    rows: Vec<(Cell, Vec<bool>)>,
    failures: Vec<String>,
}

impl Table {
    fn enter(&mut self, cell: Cell, kind: Kind, outcome: Result<(), String>) {
        if self.rows.iter().all(|(other, _)| *other != cell) {
            self.rows.push((cell, Vec::new()));
        }
        let row = self.rows.iter_mut().find(|(other, _)| *other == cell).unwrap();
        row.1.push(outcome.is_ok());
        if let Err(why) = outcome {
            self.failures.push(format!("{cell}, {kind:?}: {why}"));
        }
    }

    fn finish(self, placement: Placement) {
        let mut text = format!("{:<38}", format!("{placement:?}"));
        for kind in Kind::ALL {
            write!(text, "{:<17}", format!("{kind:?}")).unwrap();
        }
        for (cell, row) in &self.rows {
            write!(text, "\n{cell:<38}").unwrap();
            for right in row {
                write!(text, "{:<17}", if *right { "as expected" } else { "WRONG" }).unwrap();
            }
        }
        println!("{text}\n");
        assert!(self.rows.iter().all(|(_, row)| row.len() == Kind::ALL.len()), "a cell was not tried");
        assert!(
            self.failures.is_empty(),
            "{placement:?}: {} wrong:\n{}",
            self.failures.len(),
            self.failures.join("\n")
        );
    }
}
