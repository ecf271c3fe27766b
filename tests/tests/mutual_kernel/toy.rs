//! A proxy without cryptography: it does with sockets what the real one does, and its tunnels are plain TCP
//! that begin with a line of text.

use std::collections::BTreeSet;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bulkhead_abi::role::{CAPTURE_PORT, TUNNEL_PORT};
use bulkhead_abi::{Addr, Protocol, RoleKind, SocketRole, TurnedValue};
use bulkhead_datapath::{EndpointQuery, Reader};
use bulkhead_sys::netns::{LastHop, Marking, NetNs};
use bulkhead_sys::stream;
use bulkhead_sys::turned::Turned;
use bulkhead_tests::harness::{Agent, Cgroup, Ns};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// Of the tests: no rule and no table of theirs has these numbers.
const MARKING: Marking = Marking { mark: 0x0bad_0001, table: 15_008, priority: 9 };
/// How often a thread looks whether it should end.
const TURN: Duration = Duration::from_millis(20);
/// How long a connection of the proxy's may take.
const LIMIT: Duration = Duration::from_secs(20);

/// The proxy of one node. Ends with this value.
pub struct Toy {
    sockets: Sockets,
    listening: Vec<(Arc<NetNs>, LastHop)>,
    log: Arc<Log>,
    threads: Vec<JoinHandle<()>>,
}

/// What it has seen.
#[derive(Default)]
struct Log {
    stop: AtomicBool,
    turned: Mutex<Vec<TurnedValue>>,
    strangers: Mutex<Vec<SocketAddr>>,
}

type Serve = dyn Fn(TcpStream) -> Result<()> + Send + Sync;

impl Toy {
    /// Listens in every namespace given, and tells the kernel.
    pub fn start(agent: &Agent, cgroup: &Cgroup, namespaces: &[&Ns]) -> Result<Toy> {
        let sockets = Sockets::new(agent, cgroup)?;
        let mut toy = Toy { sockets, listening: Vec::new(), log: Arc::default(), threads: Vec::new() };
        let mut proxied = BTreeSet::new();
        for ns in namespaces {
            proxied.insert(toy.listen(Arc::new(NetNs::open(&ns.path())?))?);
        }
        toy.sockets.reader.sockets().set_proxied(&proxied)?;
        Ok(toy)
    }

