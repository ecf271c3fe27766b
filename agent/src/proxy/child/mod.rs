//! The proxy's process: it reads strangers' bytes, and may do nothing else. No files, no sockets of its
//! own, no privileges; what it serves was handed to it, and what it may serve it asks.
//!
//! It outlives the agent: connections go on, and what was allowed before is still allowed, as in the
//! kernel. It ends when it is told to, and with its own defects: then its keeper starts the next.

mod link;
mod node;
mod resident;
mod spare;
mod telling;

use std::io;
use std::net::TcpListener;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use bulkhead_credentials::Keeper;
use bulkhead_proxy::{Limits, Place, Proxy};
use rustix::net::SocketFlags;
use tokio::io::unix::AsyncFd;

use super::channel::{self, Channel};
use super::keeper;
use super::wire::{Kind, Order, Report, Settings, version};
use crate::privilege;
use link::Link;
use node::ChildNode;
use resident::Resident;
use telling::Telling;

/// Freed memory that is kept: what the pieces of some streams take on their way. Giving each back, and
/// finding it again, is a third of the processor time that a stream takes.
const KEPT: usize = 8 << 20;

/// The proxy's life; the process' standard input is the socket that agents connect to.
pub fn serve() -> anyhow::Result<()> {
    if !bulkhead_sys::memory::keep_freed(KEPT) {
        tracing::debug!("this C library does not let the proxy keep freed memory");
    }
    // Files can only be opened before the filter is on.
    let program = version();
    let memory = Resident::open().context("cannot see how much memory this process has")?;
    let processes = vec![std::process::id(), keeper::parent()];
    let door = io::stdin().as_fd().try_clone_to_owned()?;
    privilege::confine_proxy().context("the proxy keeps no privileges")?;
    let runtime = bulkhead_proxy::runtime().context("cannot make a runtime")?;
    runtime.block_on(async move {
        let link = Link::new();
        let mut child = Child {
            program,
            processes,
            node: Arc::new(ChildNode::new(link.clone(), memory)),
            link,
            keeper: Keeper::new(),
            proxy: None,
            held: Vec::new(),
        };
        child.live(door).await
    })
}

struct Child {
    program: String,
    processes: Vec<u32>,
    link: Link,
    node: Arc<ChildNode>,
    keeper: Keeper,
    proxy: Option<Arc<Proxy<ChildNode>>>,
    held: Vec<(u64, Kind, OwnedFd)>,
}

/// What comes after a conversation.
enum Then {
    /// The next one.
    Another,
    /// The end, when the last connection has gone or so much time.
    Drain(Duration),
    /// The end.
    Quit,
}

impl Child {
    async fn live(&mut self, door: OwnedFd) -> anyhow::Result<()> {
        let door = channel::watched(door)?;
        loop {
            let channel = Arc::new(accept(&door).await?);
            let then = self.converse(&channel).await;
            self.link.set_agent(None);
            match then {
                Ok(Then::Another) => {}
                Ok(Then::Drain(deadline)) => {
                    if let Some(proxy) = &self.proxy {
                        proxy.drain(deadline).await;
                    }
                    return Ok(());
                }
                Ok(Then::Quit) => return Ok(()),
                Err(error) => tracing::warn!(%error, "the conversation with the agent broke"),
            }
        }
    }

    /// Until the agent goes, or says that the proxy is to go.
    async fn converse(&mut self, channel: &Arc<Channel>) -> io::Result<Then> {
        let (version, processes) = (self.program.clone(), self.processes.clone());
        channel.send(&Report::Hello { version, processes, held: self.held.len() }, &[]).await?;
        for (place, kind, listener) in &self.held {
            channel.send(&Report::Held { place: *place, kind: *kind }, &[listener.as_fd()]).await?;
        }
        while let Some((order, descriptors)) = channel.receive().await? {
            match order {
                Order::Welcome { settings, .. } => {
                    self.link.set_agent(Some(Arc::clone(channel)));
                    self.begin(&settings);
                    // What was allowed may have changed while no agent was there.
                    self.link.changed();
                }
                Order::Turned => descriptors.into_iter().for_each(|map| self.node.set_turned(map)),
                Order::Listen { place, kind } => {
                    for listener in descriptors {
                        self.listen(place, kind, listener)?;
                    }
                }
                Order::Unlisten { place } => {
                    self.held.retain(|(of, ..)| *of != place);
                    self.node.forget(place);
                    if let Some(proxy) = &self.proxy {
                        proxy.unlisten(Place(place));
                    }
                }
                Order::Answer { id, answer } => self.link.answered(id, answer, descriptors),
                Order::Bundle(bundle) => {
                    // Checked by the agent already; a difference between the two is a defect.
                    if let Err(error) = self.keeper.believe(*bundle) {
                        tracing::error!(%error, "a bundle was not taken");
                    }
                }
                Order::Credentials(credentials) => {
                    if let Err(error) = self.keeper.install(&credentials) {
                        tracing::error!(%error, "a certificate was not taken");
                    }
                }
                Order::Forget { name } => self.keeper.forget(&name),
                Order::Changed { .. } => self.node.changed(),
                Order::ListConnections { id } => {
                    let connections = self.proxy.as_ref().map(|proxy| telling::connections(proxy));
                    // Not from here: this task must go on receiving.
                    let (link, connections) = (self.link.clone(), connections.unwrap_or_default());
                    tokio::spawn(async move {
                        let _ = link.tell(&Report::Connections { id, connections }).await;
                    });
                }
                Order::Drain { seconds } => return Ok(Then::Drain(Duration::from_secs(seconds))),
                Order::Quit => return Ok(Then::Quit),
            }
        }
        Ok(Then::Another)
    }

    /// The first agent makes it work, the next may set other limits.
    fn begin(&mut self, settings: &Settings) {
        let limits = Limits {
            connections: settings.connections as usize,
            handshakes_per_second: settings.handshakes_per_second,
            memory: settings.memory,
        };
        if let Some(proxy) = &self.proxy {
            return proxy.set_limits(limits);
        }
        let (telling, ended) = Telling::new(self.link.clone());
        let settings = bulkhead_proxy::Settings { limits, ..bulkhead_proxy::Settings::default() };
        let proxy = Arc::new(Proxy::new(Arc::clone(&self.node), self.keeper.clone(), settings, ended));
        telling.start(Arc::clone(&proxy));
        self.proxy = Some(proxy);
    }

    fn listen(&mut self, place: u64, kind: Kind, listener: OwnedFd) -> io::Result<()> {
        let Some(proxy) = &self.proxy else { return Ok(()) };
        self.held.retain(|(of, what, _)| (*of, *what) != (place, kind));
        let served = TcpListener::from(listener.try_clone()?);
        self.held.push((place, kind, listener));
        let kind = match kind {
            Kind::Capture => bulkhead_proxy::Kind::Capture,
            Kind::Tunnel => bulkhead_proxy::Kind::Tunnel,
        };
        proxy.listen(Place(place), kind, served)
    }
}

/// The next agent. Others of the same user may not connect: the socket's file is the agent's own.
async fn accept(door: &AsyncFd<OwnedFd>) -> io::Result<Channel> {
    loop {
        let mut ready = door.readable().await?;
        let accepted = ready
            .try_io(|door| Ok(rustix::net::accept_with(door, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)?));
        match accepted {
            Ok(Ok(socket)) => return Channel::new(socket),
            Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Ok(Err(error)) => return Err(error),
            Err(_would_block) => {}
        }
    }
}
