//! On real sockets in namespaces of their own.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod extras;

use std::collections::BTreeSet;
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::mem;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::time::Instant;

use super::*;
use crate::{cgroup, testing};

fn dump(ns: &NetNs, protocol: Protocol) -> Vec<Socket> {
    Diag::open(ns).unwrap().dump(&Query::all(protocol)).unwrap()
}

fn option<T>(socket: &impl AsFd, name: libc::c_int, mut value: T) -> T {
    let mut length = mem::size_of::<T>() as libc::socklen_t;
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: `value` has room for `length` bytes, and T is a plain number in every use.
    let status =
        unsafe { libc::getsockopt(fd, libc::SOL_SOCKET, name, (&raw mut value).cast(), &raw mut length) };
    assert_eq!(status, 0);
    value
}

fn set(socket: &impl AsFd, level: libc::c_int, name: libc::c_int, value: &[u8]) {
    let (fd, length) = (socket.as_fd().as_raw_fd(), value.len() as libc::socklen_t);
    // SAFETY: `value` is as long as it says.
    let status = unsafe { libc::setsockopt(fd, level, name, value.as_ptr().cast(), length) };
    assert_eq!(status, 0, "{}", std::io::Error::last_os_error());
}

fn cookie(socket: &impl AsFd) -> u64 {
    option(socket, libc::SO_COOKIE, 0_u64)
}

/// A socket of `family` and `kind` with `options` set (level, name), bound to `port` on every address.
fn bound(family: libc::c_int, kind: libc::c_int, port: u16, options: &[(i32, i32)]) -> OwnedFd {
    // SAFETY: no pointers are passed.
    let fd = unsafe { libc::socket(family, kind | libc::SOCK_CLOEXEC, 0) };
    assert!(fd >= 0);
    // SAFETY: the descriptor is new and nobody else's.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    for (level, name) in options {
        set(&fd, *level, *name, &1_i32.to_ne_bytes());
    }
    // SAFETY: zero is a value of every field.
    let mut address: libc::sockaddr_in6 = unsafe { mem::zeroed() };
    address.sin6_family = family as u16;
    address.sin6_port = port.to_be();
    // SAFETY: an IPv4 address is shorter, has its port in the same place, and is given its own length's worth.
    let status = unsafe {
        libc::bind(fd.as_raw_fd(), (&raw const address).cast(), mem::size_of_val(&address) as libc::socklen_t)
    };
    assert_eq!(status, 0, "{}", std::io::Error::last_os_error());
    fd
}

fn tcp_pair(to: SocketAddr) -> (TcpListener, TcpStream, TcpStream) {
    let listener = TcpListener::bind(to).unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (server, _) = listener.accept().unwrap();
    (listener, client, server)
}

fn find(sockets: &[Socket], cookie: u64) -> &Socket {
    let found: Vec<_> = sockets.iter().filter(|socket| socket.cookie == cookie).collect();
    let [one] = *found else { panic!("{} sockets with cookie {cookie}", found.len()) };
    one
}

