//! Whose revocation lists count, and for whom.

use bulkhead_credentials::{BundleError, Credentials, Keeper, PeerError, Reason, Usage};
use rcgen::SerialNumber;
use rustls::pki_types::CertificateDer;

use crate::common::{Authority, bundle, name, node};

fn chain(credentials: &Credentials) -> Vec<CertificateDer<'static>> {
    credentials.chain.iter().map(|der| CertificateDer::from(der.as_bytes().to_vec())).collect()
}

fn numbered(authority: &Authority, number: u64) -> Vec<CertificateDer<'static>> {
    chain(
        &authority.leaf_with(&name("web"), |params| params.serial_number = Some(SerialNumber::from(number))),
    )
}

/// As the end of a handshake asks, whose certificates were verified under the bundle before.
fn ask(keeper: &Keeper, chain: &[CertificateDer<'static>]) -> Result<(), Reason> {
    keeper.peer(Some(chain), Usage::Client, None).map(drop).map_err(|error: PeerError| error.reason())
}

#[test]
fn a_revocation_between_the_handshake_and_its_check_counts() {
    let root = Authority::root("root");
    let good = node(&root, &root.leaf(&name("db")));
    let (listed, other) = (numbered(&root, 7), numbered(&root, 8));
    assert_eq!(ask(&good, &listed), Ok(()));
    good.believe(bundle(&[&root], vec![root.list(&[7])])).unwrap();
    assert_eq!(ask(&good, &listed), Err(Reason::Revoked));
    assert_eq!(ask(&good, &other), Ok(()));
}

#[test]
fn a_list_counts_for_its_own_issuer_only() {
    let root = Authority::root("root");
    let (one, two) = (root.intermediate("node 1"), root.intermediate("node 2"));
    let good = node(&root, &root.leaf(&name("db")));
    good.believe(bundle(&[&root], vec![one.list(&[7]), root.list(&[9])])).unwrap();
    assert_eq!(ask(&good, &numbered(&one, 7)), Err(Reason::Revoked));
    assert_eq!(ask(&good, &numbered(&one, 8)), Ok(()));
    assert_eq!(ask(&good, &numbered(&two, 7)), Ok(()));
    assert_eq!(ask(&good, &numbered(&root, 7)), Ok(()));
    assert_eq!(ask(&good, &numbered(&root, 9)), Err(Reason::Revoked));
}

#[test]
fn a_list_under_the_name_of_another_is_an_error_or_no_answer() {
    let root = Authority::root("root");
    let node_1 = root.intermediate("node 1");
    let good = node(&root, &root.leaf(&name("db")));
    // A root's name on it, and somebody else's signature: the bundle before stays.
    let forged = Authority::root("root").list(&[]);
    let before = good.trust().unwrap().bundle().clone();
    let error = good.believe(bundle(&[&root], vec![forged])).unwrap_err();
    assert!(matches!(error, BundleError::List { number: 1, .. }), "{error}");
    assert_eq!(good.trust().unwrap().bundle(), &before);
    // An intermediate's name: who it is about cannot be told to be good.
    let forged = root.intermediate("node 1").list(&[]);
    good.believe(bundle(&[&root], vec![forged.clone()])).unwrap();
    assert_eq!(ask(&good, &numbered(&node_1, 8)), Err(Reason::RevocationUnknown));
    assert_eq!(ask(&good, &numbered(&root, 8)), Ok(()));
    // Its own list beside it answers.
    good.believe(bundle(&[&root], vec![forged, node_1.list(&[7])])).unwrap();
    assert_eq!(ask(&good, &numbered(&node_1, 8)), Ok(()));
    assert_eq!(ask(&good, &numbered(&node_1, 7)), Err(Reason::Revoked));
}

#[test]
fn two_roots_of_one_name_have_lists_of_their_own() {
    let (old, new) = (Authority::root("root"), Authority::root("root"));
    let good = node(&new, &new.leaf(&name("db")));
    good.believe(bundle(&[&old, &new], vec![old.list(&[7])])).unwrap();
    assert_eq!(ask(&good, &numbered(&old, 7)), Err(Reason::Revoked));
    assert_eq!(ask(&good, &numbered(&old, 8)), Ok(()));
    assert_eq!(ask(&good, &numbered(&new, 7)), Ok(()));
    good.believe(bundle(&[&old, &new], vec![old.list(&[7]), new.list(&[8])])).unwrap();
    assert_eq!(ask(&good, &numbered(&new, 8)), Err(Reason::Revoked));
    assert_eq!(ask(&good, &numbered(&old, 8)), Ok(()));
}

#[test]
fn what_is_no_bundle_is_refused() {
    let root = Authority::root("root");
    let good = node(&root, &root.leaf(&name("db")));
    let whole = bundle(&[&root], Vec::new());
    let leaf = root.leaf(&name("web")).chain[0].clone();
    let garbage = bulkhead_credentials::Der::from(vec![0x30, 0x03, 1, 2, 3]);
    let cases = [
        bulkhead_credentials::Bundle { roots: Vec::new(), ..whole.clone() },
        bulkhead_credentials::Bundle { roots: vec![leaf], ..whole.clone() },
        bulkhead_credentials::Bundle { roots: vec![garbage.clone()], ..whole.clone() },
        bulkhead_credentials::Bundle { lists: vec![garbage], ..whole.clone() },
        bulkhead_credentials::Bundle { domain: "Example.org".to_owned(), ..whole.clone() },
    ];
    for bundle in cases {
        good.believe(bundle).unwrap_err();
        assert_eq!(good.trust().unwrap().bundle(), &whole);
    }
}
