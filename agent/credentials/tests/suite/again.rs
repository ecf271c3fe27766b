//! The same peer for a second time: what was found of its chain before is not looked for again, and counts for
//! no longer than what it rested on.

use bulkhead_credentials::{Moment, Reason, Usage};
use rcgen::SerialNumber;
use rustls::pki_types::CertificateDer;
use time::{Duration, OffsetDateTime};

use crate::common::{Authority, bundle, name, node, shake, shake_with};

#[tokio::test]
async fn who_was_revoked_between_two_tunnels_is_refused() {
    let root = Authority::root("root");
    let (web, db) = (name("web"), name("db"));
    let client =
        node(&root, &root.leaf_with(&web, |params| params.serial_number = Some(SerialNumber::from(7_u64))));
    let server = node(&root, &root.leaf(&db));
    for _ in 0..2 {
        let (_, found) = shake((&client, &web), (&server, &db)).await;
        assert_eq!(found.unwrap().facts.name, web);
    }
    server.believe(bundle(&[&root], vec![root.list(&[7])])).unwrap();
    let (_, found) = shake((&client, &web), (&server, &db)).await;
    assert_eq!(found.unwrap_err().reason, Reason::Revoked);
}

#[tokio::test]
async fn whose_root_was_withdrawn_between_two_tunnels_is_refused() {
    let (old, new) = (Authority::root("old"), Authority::root("new"));
    let (web, db) = (name("web"), name("db"));
    let client = node(&old, &old.leaf(&web));
    let server = node(&new, &new.leaf(&db));
    client.believe(bundle(&[&old, &new], Vec::new())).unwrap();
    server.believe(bundle(&[&old, &new], Vec::new())).unwrap();
    for _ in 0..2 {
        let (_, found) = shake((&client, &web), (&server, &db)).await;
        assert_eq!(found.unwrap().facts.name, web);
    }
    server.believe(bundle(&[&new], Vec::new())).unwrap();
    let (_, found) = shake((&client, &web), (&server, &db)).await;
    assert_eq!(found.unwrap_err().reason, Reason::UnknownIssuer);
}

#[tokio::test]
async fn who_has_expired_between_two_tunnels_is_refused() {
    let root = Authority::root("root");
    let (web, db) = (name("web"), name("db"));
    let end = OffsetDateTime::now_utc() + Duration::seconds(12);
    let client = node(&root, &root.leaf_with(&web, |params| params.not_after = end));
    let server = node(&root, &root.leaf(&db));
    let config = client.client(&web).unwrap();
    let (_, found) = shake_with((&client, &web), config.clone(), (&server, &db)).await;
    let expires = found.unwrap().facts.not_after;
    while Moment::now() <= expires {
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    let (_, found) = shake_with((&client, &web), config, (&server, &db)).await;
    assert_eq!(found.unwrap_err().reason, Reason::Expired);
}

#[test]
fn a_chain_counts_for_its_shortest_certificate_and_for_the_use_that_was_asked_for() {
    let root = Authority::root("root");
    let now = OffsetDateTime::now_utc();
    let short = root.intermediate_with("node", |params| {
        params.not_before = now - Duration::minutes(10);
        params.not_after = now + Duration::minutes(10);
    });
    let client_only = |params: &mut rcgen::CertificateParams| {
        params.not_before = now - Duration::HOUR;
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
    };
    let leaf = short.leaf_with(&name("web"), client_only);
    let chain: Vec<_> = leaf.chain.iter().map(|der| CertificateDer::from(der.as_bytes().to_vec())).collect();
    let trust = node(&root, &root.leaf(&name("db"))).trust().unwrap();
    let ask = |usage, minutes: i64| {
        let found = trust.verify(&chain, usage, Moment::now().plus(minutes * 60));
        found.map(|facts| facts.name).map_err(|error| error.reason())
    };
    for _ in 0..2 {
        assert_eq!(ask(Usage::Client, 0), Ok(name("web")));
        assert_eq!(ask(Usage::Client, 15), Err(Reason::Expired));
        assert_eq!(ask(Usage::Client, -15), Err(Reason::NotYetValid));
        assert_eq!(ask(Usage::Server, 0), Err(Reason::WrongUsage));
    }
    // Others of the same authority with it are another chain.
    let other = [chain[0].clone(), chain[0].clone()];
    assert_eq!(
        trust.verify(&other, Usage::Client, Moment::now()).map_err(|error| error.reason()).unwrap_err(),
        Reason::UnknownIssuer
    );
}
