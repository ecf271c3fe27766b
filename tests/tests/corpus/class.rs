//! What each opening is called by the kernel's own code.

use anyhow::{Result, ensure};
use bulkhead_abi::{Class, Inspection};
use bulkhead_tests::corpus::Vector;

use crate::matrix::Matrix;
use crate::replay::{self, Cut, replay};
use crate::vectors;

/// The share of vectors of listed protocols that may stay unknown.
const UNKNOWN: f64 = 0.05;

#[test]
fn each_opening_is_called_what_it_is() -> Result<()> {
    let mut matrix = Matrix::default();
    for vector in vectors()? {
        matrix.add(&vector, &replay(&vector, Cut::AsRecorded));
    }
    println!("{matrix}");
    matrix.check(UNKNOWN)
}

#[test]
fn how_it_is_cut_changes_nothing() -> Result<()> {
    let mut differ = Vec::new();
    for vector in vectors()?.iter().filter(|vector| vector.transport == "tcp") {
        let whole = replay(vector, Cut::AsRecorded);
        let cuts = (1..=64).map(Cut::At).chain([Cut::Bytes, Cut::Repeated, Cut::Joined]);
        for cut in cuts {
            let seen = replay(vector, cut);
            if seen.outcome() != whole.outcome() {
                differ.push(format!(
                    "{} {cut:?}: {:?}, whole {:?}",
                    vector.name,
                    seen.outcome(),
                    whole.outcome()
                ));
            }
        }
    }
    ensure!(differ.is_empty(), "{} differ:\n{}", differ.len(), differ.join("\n"));
    Ok(())
}

#[test]
fn under_require_what_is_encrypted_passes_and_what_is_clear_does_not() -> Result<()> {
    let mut wrong = Vec::new();
    for vector in vectors()? {
        for cut in [Cut::AsRecorded, Cut::Bytes, Cut::At(3)] {
            let seen = replay::require(&vector, cut);
            let encrypted = matches!(
                vector.truth.class.as_str(),
                "tls" | "ssh" | "quic" | "dtls" | "wireguard" | "ipsec"
            );
            // A dialogue before TLS is clear text, but for the two databases' that ask for TLS first.
            let starts_clear = vector.truth.upgraded && vector.truth.protocol != "postgresql";
            let tunnelled = vector.scenario.starts_with("http-connect");
            let passes = encrypted && !starts_clear;
            if seen.refused == passes && !tunnelled {
                wrong.push(format!(
                    "{} {cut:?}: refused {}, {:?}",
                    vector.name,
                    seen.refused,
                    seen.outcome()
                ));
            }
        }
    }
    ensure!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
    Ok(())
}

#[test]
fn random_bytes_are_nothing() -> Result<()> {
    let unknown: Vec<Vector> =
        vectors()?.into_iter().filter(|vector| vector.truth.class == Class::Unknown.as_str()).collect();
    ensure!(!unknown.is_empty(), "no vector of nothing");
    for vector in unknown {
        let seen = replay(&vector, Cut::AsRecorded);
        ensure!(seen.class == Class::Unknown, "{} is called {:?}", vector.name, seen.outcome());
        ensure!(seen.phase != Inspection::FOLLOWING, "{} is followed", vector.name);
    }
    Ok(())
}
