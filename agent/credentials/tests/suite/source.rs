//! Sources at work: folders that change under them.

use std::collections::BTreeSet;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bulkhead_credentials::authority::{NodeFolder, RootFolder};
use bulkhead_credentials::source::{Event, Place, Settings, Supply};
use bulkhead_credentials::{Bundle, Credentials, Key, Reason, Serial, SpiffeId};
use tempfile::TempDir;

use crate::common::{Authority, DOMAIN, name, shake};

/// How long something that must happen may take on a busy machine.
const PATIENT: Duration = Duration::from_secs(20);

fn supply(place: Place, lifetime: u64) -> Supply {
    Supply::new(Settings { domain: DOMAIN.to_owned(), place, lifetime: Duration::from_secs(lifetime) })
}

async fn next(supply: &mut Supply) -> Event {
    tokio::time::timeout(PATIENT, supply.next()).await.expect("nothing happens")
}

async fn bundle(supply: &mut Supply) -> Bundle {
    match next(supply).await {
        Event::Bundle(bundle) => bundle,
        other => panic!("{other:?}"),
    }
}

async fn credentials(supply: &mut Supply) -> Credentials {
    match next(supply).await {
        Event::Credentials(credentials) => credentials,
        other => panic!("{other:?}"),
    }
}

async fn trouble(supply: &mut Supply) -> String {
    match next(supply).await {
        Event::Trouble(text) => text,
        other => panic!("{other:?}"),
    }
}

fn names(names: &[&SpiffeId]) -> BTreeSet<SpiffeId> {
    names.iter().map(|name| (*name).clone()).collect()
}

struct Lab {
    dir: TempDir,
}

impl Lab {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}

/// Writes what cert-manager would: the files in a folder of their own, and links to them that are swapped
/// at once.
fn mount(dir: &Path, version: &str, credentials: &Credentials, root: &Authority, lists: &[&[u8]]) {
    let real = dir.join(format!("..{version}"));
    std::fs::create_dir_all(&real).unwrap();
    let key: Vec<u8> = serde_json::from_slice(&serde_json::to_vec(&credentials.key).unwrap()).unwrap();
    let section = |label: &str, der: &[u8]| pem::encode(&pem::Pem::new(label, der));
    let chain: String = credentials.chain.iter().map(|der| section("CERTIFICATE", der.as_bytes())).collect();
    std::fs::write(real.join("tls.crt"), chain).unwrap();
    std::fs::write(real.join("tls.key"), section("PRIVATE KEY", &key)).unwrap();
    std::fs::write(real.join("ca.crt"), section("CERTIFICATE", root.der.as_bytes())).unwrap();
    let lists: String = lists.iter().map(|der| section("X509 CRL", der)).collect();
    std::fs::write(real.join("crl.pem"), lists).unwrap();
    let next = dir.join("..next");
    symlink(format!("..{version}"), &next).unwrap();
    std::fs::rename(&next, dir.join("..data")).unwrap();
    for file in ["tls.crt", "tls.key", "ca.crt", "crl.pem"] {
        let _ = symlink(format!("..data/{file}"), dir.join(file));
    }
}

