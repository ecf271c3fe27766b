//! What a dump tells when asked: traffic and socket storage.

use super::*;
use crate::bpf::{self, NewMap};
use crate::map::Map;

#[test]
fn traffic_is_counted() {
    if !testing::root("sock_diag traffic") {
        return;
    }
    let ns = testing::netns();
    let (_listener, mut client, mut server) = ns.run(|| tcp_pair((Ipv6Addr::LOCALHOST, 0).into())).unwrap();
    client.write_all(&[7; 1234]).unwrap();
    server.read_exact(&mut [0; 1234]).unwrap();
    server.write_all(&[7; 99]).unwrap();
    client.read_exact(&mut [0; 99]).unwrap();
    let query = Query { traffic: true, ..Query::all(Protocol::TCP) };
    let sockets = Diag::open(&ns).unwrap().dump(&query).unwrap();
    let traffic = find(&sockets, cookie(&client)).traffic.unwrap();
    assert_eq!((traffic.sent, traffic.received), (1234, 99));
    assert!(traffic.since_sent < 10_000 && traffic.since_received < 10_000, "{traffic:?}");
    assert_eq!(find(&sockets, cookie(&server)).traffic.unwrap().sent, 99);
}

#[test]
fn socket_storage_comes_with_the_dump() {
    if !testing::root("sock_diag storage") {
        return;
    }
    let maps = [storage_map(), storage_map(), storage_map()];
    let ids = maps.each_ref().map(|map| Map::new(map.as_fd()).unwrap().shape().id);
    let ns = testing::netns();
    let (listener, client, server) = ns.run(|| tcp_pair((Ipv4Addr::LOCALHOST, 0).into())).unwrap();
    let put = |map: &OwnedFd, socket: &TcpStream, value: u64| {
        let map = Map::new(map.as_fd()).unwrap();
        map.set(&socket.as_raw_fd().to_ne_bytes(), &value.to_ne_bytes(), 0).unwrap();
    };
    put(&maps[0], &client, 11);
    put(&maps[1], &client, 22);
    put(&maps[2], &client, 33);
    put(&maps[1], &server, 44);

    let fds = [maps[0].as_fd(), maps[1].as_fd()];
    let query = Query { storages: &fds, ..Query::all(Protocol::TCP) };
    let sockets = Diag::open(&ns).unwrap().dump(&query).unwrap();
    let mut found = find(&sockets, cookie(&client)).storages.clone();
    found.sort();
    let bytes = |value: u64| value.to_ne_bytes().to_vec();
    assert_eq!(found, [(ids[0], bytes(11)), (ids[1], bytes(22))]);
    assert_eq!(find(&sockets, cookie(&server)).storages, [(ids[1], bytes(44))]);
    assert_eq!(find(&sockets, cookie(&listener)).storages, []);

    let twice = [fds[0], fds[0]];
    let query = Query { storages: &twice, ..query };
    assert_eq!(Diag::open(&ns).unwrap().dump(&query).unwrap_err().errno(), Some(libc::EEXIST));
    let none = NewMap { kind: 2, key_size: 4, value_size: 8, max_entries: 1, ..Default::default() };
    let none = none.create().unwrap();
    let query = Query { storages: &[none.as_fd()], ..query };
    assert_eq!(Diag::open(&ns).unwrap().dump(&query).unwrap_err().errno(), Some(libc::EINVAL));
}

#[test]
fn storage_of_a_thousand_connections_is_listed() {
    if !testing::root("sock_diag storage at scale") {
        return;
    }
    let ns = testing::netns();
    let storage = storage_map();
    let map = Map::new(storage.as_fd()).unwrap();
    let pairs: Vec<_> =
        ns.run(|| (0..1_000).map(|_| tcp_pair((Ipv4Addr::LOCALHOST, 0).into())).collect()).unwrap();
    for (_, client, _) in &pairs {
        map.set(&client.as_raw_fd().to_ne_bytes(), &cookie(client).to_ne_bytes(), 0).unwrap();
    }
    let query = Query { storages: &[storage.as_fd()], traffic: true, ..Query::all(Protocol::TCP) };
    let sockets = Diag::open(&ns).unwrap().dump(&query).unwrap();
    assert_eq!(sockets.len(), 3_000);
    for (_, client, _) in &pairs {
        let cookie = cookie(client);
        assert_eq!(find(&sockets, cookie).storages, [(map.shape().id, cookie.to_ne_bytes().to_vec())]);
    }
}

/// Socket storage of eight bytes. The kernel wants type information with it: two integers.
fn storage_map() -> OwnedFd {
    #[derive(zerocopy::IntoBytes, zerocopy::Immutable)]
    #[repr(C)]
    struct Load {
        btf: u64,
        log: u64,
        size: u32,
        log_size: u32,
        log_level: u32,
        _padding: u32,
    }
    const SK_STORAGE: u32 = 24;
    const NO_PREALLOC: u32 = 1;
    const BTF_LOAD: libc::c_int = 18;
    let int = |name: u32, size: u32| [name, 1 << 24, size, (1 << 24) | (size * 8)];
    let types = [int(1, 4), int(5, 8)].concat();
    let names = b"\0int\0long\0";
    let header = [0x0001_eb9f, 24, 0, 4 * types.len() as u32, 4 * types.len() as u32, names.len() as u32];
    let mut btf: Vec<u8> = header.iter().chain(&types).flat_map(|word| word.to_ne_bytes()).collect();
    btf.extend(names);
    let mut load = Load {
        btf: btf.as_ptr() as u64,
        log: 0,
        size: btf.len() as u32,
        log_size: 0,
        log_level: 0,
        _padding: 0,
    };
    // SAFETY: the address is that of `size` bytes, which outlive the call; there is no log.
    let btf = unsafe { bpf::descriptor(BTF_LOAD, "bpf(BPF_BTF_LOAD)", &mut load) }.unwrap();
    let map = NewMap {
        kind: SK_STORAGE,
        key_size: 4,
        value_size: 8,
        flags: NO_PREALLOC,
        btf: btf.as_raw_fd(),
        btf_key: 1,
        btf_value: 2,
        ..Default::default()
    };
    map.create().unwrap()
}
