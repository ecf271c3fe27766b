//! Finding the proxy that an earlier agent left, or starting one: before privileges are given up.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use super::channel;
use super::keeper;
use super::wire::{Kind, Order, Report, version};
use crate::instance::Instance;

/// How long a proxy that is there already is waited for. One that says nothing is given up.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long the connections of a proxy that gives way to another version may go on, in seconds.
const GIVE_WAY: u64 = 600;

/// What was found, or started.
#[derive(Debug)]
pub struct Found {
    /// Where it answers.
    pub(super) path: PathBuf,
    /// Listeners that it held.
    pub(super) held: Vec<(u64, Kind, OwnedFd)>,
}

/// Where the proxy of the instance with this run-time folder answers.
fn path(folder: &Path) -> PathBuf {
    folder.join("proxy.sock")
}

/// Finds or starts the proxy of `instance`. The instance's lock must be held, and no thread run.
pub fn find_or_start(instance: &Instance, log: &keeper::Log) -> io::Result<Found> {
    let path = path(&instance.dir);
    let mut held = Vec::new();
    if let Some(old) = connect(&path) {
        match greet(&old, &mut held) {
            Ok(its) if its == version() => {
                tracing::info!(listeners = held.len(), "the proxy of an earlier agent goes on");
                return Ok(Found { path, held });
            }
            Ok(its) => {
                tracing::info!(its, ours = version(), "the proxy is another version: it gives way");
                channel::send_now(old.as_fd(), &Order::Drain { seconds: GIVE_WAY }, &[])?;
            }
            Err(error) => {
                tracing::warn!(%error, "the proxy that is there does not answer, and is left alone; a new one is started");
            }
        }
        // Nobody else finds it any more.
        std::fs::remove_file(&path)?;
    }
    let listener = bulkhead_sys::unix::listen_for_packets(&path).map_err(io::Error::other)?;
    let keeper = keeper::start(listener, log)?;
    tracing::info!(keeper, "the proxy is started");
    Ok(Found { path, held })
}

/// A proxy that was told to go.
#[derive(Debug)]
pub struct Going {
    proxy: OwnedFd,
    /// How long it may take.
    patience: Duration,
}

/// Tells the proxy of the instance with this run-time folder to take nothing new and to go: when its last
/// connection has ended, after `drain` at the latest. `None` if there is none.
pub fn dismiss(folder: &Path, drain: Duration) -> Option<Going> {
    let path = path(folder);
    let proxy = connect(&path);
    // Nobody else finds it any more.
    let _ = std::fs::remove_file(path);
    let (proxy, mut held) = (proxy?, Vec::new());
    greet(&proxy, &mut held).ok()?;
    let tell = |order: &Order| channel::send_now(proxy.as_fd(), order, &[]);
    // Who comes from now on is refused at once, and does not wait in a queue that nobody serves.
    let places: BTreeSet<u64> = held.drain(..).map(|(place, ..)| place).collect();
    for place in places {
        tell(&Order::Unlisten { place }).ok()?;
    }
    let order = if drain.is_zero() { Order::Quit } else { Order::Drain { seconds: drain.as_secs().max(1) } };
    tell(&order).ok()?;
    Some(Going { proxy, patience: drain + PATIENCE })
}

impl Going {
    /// Waits until it has gone; whether it has.
    pub fn wait(self) -> bool {
        let end = Instant::now() + self.patience;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            match channel::receive_within::<Report>(self.proxy.as_fd(), left) {
                Ok(Some(_)) => {}
                Ok(None) => return true,
                Err(_) => return false,
            }
        }
    }
}

/// A connection to the proxy that answers at `path`; `None` if none does.
pub(super) fn connect(path: &Path) -> Option<OwnedFd> {
    let socket =
        rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .ok()?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(path).ok()?).ok()?;
    Some(socket)
}

/// Hears which version it is, and takes its listeners.
fn greet(proxy: &OwnedFd, held: &mut Vec<(u64, Kind, OwnedFd)>) -> io::Result<String> {
    let cut = || io::Error::from(io::ErrorKind::UnexpectedEof);
    let (hello, _) = channel::receive_within(proxy.as_fd(), PATIENCE)?.ok_or_else(cut)?;
    let Report::Hello { version, held: count, .. } = hello else {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it does not say hello"));
    };
    for _ in 0..count {
        let (report, descriptors) = channel::receive_within(proxy.as_fd(), PATIENCE)?.ok_or_else(cut)?;
        let Report::Held { place, kind } = report else { continue };
        held.extend(descriptors.into_iter().map(|listener| (place, kind, listener)));
    }
    Ok(version)
}
