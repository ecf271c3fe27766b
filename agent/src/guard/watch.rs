//! Following interfaces as they come and go, and looking whether the guard is still where it was put.

use std::time::{Duration, Instant};

use bulkhead_sys::netns::{Change, Monitor, NetNs};

use super::Guards;

/// How often interfaces are listed without a reason.
const RELIST: Duration = Duration::from_secs(60);
/// How often it is looked whether every program is in its place.
const CHECK: Duration = Duration::from_millis(500);

/// Works until the guard is stopped.
pub(super) fn run(guards: &Guards, mut monitor: Monitor, own: &NetNs) {
    let (mut listed, mut checked) = (Instant::now(), Instant::now());
    loop {
        let changes = monitor.wait(CHECK.saturating_sub(checked.elapsed())).unwrap_or_else(|error| {
            tracing::warn!(%error, "news of interfaces cannot be read; they are listed instead");
            std::thread::sleep(CHECK);
            vec![Change::Lost]
        });
        let noticed = Instant::now();
        let mut state = guards.lock();
        if state.is_stopped() {
            return;
        }
        let mut relist = listed.elapsed() >= RELIST;
        for change in &changes {
            match change {
                Change::Interface(interface) => state.meet(interface, noticed),
                Change::Gone(index) => relist |= state.lose(*index),
                Change::Address => state.news.own = true,
                Change::Elsewhere(number) => {
                    state.news.namespaces.insert(*number);
                }
                Change::Lost => {
                    tracing::info!("news of interfaces were lost; they are listed");
                    state.news.lost = true;
                    relist = true;
                }
            }
        }
        if relist {
            listed = Instant::now();
            match own.interfaces() {
                Ok(interfaces) => state.meet_all(&interfaces),
                Err(error) => tracing::warn!(%error, "the interfaces cannot be listed"),
            }
        }
        if checked.elapsed() >= CHECK {
            checked = Instant::now();
            state.check();
        }
    }
}
