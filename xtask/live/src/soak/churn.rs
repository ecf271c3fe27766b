//! What changes while the load runs, one thing after the other: the policy, the workloads, the agent.

use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bulkhead_tests::harness::{Cgroup, Kind, Ns, Peer};

use crate::figures;
use crate::interrupt::Interrupt;
use crate::lab::{Client, LONG, Lab};
use crate::load::{Counts, Expected, Load, attempt};
use crate::policy::{ALWAYS, NEVER, server};

/// Between two lines of progress.
const TELL: Duration = Duration::from_secs(5);

/// How long what the policies differ in is tried, each time.
const MOMENT: Duration = Duration::from_millis(100);

/// The agent's memory and descriptors at the beginning and the end of the time that it was left alive.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Lived {
    pub(crate) rss_kib: (u64, u64),
    pub(crate) descriptors: (usize, usize),
    pub(crate) seconds: u64,
}

/// What was done so far.
pub(crate) struct Conductor {
    started: Instant,
    told: Instant,
    switches: u64,
    workloads: u64,
    kills: u64,
}

impl Conductor {
    pub(crate) fn new(started: Instant) -> Conductor {
        Conductor { started, told: started, switches: 0, workloads: 0, kills: 0 }
    }

    /// Once through everything, without load.
    pub(crate) fn rehearse(&mut self, lab: &mut Lab) -> Result<()> {
        for _ in 0..2 {
            let mut counts = self.switch(lab)?;
            counts.add(self.workloads(lab, true)?);
            ensure!(counts.wrong.is_empty(), "wrong from the start: {:?}", counts.wrong);
            self.kill(lab, false)?;
        }
        Ok(())
    }

    /// For `length`; in its last quarter the agent is left alive (a run of a minute or two is too short to
    /// tell of that). Everything that is counted goes to `load`.
    pub(crate) fn run(
        &mut self,
        lab: &mut Lab,
        load: &Load,
        length: Duration,
        interrupt: &Interrupt,
    ) -> Result<Option<Lived>> {
        let mut round = 0_u64;
        while self.started.elapsed() < length * 3 / 4 {
            interrupt.check()?;
            load.add(self.switch(lab)?);
            load.add(self.workloads(lab, true)?);
            load.add(self.kill(lab, round % 2 == 1)?);
            self.tell(lab, load);
            round += 1;
        }
        let resting = Instant::now();
        let mut first: Option<(u64, usize, Instant)> = None;
        while self.started.elapsed() < length {
            interrupt.check()?;
            load.add(self.switch(lab)?);
            load.add(self.workloads(lab, true)?);
            self.tell(lab, load);
            // Caches fill in the first fifth of it.
            if first.is_none() && resting.elapsed() > length / 20 {
                first = Some((figures::rss(&lab.agent), figures::descriptors(&lab.agent), Instant::now()));
            }
        }
        Ok(first.map(|(rss, descriptors, since)| Lived {
            rss_kib: (rss, figures::rss(&lab.agent)),
            descriptors: (descriptors, figures::descriptors(&lab.agent)),
            seconds: since.elapsed().as_secs(),
        }))
    }

    /// The other policy; once it is in force, what only one of them allows has one right answer, too.
    fn switch(&mut self, lab: &mut Lab) -> Result<Counts> {
        lab.policy = lab.policy.other();
        lab.witness.note(format!("policy {:?} is written", lab.policy));
        lab.agent.apply(&lab.policy.text())?;
        lab.witness.note("it is in force");
        self.switches += 1;
        Ok(settled(lab))
    }

