//! The table of connections that were turned into the proxy, by its bare descriptor: all that a process
//! without privileges needs to learn where its clients wanted to go.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use bulkhead_abi::{Addr, TurnedKey, TurnedValue};
use zerocopy::{FromZeros, IntoBytes};

use crate::map::Map;
use crate::{Error, Result};

/// The table, open.
#[derive(Debug)]
pub struct Turned(OwnedFd);

impl Turned {
    /// The table behind `fd`, which may have come from another process. EBADF or EINVAL if there is no map
    /// behind it, [`Error::Length`] if that is another one.
    pub fn new(fd: OwnedFd) -> Result<Self> {
        let map = Map::new(fd.as_fd())?;
        for (what, found, wanted) in [
            ("key", map.key_len(), size_of::<TurnedKey>()),
            ("value", map.value_len(), size_of::<TurnedValue>()),
        ] {
            if found != wanted {
                return Err(Error::Length { what, map: map.shape().id, found, wanted });
            }
        }
        Ok(Self(fd))
    }

    /// What is known of `client`, which came to the capture listener of the network namespace with this
    /// cookie. `None`: the kernel has not turned it (or so many since that it was forgotten), and it is to
    /// be refused.
    pub fn lookup(&self, netns: u64, client: SocketAddr) -> Result<Option<TurnedValue>> {
        let addr = match client.ip() {
            IpAddr::V4(v4) => Addr::v4(v4.octets()),
            IpAddr::V6(v6) => Addr::from_octets(v6.octets()),
        };
        let key = TurnedKey::new(netns, addr, client.port());
        let mut value = TurnedValue::new_zeroed();
        let found = Map::new(self.0.as_fd())?.read(key.as_bytes(), value.as_mut_bytes())?;
        Ok(found.then_some(value))
    }

    /// The descriptor alone, to be handed on.
    pub fn into_fd(self) -> OwnedFd {
        self.0
    }
}

impl AsFd for Turned {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::bpf::NewMap;
    use crate::testing;

    #[test]
    fn clients_are_found_by_namespace_address_and_port() {
        if !testing::root("turned connections") {
            return;
        }
        let [key_size, value_size] = [size_of::<TurnedKey>(), size_of::<TurnedValue>()].map(|len| len as u32);
        let shape = NewMap { kind: 1, key_size, value_size, max_entries: 4, ..Default::default() };
        let fd = shape.create().unwrap();
        let client = Addr::v4([10, 0, 0, 1]);
        let value = TurnedValue { original: Addr::v4([10, 0, 0, 2]), port: 80, ..TurnedValue::default() };
        let key = TurnedKey::new(7, client, 4000);
        Map::new(fd.as_fd()).unwrap().set(key.as_bytes(), value.as_bytes(), 0).unwrap();
        let turned = Turned::new(fd).unwrap();
        let lookup = |netns, client: &str| turned.lookup(netns, client.parse().unwrap()).unwrap();
        assert_eq!(lookup(7, "10.0.0.1:4000"), Some(value));
        assert_eq!(lookup(7, "[::ffff:10.0.0.1]:4000"), Some(value), "as a dual-stack listener sees it");
        for (netns, other) in [(8, "10.0.0.1:4000"), (7, "10.0.0.1:4001"), (7, "10.0.0.2:4000")] {
            assert_eq!(lookup(netns, other), None, "{netns} {other}");
        }
        let other = NewMap { kind: 1, key_size, value_size: 8, max_entries: 4, ..Default::default() };
        assert!(matches!(Turned::new(other.create().unwrap()), Err(Error::Length { what: "value", .. })));
    }
}
