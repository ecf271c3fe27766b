//! Requests to the kernel over netlink, and reading its answers.

use std::mem;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::netns::NetNs;
use crate::{Error, Result};

pub(crate) mod monitor;

/// The kernel fills no more than 32 KiB at once, save where a single message is longer.
const BUFFER: usize = 256 << 10;
/// How often a dump is begun anew when changes disturbed it.
const ATTEMPTS: u32 = 16;
/// An answer was expected and something else came.
const ODD: Error = Error::Malformed { what: "a netlink answer" };

/// A netlink socket. It belongs to the namespace it was made in, whichever thread uses it, and keeps that
/// namespace alive.
#[derive(Debug)]
pub(crate) struct Socket {
    fd: OwnedFd,
    buffer: Vec<u8>,
    sequence: u32,
}

impl Socket {
    /// A socket inside `ns` for `protocol` (`NETLINK_…`).
    pub(crate) fn open(ns: &NetNs, protocol: libc::c_int) -> Result<Self> {
        let fd = ns.run(|| {
            let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC;
            // SAFETY: no pointers are passed.
            let fd = unsafe { libc::socket(libc::AF_NETLINK, kind, protocol) };
            if fd < 0 {
                return Err(Error::last("socket(AF_NETLINK)"));
            }
            // SAFETY: the kernel just made this descriptor, and nobody else knows it.
            Ok(unsafe { OwnedFd::from_raw_fd(fd) })
        })??;
        Ok(Self { fd, buffer: vec![0; BUFFER], sequence: 0 })
    }

    /// Everything that the kernel answers to a request for a dump: `parse` turns each message into an item
    /// or passes over it. A dump that changes disturbed is begun anew.
    pub(crate) fn dump<T>(
        &mut self,
        call: &'static str,
        kind: u16,
        payload: &[u8],
        parse: impl Fn(&[u8]) -> Result<Option<T>>,
    ) -> Result<Vec<T>> {
        for _ in 0..ATTEMPTS {
            if let Some(items) = self.dump_once(call, kind, payload, &parse)? {
                return Ok(items);
            }
        }
        Err(Error::Disturbed { call, times: ATTEMPTS })
    }

    /// Sends a request and waits until the kernel confirms or refuses it.
    pub(crate) fn request(&mut self, call: &'static str, kind: u16, payload: &[u8]) -> Result<()> {
        self.request_with(call, kind, 0, payload)
    }

    /// As [`Socket::request`], with more flags (`NLM_F_…`).
    pub(crate) fn request_with(
        &mut self,
        call: &'static str,
        kind: u16,
        flags: i32,
        payload: &[u8],
    ) -> Result<()> {
        self.send(call, kind, (flags | libc::NLM_F_ACK) as u16, payload)?;
        loop {
            let length = self.receive(call)?;
            for message in Messages(self.buffer.get(..length).unwrap_or_default()) {
                let message = message?;
                if message.header.sequence == self.sequence
                    && i32::from(message.header.kind) == libc::NLMSG_ERROR
                {
                    return verdict(call, message.payload);
                }
            }
        }
    }

    /// Sends a request and answers what `parse` makes of the kernel's one message.
    pub(crate) fn ask<T>(
        &mut self,
        call: &'static str,
        kind: u16,
        payload: &[u8],
        parse: impl Fn(&[u8]) -> Result<T>,
    ) -> Result<T> {
        self.send(call, kind, 0, payload)?;
        loop {
            let length = self.receive(call)?;
            for message in Messages(self.buffer.get(..length).unwrap_or_default()) {
                let message = message?;
                if message.header.sequence != self.sequence {
                    continue;
                }
                return match i32::from(message.header.kind) {
                    libc::NLMSG_ERROR => Err(verdict(call, message.payload).err().unwrap_or(ODD)),
                    _ => parse(message.payload),
                };
            }
        }
    }

