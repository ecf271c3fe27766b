//! The built-in authority, in real folders.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use bulkhead_credentials::authority::{AuthorityError, Kind, NodeFolder, RootFolder, State};
use bulkhead_credentials::{
    Credentials, Keeper, Moment, Reason, Serial, SpiffeId, certificates_from_pem, key_from_pem,
};
use tempfile::TempDir;

use crate::common::{DOMAIN, name, shake};

struct Lab {
    dir: TempDir,
}

impl Lab {
    fn new() -> (Self, RootFolder) {
        let lab = Self { dir: tempfile::tempdir().unwrap() };
        let root = RootFolder::init(&lab.path("ca"), DOMAIN, 3650).unwrap();
        (lab, root)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A node with a new intermediate, that shows one name.
    fn node(&self, root: &RootFolder, node: &str, name: &SpiffeId) -> Keeper {
        root.issue_node(node, 90, &self.path(node)).unwrap();
        keeper(&self.path(node), name)
    }
}

fn keeper(dir: &Path, name: &SpiffeId) -> Keeper {
    let node = NodeFolder::open(dir).unwrap();
    let keeper = Keeper::new();
    keeper.believe(node.bundle(DOMAIN)).unwrap();
    keeper.install(&node.issuing().workload(name, 3600).unwrap()).unwrap();
    keeper
}

fn serial(text: &str) -> Serial {
    text.parse().unwrap()
}

#[tokio::test]
async fn nodes_of_one_authority_know_each_other() {
    let (lab, root) = Lab::new();
    let (web, db) = (name("web"), name("db"));
    let one = lab.node(&root, "one", &web);
    let two = lab.node(&root, "two", &db);
    let (server, client) = shake((&one, &web), (&two, &db)).await;
    assert_eq!((server.unwrap().facts.name, client.unwrap().facts.name), (db, web));
}

#[test]
fn a_leaf_is_backdated_short_and_ends_before_its_issuer() {
    let (lab, root) = Lab::new();
    root.issue_node("one", 1, &lab.path("one")).unwrap();
    let node = NodeFolder::open(&lab.path("one")).unwrap();
    let facts = keeper(&lab.path("one"), &name("web")).shown()[0].clone();
    let now = Moment::now();
    assert!((55..=75).contains(&now.since(facts.not_before)), "{facts:?}");
    assert!((3580..=3605).contains(&facts.not_after.since(now)), "{facts:?}");
    let long = Keeper::new();
    long.believe(node.bundle(DOMAIN)).unwrap();
    let facts = long.install(&node.issuing().workload(&name("web"), 30 * 86_400).unwrap()).unwrap();
    assert_eq!(facts.not_after, node.issuing().not_after());
    assert!(matches!(node.issuing().workload(&name("web"), 0), Err(AuthorityError::NoLife)));
}

#[test]
fn folders_are_closed_to_others_and_never_overwritten() {
    let (lab, root) = Lab::new();
    let mode = |path: &str| std::fs::metadata(lab.path(path)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("ca"), mode("ca/roots"), mode("ca/roots/1.key")), (0o700, 0o700, 0o600));
    let bundle = std::fs::read(lab.path("ca/ca.crt")).unwrap();
    assert!(matches!(RootFolder::init(&lab.path("ca"), DOMAIN, 1), Err(AuthorityError::Exists(_))));
    assert_eq!(std::fs::read(lab.path("ca/ca.crt")).unwrap(), bundle);
    root.issue_node("one", 1, &lab.path("one")).unwrap();
    assert_eq!((mode("one"), mode("one/tls.key")), (0o700, 0o600));
    assert!(matches!(root.issue_node("one", 1, &lab.path("one")), Err(AuthorityError::Exists(_))));
    let long = "a".repeat(63);
    let entry = root.issue_node(&long, 1, &lab.path("long")).unwrap();
    assert!(entry.name.starts_with("node aaaa") && entry.name.ends_with(&entry.serial[..8]), "{entry:?}");
    std::fs::set_permissions(lab.path("ca/roots/1.key"), PermissionsExt::from_mode(0o640)).unwrap();
    let open = RootFolder::open(&lab.path("ca")).unwrap();
    assert!(matches!(open.issue_node("two", 1, &lab.path("two")), Err(AuthorityError::OpenKey(_))));
}

