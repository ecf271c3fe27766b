//! The agent's side of the proxy: a thread that keeps listeners in the workloads' namespaces, answers the
//! proxy's questions by the policy, makes sockets for it, and hands it certificates.
//!
//! What it tells the proxy holds until it says otherwise: when the policy or a membership changes, or a
//! certificate, the proxy asks again, for live connections, too.

mod answers;
mod certificates;
mod listeners;
mod sockets;

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bulkhead_credentials::Reason;
use bulkhead_detect::findings::{Edge, Observation};
use bulkhead_policy::Image;
use bulkhead_policy::access::Access;
use bulkhead_policy::prefix::to_ip;
use bulkhead_sys::netns::{self, LastHop, NetNs};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{MissedTickBehavior, interval};

use super::channel::Channel;
use super::places::{Place, Places};
use super::start::{self, Found};
use super::view::View;
use super::wire::{Answer, Order, Question, Record, Report, Settings, reason, version};
use crate::config::ProxyConfig;
use crate::daemon::snapshot::Shared;
use crate::datapath::Reader;
use crate::findings::Desk;
use answers::Judge;
use certificates::Certificates;
use listeners::Listeners;

/// How often it is looked whether policy or certificates changed.
const TICK: Duration = Duration::from_millis(50);
/// Time between two attempts to reach the proxy.
const RETRY: Duration = Duration::from_millis(50);
/// How long nobody may answer at all before the listeners are closed: well below a second.
const GIVE_UP: Duration = Duration::from_millis(500);
/// How long a proxy is given to say hello.
const PATIENCE: Duration = Duration::from_secs(10);

/// What the thread works with.
#[derive(Debug)]
pub struct Sources {
    /// The kernel's tables.
    pub reader: Reader,
    /// The policy.
    pub shared: Arc<Shared>,
    /// Where workloads live.
    pub places: Places,
    /// How it is configured.
    pub config: ProxyConfig,
    /// What others see of it.
    pub view: View,
    /// Who hears of those who cannot prove who they are.
    pub findings: Desk,
}

/// The running thread; the proxy goes on when this ends.
#[derive(Debug)]
pub struct Supervisor {
    commands: mpsc::UnboundedSender<Command>,
    _thread: JoinHandle<()>,
}

/// What may be asked of it.
#[derive(Debug)]
enum Command {
    Connections(oneshot::Sender<Vec<Record>>),
}

/// Asks a running supervisor. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Asker(mpsc::UnboundedSender<Command>);

impl Asker {
    /// The live connections; `None` while no proxy answers. Blocks.
    pub fn connections(&self) -> Option<Vec<Record>> {
        let (answer, answered) = oneshot::channel();
        self.0.send(Command::Connections(answer)).ok()?;
        answered.blocking_recv().ok()
    }
}

impl Supervisor {
    /// Starts it.
    pub fn start(found: Found, sources: Sources) -> io::Result<Self> {
        let (commands, orders) = mpsc::unbounded_channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let mut state = State::new(found, sources, orders);
        let thread = std::thread::Builder::new()
            .name("proxy".to_owned())
            .spawn(move || runtime.block_on(state.live()))?;
        Ok(Self { commands, _thread: thread })
    }

    /// For those who want to know.
    pub fn asker(&self) -> Asker {
        Asker(self.commands.clone())
    }
}

struct State {
    path: PathBuf,
    sources: Sources,
    commands: mpsc::UnboundedReceiver<Command>,
    listeners: Listeners,
    /// Namespaces that were made ready for last hops.
    last_hops: BTreeMap<u64, (Place, LastHop)>,
    certificates: Certificates,
    /// As it was when the proxy was last told that something changed.
    image: Option<Arc<Image>>,
    serial: u64,
    asked: BTreeMap<u64, oneshot::Sender<Vec<Record>>>,
    next: u64,
}