#[tokio::test]
async fn a_node_issues_what_is_wanted_and_renews_it_at_half_of_its_life() {
    let lab = Lab::new();
    let root = RootFolder::init(&lab.path("ca"), DOMAIN, 100).unwrap();
    root.issue_node("one", 50, &lab.path("node")).unwrap();
    let (web, db) = (name("web"), name("db"));
    let mut supply = supply(Place::Authority(lab.path("node")), 12);
    supply.want(names(&[&web]));
    assert_eq!(bundle(&mut supply).await.domain, DOMAIN);
    let begun = Instant::now();
    let first = credentials(&mut supply).await;
    assert_eq!(first.name, web);
    // Renewed at 5.4 to 6.6 seconds, before it runs out at 12.
    let second = credentials(&mut supply).await;
    let took = begun.elapsed();
    assert!(second.name == web && second.chain[0] != first.chain[0]);
    assert!((Duration::from_secs(5)..Duration::from_secs(12)).contains(&took), "{took:?}");
    // One comes, one goes.
    supply.want(names(&[&db]));
    let (mut came, mut went) = (false, false);
    while !(came && went) {
        match next(&mut supply).await {
            Event::Credentials(credentials) => came = credentials.name == db,
            Event::Gone(name) => went = name == web,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(supply.keeper().shown().iter().map(|facts| &facts.name).collect::<Vec<_>>(), [&db]);
}

#[tokio::test]
async fn a_node_whose_own_certificate_ends_soon_says_so_once() {
    let lab = Lab::new();
    let root = RootFolder::init(&lab.path("ca"), DOMAIN, 100).unwrap();
    root.issue_node("one", 5, &lab.path("node")).unwrap();
    let mut supply = supply(Place::Authority(lab.path("node")), 3600);
    bundle(&mut supply).await;
    let text = trouble(&mut supply).await;
    assert!(text.contains("bulkhead ca issue node"), "{text}");
    supply.want(names(&[&name("web")]));
    credentials(&mut supply).await;
    assert!(tokio::time::timeout(Duration::from_millis(700), supply.next()).await.is_err(), "told twice");
}

#[tokio::test]
async fn a_source_that_is_away_at_the_start_is_told_once_and_taken_when_it_comes() {
    let lab = Lab::new();
    let mut supply = supply(Place::Authority(lab.path("node")), 3600);
    supply.want(names(&[&name("web")]));
    let text = trouble(&mut supply).await;
    assert!(text.contains("bulkhead ca"), "{text}");
    assert!(tokio::time::timeout(Duration::from_millis(700), supply.next()).await.is_err(), "told twice");
    let root = RootFolder::init(&lab.path("ca"), DOMAIN, 100).unwrap();
    root.issue_node("one", 50, &lab.path("elsewhere")).unwrap();
    std::fs::rename(lab.path("elsewhere"), lab.path("node")).unwrap();
    bundle(&mut supply).await;
    credentials(&mut supply).await;
}

#[tokio::test]
async fn a_revocation_and_a_new_intermediate_are_seen_within_a_second() {
    let lab = Lab::new();
    let root = RootFolder::init(&lab.path("ca"), DOMAIN, 100).unwrap();
    let entry = root.issue_node("other", 5, &lab.path("other")).unwrap();
    root.issue_node("one", 50, &lab.path("node")).unwrap();
    let mut supply = supply(Place::Authority(lab.path("node")), 3600);
    supply.want(names(&[&name("web")]));
    assert!(bundle(&mut supply).await.lists.is_empty());
    let first = credentials(&mut supply).await;

    root.revoke(&entry.serial.parse().unwrap()).unwrap();
    let begun = Instant::now();
    std::fs::copy(lab.path("ca/crl.pem"), lab.path("node/crl.pem")).unwrap();
    assert_eq!(bundle(&mut supply).await.lists.len(), 1);
    let took = begun.elapsed();
    eprintln!("revocation seen after {took:?}");
    assert!(took < Duration::from_secs(5), "{took:?}");

    root.issue_node("one", 50, &lab.path("renewed")).unwrap();
    for file in ["tls.key", "tls.crt"] {
        std::fs::copy(lab.path("renewed").join(file), lab.path("node").join(file)).unwrap();
    }
    // In between the two belong to different pairs, which may be told as trouble; in the end they are one.
    loop {
        match next(&mut supply).await {
            Event::Credentials(credentials) => {
                assert_ne!(credentials.chain[1], first.chain[1]);
                break;
            }
            Event::Bundle(_) | Event::Trouble(_) => {}
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn mounted_certificates_are_taken_swapped_and_kept_while_the_new_ones_are_bad() {
    let lab = Lab::new();
    let root = Authority::root("root");
    let (web, db) = (name("web"), name("db"));
    for (folder, name) in [("web", &web), ("db", &db)] {
        mount(&lab.path(folder), "1", &root.leaf(name), &root, &[]);
    }
    let mut supply = supply(Place::Certificates(lab.dir.path().to_owned()), 0);
    assert_eq!(bundle(&mut supply).await.roots.len(), 1);
    assert_eq!(credentials(&mut supply).await.name, db);
    assert_eq!(credentials(&mut supply).await.name, web);

    let second = root.leaf(&web);
    mount(&lab.path("web"), "2", &second, &root, &[]);
    let mut seen = next(&mut supply).await;
    if matches!(seen, Event::Bundle(_)) {
        seen = next(&mut supply).await;
    }
    assert_eq!(seen, Event::Credentials(second.clone()));
    let serial =
        |supply: &Supply| supply.keeper().shown().into_iter().find(|facts| facts.name == web).unwrap().serial;
    let good: Serial = serial(&supply);

    // A key of another pair, another trust domain, no certificate at all: the one before stays.
    let mut swapped = root.leaf(&web);
    swapped.key = root.leaf(&web).key;
    let foreign = root.leaf_with(&web, |params| {
        params.subject_alt_names = vec![crate::common::uri("spiffe://elsewhere.org/ns/host/sa/web")];
    });
    let renamed = root.leaf(&name("other"));
    let garbage = Credentials { chain: Vec::new(), key: Key::new(vec![1, 2, 3]), name: web.clone() };
    for (version, bad, hint) in [
        ("3", &swapped, "not this certificate's"),
        ("4", &foreign, "elsewhere.org"),
        ("5", &renamed, "another folder"),
        ("6", &garbage, "BEGIN CERTIFICATE"),
    ] {
        mount(&lab.path("web"), version, bad, &root, &[]);
        let text = loop {
            match next(&mut supply).await {
                Event::Trouble(text) => break text,
                Event::Bundle(_) => {}
                other => panic!("{version}: {other:?}"),
            }
        };
        assert!(text.contains(hint), "{version}: {text}");
        assert_eq!(serial(&supply), good);
    }

    // What is still wrong is not told again when something else changes.
    let other = root.leaf(&db);
    mount(&lab.path("db"), "2", &other, &root, &[]);
    assert_eq!(credentials(&mut supply).await, other);

    let last = root.leaf(&web);
    mount(&lab.path("web"), "7", &last, &root, &[root.list(&[7]).as_bytes()]);
    loop {
        match next(&mut supply).await {
            Event::Credentials(credentials) => break assert_eq!(credentials, last),
            Event::Bundle(bundle) => assert_eq!(bundle.lists.len(), 1),
            other => panic!("{other:?}"),
        }
    }

    // The same name twice is told; a folder that goes takes its name with it.
    mount(&lab.path("web-again"), "1", &root.leaf(&web), &root, &[]);
    let text = loop {
        match next(&mut supply).await {
            Event::Trouble(text) => break text,
            Event::Bundle(_) => {}
            other => panic!("{other:?}"),
        }
    };
    assert!(text.contains("take one of them away"), "{text}");
    std::fs::remove_dir_all(lab.path("web-again")).unwrap();
    std::fs::remove_dir_all(lab.path("db")).unwrap();
    let gone = loop {
        match next(&mut supply).await {
            Event::Gone(name) => break name,
            Event::Bundle(_) => {}
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(gone, db);
}

#[tokio::test]
async fn one_folder_with_one_certificate_is_a_source_too() {
    let lab = Lab::new();
    let root = Authority::root("root");
    mount(&lab.path("web"), "1", &root.leaf(&name("web")), &root, &[]);
    let mut supply = supply(Place::Certificates(lab.path("web")), 0);
    bundle(&mut supply).await;
    assert_eq!(credentials(&mut supply).await.name, name("web"));
}

#[tokio::test]
async fn a_certificate_whose_root_comes_later_is_taken_then() {
    let lab = Lab::new();
    let (old, new) = (Authority::root("old"), Authority::root("new"));
    mount(&lab.path("a"), "1", &new.leaf(&name("web")), &old, &[]);
    let mut supply = supply(Place::Certificates(lab.dir.path().to_owned()), 0);
    bundle(&mut supply).await;
    let text = trouble(&mut supply).await;
    assert!(text.contains("no root of our bundle"), "{text}");
    mount(&lab.path("b"), "1", &new.leaf(&name("db")), &new, &[]);
    let mut shown = BTreeSet::new();
    while shown != names(&[&name("web"), &name("db")]) {
        if let Event::Credentials(credentials) = next(&mut supply).await {
            shown.insert(credentials.name);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leafs_and_roots_are_replaced_under_handshakes_and_none_fails() {
    let lab = Lab::new();
    let mut root = RootFolder::init(&lab.path("ca"), DOMAIN, 100).unwrap();
    let (web, db) = (name("web"), name("db"));
    let open = |node: &str| NodeFolder::open(&lab.path(node)).unwrap();
    for node in ["one-0", "two-0"] {
        root.issue_node(node, 5, &lab.path(node)).unwrap();
    }
    let (one, two) = (bulkhead_credentials::Keeper::new(), bulkhead_credentials::Keeper::new());
    for (keeper, node, name) in [(&one, "one-0", &web), (&two, "two-0", &db)] {
        keeper.believe(open(node).bundle(DOMAIN)).unwrap();
        keeper.install(&open(node).issuing().workload(name, 60).unwrap()).unwrap();
    }
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let shaking: Vec<_> = (0..4)
        .map(|_| {
            let (one, two, web, db, stop) = (one.clone(), two.clone(), web.clone(), db.clone(), stop.clone());
            tokio::spawn(async move {
                let mut count = 0;
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    let (server, client) = shake((&one, &web), (&two, &db)).await;
                    server.unwrap();
                    client.unwrap();
                    count += 1;
                }
                count
            })
        })
        .collect();
    for round in 1..=6 {
        // The nodes hear of a new root one after the other, and are issued anew in the opposite order.
        root.rotate(10).unwrap();
        let (new_one, new_two) = (format!("one-{round}"), format!("two-{round}"));
        root.issue_node(&new_one, 5, &lab.path(&new_one)).unwrap();
        root.issue_node(&new_two, 5, &lab.path(&new_two)).unwrap();
        for (keeper, node) in [(&one, &new_one), (&two, &new_two)] {
            keeper.believe(open(node).bundle(DOMAIN)).unwrap();
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
        for (keeper, node, name) in [(&two, &new_two, &db), (&one, &new_one, &web)] {
            for _ in 0..5 {
                keeper.install(&open(node).issuing().workload(name, 60).unwrap()).unwrap();
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
        root.retire(true).unwrap();
        for keeper in [&two, &one] {
            let mut bundle = open(&new_one).bundle(DOMAIN);
            bundle.roots.remove(0);
            assert_eq!(keeper.believe(bundle).unwrap(), []);
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    let mut total = 0;
    for shaking in shaking {
        total += shaking.await.unwrap();
    }
    eprintln!("{total} handshakes over 6 roots and 60 leafs");
    assert!(total > 20, "{total} handshakes say little");
    // The roots of before are nothing any more.
    let first = bulkhead_credentials::Keeper::new();
    first.believe(one.trust().unwrap().bundle().clone()).unwrap();
    let refused = first.install(&open("one-0").issuing().workload(&web, 60).unwrap()).unwrap_err();
    assert_eq!(refused.why.reason(), Reason::UnknownIssuer);
}