    /// `None` if the dump was disturbed; all of it has been read then, too.
    fn dump_once<T>(
        &mut self,
        call: &'static str,
        kind: u16,
        payload: &[u8],
        parse: impl Fn(&[u8]) -> Result<Option<T>>,
    ) -> Result<Option<Vec<T>>> {
        self.send(call, kind, libc::NLM_F_DUMP as u16, payload)?;
        let (mut items, mut disturbed) = (Vec::new(), false);
        loop {
            let length = self.receive(call)?;
            for message in Messages(self.buffer.get(..length).unwrap_or_default()) {
                let message = message?;
                if message.header.sequence != self.sequence {
                    continue;
                }
                disturbed |= i32::from(message.header.flags) & libc::NLM_F_DUMP_INTR != 0;
                match i32::from(message.header.kind) {
                    libc::NLMSG_DONE => {
                        verdict(call, message.payload)?;
                        return Ok((!disturbed).then_some(items));
                    }
                    libc::NLMSG_ERROR => return Err(verdict(call, message.payload).err().unwrap_or(ODD)),
                    libc::NLMSG_NOOP => {}
                    _ => items.extend(parse(message.payload)?),
                }
            }
        }
    }

    /// The cookie of the namespace that the socket belongs to (SO_NETNS_COOKIE, Linux 5.14).
    pub(crate) fn netns_cookie(&self) -> Result<u64> {
        netns_cookie(&self.fd)
    }

    fn send(&mut self, call: &'static str, kind: u16, flags: u16, payload: &[u8]) -> Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let header = Header {
            length: (size_of::<Header>() + payload.len()) as u32,
            kind,
            flags: flags | libc::NLM_F_REQUEST as u16,
            sequence: self.sequence,
            port: 0,
        };
        let message = [header.as_bytes(), payload].concat();
        let mut kernel = zeroed_address();
        kernel.nl_family = libc::AF_NETLINK as libc::sa_family_t;
        loop {
            // SAFETY: message and address are valid for the lengths given, and are only read.
            let sent = unsafe {
                libc::sendto(
                    self.fd.as_raw_fd(),
                    message.as_ptr().cast(),
                    message.len(),
                    0,
                    (&raw const kernel).cast(),
                    mem::size_of::<libc::sockaddr_nl>() as libc::socklen_t,
                )
            };
            match Error::last(call) {
                _ if sent >= 0 => return Ok(()),
                error if error.errno() == Some(libc::EINTR) => {}
                error => return Err(error),
            }
        }
    }

    /// Waits for the kernel's next datagram and returns its length in the buffer.
    fn receive(&mut self, call: &'static str) -> Result<usize> {
        loop {
            let mut sender = zeroed_address();
            let mut size = mem::size_of::<libc::sockaddr_nl>() as libc::socklen_t;
            // SAFETY: buffer and address have room for the lengths given.
            let length = unsafe {
                libc::recvfrom(
                    self.fd.as_raw_fd(),
                    self.buffer.as_mut_ptr().cast(),
                    self.buffer.len(),
                    libc::MSG_TRUNC,
                    (&raw mut sender).cast(),
                    &raw mut size,
                )
            };
            let Ok(length) = usize::try_from(length) else {
                match Error::last(call) {
                    error if error.errno() == Some(libc::EINTR) => continue,
                    error => return Err(error),
                }
            };
            // A process with CAP_NET_ADMIN in the namespace could write to us; only the kernel is port 0.
            if sender.nl_pid != 0 {
                continue;
            }
            if length > self.buffer.len() {
                return Err(ODD);
            }
            return Ok(length);
        }
    }
}

/// The cookie of the namespace that `socket` was made in.
pub(crate) fn netns_cookie(socket: &impl AsRawFd) -> Result<u64> {
    // libc does not name it.
    const SO_NETNS_COOKIE: libc::c_int = 71;
    let mut cookie = 0_u64;
    let mut length = size_of::<u64>() as libc::socklen_t;
    // SAFETY: `cookie` has room for `length` bytes.
    let status = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    if status != 0 {
        return Err(Error::last("getsockopt(SO_NETNS_COOKIE)"));
    }
    Ok(cookie)
}

