//! Servers' nodes that our proxy dials and does not believe: their certificate is old, revoked, another's, or
//! another trust domain's. The program is reset, and metric and record say why.

use std::fs;
use std::path::Path;
use std::process::Command;

use bulkhead::control::protocol::FindingFilter;
use bulkhead_tests::harness::{Dial, wait_until};

use crate::lab::{DB, Lab, SOON, at, policy, traced};
use crate::peers::{Stranger, forge};
use crate::require_python;
use crate::strangers::{Library, begin};

const PORT: u16 = 5000;

/// Our proxy dials a server that shows this, and refuses it.
fn refuses(lab: &Lab, stranger: &Stranger, shows: &Path, reason: &str, says: &str) {
    let tunnel = at(DB, 15008).to_string();
    let launch = Library::H2.launch().and(["server", &tunnel, &shows.to_string_lossy()]);
    let _peer = begin(stranger, lab.db_ns(), &launch);
    let earlier = traced(lab.near()).len();
    let mut record = None;
    let told = wait_until(SOON, "it is told why", || {
        // The first answer may still be the one of the server before.
        let dial = Dial::tcp(at(DB, PORT));
        let answered = lab.web.connect(&dial).and_then(|socket| lab.web.exchange(&socket, 1, SOON));
        // A list of what is revoked takes a moment to be read.
        assert!(answered.is_err() || reason == "revoked", "{reason}: it was answered");
        record = traced(lab.near()).into_iter().skip(earlier).find(|record| record.reason == reason);
        record.is_some()
    });
    assert!(told.is_ok(), "no {reason}: {:#?}", traced(lab.near()));
    let record = record.unwrap();
    assert_eq!((record.direction.as_str(), record.outcome.as_str()), ("outbound", "refused"));
    assert_eq!((record.destination, record.sent), (at(DB, PORT), 0));
    assert!(record.text.contains(says), "{reason}: {}", record.text);
    let word = format!("reason=\"{reason}\"");
    Lab::wait_metric(lab.near(), &["bulkhead_proxy_refused_total", &word]);
    let zones = ["from_zone=\"web\"", "to_zone=\"db\"", "outbound", &word];
    Lab::wait_metric(lab.near(), &[&["bulkhead_proxy_handshake_failures_total"][..], &zones].concat());
}

#[test]
fn servers_that_cannot_prove_who_they_are_are_refused_by_name() {
    require_python!();
    let lab = Lab::near_only(&policy(""));
    let stranger = Stranger::new();
    for (kind, reason, says) in [
        ("expired", "expired", "expired"),
        ("not-yet-valid", "not-yet-valid", "not valid before"),
        ("wrong-trust-domain", "wrong-trust-domain", "spiffe://example.com/"),
        ("self-signed", "unknown-issuer", "no root of our bundle"),
    ] {
        refuses(&lab, &stranger, &forge(&lab, &stranger, kind), reason, says);
    }
    // A good certificate, of somebody whom nobody asked for.
    let web = lab.authority.issue_workload("web").unwrap();
    refuses(&lab, &stranger, &web, "wrong-name", "spiffe://example.org/ns/host/sa/web");
    // And the right one, taken back.
    let db = lab.authority.issue_workload("db").unwrap();
    let leaf = db.join("tls.crt");
    let said =
        Command::new("openssl").args(["x509", "-noout", "-serial", "-in"]).arg(&leaf).output().unwrap();
    let said = String::from_utf8(said.stdout).unwrap().to_lowercase();
    let serial = said.trim().strip_prefix("serial=").expect("openssl tells the serial number");
    lab.authority.run(&["revoke", serial, "--dir", "ca"]).unwrap();
    let list = lab.authority.node(0).join("crl.pem");
    fs::copy(lab.authority.path().join("ca/crl.pem"), list.with_extension("next")).unwrap();
    fs::rename(list.with_extension("next"), &list).unwrap();
    refuses(&lab, &stranger, &db, "revoked", "revoked");
    // Again and again: the operator is told of it.
    for _ in 0..10 {
        let asked = lab.web.connect(&Dial::tcp(at(DB, PORT)));
        assert!(asked.and_then(|socket| lab.web.exchange(&socket, 1, SOON)).is_err());
    }
    let mut findings = Vec::new();
    let found = wait_until(SOON, "it is a finding", || {
        findings = lab.near().findings(FindingFilter::default()).unwrap();
        findings.iter().any(|one| one.kind == "authentication-failures" && one.subject.contains(DB))
    });
    assert!(found.is_ok(), "{findings:#?}");
}