impl State {
    fn new(found: Found, sources: Sources, commands: mpsc::UnboundedReceiver<Command>) -> Self {
        let mut listeners = Listeners::default();
        for (place, kind, listener) in found.held {
            listeners.adopt(place, kind, listener);
        }
        Self {
            path: found.path,
            certificates: Certificates::new(&sources.config),
            sources,
            commands,
            listeners,
            last_hops: BTreeMap::new(),
            image: None,
            serial: 0,
            asked: BTreeMap::new(),
            next: 0,
        }
    }

    async fn live(&mut self) {
        let mut ever = false;
        let mut alone = Instant::now();
        loop {
            let Some(socket) = start::connect(&self.path) else {
                // No keeper either: nobody serves who waits in the listeners' queues.
                if alone.elapsed() > GIVE_UP {
                    self.close();
                }
                tokio::time::sleep(RETRY).await;
                continue;
            };
            let ended = match Channel::new(socket) {
                Ok(channel) => self.converse(&channel).await,
                Err(error) => Err(error),
            };
            self.asked.clear();
            self.sources.view.update(|state| {
                state.running = false;
                state.pid = None;
                state.lost += 1;
            });
            match ended {
                Ok(()) => tracing::warn!(
                    "the proxy has gone, and with it its connections; edges under tls = \"mutual\" wait for the next one"
                ),
                // Until the first answers, nothing is lost.
                Err(error) if ever => tracing::warn!(%error, "the conversation with the proxy broke"),
                Err(error) => tracing::debug!(%error, "the proxy does not talk yet"),
            }
            ever = true;
            alone = Instant::now();
            tokio::time::sleep(RETRY).await;
        }
    }

    /// Closes the listeners, until there is a proxy again: who waits there is reset, and whoever comes is
    /// refused by the kernel at once.
    fn close(&mut self) {
        if self.listeners.each().next().is_none() {
            return;
        }
        tracing::error!(
            "proxy and keeper are gone: connections under tls = \"mutual\" are refused until the agent is started again"
        );
        self.listeners = Listeners::default();
        self.publish();
    }

