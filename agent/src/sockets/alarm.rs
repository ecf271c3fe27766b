//! The alarm of a full flow table: told once when new flows begin to be denied for want of room, and
//! once when that is over, however many are denied in between.
//!
//! Driven by the kernel's own counters, which lose nothing: a table that was full between two looks is
//! noticed, too. If they cannot be read nothing is told, and the next look makes up for it.

use std::time::{Duration, Instant};

use bulkhead_abi::Reason;

use crate::datapath::Reader;

/// How long no flow must have been denied before the alarm is over.
const QUIET: Duration = Duration::from_secs(10);
/// How often the counters are read while there is much room.
const CALM: Duration = Duration::from_secs(10);

/// What the alarm says.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct FlowTable {
    /// New flows are denied for want of room, or were a moment ago.
    pub full: bool,
    /// How often that began since the agent started.
    pub episodes: u64,
}

/// Watches the counters.
#[derive(Debug, Default)]
pub(super) struct Alarm {
    state: FlowTable,
    /// Flows that had been refused at the last look; `None` before the first.
    refused: Option<u64>,
    /// The same when the episode began.
    before: u64,
    /// When a flow was last seen to have been refused.
    last: Option<Instant>,
    /// When the counters were last read.
    looked: Option<Instant>,
}

impl Alarm {
    /// What it says now.
    pub(super) fn state(&self) -> FlowTable {
        self.state
    }

    /// What was refused before this agent came is no news.
    pub(super) fn begin(&mut self, reader: &Reader) {
        self.read(reader);
    }

    /// Looks at the counters, if it may be that the table, which holds so many `flows`, was full since.
    /// Reading them costs more than looking at the table: there is a number for each CPU.
    pub(super) fn look(&mut self, reader: &Reader, flows: usize) {
        let capacity = reader.maps().flows.capacity().unwrap_or(0);
        let calm = !self.state.full && flows < capacity / 2;
        if calm && self.looked.is_some_and(|looked| looked.elapsed() < CALM) {
            return;
        }
        self.read(reader);
    }

    fn read(&mut self, reader: &Reader) {
        self.looked = Some(Instant::now());
        let counters = match reader.counters() {
            Ok(counters) => counters,
            Err(error) => {
                tracing::warn!(%error, "cannot read the counters; a full flow table would not be noticed");
                return;
            }
        };
        let full = counters.iter().filter(|(key, _)| key.reason == Reason::FlowTableFull as u8);
        match self.see(full.map(|(_, counter)| counter.flows).sum(), Instant::now()) {
            Some(News::Full) => tracing::warn!(
                "a flow table is full: new flows that need room in it are denied, those that are in it \
                 live on; `bulkhead_flows_total{{reason=\"flow-table-full\"}}` tells whose, and \
                 `flow_capacity` in the configuration gives it more room"
            ),
            Some(News::Over { refused }) => {
                tracing::info!(refused, "the flow table has room again");
            }
            None => {}
        }
    }

    fn see(&mut self, refused: u64, now: Instant) -> Option<News> {
        let before = self.refused.replace(refused).unwrap_or(refused);
        if refused > before {
            self.last = Some(now);
            if !self.state.full {
                self.state = FlowTable { full: true, episodes: self.state.episodes + 1 };
                self.before = before;
                return Some(News::Full);
            }
        } else if self.state.full && self.last.is_none_or(|last| now.duration_since(last) >= QUIET) {
            self.state.full = false;
            return Some(News::Over { refused: refused.saturating_sub(self.before) });
        }
        None
    }
}

#[derive(PartialEq, Eq, Debug)]
enum News {
    Full,
    Over { refused: u64 },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_episode_is_told_when_it_begins_and_when_it_ends() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut alarm = Alarm::default();
        assert_eq!(alarm.see(7, at(0)), None, "of an earlier agent's time");
        assert_eq!(alarm.see(7, at(1)), None);
        assert_eq!(alarm.see(10, at(2)), Some(News::Full));
        assert_eq!((alarm.see(99, at(3)), alarm.see(99, at(4))), (None, None));
        assert_eq!(alarm.state(), FlowTable { full: true, episodes: 1 });
        assert_eq!(alarm.see(100, at(12)), None, "not over yet");
        assert_eq!(alarm.see(100, at(21)), None);
        assert_eq!(alarm.see(100, at(22)), Some(News::Over { refused: 93 }));
        assert_eq!(alarm.state(), FlowTable { full: false, episodes: 1 });
        assert_eq!(alarm.see(101, at(30)), Some(News::Full));
        assert_eq!(alarm.state().episodes, 2);
    }
}
