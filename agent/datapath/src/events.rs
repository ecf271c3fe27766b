//! The rings: what happens, and how handshakes begin.

use std::{
    marker::PhantomData,
    os::fd::{AsRawFd, OwnedFd, RawFd},
};

use aya::maps::{Map, MapData, RingBuf};
use bulkhead_abi::{Event, inspect::Piece};
use zerocopy::{FromBytes, Immutable, KnownLayout};

use crate::{DatapathError, maps::Maps};

/// The reading end of the event ring.
pub type EventStream = Ring<Event>;

/// The reading end of the ring of opening bytes.
pub type PieceStream = Ring<Piece>;

/// The reading end of a ring of `T`s. One reader at a time.
pub struct Ring<T> {
    ring: RingBuf<MapData>,
    _types: PhantomData<fn() -> T>,
}

impl Ring<Event> {
    pub(crate) fn open(maps: &Maps) -> Result<Self, DatapathError> {
        Self::of(&maps.events, "the event ring")
    }
}

impl Ring<Piece> {
    pub(crate) fn open(maps: &Maps) -> Result<Self, DatapathError> {
        Self::of(&maps.pieces, "the ring of opening bytes")
    }
}

impl<T: FromBytes + KnownLayout + Immutable> Ring<T> {
    fn of(fd: &OwnedFd, name: &'static str) -> Result<Self, DatapathError> {
        let fd = fd.try_clone().map_err(DatapathError::io("duplicate", name))?;
        let map = Map::from_map_data(MapData::from_fd(fd)?)?;
        Ok(Self { ring: RingBuf::try_from(map)?, _types: PhantomData })
    }

    /// Takes at most `max` records out of the ring. A caller that gets `max` should come again soon, but
    /// let others run first: a flood has no end.
    pub fn drain(&mut self, max: usize) -> Vec<T> {
        let mut records = Vec::new();
        while records.len() < max {
            let Some(item) = self.ring.next() else { break };
            if let Ok(record) = T::read_from_bytes(&item) {
                records.push(record);
            }
        }
        records
    }
}

impl<T> AsRawFd for Ring<T> {
    /// Readable when there are records.
    fn as_raw_fd(&self) -> RawFd {
        self.ring.as_raw_fd()
    }
}