#[test]
fn what_is_no_name_is_refused() {
    let (lab, root) = Lab::new();
    for wrong in ["", "a b", "a/../b", &"a".repeat(64)] {
        assert!(
            matches!(root.issue_node(wrong, 1, &lab.path("x")), Err(AuthorityError::NodeName(_))),
            "{wrong}"
        );
    }
    let foreign = "spiffe://elsewhere.org/ns/host/sa/web".parse().unwrap();
    assert!(matches!(
        root.issue_workload(&foreign, 1, &lab.path("x")),
        Err(AuthorityError::ForeignName { .. })
    ));
    assert!(matches!(RootFolder::init(&lab.path("y"), "Not A Domain", 1), Err(AuthorityError::Domain(_))));
    assert!(matches!(RootFolder::open(&lab.path("z")), Err(AuthorityError::NotAnAuthority(_))));
    assert!(!lab.path("x").exists() && !lab.path("y").exists());
}

#[tokio::test]
async fn a_certificate_by_hand_is_taken_by_peers() {
    let (lab, root) = Lab::new();
    let (web, db) = (name("web"), name("db"));
    let entry = root.issue_workload(&web, 30, &lab.path("web")).unwrap();
    assert_eq!((entry.kind, entry.name.as_str(), entry.state), (Kind::Workload, web.as_str(), State::Good));
    let one = Keeper::new();
    let two = lab.node(&root, "two", &db);
    one.believe(two.trust().unwrap().bundle().clone()).unwrap();
    let read = |file| std::fs::read(lab.path("web").join(file)).unwrap();
    one.install(&Credentials {
        name: web.clone(),
        chain: certificates_from_pem(&read("tls.crt")).unwrap(),
        key: key_from_pem(&read("tls.key")).unwrap(),
    })
    .unwrap();
    let (server, client) = shake((&one, &web), (&two, &db)).await;
    assert_eq!((server.unwrap().facts.name, client.unwrap().facts.name), (db, web));
}

#[tokio::test]
async fn a_root_is_replaced_while_everybody_goes_on_to_know_each_other() {
    let (lab, mut root) = Lab::new();
    let (web, db) = (name("web"), name("db"));
    let old = lab.node(&root, "old", &web);
    root.rotate(3650).unwrap();
    // A node with the new root's intermediate, and one that has not even heard of it.
    let new = lab.node(&root, "new", &db);
    for (client, server) in [((&old, &web), (&new, &db)), ((&new, &db), (&old, &web))] {
        let (server, client) = shake(client, server).await;
        server.unwrap();
        client.unwrap();
    }
    let refused = root.retire(false).unwrap_err();
    assert!(matches!(refused, AuthorityError::StillInUse { count: 1, .. }), "{refused}");
    // The old node gets a new intermediate, then the root is retired.
    let renewed = lab.node(&root, "old-again", &web);
    root.retire(true).unwrap();
    let mut reopened = RootFolder::open(&lab.path("ca")).unwrap();
    assert_eq!(certificates_from_pem(&std::fs::read(lab.path("ca/ca.crt")).unwrap()).unwrap().len(), 1);
    assert!(!lab.path("ca/roots/1.key").exists());
    assert!(matches!(reopened.retire(true), Err(AuthorityError::OneRoot)));
    let late = lab.node(&reopened, "late", &db);
    for (client, server) in [((&late, &db), (&renewed, &web)), ((&renewed, &web), (&late, &db))] {
        let (server, client) = shake(client, server).await;
        server.unwrap();
        client.unwrap();
    }
    // What the retired root issued is nothing any more, and its owner is told.
    let refused = old.believe(late.trust().unwrap().bundle().clone()).unwrap();
    assert_eq!((refused.len(), refused[0].why.reason()), (1, Reason::UnknownIssuer));
    let (_, client) = shake((&old, &web), (&late, &db)).await;
    assert_eq!(client.unwrap_err().reason, Reason::UnknownIssuer);
    // Two more roots in a row: the chain leads back to whichever root somebody knows.
    reopened.rotate(3650).unwrap();
    reopened.rotate(3650).unwrap();
    let newest = lab.node(&reopened, "newest", &web);
    let (server, client) = shake((&newest, &web), (&late, &db)).await;
    server.unwrap();
    client.unwrap();
}

