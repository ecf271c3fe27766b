//! The certificates that everybody is measured with: one authority, and a leaf for each end.
//!
//! P-256, signed with SHA-256. A leaf has a SPIFFE name for those who look for it, and a DNS name for those
//! who know nothing else.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::Result;
use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, SanType,
};
use tempfile::TempDir;
use time::{Duration, OffsetDateTime};

pub(crate) const DOMAIN: &str = "example.org";
/// The zone, and so the name, of the client and of the server.
pub(crate) const ZONES: [&str; 2] = ["web", "db"];

/// A folder with a folder for each of [`ZONES`], in which are `tls.crt`, `tls.key` and `ca.crt`.
pub(crate) struct Certificates(TempDir);

impl Certificates {
    pub(crate) fn new() -> Result<Certificates> {
        let folder = tempfile::Builder::new().prefix("bh-").tempdir()?;
        let root = KeyPair::generate()?;
        let mut params = named("bench");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let authority = params.self_signed(&root)?.pem();
        let issuer = Issuer::new(params, root);
        for zone in ZONES {
            let key = KeyPair::generate()?;
            let mut params = named(zone);
            params.subject_alt_names = vec![
                SanType::URI(Ia5String::try_from(spiffe(zone))?),
                SanType::DnsName(Ia5String::try_from(dns(zone))?),
            ];
            params.is_ca = IsCa::ExplicitNoCa;
            params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
            params.extended_key_usages =
                vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
            let leaf = params.signed_by(&key, &issuer)?.pem();
            let own = folder.path().join(zone);
            fs::create_dir(&own)?;
            fs::write(own.join("tls.crt"), &leaf)?;
            fs::write(own.join("tls.key"), key.serialize_pem())?;
            fs::write(own.join("ca.crt"), &authority)?;
            // HAProxy wants both in one file.
            fs::write(own.join("both.pem"), leaf + &key.serialize_pem())?;
            for file in ["tls.key", "both.pem"] {
                fs::set_permissions(own.join(file), fs::Permissions::from_mode(0o600))?;
            }
        }
        Ok(Certificates(folder))
    }

    /// The folder of a zone.
    pub(crate) fn of(&self, zone: &str) -> PathBuf {
        self.0.path().join(zone)
    }

    /// As [`Certificates::of`], without what only others can use.
    pub(crate) fn copy(&self, zone: &str, to: &Path) -> Result<()> {
        fs::create_dir_all(to)?;
        for file in ["tls.crt", "tls.key", "ca.crt"] {
            fs::copy(self.of(zone).join(file), to.join(file))?;
        }
        Ok(())
    }
}

/// Its name for SPIFFE.
pub(crate) fn spiffe(zone: &str) -> String {
    format!("spiffe://{DOMAIN}/ns/host/sa/{zone}")
}

/// Its name for everybody else.
pub(crate) fn dns(zone: &str) -> String {
    format!("{zone}.bench.{DOMAIN}")
}

fn named(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = OffsetDateTime::now_utc() - Duration::MINUTE;
    params.not_after = OffsetDateTime::now_utc() + Duration::DAY;
    params
}
