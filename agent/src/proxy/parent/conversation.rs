//! The conversation with the proxy: what it asks is answered, what changes it is told, and the listeners in
//! the workloads' namespaces follow.
//!
//! Which way it fails: where nobody answers at all, the listeners are closed and the kernel refuses what would
//! have been turned there; nothing goes out in clear.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bulkhead_policy::Image;
use bulkhead_policy::access::Access;
use bulkhead_policy::prefix::to_ip;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{MissedTickBehavior, interval};

use super::answers::Judge;
use super::certificates::Certificates;
use super::last_hops::LastHops;
use super::listeners::Listeners;
use super::suspicion::suspicious;
use super::{Command, Sources, sockets};
use crate::proxy::channel::Channel;
use crate::proxy::places::Place;
use crate::proxy::start::{self, Found};
use crate::proxy::wire::{Answer, Order, Question, Record, Report, Settings, version};

/// Time between two attempts to reach the proxy.
const RETRY: Duration = Duration::from_millis(50);
/// Time between two attempts to make what could not be made, and between two looks at what is wrong with
/// certificates.
const AGAIN: Duration = Duration::from_secs(1);
/// How long nobody may answer at all before the listeners are closed: well below a second.
const GIVE_UP: Duration = Duration::from_millis(500);
/// How long a proxy is given to say hello.
const PATIENCE: Duration = Duration::from_secs(10);

/// The thread's state: it lives as long as the agent, through the lives of several proxies.
pub(super) struct State {
    path: PathBuf,
    sources: Sources,
    commands: mpsc::UnboundedReceiver<Command>,
    listeners: Listeners,
    last_hops: LastHops,
    /// Whether the kernel could not be told where there are listeners.
    unpublished: bool,
    certificates: Certificates,
    /// As it was when the proxy was last told that something changed.
    image: Option<Arc<Image>>,
    serial: u64,
    asked: BTreeMap<u64, oneshot::Sender<Vec<Record>>>,
    next: u64,
}

impl State {
    /// Before the first conversation, with the listeners that a proxy of an earlier agent held.
    pub(super) fn new(found: Found, sources: Sources, commands: mpsc::UnboundedReceiver<Command>) -> Self {
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
            last_hops: LastHops::default(),
            unpublished: false,
            image: None,
            serial: 0,
            asked: BTreeMap::new(),
            next: 0,
        }
    }

    /// Talks to one proxy after the other.
    pub(super) async fn live(&mut self) {
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
        // Before the first look at them: what changes meanwhile is not missed.
        let mut places = self.sources.places.watch();
        let mut policy = self.sources.shared.watch();
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
        let mut again = interval(AGAIN);
        again.set_missed_tick_behavior(MissedTickBehavior::Delay);
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
                changed = policy.changed() => {
                    if changed.is_ok() && self.look(channel).await? {
                        self.follow(channel).await?;
                    }
                }
                _ = again.tick() => {
                    self.show_certificates();
                    if self.unpublished || self.listeners.has_failed() || self.last_hops.has_failed() {
                        self.follow(channel).await?;
                    }
                }
            }
        }
    }

    /// Tells a proxy everything that it must know.
    async fn welcome(&mut self, channel: &Channel) -> io::Result<()> {
        let config = &self.sources.config;
        let settings = Settings {
            connections: config.connections,
            handshakes_per_second: config.handshakes_per_second,
            memory: config.memory,
        };
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
        self.last_hops.follow(&wanted);
        self.expect(&wanted);
        Ok(())
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

    fn publish(&mut self) {
        let proxied = self.listeners.proxied();
        self.sources.view.update(|state| state.places = proxied.len());
        let told = self.sources.reader.sockets().set_proxied(&proxied);
        if let Err(error) = &told {
            tracing::warn!(%error, "the kernel could not be told where the proxy listens; tried again");
        }
        self.unpublished = told.is_err();
    }

    /// Whether any rule asks for a proxy.
    fn is_wanted(&self) -> bool {
        self.image.as_ref().is_some_and(|image| image.has_mutual())
    }

    /// Hands on what is new of certificates. Answers stand: the proxy looks after its peers itself.
    async fn certified(&mut self, channel: &Channel, order: &Order) -> io::Result<()> {
        channel.send(order, &[]).await?;
        self.show_certificates();
        Ok(())
    }

    fn show_certificates(&self) {
        self.sources.view.update(|state| state.certificates = self.certificates.list());
    }

    /// Looks whether the policy changed, and tells; whether it did.
    async fn look(&mut self, channel: &Channel) -> io::Result<bool> {
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
