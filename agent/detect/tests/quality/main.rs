//! How often the findings are right: weeks of ordinary and hostile traffic of which the truth is known,
//! replayed with the clock handed in.
//!
//! Each scenario is a seed: a small company with offices, backups, monitors, deployments and the noise of
//! the internet, in which things happen that should be found, at random times, of random size, some of
//! them too small or too slow to be. The thresholds of the machines were chosen on other seeds than the
//! ones that are run here. `cargo test -p bulkhead-detect --test quality -- --nocapture` prints the table;
//! `QUALITY_SEEDS=100` replays as many scenarios, which wants `--release`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, missing_docs)]

mod hostile;
mod ordinary;
mod random;
mod score;
mod world;

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use bulkhead_detect::findings::Kind;
use score::Score;
use world::World;

/// Seeds from here on are never used to choose a threshold.
const FIRST_SEED: u64 = 5000;
/// Scenarios in an ordinary run of the tests.
const SEEDS: u64 = 12;

/// One company for two weeks.
fn scenario(seed: u64, attacked: bool) -> Score {
    let mut world = World::new(seed);
    let mut actors = ordinary::company(&mut world);
    if attacked {
        actors.extend(hostile::episodes(&mut world));
    }
    world.play(actors);
    world.score()
}

fn replay(attacked: bool) -> Score {
    let seeds = std::env::var("QUALITY_SEEDS").ok().and_then(|count| count.parse().ok()).unwrap_or(SEEDS);
    let first = std::env::var("QUALITY_FIRST").ok().and_then(|seed| seed.parse().ok()).unwrap_or(FIRST_SEED);
    let (next, total) = (AtomicU64::new(first), Mutex::new(Score::default()));
    let workers = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= first + seeds {
                        return;
                    }
                    let score = scenario(seed, attacked);
                    total.lock().unwrap().add(score);
                }
            });
        }
    });
    total.into_inner().unwrap()
}

#[test]
fn findings_are_right_and_few_things_are_missed() {
    let score = replay(true);
    println!("{score}");
    for kind in Kind::ALL {
        let (precision, recall) = score.of(*kind);
        // What is seen in one flow is certain; what is a matter of degree is not, and the episodes
        // begin below what any threshold could tell from noise.
        let (least_precision, least_recall) = match kind {
            Kind::Plaintext
            | Kind::TlsTooOld
            | Kind::WeakCipher
            | Kind::CertificateExpired
            | Kind::CertificateExpiring
            | Kind::Tampering => (1.0, 1.0),
            // Two that follow each other closely are one finding.
            Kind::FlowTablePressure | Kind::EventLoss => (1.0, 0.9),
            Kind::NewEdge => (0.95, 0.95),
            Kind::DeniedBurst | Kind::AuthenticationFailures => (0.9, 0.8),
            Kind::EncryptionStopped | Kind::PortScan | Kind::SynFlood => (0.9, 0.6),
            Kind::HostSweep | Kind::UnusualRate | Kind::UnusualVolume => (0.8, 0.6),
        };
        assert!(precision >= least_precision, "{kind}: precision {precision:.2}\n{score}");
        assert!(recall >= least_recall, "{kind}: recall {recall:.2}\n{score}");
    }
}

#[test]
fn a_quiet_company_hears_next_to_nothing() {
    let score = replay(false);
    println!("without any attack: {:.2} findings a week", score.wrong_a_week());
    assert!(score.wrong_a_week() <= 0.5, "{score}");
}
