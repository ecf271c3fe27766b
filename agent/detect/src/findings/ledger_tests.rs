//! The ledger's promises: grouping, holding, limits, acknowledging.

use super::*;

fn at(seconds: u64) -> Time {
    Time::from_secs(1_000_000_000 + seconds)
}

fn key(kind: Kind, edge: &str, port: &str) -> Key {
    Key::new(kind, Edge::new(edge, "db"), Subject::Port(port.to_owned()))
}

fn ledger() -> Ledger {
    Ledger::new(BTreeSet::new())
}

fn raise(ledger: &mut Ledger, at: Time, key: &Key) {
    ledger.raise(at, key.clone(), Severity::Medium, 1, || Evidence::new().with("a", 1));
}

fn told(ledger: &mut Ledger) -> Vec<(What, String)> {
    ledger
        .take_changes()
        .into_iter()
        .map(|change| (change.what, change.finding.key.subject.to_string()))
        .collect()
}

#[test]
fn sightings_are_one_finding_that_ends_and_comes_back_as_itself() {
    let (mut ledger, key) = (ledger(), key(Kind::Plaintext, "web", "tcp/80"));
    (0..5).for_each(|second| raise(&mut ledger, at(second), &key));
    assert_eq!(told(&mut ledger), [(What::Opened, "tcp/80".to_owned())]);
    ledger.tick(at(3000));
    assert!(ledger.is_live(&key));
    ledger.tick(at(3605));
    assert_eq!(told(&mut ledger), [(What::Resolved, "tcp/80".to_owned())]);
    raise(&mut ledger, at(9000), &key);
    let change = ledger.take_changes().pop().expect("it came back");
    assert_eq!((change.what, change.finding.count, change.finding.times), (What::Opened, 6, 2));
    assert_eq!((change.finding.first_seen, change.finding.opened), (at(0), at(9000)));
}

#[test]
fn growth_is_told_by_tens_and_no_more_than_once_a_minute() {
    let (mut ledger, key) = (ledger(), key(Kind::Plaintext, "web", "tcp/80"));
    (0..3600).for_each(|second| raise(&mut ledger, at(second), &key));
    let told = told(&mut ledger);
    assert_eq!(
        told.iter().filter(|(what, _)| *what == What::Updated).count(),
        2,
        "at 60 and at 600: {told:?}"
    );
    ledger.raise(at(3601), key, Severity::Critical, 1, Evidence::new);
    assert_eq!(ledger.take_changes().len(), 1, "graver is told at once");
}

#[test]
fn a_storm_on_one_edge_folds_and_hides_nothing_on_another() {
    let mut ledger = ledger();
    for number in 0..10_000 {
        raise(&mut ledger, at(number / 100), &key(Kind::Plaintext, "web", &format!("tcp/{number}")));
    }
    let told = told(&mut ledger);
    assert!(told.len() < 20, "{}", told.len());
    assert!(told.contains(&(What::Opened, "more of the same".to_owned())));
    assert_eq!(told.iter().filter(|(_, subject)| subject.starts_with("tcp")).count(), 9);
    let others = Key::new(Kind::Plaintext, Edge::new("web", "db"), Subject::Others);
    let count = ledger.iter().find(|finding| finding.key == others).map(|finding| finding.count);
    assert_eq!(count, Some(10_000 - 9), "nothing is left uncounted");
    assert_eq!(ledger.suppressed().get(&Kind::Plaintext), Some(&(10_000 - 9)));
    raise(&mut ledger, at(101), &key(Kind::Plaintext, "batch", "tcp/80"));
    raise(&mut ledger, at(101), &key(Kind::WeakCipher, "web", "tcp/443"));
    assert_eq!(ledger.take_changes().len(), 2);
}

#[test]
fn a_storm_over_many_edges_and_days_stays_bounded() {
    let mut ledger = ledger();
    let mut told = 0;
    for number in 0..30_000_u64 {
        let now = at(number * 30);
        raise(
            &mut ledger,
            now,
            &key(Kind::PortScan, &format!("zone-{}", number % 5000), &number.to_string()),
        );
        if number % 4 == 0 {
            ledger.tick(now);
        }
        told += ledger.take_changes().len();
    }
    assert!(ledger.iter().count() <= LIVE + LIVE_ON_EDGE + 1 + RESOLVED, "{}", ledger.iter().count());
    // 1500 stretches of ten minutes, thirty new ones and their ends in each at most.
    assert!(told < 1_500 * 62, "{told}");
}

#[test]
fn what_was_seen_is_silent_until_it_ends() {
    let (mut ledger, key) = (ledger(), key(Kind::Plaintext, "web", "tcp/80"));
    raise(&mut ledger, at(0), &key);
    ledger.acknowledge(at(1), &key.id(), None, Some("known\n".to_owned())).expect("it is there");
    (2..1000).for_each(|second| raise(&mut ledger, at(second), &key));
    ledger.tick(at(8000));
    let what: Vec<What> = ledger.take_changes().into_iter().map(|change| change.what).collect();
    assert_eq!(what, [What::Opened, What::Acknowledged]);
    assert_eq!(ledger.acknowledge(at(8001), &key.id(), None, None), Err(AcknowledgeError::Ended(key.id())));
    raise(&mut ledger, at(9000), &key);
    assert_eq!(ledger.take_changes().len(), 1, "it came back, and nobody has seen that");
}

#[test]
fn silence_for_a_time_outlasts_the_finding_and_then_ends() {
    let (mut ledger, key) = (ledger(), key(Kind::Plaintext, "web", "tcp/80"));
    raise(&mut ledger, at(0), &key);
    ledger.acknowledge(at(1), &key.id(), Some(at(100_000)), None).expect("it is there");
    ledger.take_changes();
    ledger.tick(at(5_000));
    raise(&mut ledger, at(50_000), &key);
    assert!(ledger.take_changes().is_empty());
    raise(&mut ledger, at(99_999), &key);
    ledger.tick(at(100_000));
    assert_eq!(told(&mut ledger), [(What::Opened, "tcp/80".to_owned())]);
    assert_eq!(
        ledger.acknowledge(at(1), "nothing", None, None),
        Err(AcknowledgeError::Unknown("nothing".into()))
    );
}

#[test]
fn kinds_that_are_off_are_never_made() {
    let mut ledger = Ledger::new([Kind::NewEdge].into());
    raise(&mut ledger, at(0), &key(Kind::NewEdge, "web", "-"));
    assert_eq!(ledger.iter().count(), 0);
}
