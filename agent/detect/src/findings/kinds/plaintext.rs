//! Clear text where the rule's `tls` wants encryption: one flow is enough.

use bulkhead_abi::{App, Class, Reason, Tls, Verdict};

use super::Machine;
use crate::findings::finding::{Evidence, Key, Kind, Severity, Subject};
use crate::findings::ledger::Ledger;
use crate::findings::observation::{Flow, Observation};
use crate::findings::time::Time;

#[derive(Debug)]
pub(super) struct Plaintext;

impl Machine for Plaintext {
    fn observe(&mut self, at: Time, seen: &Observation, ledger: &mut Ledger) {
        match seen {
            Observation::Classified { flow, class: Class::Clear, app, level, verdict }
                if *level >= Tls::Report =>
            {
                raise(at, flow, Some(*app), *verdict, ledger);
            }
            Observation::Denied { flow, verdict, reason: Reason::ClearText } => {
                raise(at, flow, None, *verdict, ledger);
            }
            _ => {}
        }
    }
}

fn raise(at: Time, flow: &Flow, app: Option<App>, verdict: Verdict, ledger: &mut Ledger) {
    // What was stopped did no harm; what was not did.
    let severity = if verdict == Verdict::Deny { Severity::Medium } else { Severity::High };
    let key = Key::new(Kind::Plaintext, flow.edge.clone(), Subject::Port(flow.port_name()));
    ledger.raise(at, key, severity, 1, || {
        let stopped = if verdict == Verdict::Deny { "yes" } else { "no" };
        let evidence = Evidence::new().with("stopped", stopped);
        let evidence = match app {
            Some(app) => evidence.with("protocol", app.as_str()),
            None => evidence,
        };
        evidence.with("last-source", flow.src).with("last-destination", flow.dst)
    });
}
