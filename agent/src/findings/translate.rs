//! The kernel's events as observations: identities become names of zones.

use bulkhead_abi::{App, Class, Event, EventKind, Reason, Tls, Verdict};
use bulkhead_detect::findings::{Edge, Flow, Observation};
use bulkhead_policy::prefix::to_ip;

use crate::daemon::snapshot::Snapshot;

/// What an event says, if it says anything here.
pub(super) fn observation(event: &Event, snapshot: &Snapshot) -> Option<Observation> {
    let flow = || Flow {
        edge: Edge::new(snapshot.labels.get(event.from), snapshot.labels.get(event.to)),
        src: to_ip(event.src),
        dst: to_ip(event.dst),
        port: event.dst_port,
        protocol: event.protocol,
    };
    let verdict = Verdict::from_code(event.verdict);
    match EventKind::from_code(event.kind)? {
        EventKind::Verdict if verdict == Verdict::Allow => Some(Observation::Opened(flow())),
        EventKind::Verdict => {
            Some(Observation::Denied { flow: flow(), verdict, reason: Reason::from_code(event.reason) })
        }
        EventKind::Classified => Some(Observation::Classified {
            flow: flow(),
            class: Class::from_code(event.class),
            app: App::from_code(event.app),
            level: Tls::from_code(event.level),
            verdict,
        }),
        EventKind::Bound | EventKind::Doomed | EventKind::Namespace => None,
    }
}