    /// Until the proxy goes.
    async fn converse(&mut self, channel: &Channel) -> io::Result<()> {
        let hello = tokio::time::timeout(PATIENCE, channel.receive()).await??;
        let Some((Report::Hello { processes, .. }, _)) = hello else {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "it does not say hello"));
        };
        self.sources.places.set_own(processes.iter().copied());
        self.welcome(channel).await?;
        self.sources.view.update(|state| {
            state.running = true;
            state.pid = processes.first().copied();
        });
        tracing::info!(
            pid = processes.first(),
            listeners = self.listeners.proxied().len(),
            "the proxy serves"
        );
        let mut places = self.sources.places.watch();
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                message = channel.receive() => match message? {
                    Some((report, _)) => self.hear(channel, report).await?,
                    None => return Ok(()),
                },
                order = self.certificates.next() => self.certified(channel, &order).await?,
                Some(command) = self.commands.recv() => self.command(channel, command).await?,
                changed = places.changed() => {
                    if changed.is_ok() {
                        self.follow(channel).await?;
                    }
                }
                _ = tick.tick() => {
                    if self.look(channel).await? {
                        self.follow(channel).await?;
                    }
                }
            }
        }
    }

    /// Tells a proxy everything that it must know.
    async fn welcome(&mut self, channel: &Channel) -> io::Result<()> {
        let config = &self.sources.config;
        let settings =
            Settings { connections: config.connections, handshakes_per_second: config.handshakes_per_second };
        channel.send(&Order::Welcome { version: version(), settings }, &[]).await?;
        let turned = self.sources.reader.sockets().turned().map_err(io::Error::other)?;
        channel.send(&Order::Turned, &[turned.as_fd()]).await?;
        for order in self.certificates.all() {
            channel.send(&order, &[]).await?;
        }
        for (place, kind, listener) in self.listeners.each() {
            channel.send(&Order::Listen { place, kind }, &[listener.as_fd()]).await?;
        }
        // Whatever it remembers may be of another time.
        self.image = None;
        self.look(channel).await?;
        self.follow(channel).await
    }

    /// Makes listeners follow the namespaces, and the kernel know where they are.
    async fn follow(&mut self, channel: &Channel) -> io::Result<()> {
        let wanted =
            if self.is_wanted() { self.sources.places.watch().borrow().clone() } else { BTreeMap::new() };
        let news = self.listeners.follow(&wanted, &self.sources.reader);
        if !news.closed.is_empty() {
            // First the kernel: what is turned from now on would find nobody.
            self.publish();
        }
        for place in &news.closed {
            channel.send(&Order::Unlisten { place: *place }, &[]).await?;
        }
        for (place, kind) in news.opened {
            if let Some(listener) = self.listeners.get(place, kind) {
                channel.send(&Order::Listen { place, kind }, &[listener.as_fd()]).await?;
            }
        }
        self.publish();
        self.follow_last_hops(&wanted);
        self.expect(&wanted);
        Ok(())
    }

    fn follow_last_hops(&mut self, wanted: &BTreeMap<u64, Place>) {
        self.last_hops.retain(|place, (found, open)| {
            let stays = wanted.contains_key(place);
            if !stays {
                sockets::close_last_hops(*place, found, open);
            }
            stays
        });
        for (place, found) in wanted {
            if !self.last_hops.contains_key(place)
                && let Some(open) = sockets::open_last_hops(*place, found)
            {
                self.last_hops.insert(*place, (found.clone(), open));
            }
        }
    }

    /// Has the certificates of those who live here issued before somebody waits for them.
    fn expect(&mut self, places: &BTreeMap<u64, Place>) {
        let snapshot = self.sources.shared.snapshot();
        let judge = Judge::new(&snapshot, &self.sources.reader, &self.sources.config.trust_domain);
        let names = places.iter().flat_map(|(place, found)| {
            found.addresses.iter().flat_map(|address| judge.names_at(*place, to_ip(*address)))
        });
        self.certificates.expect(names.collect());
    }

    fn publish(&self) {
        let proxied = self.listeners.proxied();
        self.sources.view.update(|state| state.places = proxied.len());
        if let Err(error) = self.sources.reader.sockets().set_proxied(&proxied) {
            tracing::warn!(%error, "the kernel could not be told where the proxy listens; tried again");
        }
    }

    /// Whether any rule asks for a proxy.
    fn is_wanted(&self) -> bool {
        self.image.as_ref().is_some_and(|image| image.has_mutual())
    }

    /// Hands on what is new of certificates. Answers stand: the proxy looks after its peers itself.
    async fn certified(&mut self, channel: &Channel, order: &Order) -> io::Result<()> {
        channel.send(order, &[]).await?;
        self.sources.view.update(|state| state.certificates = self.certificates.list());
        Ok(())
    }

    /// Looks whether the policy changed, and tells; whether it did.
    async fn look(&mut self, channel: &Channel) -> io::Result<bool> {
        self.sources.view.update(|state| state.certificates = self.certificates.list());
        let image = self.sources.shared.snapshot().image.clone();
        let same = match (&image, &self.image) {
            (Some(new), Some(old)) => Arc::ptr_eq(new, old),
            (None, None) => true,
            _ => false,
        };
        if same {
            return Ok(false);
        }
        self.image = image;
        let snapshot = self.sources.shared.snapshot();
        if let Some(model) = &snapshot.model {
            let access = Access::new(model, &self.sources.config.trust_domain);
            self.certificates.keep(|name| !access.zones_of_name(name).is_empty());
        }
        self.serial += 1;
        channel.send(&Order::Changed { serial: self.serial }, &[]).await?;
        Ok(true)
    }

    async fn hear(&mut self, channel: &Channel, report: Report) -> io::Result<()> {
        match report {
            Report::Ask { id, question } => self.answer(channel, id, question).await,
            Report::Ended { records } => {
                self.sources.findings.observe_all(&suspicious(&records));
                self.sources.view.ended(records);
                Ok(())
            }
            Report::Stats(stats) => {
                self.sources.view.update(|state| state.stats = *stats);
                Ok(())
            }
            Report::Connections { id, connections } => {
                if let Some(asker) = self.asked.remove(&id) {
                    // Who no longer waits does not hear.
                    let _ = asker.send(connections);
                }
                Ok(())
            }
            // Listeners are taken over before this thread runs.
            Report::Hello { .. } | Report::Held { .. } => Ok(()),
        }
    }

    async fn answer(&mut self, channel: &Channel, id: u64, question: Question) -> io::Result<()> {
        if let Question::Sockets { place, bound, ipv6, mark, count } = question {
            let found = self.sources.places.watch().borrow().get(&place).cloned();
            let wanted = sockets::Wanted { bound, ipv6, mark, count };
            let made = sockets::make(place, found.as_ref(), &wanted, &self.sources.reader);
            let (answer, made) = match made {
                Ok(made) => (Answer::Sockets, made),
                Err(error) => (sockets::denied(place, &error), Vec::new()),
            };
            let descriptors: Vec<BorrowedFd<'_>> = made.iter().map(AsFd::as_fd).collect();
            return channel.send(&Order::Answer { id, answer }, &descriptors).await;
        }
        let snapshot = self.sources.shared.snapshot();
        let judge = Judge::new(&snapshot, &self.sources.reader, &self.sources.config.trust_domain);
        let answer = judge.answer(&question);
        // It must have the certificate before it hears whose it is to show.
        let shown = match &answer {
            Answer::Outbound { own, .. } => Some(own),
            Answer::Name { name } => name.as_ref(),
            _ => None,
        };
        if let Some(name) = shown {
            for order in self.certificates.want(name).await {
                self.certified(channel, &order).await?;
            }
        }
        channel.send(&Order::Answer { id, answer }, &[]).await
    }

    async fn command(&mut self, channel: &Channel, command: Command) -> io::Result<()> {
        match command {
            Command::Connections(answer) => {
                self.next += 1;
                self.asked.insert(self.next, answer);
                channel.send(&Order::ListConnections { id: self.next }, &[]).await
            }
        }
    }
}

