//! sock_diag's messages (linux/inet_diag.h, linux/sock_diag.h).

use std::os::fd::AsRawFd;

use bulkhead_abi::{Addr, Protocol};
use zerocopy::big_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{Family, Query, Socket, State, Target, Traffic};
use crate::netlink::{attributes, push_attribute};
use crate::{Error, Result};

pub(super) const SOCK_DIAG_BY_FAMILY: u16 = 20;
pub(super) const SOCK_DESTROY: u16 = 21;
/// INET_DIAG_NOCOOKIE twice: matches every socket.
pub(super) const NO_COOKIE: u64 = u64::MAX;

const REQ_SK_BPF_STORAGES: u16 = 2;
const STORAGE_REQ_MAP_FD: u16 = 1;
const NESTED: u16 = 0x8000;

const INFO: u16 = 2;
const SKV6ONLY: u16 = 11;
const SK_BPF_STORAGES: u16 = 20;
const CGROUP_ID: u16 = 21;
const STORAGE: u16 = 1;
const STORAGE_MAP_ID: u16 = 2;
const STORAGE_MAP_VALUE: u16 = 3;

const MALFORMED: Error = Error::Malformed { what: "a socket's description" };

/// `struct inet_diag_sockid`. The cookie is two native words, the lower first.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct SocketId {
    local_port: U16,
    remote_port: U16,
    local: [u8; 16],
    remote: [u8; 16],
    interface: u32,
    cookie: [u32; 2],
}

/// `struct inet_diag_req_v2`.
#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct Request {
    family: u8,
    protocol: u8,
    extensions: u8,
    padding: u8,
    states: u32,
    id: SocketId,
}

/// `struct inet_diag_msg`.
#[derive(FromBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Answer {
    family: u8,
    state: u8,
    timer: u8,
    retransmits: u8,
    id: SocketId,
    expires: u32,
    receive_queue: u32,
    send_queue: u32,
    uid: u32,
    inode: u32,
}

const _: () = assert!(size_of::<Request>() == 56 && size_of::<Answer>() == 72);

/// The request for the sockets of `family`.
pub(super) fn dump(query: &Query<'_>, family: Family) -> Vec<u8> {
    let request = Request {
        family: family as u8,
        protocol: query.protocol.0,
        extensions: if query.traffic { 1 << (INFO - 1) } else { 0 },
        padding: 0,
        states: query.states,
        id: SocketId {
            local_port: U16::ZERO,
            remote_port: U16::ZERO,
            local: [0; 16],
            remote: [0; 16],
            interface: 0,
            cookie: [0; 2],
        },
    };
    let mut message = request.as_bytes().to_vec();
    if !query.storages.is_empty() {
        let mut maps = Vec::new();
        for map in query.storages {
            push_attribute(&mut maps, STORAGE_REQ_MAP_FD, &map.as_raw_fd().to_ne_bytes());
        }
        push_attribute(&mut message, REQ_SK_BPF_STORAGES | NESTED, &maps);
    }
    message
}

