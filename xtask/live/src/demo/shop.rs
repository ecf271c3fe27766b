//! The shop as it runs: the network, an agent on each node, and the zone files that both read.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use bulkhead_tests::harness::{Agent, wait_until};

use crate::attempt::{self, Decision, Outcome};
use crate::interrupt::Interrupt;
use crate::lines::{LINES, Line};
use crate::network::{self, NODES, Network};

/// Name of the zone file that is edited.
pub(crate) const FILE: &str = "shop.toml";

/// All that runs. Agents go first: their enforcement is taken off while the cgroups are still there.
pub(crate) struct Shop {
    pub(crate) agents: Vec<Agent>,
    pub(crate) network: Network,
}

impl Shop {
    /// Builds it; no agent runs yet.
    pub(crate) fn build(policies: &Path) -> Result<Shop> {
        let network = Network::build()?;
        let mut agents = Vec::new();
        for node in 0..NODES.len() {
            let agent = Agent::prepare(network.root(node)?, "").with_metrics().place()?;
            std::fs::remove_dir_all(agent.policies())?;
            std::fs::create_dir(agent.policies())?;
            network::copy_policies(policies, &agent.policies())?;
            agents.push(agent);
        }
        Ok(Shop { agents, network })
    }

    /// Starts the agents, or starts them again.
    pub(crate) fn start(&mut self) -> Result<()> {
        start(&mut self.agents, &self.network)
    }

    /// Tries all lines, and closes what they opened.
    pub(crate) fn try_all(&self, all_pass: bool, interrupt: &Interrupt) -> Result<Vec<Outcome>> {
        let mut outcomes = Vec::new();
        for line in &LINES {
            interrupt.check()?;
            let outcome = attempt::attempt(&self.network, line, all_pass || line.expected.passes())?;
            attempt::close(self.network.peer(line.from)?, &outcome)?;
            outcomes.push(outcome);
        }
        Ok(outcomes)
    }

    /// Tries a line, and asks what decided it.
    pub(crate) fn try_one(&self, line: &Line) -> Result<(Outcome, Decision)> {
        let marks = attempt::marks(&self.agents);
        let outcome = attempt::attempt(&self.network, line, line.expected.passes())?;
        let decision = attempt::decision(&self.agents, &marks, line, &outcome)?;
        attempt::close(self.network.peer(line.from)?, &outcome)?;
        Ok((outcome, decision))
    }
}

/// Starts agents side by side, and waits until they enforce. They are put where a later run finds them
/// before they are waited for.
pub(crate) fn start(agents: &mut [Agent], network: &Network) -> Result<()> {
    for agent in agents.iter_mut() {
        agent.begin()?;
        network.adopt(agent)?;
    }
    for agent in agents {
        let enforces = || {
            let status = agent.status();
            status.is_ok_and(|status| status.enforcing && Some(status.pid) == agent.pid())
        };
        wait_until(PATIENCE, "the agent enforces", enforces)
            .with_context(|| format!("an agent does not start; its log:\n{}", agent.log()))?;
    }
    Ok(())
}

/// For agents to start, on a machine that may be busy.
const PATIENCE: Duration = Duration::from_secs(60);