#[test]
fn every_socket_is_described_as_it_is() {
    if !testing::root("sock_diag dump") {
        return;
    }
    let ns = testing::netns();
    let loopback = Addr::v4([127, 0, 0, 1]);
    let (listener, client, server) = ns.run(|| tcp_pair((Ipv4Addr::LOCALHOST, 0).into())).unwrap();
    let port = listener.local_addr().unwrap().port();
    let dual = ns.run(|| TcpListener::bind((Ipv6Addr::UNSPECIFIED, 0)).unwrap()).unwrap();
    let mapped_to: SocketAddr =
        (Ipv4Addr::LOCALHOST.to_ipv6_mapped(), dual.local_addr().unwrap().port()).into();
    let mapped = ns.run(|| TcpStream::connect(mapped_to).unwrap()).unwrap();
    let own_cgroup = {
        let text = fs::read_to_string("/proc/self/cgroup").unwrap();
        let path = text.lines().find_map(|line| line.strip_prefix("0::/")).unwrap();
        cgroup::id(&cgroup::mount_point().unwrap().join(path)).unwrap()
    };

    let sockets = dump(&ns, Protocol::TCP);
    assert_eq!(sockets.len(), 6);
    let found = find(&sockets, cookie(&listener));
    assert_eq!((found.state, found.family), (State::LISTEN, Family::V4));
    assert_eq!((found.local, found.local_port), (loopback, port));
    assert_eq!((found.remote, found.remote_port), (Addr::ANY_V4, 0));
    let found = find(&sockets, cookie(&client));
    assert_eq!((found.state, found.protocol), (State::ESTABLISHED, Protocol::TCP));
    assert_eq!((found.local, found.remote, found.remote_port), (loopback, loopback, port));
    assert_eq!(found.local_port, client.local_addr().unwrap().port());
    assert_eq!((found.uid, found.interface, found.cgroup), (0, 0, Some(own_cgroup)));
    let inode = fs::metadata(format!("/proc/self/fd/{}", client.as_raw_fd())).unwrap().ino();
    assert_eq!(u64::from(found.inode), inode);
    assert_eq!(find(&sockets, cookie(&server)).local_port, port);
    let found = find(&sockets, cookie(&mapped));
    assert_eq!((found.family, found.local, found.remote), (Family::V6, loopback, loopback));
    let found = find(&sockets, cookie(&dual));
    assert_eq!(
        (found.family, found.local, found.remote, found.v6only),
        (Family::V6, Addr::ANY, Addr::ANY, false)
    );

    let listening = Query { states: State::LISTEN.bit(), ..Query::all(Protocol::TCP) };
    assert_eq!(Diag::open(&ns).unwrap().dump(&listening).unwrap().len(), 2);
    let gone = ns.id();
    assert!(dump(&testing::netns(), Protocol::TCP).is_empty(), "{gone:?}");
}

#[test]
fn udp_tells_connected_from_unconnected() {
    if !testing::root("sock_diag udp") {
        return;
    }
    let ns = testing::netns();
    let v6only = [(libc::IPPROTO_IPV6, libc::IPV6_V6ONLY)];
    let (open, connected, mapped, only) = ns
        .run(|| {
            let open = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
            let connected = UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)).unwrap();
            connected.connect((Ipv6Addr::LOCALHOST, 9)).unwrap();
            let mapped = UdpSocket::bind((Ipv4Addr::LOCALHOST.to_ipv6_mapped(), 0)).unwrap();
            (open, connected, mapped, bound(libc::AF_INET6, libc::SOCK_DGRAM, 7777, &v6only))
        })
        .unwrap();
    let sockets = dump(&ns, Protocol::UDP);
    assert_eq!(sockets.len(), 4);
    let found = find(&sockets, cookie(&open));
    assert_eq!((found.state, found.local, found.remote), (State::CLOSE, Addr::ANY_V4, Addr::ANY_V4));
    let found = find(&sockets, cookie(&connected));
    let one = Addr::from_octets(Ipv6Addr::LOCALHOST.octets());
    assert_eq!((found.state, found.remote, found.remote_port), (State::ESTABLISHED, one, 9));
    let found = find(&sockets, cookie(&mapped));
    assert_eq!((found.local, found.remote), (Addr::v4([127, 0, 0, 1]), Addr::ANY_V4));
    let found = find(&sockets, cookie(&only));
    assert_eq!((found.local, found.local_port, found.v6only), (Addr::ANY, 7777, true));

    let mut diag = Diag::open(&ns).unwrap();
    for socket in &sockets {
        // Whoever saw a packet only may not know the family of what is not there.
        let remote = if socket.remote == Addr::ANY_V4 { Addr::ANY } else { socket.remote };
        assert_eq!(diag.destroy(&Target { remote, ..socket.into() }).unwrap(), Destroyed::Now, "{socket:?}");
    }
    for socket in [&open, &connected, &mapped] {
        assert_eq!(socket.recv(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionAborted);
    }
}

