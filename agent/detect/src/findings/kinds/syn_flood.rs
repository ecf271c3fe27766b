//! Connections that are begun and never made.
//!
//! Two signs, both counted by the kernel. On an edge: very many flows of hardly more than one small packet
//! each, which nothing that does work looks like. On the node, in any namespace that a workload lives in:
//! its TCP sends SYN cookies, or drops what its listeners have no room for; a flood that is answered, and whose
//! answers are sent again, shows only so. A flood of single small datagrams looks the same and is worth the
//! same word.

use std::collections::HashMap;
use std::time::Duration;

use super::{EDGES, Machine, make_room};
use crate::findings::finding::{Evidence, Key, Kind, Severity, Subject};
use crate::findings::ledger::Ledger;
use crate::findings::observation::{Edge, Observation};
use crate::findings::time::Time;
use crate::findings::window::Window;

const SPAN: Duration = Duration::from_secs(10);
/// Flows within [`SPAN`] that open a finding, and that keep it open.
const FLOWS: [f64; 2] = [2000.0, 500.0];
/// Packets a flow at most: the SYN, and for some its repetition.
const PACKETS: f64 = 1.7;
/// Bytes a packet at most: a SYN with every option, over IPv6.
const BYTES: f64 = 90.0;
/// Cookies and overflows within [`SPAN`] that open a finding, and that keep it open.
const BACKLOG: [f64; 2] = [50.0, 10.0];

#[derive(Debug)]
pub(super) struct SynFlood {
    edges: HashMap<Edge, State>,
    backlog: Window,
}

impl Default for SynFlood {
    fn default() -> Self {
        Self { edges: HashMap::new(), backlog: Window::new(SPAN) }
    }
}

#[derive(Debug)]
struct State {
    flows: Window,
    packets: Window,
    bytes: Window,
    last: Time,
}

impl Machine for SynFlood {
    fn observe(&mut self, at: Time, seen: &Observation, ledger: &mut Ledger) {
        match seen {
            Observation::Counted { edge, flows, packets, bytes, .. } => {
                self.counted(at, edge, [*flows, *packets, *bytes], ledger);
            }
            Observation::Backlog { cookies, overflows } => {
                let now = self.backlog.add(at, cookies.saturating_add(*overflows));
                let key = Key::new(Kind::SynFlood, Edge::node(), Subject::Object("listeners".to_owned()));
                let open = ledger.is_live(&key);
                if now >= limit(BACKLOG, open) && cookies.saturating_add(*overflows) > 0 {
                    let count = if open { cookies.saturating_add(*overflows) } else { now as u64 };
                    ledger.raise(at, key, Severity::High, count, || {
                        Evidence::new().with("syn-cookies", cookies).with("listener-drops", overflows)
                    });
                }
            }
            _ => {}
        }
    }
}

impl SynFlood {
    fn counted(&mut self, at: Time, edge: &Edge, [flows, packets, bytes]: [u64; 3], ledger: &mut Ledger) {
        if !self.edges.contains_key(edge) {
            make_room(&mut self.edges, EDGES, |state| state.last);
        }
        let state = self.edges.entry(edge.clone()).or_insert_with(|| State {
            flows: Window::new(SPAN),
            packets: Window::new(SPAN),
            bytes: Window::new(SPAN),
            last: at,
        });
        state.last = at;
        let flows_now = state.flows.add(at, flows);
        let packets_now = state.packets.add(at, packets);
        let bytes_now = state.bytes.add(at, bytes);
        if flows_now < limit(FLOWS, true) || flows == 0 {
            return;
        }
        let key = Key::new(Kind::SynFlood, edge.clone(), Subject::Edge);
        let open = ledger.is_live(&key);
        let small = packets_now <= PACKETS * flows_now && bytes_now <= BYTES * packets_now.max(flows_now);
        if !small || flows_now < limit(FLOWS, open) {
            return;
        }
        let count = if open { flows } else { flows_now as u64 };
        ledger.raise(at, key, Severity::High, count, || {
            Evidence::new()
                .with("flows-in-ten-seconds", flows_now.round())
                .with("packets-a-flow", format!("{:.2}", packets_now / flows_now.max(1.0)))
                .with("bytes-a-packet", format!("{:.0}", bytes_now / packets_now.max(1.0)))
        });
    }
}

fn limit([opens, keeps]: [f64; 2], open: bool) -> f64 {
    if open { keeps } else { opens }
}