#[tokio::test]
async fn a_revoked_node_is_refused_and_its_live_connections_are_known() {
    let (lab, root) = Lab::new();
    let (web, db) = (name("web"), name("db"));
    let stolen = lab.node(&root, "stolen", &web);
    let good = lab.node(&root, "good", &db);
    let (_, peer) = shake((&stolen, &web), (&good, &db)).await;
    let peer = peer.unwrap();
    good.recheck(&peer).unwrap();

    let entry = root.entries().unwrap().into_iter().find(|entry| entry.name.contains("stolen")).unwrap();
    assert_eq!((entry.kind, entry.state), (Kind::Node, State::Good));
    assert_eq!(root.revoke(&serial(&entry.serial)).unwrap().state, State::Revoked);
    assert!(matches!(root.revoke(&serial(&entry.serial)), Err(AuthorityError::Already(_))));
    assert!(matches!(root.revoke(&serial("00ff")), Err(AuthorityError::UnknownSerial(_))));

    let mut changes = good.changes();
    changes.mark_unchanged();
    std::fs::copy(lab.path("ca/crl.pem"), lab.path("good/crl.pem")).unwrap();
    good.believe(NodeFolder::open(&lab.path("good")).unwrap().bundle(DOMAIN)).unwrap();
    assert!(changes.has_changed().unwrap());
    assert_eq!(good.recheck(&peer).unwrap_err().reason(), Reason::Revoked);
    // With a configuration from before the revocation, too.
    let (_, client) = shake((&stolen, &web), (&good, &db)).await;
    assert_eq!(client.unwrap_err().reason, Reason::Revoked);
    // Others are as good as before, also those that come new.
    let other = lab.node(&root, "other", &web);
    let (server, client) = shake((&other, &web), (&good, &db)).await;
    good.recheck(&client.unwrap()).unwrap();
    server.unwrap();

    // A second revocation keeps the first.
    let entry = root.entries().unwrap().into_iter().find(|entry| entry.name.contains("other")).unwrap();
    root.revoke(&serial(&entry.serial)).unwrap();
    let revoked = root.entries().unwrap().into_iter().filter(|entry| entry.state == State::Revoked).count();
    assert_eq!(revoked, 2);
}

#[tokio::test]
async fn a_node_revokes_a_leaf_of_its_own() {
    let (lab, root) = Lab::new();
    let (web, db) = (name("web"), name("db"));
    let one = lab.node(&root, "one", &web);
    let two = lab.node(&root, "two", &db);
    let leaf = one.shown()[0].serial.clone();
    NodeFolder::open(&lab.path("one")).unwrap().revoke(&leaf).unwrap();
    std::fs::copy(lab.path("one/crl.pem"), lab.path("two/crl.pem")).unwrap();
    two.believe(NodeFolder::open(&lab.path("two")).unwrap().bundle(DOMAIN)).unwrap();
    let (_, client) = shake((&one, &web), (&two, &db)).await;
    assert_eq!(client.unwrap_err().reason, Reason::Revoked);
    one.install(&NodeFolder::open(&lab.path("one")).unwrap().issuing().workload(&web, 60).unwrap()).unwrap();
    let (server, client) = shake((&one, &web), (&two, &db)).await;
    server.unwrap();
    client.unwrap();
}

#[test]
fn openssl_and_gnutls_take_our_chains_and_lists() {
    let (lab, mut root) = Lab::new();
    root.rotate(3650).unwrap();
    root.issue_node("one", 90, &lab.path("one")).unwrap();
    root.issue_workload(&name("web"), 30, &lab.path("web")).unwrap();
    let entries = root.entries().unwrap();
    let web = entries.iter().find(|entry| entry.kind == Kind::Workload).unwrap();
    let verify = |crl: bool| {
        let mut command = Command::new("openssl");
        command
            .args(["verify", "-x509_strict", "-purpose", "sslclient", "-CAfile"])
            .arg(lab.path("web/ca.crt"));
        command.arg("-untrusted").arg(lab.path("web/tls.crt"));
        if crl {
            command.arg("-crl_check").arg("-CRLfile").arg(lab.path("ca/crl.pem"));
        }
        run(command.arg(lab.path("web/tls.crt")))
    };
    assert_eq!(verify(false), (true, format!("{}: OK\n", lab.path("web/tls.crt").display())));
    root.revoke(&serial(&web.serial)).unwrap();
    let (ok, text) = verify(true);
    assert!(!ok && text.contains("revoked"), "{text}");
    let (ok, text) = run(Command::new("certtool")
        .arg("--verify")
        .arg("--load-ca-certificate")
        .arg(lab.path("one/ca.crt"))
        .arg("--infile")
        .arg(lab.path("one/tls.crt")));
    assert!(ok && text.contains("Verified. The certificate is trusted."), "{text}");
    let (_, text) = run(Command::new("openssl")
        .args(["x509", "-noout", "-ext", "subjectAltName,basicConstraints,keyUsage,extendedKeyUsage", "-in"])
        .arg(lab.path("web/tls.crt")));
    assert!(
        text.contains("Subject Alternative Name: critical\n    URI:spiffe://example.org/ns/host/sa/web"),
        "{text}"
    );
    assert!(text.contains("CA:FALSE") && text.contains("Digital Signature"), "{text}");
}

fn run(command: &mut Command) -> (bool, String) {
    let output = command.output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&text).into_owned())
}