/// Refusals of peers who could not prove who they are, or may not be here under the name that they have.
fn suspicious(records: &[Record]) -> Vec<Observation> {
    let ours = [Reason::NoOwnCertificate, Reason::OwnExpired, Reason::Closed];
    let words = |word: &str| {
        let known = Reason::ALL.iter().find(|known| known.as_str() == word && !ours.contains(known));
        let known = known.map(|known| known.as_str());
        known.or_else(|| [reason::UNKNOWN_NAME, reason::DENIED].into_iter().find(|known| *known == word))
    };
    let inbound = records.iter().filter(|record| record.direction == "inbound");
    inbound
        .filter_map(|record| {
            let zone = |zone: Option<&String>| zone.map_or("unknown", String::as_str).into();
            let edge = record.edge.as_ref();
            Some(Observation::AuthenticationFailed {
                edge: Edge { from: zone(edge.map(|edge| &edge.from)), to: zone(edge.map(|edge| &edge.to)) },
                src: record.client.ip(),
                why: words(&record.reason)?,
            })
        })
        .collect()
}

/// The namespace `cookie`, in which the process `pid` was found.
fn enter(cookie: u64, pid: u32) -> io::Result<NetNs> {
    let found = NetNs::of_process(pid).ok().filter(|ns| ns.cookie().is_ok_and(|its| its == cookie));
    // It may have ended, and others live there still.
    match found {
        Some(ns) => Ok(ns),
        None => netns::find(cookie)
            .map_err(io::Error::other)?
            .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "no process lives there any more")),
    }
}

/// Whether a place is one that is known.
fn known(place: u64, found: Option<&Place>) -> io::Result<&Place> {
    found.ok_or_else(|| {
        io::Error::new(io::ErrorKind::NotFound, format!("no workload lives in namespace {place}"))
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_is_found_after_the_process_that_it_was_found_by() {
        let mut ended = std::process::Command::new("true").spawn().unwrap();
        let pid = ended.id();
        ended.wait().unwrap();
        let cookie = NetNs::current().unwrap().cookie().unwrap();
        assert_eq!(enter(cookie, pid).unwrap().cookie().unwrap(), cookie);
        assert!(enter(u64::MAX, std::process::id()).is_err(), "another namespace than the one that is meant");
    }
}
