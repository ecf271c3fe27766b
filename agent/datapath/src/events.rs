//! The event ring.

use std::os::fd::{AsRawFd, RawFd};

use aya::maps::{Map, MapData, RingBuf};
use bulkhead_abi::Event;
use zerocopy::FromBytes as _;

use crate::{DatapathError, maps::Maps};

/// The reading end of the ring. One reader at a time.
pub struct EventStream {
    ring: RingBuf<MapData>,
}

impl EventStream {
    pub(crate) fn open(maps: &Maps) -> Result<Self, DatapathError> {
        let fd = maps.events.try_clone().map_err(DatapathError::io("duplicate", "the event ring"))?;
        let map = Map::from_map_data(MapData::from_fd(fd)?)?;
        Ok(Self { ring: RingBuf::try_from(map)? })
    }

    /// Takes at most `max` events out of the ring. A caller that gets `max` should come again soon, but
    /// let others run first: a flood has no end.
    pub fn drain(&mut self, max: usize) -> Vec<Event> {
        let mut events = Vec::new();
        while events.len() < max {
            let Some(item) = self.ring.next() else { break };
            if let Ok(event) = Event::read_from_bytes(&item) {
                events.push(event);
            }
        }
        events
    }
}

impl AsRawFd for EventStream {
    /// Readable when there are events.
    fn as_raw_fd(&self) -> RawFd {
        self.ring.as_raw_fd()
    }
}