    /// A workload with a namespace, a wire and a cgroup of its own comes, talks, and goes.
    fn workloads(&mut self, lab: &Lab, _alive: bool) -> Result<Counts> {
        let mut counts = Counts::default();
        for _ in 0..2 {
            self.workloads += 1;
            lab.witness.note("a workload comes");
            let number = self.workloads % 200 + 1;
            let cgroup = Cgroup::new_in(lab.churn.path(), "w")?;
            let ns = wire(lab.router()?, number)?;
            let peer = Arc::new(Peer::spawn(Some(&ns), Some(&cgroup))?);
            let (client, witness) = (Client { host: "churn", peer, v6: false }, &lab.witness);
            for kind in [Kind::Tcp, Kind::Udp] {
                let allowed = [server(false, ALWAYS)];
                counts.add(attempt(&client, witness, kind, &allowed, Expected::Passes, LONG, MOMENT / 2));
                let denied = [server(false, NEVER)];
                let short = Duration::from_millis(300);
                counts.add(attempt(&client, witness, kind, &denied, Expected::IsDenied, short, MOMENT / 2));
            }
        }
        Ok(counts)
    }

    /// The agent is killed, and another one takes over. With `switched` it finds another policy.
    fn kill(&mut self, lab: &mut Lab, switched: bool) -> Result<Counts> {
        lab.agent.kill9()?;
        lab.witness.note("the agent is dead");
        self.kills += 1;
        let mut counts = self.workloads(lab, false)?;
        if switched {
            lab.policy = lab.policy.other();
            lab.agent.write_policy(&lab.policy.text())?;
            self.switches += 1;
        }
        lab.witness.note(format!("an agent begins, for policy {:?}", lab.policy));
        lab.agent.restart()?;
        lab.witness.note("it has taken over");
        counts.add(settled(lab));
        Ok(counts)
    }

    fn tell(&mut self, lab: &Lab, load: &Load) {
        if self.told.elapsed() < TELL {
            return;
        }
        self.told = Instant::now();
        let counts = load.counts();
        let (passed, _) = counts.of(Expected::Passes);
        let (_, denied) = counts.of(Expected::IsDenied);
        println!(
            "[{:5} s] {} attempts, {passed} passed and {denied} were denied as they must, {} wrong; \
             {} switches, {} workloads, {} kills; agent {} KiB, {} descriptors",
            self.started.elapsed().as_secs(),
            counts.all(),
            counts.wrong.len(),
            self.switches,
            self.workloads,
            self.kills,
            figures::rss(&lab.agent),
            figures::descriptors(&lab.agent),
        );
    }

    /// Prints what was done.
    pub(crate) fn report(&self) {
        println!("  {:<42}{:>12}", "policy switches", self.switches);
        println!("  {:<42}{:>12}", "workloads that came and went", self.workloads);
        println!("  {:<42}{:>12}", "agents killed", self.kills);
    }
}

/// What one policy allows and the other does not, under the one that is in force.
fn settled(lab: &Lab) -> Counts {
    let mut counts = Counts::default();
    let short = Duration::from_millis(300);
    for client in &lab.clients {
        for kind in [Kind::Tcp, Kind::Udp] {
            let (ours, theirs) =
                ([server(client.v6, lab.policy.own())], [server(client.v6, lab.policy.other().own())]);
            counts.add(attempt(client, &lab.witness, kind, &ours, Expected::Passes, LONG, MOMENT));
            counts.add(attempt(client, &lab.witness, kind, &theirs, Expected::IsDenied, short, MOMENT));
        }
    }
    counts
}

/// A namespace behind the router, with an address that is in no zone.
fn wire(router: &Ns, number: u64) -> Result<Ns> {
    let ns = Ns::new("churn")?;
    let (inside, node) = (ns.name(), router.name());
    let port = format!("port9{number}");
    let make = ["link", "add", "eth0", "netns", inside, "type", "veth", "peer", "name", &port, "netns", node];
    let made = Command::new("ip").args(make).status().context("cannot run `ip`: install iproute2")?;
    ensure!(made.success(), "no wire to {inside}");
    router.ip(&format!(
        "link set {port} up\naddr add 169.254.1.1/32 dev {port}\nroute add 10.61.4.{number} dev {port}"
    ))?;
    ns.ip(&format!(
        "link set eth0 up\naddr add 10.61.4.{number}/32 dev eth0\nroute add 169.254.1.1 dev eth0\n\
         route add default via 169.254.1.1 dev eth0"
    ))?;
    Ok(ns)
}