#[test]
fn a_destroyed_connection_aborts_here_and_resets_there() {
    if !testing::root("sock_diag destroy") {
        return;
    }
    let ns = testing::netns();
    for local in
        [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into(), Ipv4Addr::LOCALHOST.to_ipv6_mapped().into()]
    {
        let (listener, mut victim, mut peer) = ns.run(|| tcp_pair(SocketAddr::new(local, 0))).unwrap();
        let mut diag = Diag::open(&ns).unwrap();
        let sockets = diag.dump(&Query::all(Protocol::TCP)).unwrap();
        let target = Target::from(find(&sockets, cookie(&victim)));

        let wrong = Target { cookie: target.cookie ^ 1 << 40, ..target };
        assert_eq!(diag.destroy(&wrong).unwrap(), Destroyed::Gone);
        let any = Target { cookie: u64::MAX, ..target };
        assert_eq!(diag.destroy(&any).unwrap_err().errno(), Some(libc::EINVAL));
        // A tuple that is gone leads to the listener, whose cookie is another.
        let stale = Target { remote_port: 1, ..Target::from(find(&sockets, cookie(&peer))) };
        assert_eq!(diag.destroy(&stale).unwrap(), Destroyed::Gone);
        victim.write_all(b"alive").unwrap();
        peer.read_exact(&mut [0; 5]).unwrap();

        assert_eq!(diag.destroy(&target).unwrap(), Destroyed::Now);
        assert_eq!(victim.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionAborted);
        assert_eq!(peer.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
        assert_eq!(diag.destroy(&target).unwrap(), Destroyed::Gone);
        let address = listener.local_addr().unwrap();
        ns.run(|| TcpStream::connect(address).unwrap()).unwrap();
    }
}

#[test]
fn sockets_bound_to_an_interface_or_sharing_a_port_are_reached() {
    if !testing::root("sock_diag destroy, hard cases") {
        return;
    }
    let ns = testing::netns();
    let mut diag = Diag::open(&ns).unwrap();
    let tied = ns
        .run(|| {
            let tied = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            set(&tied, libc::SOL_SOCKET, libc::SO_BINDTODEVICE, b"lo");
            tied.connect((Ipv4Addr::LOCALHOST, 9)).unwrap();
            tied
        })
        .unwrap();
    let found = Target::from(find(&dump(&ns, Protocol::UDP), cookie(&tied)));
    assert_eq!(found.interface, 1);
    assert!(!diag.try_destroy(&Target { interface: 0, ..found }).unwrap());
    assert_eq!(diag.destroy(&Target { interface: 0, ..found }).unwrap(), Destroyed::Now);
    assert_eq!(tied.recv(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionAborted);

    let shared = [(libc::SOL_SOCKET, libc::SO_REUSEPORT)];
    let group: Vec<_> = ns
        .run(|| {
            (0..5).map(|_| UdpSocket::from(bound(libc::AF_INET, libc::SOCK_DGRAM, 5555, &shared))).collect()
        })
        .unwrap();
    let sockets = dump(&ns, Protocol::UDP);
    for socket in &group {
        let target = Target::from(find(&sockets, cookie(socket)));
        assert_eq!(diag.destroy(&target).unwrap(), Destroyed::Now);
        assert_eq!(socket.recv(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionAborted);
    }
}

#[test]
fn of_many_targets_each_has_its_own_answer() {
    if !testing::root("sock_diag destroy many") {
        return;
    }
    let ns = testing::netns();
    let (_listener, mut victim, _peer) = ns.run(|| tcp_pair((Ipv4Addr::LOCALHOST, 0).into())).unwrap();
    let udp = ns.run(|| UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap()).unwrap();
    udp.connect((Ipv4Addr::LOCALHOST, 9)).unwrap();
    let tcp = Target::from(find(&dump(&ns, Protocol::TCP), cookie(&victim)));
    let was = Target::from(find(&dump(&ns, Protocol::UDP), cookie(&udp)));
    // The same socket, but its program has taken up another conversation.
    ns.run(|| udp.connect((Ipv4Addr::LOCALHOST, 10)).unwrap()).unwrap();
    let targets = [
        Target { cookie: u64::MAX, ..tcp },
        was,
        Target { protocol: Protocol(200), ..tcp },
        tcp,
        Target { cookie: tcp.cookie + 1_000_000, ..tcp },
    ];
    let answers = Diag::open(&ns).unwrap().destroy_all(&targets);
    let answers = answers.iter().map(|answer| answer.as_ref().map_err(Error::errno)).collect::<Vec<_>>();
    assert_eq!(answers.len(), 5);
    assert_eq!(answers[0], Err(Some(libc::EINVAL)));
    assert_eq!(answers[1], Ok(&Destroyed::Gone));
    assert!(answers[2].is_err());
    assert_eq!(answers[3], Ok(&Destroyed::Now));
    assert_eq!(answers[4], Ok(&Destroyed::Gone));
    assert_eq!(victim.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionAborted);
    assert_eq!(udp.peer_addr().unwrap().port(), 10);
}

#[test]
fn tens_of_thousands_of_sockets_are_listed() {
    if !testing::root("sock_diag at scale") {
        return;
    }
    let ns = testing::netns();
    // What is left of closed connections needs no descriptors, and is listed like any other socket.
    const LISTENERS: usize = 4;
    const EACH: usize = 8_000;
    ns.run(|| {
        // Nothing left over may be dropped, or used again by the next connection.
        fs::write("/proc/sys/net/ipv4/tcp_max_tw_buckets", "100000").unwrap();
        fs::write("/proc/sys/net/ipv4/tcp_tw_reuse", "0").unwrap();
        for _ in 0..LISTENERS {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            let to = listener.local_addr().unwrap();
            for _ in 0..EACH {
                let client = TcpStream::connect(to).unwrap();
                let (server, _) = listener.accept().unwrap();
                drop(client);
                drop(server);
            }
        }
    })
    .unwrap();
    let port = |end: &str| u16::from_str_radix(end.split(':').nth(1).unwrap(), 16).unwrap();
    let listed = ns.run(|| fs::read_to_string("/proc/thread-self/net/tcp").unwrap()).unwrap();
    let expected: BTreeSet<_> = listed
        .lines()
        .skip(1)
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .map(|fields| (port(fields[1]), port(fields[2])))
        .collect();
    // Not all: where both ends closed at the same moment, a port may have been used again.
    assert!(expected.len() > LISTENERS * EACH * 9 / 10);

    let begun = Instant::now();
    let sockets = dump(&ns, Protocol::TCP);
    eprintln!("{} sockets in {:?}", sockets.len(), begun.elapsed());
    let found: BTreeSet<_> = sockets.iter().map(|socket| (socket.local_port, socket.remote_port)).collect();
    assert_eq!((found.len(), found == expected), (expected.len(), true));
    assert!(sockets.iter().all(|socket| socket.cgroup.is_none()));

    let gone: Vec<_> = sockets.iter().map(|socket| Target { cookie: 1, ..Target::from(socket) }).collect();
    let begun = Instant::now();
    let answers = Diag::open(&ns).unwrap().destroy_all(&gone);
    eprintln!("looked for as many that are gone in {:?}", begun.elapsed());
    assert!(answers.into_iter().all(|answer| answer.unwrap() == Destroyed::Gone));
}

#[test]
fn a_protocol_without_diagnostics_is_an_error() {
    if !testing::root("sock_diag protocols") {
        return;
    }
    let unknown = Query::all(Protocol(200));
    let error = Diag::open(&testing::netns()).unwrap().dump(&unknown).unwrap_err();
    assert!(matches!(error, Error::NoDiagnostics { protocol: Protocol(200) }), "{error}");
}