/// The request to end `target`.
pub(super) fn destroy(target: &Target) -> Vec<u8> {
    // An unspecified address goes with the family of the other one.
    let v4 = target.local.is_v4() || target.remote.is_v4();
    let address = |addr: &Addr| match (v4, addr.octets()) {
        (false, bytes) => bytes,
        (true, [.., a, b, c, d]) => [a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    };
    let request = Request {
        family: if v4 { Family::V4 } else { Family::V6 } as u8,
        protocol: target.protocol.0,
        extensions: 0,
        padding: 0,
        states: Query::ANY_STATE,
        id: SocketId {
            local_port: target.local_port.into(),
            remote_port: target.remote_port.into(),
            local: address(&target.local),
            remote: address(&target.remote),
            interface: target.interface,
            cookie: [target.cookie as u32, (target.cookie >> 32) as u32],
        },
    };
    request.as_bytes().to_vec()
}

/// A socket from the kernel's answer; `None` for a family that is none of ours.
pub(super) fn parse(payload: &[u8], protocol: Protocol) -> Result<Option<Socket>> {
    let (answer, rest) = Answer::read_from_prefix(payload).map_err(|_| MALFORMED)?;
    let Answer { id, .. } = answer;
    let (family, local, mut remote) = match i32::from(answer.family) {
        libc::AF_INET => (Family::V4, v4(&id.local), v4(&id.remote)),
        libc::AF_INET6 => (Family::V6, Addr::from_octets(id.local), Addr::from_octets(id.remote)),
        _ => return Ok(None),
    };
    if local.is_v4() && remote == Addr::ANY {
        remote = Addr::ANY_V4;
    }
    let [low, high] = id.cookie.map(u64::from);
    let mut socket = Socket {
        family,
        protocol,
        state: State(answer.state),
        local,
        remote,
        local_port: id.local_port.into(),
        remote_port: id.remote_port.into(),
        interface: id.interface,
        cookie: high << 32 | low,
        inode: answer.inode,
        uid: answer.uid,
        cgroup: None,
        v6only: false,
        traffic: None,
        storages: Vec::new(),
    };
    for attribute in attributes(rest) {
        match attribute? {
            (CGROUP_ID, value) => socket.cgroup = Some(read(value)?),
            (SKV6ONLY, value) => socket.v6only = value.first().ok_or(MALFORMED)? != &0,
            (INFO, value) => socket.traffic = traffic(value),
            (SK_BPF_STORAGES, value) => socket.storages = storages(value)?,
            _ => {}
        }
    }
    Ok(Some(socket))
}

fn v4(bytes: &[u8; 16]) -> Addr {
    let [a, b, c, d, ..] = *bytes;
    Addr::v4([a, b, c, d])
}

fn read<T: FromBytes>(bytes: &[u8]) -> Result<T> {
    T::read_from_prefix(bytes).map(|(value, _)| value).map_err(|_| MALFORMED)
}

/// From `struct tcp_info`, which grows at its end. Empty where the socket is not a full one.
fn traffic(info: &[u8]) -> Option<Traffic> {
    const LAST_SENT: usize = 44;
    const LAST_RECEIVED: usize = 52;
    const RECEIVED: usize = 128;
    const SENT: usize = 200;
    let word = |at: usize| info.get(at..).and_then(|rest| read::<u32>(rest).ok());
    let long = |at: usize| info.get(at..).and_then(|rest| read::<u64>(rest).ok());
    Some(Traffic {
        sent: long(SENT).unwrap_or(0),
        received: long(RECEIVED)?,
        since_sent: word(LAST_SENT)?,
        since_received: word(LAST_RECEIVED)?,
    })
}

fn storages(nested: &[u8]) -> Result<Vec<(u32, Vec<u8>)>> {
    let mut found = Vec::new();
    for storage in attributes(nested) {
        let (STORAGE, nested) = storage? else {
            continue;
        };
        let (mut map, mut bytes) = (None, None);
        for attribute in attributes(nested) {
            match attribute? {
                (STORAGE_MAP_ID, value) => map = Some(read(value)?),
                (STORAGE_MAP_VALUE, value) => bytes = Some(value.to_vec()),
                _ => {}
            }
        }
        // A socket without a value has the map's number alone.
        if let (Some(map), Some(bytes)) = (map, bytes) {
            found.push((map, bytes));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_is_not_there_goes_with_the_other_ones_family() {
        let mut target = Target {
            protocol: Protocol::UDP,
            cookie: 0x0102_0304_0506_0708,
            local: Addr::v4([10, 0, 0, 1]),
            remote: Addr::ANY,
            local_port: 0x1234,
            remote_port: 0,
            interface: 0,
        };
        let message = destroy(&target);
        assert_eq!(message.first(), Some(&(libc::AF_INET as u8)));
        assert_eq!(message.get(8..16), Some(&[0x12, 0x34, 0, 0, 10, 0, 0, 1][..]));
        assert_eq!(message.get(28..44), Some(&[0; 16][..]));
        target.local = Addr::ANY;
        assert_eq!(destroy(&target).first(), Some(&(libc::AF_INET6 as u8)));
    }

    #[test]
    fn broken_answers_are_refused() {
        assert!(parse(&[2; 71], Protocol::TCP).is_err());
        let mut bytes = vec![2; 72];
        assert!(matches!(parse(&bytes, Protocol::TCP), Ok(Some(_))));
        push_attribute(&mut bytes, CGROUP_ID, &[1; 7]);
        assert!(parse(&bytes, Protocol::TCP).is_err());
        let mut other = vec![2; 72];
        other.splice(..1, [libc::AF_UNIX as u8]);
        assert!(matches!(parse(&other, Protocol::TCP), Ok(None)));
    }
}