/// The attributes in `bytes`: (type without flags, value).
pub(crate) fn attributes(bytes: &[u8]) -> impl Iterator<Item = Result<(u16, &[u8])>> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        if rest.len() < 4 {
            return None;
        }
        let parsed = split_attribute(rest);
        rest = parsed.map_or(&[], |(_, _, after)| after);
        Some(parsed.map(|(kind, value, _)| (kind, value)).ok_or(ODD))
    })
}

/// Appends an attribute to `to`.
pub(crate) fn push_attribute(to: &mut Vec<u8>, kind: u16, value: &[u8]) {
    to.extend(((value.len() + 4) as u16).to_ne_bytes());
    to.extend(kind.to_ne_bytes());
    to.extend(value);
    to.resize(to.len().next_multiple_of(4), 0);
}

fn split_attribute(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let (length, after) = u16::read_from_prefix(bytes).ok()?;
    let (kind, _) = u16::read_from_prefix(after).ok()?;
    let length = usize::from(length);
    let after = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    // The two highest bits say "nested" and "network byte order".
    Some((kind & 0x3fff, bytes.get(4..length)?, after))
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Header {
    length: u32,
    kind: u16,
    flags: u16,
    sequence: u32,
    port: u32,
}

struct Message<'a> {
    header: Header,
    payload: &'a [u8],
}

/// The messages of a datagram. After a malformed one there is no next.
struct Messages<'a>(&'a [u8]);

impl<'a> Iterator for Messages<'a> {
    type Item = Result<Message<'a>>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let bytes = mem::take(&mut self.0);
        let Ok((header, _)) = Header::read_from_prefix(bytes) else {
            return Some(Err(ODD));
        };
        let length = header.length as usize;
        let Some(payload) = bytes.get(size_of::<Header>()..length) else {
            return Some(Err(ODD));
        };
        self.0 = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(Ok(Message { header, payload }))
    }
}

/// The negative error number, or 0, at the beginning of NLMSG_ERROR and NLMSG_DONE.
fn verdict(call: &'static str, payload: &[u8]) -> Result<()> {
    match i32::read_from_prefix(payload) {
        Ok((0, _)) => Ok(()),
        Ok((errno, _)) => Err(Error::from_errno(call, errno.saturating_neg())),
        Err(_) => Err(ODD),
    }
}

fn zeroed_address() -> libc::sockaddr_nl {
    // SAFETY: plain numbers, for which zero is a value.
    unsafe { mem::zeroed() }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn attributes_are_read_as_they_were_written() {
        let mut bytes = Vec::new();
        push_attribute(&mut bytes, 7, b"abcde");
        push_attribute(&mut bytes, 0x8000 | 9, b"");
        push_attribute(&mut bytes, 11, b"fghi");
        assert_eq!(bytes.len(), 12 + 4 + 8);
        let read: Vec<_> = attributes(&bytes).map(Result::unwrap).collect();
        assert_eq!(read, [(7, &b"abcde"[..]), (9, b""), (11, b"fghi")]);
    }

    #[test]
    fn lying_lengths_are_errors_and_end_the_reading() {
        for bytes in [[0, 0, 1, 0], [3, 0, 1, 0], [5, 0, 1, 0], [255, 255, 1, 0]] {
            let read: Vec<_> = attributes(&bytes).collect();
            assert!(matches!(*read, [Err(Error::Malformed { .. })]), "{bytes:?}");
        }
        for length in [0_u32, 15, 17, u32::MAX] {
            let header = Header { length, kind: 1, flags: 0, sequence: 0, port: 0 };
            let mut messages = Messages(header.as_bytes());
            assert!(messages.next().unwrap().is_err(), "{length}");
            assert!(messages.next().is_none());
        }
    }
}
