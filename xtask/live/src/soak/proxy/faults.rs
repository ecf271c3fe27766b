//! What is done to the connections, one thing after the other.

use std::time::Duration;

use anyhow::Result;
use rustix::process::Signal;

use super::account::Cuts;
use super::site::{Site, proxy, signal};

/// One thing, on one node where it is about a node (0 the client's, 1 the server's).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fault {
    /// Two of a hundred packets are lost, and all of them wait.
    BadWire,
    /// Nothing is carried, for less than anybody's patience.
    ShortCut,
    /// Nothing is carried, until both sides of every tunnel have given up.
    LongCut,
    ServerStops,
    ServerDies,
    ClientDies,
    ProxyStops(usize),
    ProxyDies(usize),
    /// While nothing is carried: the other side never hears of it.
    HalfOpen(usize),
    AgentDies(usize),
    Pressure(usize),
    Withdrawn(usize),
    NewLeaf,
    NewRoot,
}

impl Fault {
    /// Everything, the worst first: at the end the proxies are left alive, so that their memory can grow.
    pub(crate) const ALL: [Fault; 20] = [
        Fault::ProxyDies(0),
        Fault::ProxyDies(1),
        Fault::AgentDies(0),
        Fault::AgentDies(1),
        Fault::HalfOpen(0),
        Fault::HalfOpen(1),
        Fault::BadWire,
        Fault::NewLeaf,
        Fault::ShortCut,
        Fault::ServerStops,
        Fault::Withdrawn(0),
        Fault::Withdrawn(1),
        Fault::Pressure(0),
        Fault::Pressure(1),
        Fault::NewRoot,
        Fault::ServerDies,
        Fault::ClientDies,
        Fault::ProxyStops(0),
        Fault::ProxyStops(1),
        Fault::LongCut,
    ];

    /// Whether the proxies live on.
    pub(crate) fn spares_proxies(self) -> bool {
        !matches!(self, Fault::ProxyDies(_) | Fault::HalfOpen(_) | Fault::AgentDies(_))
    }

    /// What it may do to connections.
    pub(crate) fn cuts(self) -> Cuts {
        match self {
            Fault::BadWire | Fault::ShortCut | Fault::ServerStops | Fault::ProxyStops(_) => Cuts::None,
            Fault::NewLeaf | Fault::NewRoot => Cuts::None,
            // Who waits for memory answers nobody; nothing may be lost for that.
            Fault::Pressure(_) | Fault::AgentDies(_) => Cuts::New,
            Fault::ServerDies | Fault::ClientDies => Cuts::Programs,
            Fault::LongCut | Fault::HalfOpen(_) | Fault::ProxyDies(_) | Fault::Withdrawn(_) => Cuts::All,
        }
    }

    /// Its name.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Fault::BadWire => "bad wire",
            Fault::ShortCut => "wire cut for 3 s",
            Fault::LongCut => "wire cut for 40 s",
            Fault::ServerStops => "server stopped",
            Fault::ServerDies => "server killed",
            Fault::ClientDies => "client killed",
            Fault::ProxyStops(0) => "near proxy stopped",
            Fault::ProxyStops(_) => "far proxy stopped",
            Fault::ProxyDies(0) => "near proxy killed",
            Fault::ProxyDies(_) => "far proxy killed",
            Fault::HalfOpen(0) => "half-open: near proxy killed",
            Fault::HalfOpen(_) => "half-open: far proxy killed",
            Fault::AgentDies(0) => "near agent killed",
            Fault::AgentDies(_) => "far agent killed",
            Fault::Pressure(0) => "near node short of memory",
            Fault::Pressure(_) => "far node short of memory",
            Fault::Withdrawn(0) => "right withdrawn, near",
            Fault::Withdrawn(_) => "right withdrawn, far",
            Fault::NewLeaf => "new leafs",
            Fault::NewRoot => "new root",
        }
    }

    /// Does it, and undoes it.
    pub(crate) fn happen(self, site: &mut Site) -> Result<()> {
        match self {
            Fault::BadWire => {
                site.wire.set(20, Duration::from_millis(10));
                lasts(10);
                site.wire.set(0, Duration::ZERO);
            }
            Fault::ShortCut => cut(site, 3),
            Fault::LongCut => cut(site, 40),
            Fault::ServerStops => {
                site.signal_server(Signal::STOP)?;
                lasts(5);
                site.signal_server(Signal::CONT)?;
            }
            Fault::ServerDies => site.kill_program(false)?,
            Fault::ClientDies => site.kill_program(true)?,
            Fault::ProxyStops(node) => {
                let pid = proxy(site.agent(node)?).pid;
                each(pid, Signal::STOP)?;
                lasts(5);
                each(pid, Signal::CONT)?;
            }
            Fault::ProxyDies(node) => each(proxy(site.agent(node)?).pid, Signal::KILL)?,
            Fault::HalfOpen(node) => {
                site.wire.set(1000, Duration::ZERO);
                each(proxy(site.agent(node)?).pid, Signal::KILL)?;
                lasts(3);
                site.wire.set(0, Duration::ZERO);
            }
            Fault::AgentDies(node) => {
                site.agent(node)?.kill9()?;
                lasts(1);
                site.agent(node)?.restart()?;
            }
            Fault::Pressure(node) => {
                site.squeeze(node)?;
                lasts(5);
                for pressure in &site.pressure {
                    pressure.release()?;
                }
            }
            Fault::Withdrawn(node) => {
                site.allow(node, false)?;
                lasts(2);
                site.allow(node, true)?;
            }
            Fault::NewLeaf => site.renew(false)?,
            Fault::NewRoot => site.renew(true)?,
        }
        site.wait_ready()
    }
}

fn cut(site: &Site, seconds: u64) {
    site.wire.set(1000, Duration::ZERO);
    lasts(seconds);
    site.wire.set(0, Duration::ZERO);
}

fn lasts(seconds: u64) {
    std::thread::sleep(Duration::from_secs(seconds));
}

fn each(pid: Option<u32>, what: Signal) -> Result<()> {
    pid.into_iter().try_for_each(|pid| signal(pid, what))
}