    /// What the kernel told of the connections that were turned.
    pub fn turned(&self) -> Vec<TurnedValue> {
        self.log.turned.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Who came to the capture listener without having been turned.
    pub fn strangers(&self) -> Vec<SocketAddr> {
        self.log.strangers.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn listen(&mut self, ns: Arc<NetNs>) -> Result<u64> {
        let cookie = ns.cookie()?;
        self.listening.push((Arc::clone(&ns), ns.open_last_hop(MARKING)?));
        let capture = self.sockets.listener(&ns, RoleKind::Capture, CAPTURE_PORT)?;
        let tunnel = self.sockets.listener(&ns, RoleKind::TunnelIn, TUNNEL_PORT)?;
        let turned = self.sockets.reader.sockets().turned()?;
        let (sockets, place, log) = (self.sockets.clone(), Arc::clone(&ns), Arc::clone(&self.log));
        let out: Arc<Serve> =
            Arc::new(move |stream| outward(&sockets, &place, (&turned, cookie), &log, stream));
        let sockets = self.sockets.clone();
        let into: Arc<Serve> = Arc::new(move |stream| inward(&sockets, &ns, stream));
        for (listener, serve) in [(capture, out), (tunnel, into)] {
            let log = Arc::clone(&self.log);
            self.threads.push(thread::spawn(move || accept(&listener, &log, &serve)));
        }
        Ok(cookie)
    }
}

impl Drop for Toy {
    fn drop(&mut self) {
        self.log.stop.store(true, Ordering::Relaxed);
        let _ = self.sockets.reader.sockets().set_proxied(&BTreeSet::new());
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
        for (ns, last_hop) in &self.listening {
            let _ = last_hop.close(ns);
        }
    }
}

/// Makes sockets for a node: in a cgroup below its root, so that its agent's programs see them.
#[derive(Clone)]
pub struct Sockets {
    reader: Reader,
    cgroup: PathBuf,
}

impl Sockets {
    pub fn new(agent: &Agent, cgroup: &Cgroup) -> Result<Sockets> {
        Ok(Sockets { reader: agent.reader()?, cgroup: cgroup.path().to_owned() })
    }

    /// A socket in a namespace with a role.
    pub fn with_role(&self, ns: &NetNs, v6: bool, role: &SocketRole) -> Result<OwnedFd> {
        let socket = within(&self.cgroup, || stream::socket(ns, v6))??;
        self.reader.sockets().assign_role(socket.as_fd(), role)?;
        Ok(socket)
    }

    fn listener(&self, ns: &NetNs, kind: RoleKind, port: u16) -> Result<TcpListener> {
        let socket = self.with_role(ns, true, &SocketRole::new(kind))?;
        Ok(stream::listen(socket, SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port), 64)?)
    }

    /// What the role of a socket is that speaks for one end to the other.
    fn role(&self, kind: RoleKind, from: IpAddr, to: SocketAddr) -> Result<SocketRole> {
        let query = |addr| EndpointQuery { addr, cgroup: None };
        let (from, target) = (query(addr(from)), query(addr(to.ip())));
        let found = self.reader.explain(&from, &target, Protocol::TCP, to.port())?;
        let rule = found.cell.map_or(0, |cell| cell.egress().rule);
        Ok(SocketRole { from: found.from, to: found.to, rule, ..SocketRole::new(kind) })
    }
}

/// From a program: whatever the kernel says where it wanted to go, a tunnel goes there.
fn outward(
    sockets: &Sockets,
    ns: &NetNs,
    (turned, cookie): (&Turned, u64),
    log: &Log,
    program: TcpStream,
) -> Result<()> {
    let client = program.peer_addr()?;
    let Some(found) = turned.lookup(cookie, client)? else {
        log.strangers.lock().unwrap_or_else(PoisonError::into_inner).push(client);
        return Ok(());
    };
    log.turned.lock().unwrap_or_else(PoisonError::into_inner).push(found);
    let target = SocketAddr::new(ip(found.original), found.port);
    let role = SocketRole {
        from: found.from,
        to: found.to,
        rule: found.rule,
        workload: found.workload,
        ..SocketRole::new(RoleKind::TunnelOut)
    };
    let from = client.ip().to_canonical();
    let socket = sockets.with_role(ns, target.is_ipv6(), &role)?;
    stream::bind(socket.as_fd(), SocketAddr::new(from, 0))?;
    let mut tunnel = connect(socket, SocketAddr::new(target.ip(), TUNNEL_PORT))?;
    tunnel.write_all(format!("{from} {target}\n").as_bytes())?;
    join(program, tunnel)
}

/// From another proxy: the program is dialled from the client's address.
fn inward(sockets: &Sockets, ns: &NetNs, mut tunnel: TcpStream) -> Result<()> {
    let mut line = Vec::new();
    let mut byte = [0];
    while tunnel.read(&mut byte)? == 1 && byte != *b"\n" {
        line.extend(byte);
    }
    let line = String::from_utf8(line)?;
    let (from, target) = line.split_once(' ').context("no line of a tunnel")?;
    let (from, target): (IpAddr, SocketAddr) = (from.parse()?, target.parse()?);
    let role = sockets.role(RoleKind::LastHop, from, target)?;
    let socket = sockets.with_role(ns, from.is_ipv6(), &role)?;
    stream::make_transparent(socket.as_fd(), from.is_ipv6(), MARKING.mark)?;
    stream::bind(socket.as_fd(), SocketAddr::new(from, 0))?;
    join(connect(socket, target)?, tunnel)
}

fn accept(listener: &TcpListener, log: &Log, serve: &Arc<Serve>) {
    while !log.stop.load(Ordering::Relaxed) {
        if !matches!(is_ready(listener, PollFlags::IN, TURN), Ok(true)) {
            continue;
        }
        let Ok((stream, _)) = listener.accept() else { continue };
        let serve = Arc::clone(serve);
        thread::spawn(move || {
            let done = stream.set_nonblocking(false).map_err(Into::into).and_then(|()| serve(stream));
            if let Err(error) = done {
                eprintln!("the toy proxy: {error:#}");
            }
        });
    }
}

/// Connects a socket that does not block.
pub fn connect(socket: OwnedFd, to: SocketAddr) -> Result<TcpStream> {
    let stream = stream::begin_connect(socket, to)?;
    if !is_ready(&stream, PollFlags::OUT, LIMIT)? {
        bail!("no answer from {to}");
    }
    if let Some(error) = stream.take_error()? {
        return Err(error).with_context(|| format!("cannot connect to {to}"));
    }
    stream.set_nonblocking(false)?;
    Ok(stream)
}

fn is_ready(file: &impl AsFd, what: PollFlags, limit: Duration) -> Result<bool> {
    let limit = Timespec::try_from(limit)?;
    Ok(poll(&mut [PollFd::new(file, what)], Some(&limit))? > 0)
}

/// Copies both ways, each until its end.
fn join(one: TcpStream, other: TcpStream) -> Result<()> {
    let (mut from, mut to) = (one.try_clone()?, other.try_clone()?);
    let there = thread::spawn(move || copy(&mut from, &mut to));
    let (mut from, mut to) = (other, one);
    copy(&mut from, &mut to);
    let _ = there.join();
    Ok(())
}

fn copy(from: &mut TcpStream, to: &mut TcpStream) {
    let ended = io::copy(from, to);
    let _ = to.shutdown(if ended.is_ok() { Shutdown::Write } else { Shutdown::Both });
    if ended.is_err() {
        let _ = from.shutdown(Shutdown::Both);
    }
}

/// Runs `work` in another cgroup than the tests'. One at a time; nobody may start a process meanwhile.
fn within<T>(cgroup: &std::path::Path, work: impl FnOnce() -> T) -> Result<T> {
    static ALONE: Mutex<()> = Mutex::new(());
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let own = std::fs::read_to_string("/proc/self/cgroup")?;
    let own = own.lines().find_map(|line| line.strip_prefix("0::/")).context("this is in no cgroup")?;
    let home = bulkhead_sys::cgroup::mount_point()?.join(own);
    std::fs::write(cgroup.join("cgroup.procs"), "0")?;
    let done = work();
    std::fs::write(home.join("cgroup.procs"), "0")?;
    Ok(done)
}

pub fn addr(of: IpAddr) -> Addr {
    match of {
        IpAddr::V4(v4) => Addr::v4(v4.octets()),
        IpAddr::V6(v6) => Addr::from_octets(v6.octets()),
    }
}

fn ip(of: Addr) -> IpAddr {
    IpAddr::from(Ipv6Addr::from(of.octets())).to_canonical()
}
