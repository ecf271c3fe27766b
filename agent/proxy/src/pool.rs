//! Tunnels that are open, by route. However many connections want one at the same moment, only one dials.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::end::Refusal;
use crate::node::{Edge, Node};
use crate::proxy::Shared;
use crate::settings::Settings;
use crate::tunnel::{Lease, Route, Tunnel};
use crate::watch;

/// A failure is the answer to everybody who waited for the same dialling, and for so long after it.
const REMEMBERED: Duration = Duration::from_millis(100);

/// See the module's comment.
#[derive(Default)]
pub(crate) struct Pool {
    slots: Mutex<HashMap<Route, Arc<Slot>>>,
}

#[derive(Default)]
struct Slot(tokio::sync::Mutex<Open>);

#[derive(Default)]
struct Open {
    tunnels: Vec<Arc<Tunnel>>,
    failed: Option<(Instant, Refusal)>,
}

impl Pool {
    /// A place in a tunnel along `route`; one that others have opened, or a new one.
    pub(crate) async fn lease<N: Node>(
        &self,
        shared: &Shared<N>,
        route: &Route,
        edge: &Edge,
        since: Instant,
    ) -> Result<Lease, Refusal> {
        let (keeper, settings) = (&shared.keeper, &shared.settings);
        let slot = Arc::clone(self.lock().entry(route.clone()).or_default());
        let asked = Instant::now();
        let mut open = slot.0.lock().await;
        // A peer that was revoked since carries nothing new, nor does a tunnel whose certificates are over; what
        // they carry is ended, where it has to be, by who watches it.
        open.tunnels.retain(|tunnel| {
            !tunnel.is_closed() && tunnel.is_believed(keeper) && !watch::is_past(tunnel.expires)
        });
        if let Some(young) = open.tunnels.iter().find(|tunnel| !tunnel.has_told()) {
            // How much more it takes is known in a moment.
            let _ = tokio::time::timeout(settings.handshake, young.told()).await;
        }
        if let Some(lease) = open.tunnels.iter().find_map(|tunnel| tunnel.lease(settings.streams)) {
            return Ok(lease);
        }
        if let Some((when, refusal)) = &open.failed
            && (*when >= asked || when.elapsed() < REMEMBERED)
        {
            return Err(refusal.clone());
        }
        match Box::pin(Tunnel::dial(shared, route, edge, since)).await {
            Ok(tunnel) => {
                open.failed = None;
                let lease = tunnel.lease(settings.streams);
                open.tunnels.push(tunnel);
                lease.ok_or_else(|| Refusal::new(crate::end::reason::PROTOCOL, "the new tunnel has closed"))
            }
            Err(refusal) => {
                open.failed = Some((Instant::now(), refusal.clone()));
                Err(refusal)
            }
        }
    }

    /// Closes what carries nothing; to be called now and then.
    pub(crate) fn sweep(&self, settings: &Settings) {
        self.lock().retain(|_, slot| {
            // Who holds it is about to use it.
            let Ok(mut open) = slot.0.try_lock() else { return true };
            open.tunnels.retain(|tunnel| !tunnel.is_closed() && !tunnel.is_idle(settings));
            !open.tunnels.is_empty() || Arc::strong_count(slot) > 1
        });
    }

    /// Gives up all tunnels: what they carry goes on, nothing new is carried.
    pub(crate) fn clear(&self) {
        self.lock().clear();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Route, Arc<Slot>>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
