//! Makes certificates, and signs them with an issuer's key.

use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, CidrSubnet, DistinguishedName, DnType, ExtendedKeyUsagePurpose,
    GeneralSubtree, IsCa, Issuer, KeyPair, KeyUsagePurpose, NameConstraints, PublicKeyData, SanType,
    SerialNumber, SignatureAlgorithm, SigningKey,
};
use rustls::crypto::SecureRandom;
use time::OffsetDateTime;
use zeroize::{Zeroize, Zeroizing};

use super::AuthorityError;
use crate::certificate::Moment;
use crate::material::{Credentials, Der, Key};
use crate::name::SpiffeId;

/// How far before now a certificate begins, in seconds: clocks of nodes differ.
const BACKDATED: i64 = 60;

/// An issuer with its key, in memory.
pub struct Issuing {
    issuer: Issuer<'static, Signing>,
    /// The issuer's certificate, and what leads from it to the root.
    above: Vec<Der>,
    not_after: Moment,
}

/// A key pair that is overwritten when it is dropped.
pub(super) struct Signing(KeyPair);

impl Issuing {
    /// Issues with `key`, which is that of `certificate`; `above` goes into every chain after the
    /// workload's own certificate.
    pub(super) fn new(certificate: &Der, key: &Key, above: Vec<Der>) -> Result<Self, String> {
        let der = certificate.certificate();
        let parsed = crate::certificate::parse(&der).map_err(|problem| problem.to_string())?;
        let may_sign = parsed.key_usage().map_err(|error| error.to_string())?;
        if !parsed.is_ca() || may_sign.is_some_and(|usage| !usage.value.key_cert_sign()) {
            return Err("this certificate may not issue others: it needs CA:TRUE and keyCertSign".to_owned());
        }
        let not_after = Moment(parsed.validity().not_after.timestamp());
        let key = key.to_rustls().map_err(str::to_owned)?;
        let pair = Signing(KeyPair::try_from(&key).map_err(|error| error.to_string())?);
        if pair.subject_public_key_info() != parsed.public_key().raw {
            return Err("the key is not this certificate's".to_owned());
        }
        let issuer = Issuer::from_ca_cert_der(&der, pair).map_err(|error| error.to_string())?;
        Ok(Self { issuer, above, not_after })
    }

    /// A workload's certificate and key, made now, good for `seconds`, and never longer than the issuer's
    /// own certificate.
    pub fn workload(&self, name: &SpiffeId, seconds: i64) -> Result<Credentials, AuthorityError> {
        let (not_before, not_after) = self.times(seconds)?;
        let pair = Signing::generate()?;
        let mut params = bare(not_before, not_after)?;
        // The subject is empty, which makes the extension with the name critical.
        params.subject_alt_names = vec![uri(name.as_str())?];
        // Said and not left out: some verifiers of SPIFFE names insist.
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = both_usages();
        let certificate = params.signed_by(&pair, &self.issuer)?;
        let chain = std::iter::once(Der::from(certificate.der())).chain(self.above.iter().cloned()).collect();
        Ok(Credentials { name: name.clone(), chain, key: pair.to_key() })
    }

    /// A node's intermediate: it issues workloads of any name of `domain`, and neither further authorities
    /// nor names that a browser would take.
    pub(super) fn node(
        &self,
        domain: &str,
        node: &str,
        seconds: i64,
    ) -> Result<(Vec<Der>, Key), AuthorityError> {
        let (not_before, not_after) = self.times(seconds)?;
        let pair = Signing::generate()?;
        let mut params = bare(not_before, not_after)?;
        let tag = params.serial_number.as_ref().map(short).unwrap_or_default();
        params.distinguished_name = subject(domain, &format!("node {}", cut(node, 48)), &tag);
        params.subject_alt_names = vec![uri(&format!("spiffe://{domain}"))?];
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.extended_key_usages = both_usages();
        // Not permitted names of our trust domain: RFC 5280 knows constraints on URI names, and the
        // verifiers of most peers refuse every certificate below one.
        params.name_constraints = Some(NameConstraints {
            permitted_subtrees: Vec::new(),
            excluded_subtrees: vec![
                GeneralSubtree::DnsName(String::new()),
                GeneralSubtree::IpAddress(CidrSubnet::V4([0; 4], [0; 4])),
                GeneralSubtree::IpAddress(CidrSubnet::V6([0; 16], [0; 16])),
            ],
        });
        let certificate = params.signed_by(&pair, &self.issuer)?;
        let chain = std::iter::once(Der::from(certificate.der())).chain(self.above.iter().cloned()).collect();
        Ok((chain, pair.to_key()))
    }

    /// A new root; `elder` signs it as well, so that those who know only the elder believe it too. Gives
    /// the root, its key, and the elder's certificate for it.
    pub(super) fn root(
        domain: &str,
        seconds: i64,
        elder: Option<&Self>,
    ) -> Result<(Der, Key, Option<Der>), AuthorityError> {
        let now = Moment::now();
        let pair = Signing::generate()?;
        let mut params = bare(now.plus(-BACKDATED), now.plus(seconds))?;
        let tag = params.serial_number.as_ref().map(short).unwrap_or_default();
        params.distinguished_name = subject(domain, "root", &tag);
        params.subject_alt_names = vec![uri(&format!("spiffe://{domain}"))?];
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = Der::from(params.self_signed(&pair)?.der());
        let crossed = match elder {
            None => None,
            Some(elder) => {
                let (not_before, not_after) = elder.times(seconds)?;
                params.serial_number = Some(serial()?);
                (params.not_before, params.not_after) = (date(not_before), date(not_after));
                params.use_authority_key_identifier_extension = true;
                Some(Der::from(params.signed_by(&pair, &elder.issuer)?.der()))
            }
        };
        Ok((certificate, pair.to_key(), crossed))
    }

    /// The last second of the issuer's own certificate.
    pub const fn not_after(&self) -> Moment {
        self.not_after
    }

    pub(super) const fn issuer(&self) -> &Issuer<'static, Signing> {
        &self.issuer
    }

    fn times(&self, seconds: i64) -> Result<(Moment, Moment), AuthorityError> {
        let now = Moment::now();
        if self.not_after <= now {
            return Err(AuthorityError::Expired(self.not_after));
        }
        if seconds < 1 {
            return Err(AuthorityError::NoLife);
        }
        Ok((now.plus(-BACKDATED), now.plus(seconds).min(self.not_after)))
    }
}

impl std::fmt::Debug for Issuing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Issuing")
            .field("not_after", &self.not_after)
            .field("key", &"<hidden>")
            .finish_non_exhaustive()
    }
}

impl Signing {
    fn generate() -> Result<Self, rcgen::Error> {
        KeyPair::generate().map(Self)
    }

    fn to_key(&self) -> Key {
        Key::new(self.0.serialize_der())
    }
}

impl Drop for Signing {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl PublicKeyData for Signing {
    fn der_bytes(&self) -> &[u8] {
        self.0.der_bytes()
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        self.0.algorithm()
    }
}

impl SigningKey for Signing {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        self.0.sign(message)
    }
}

/// A key as PEM, in a text that is overwritten when it is dropped.
pub(super) fn key_to_pem(key: &Key) -> Result<Zeroizing<String>, String> {
    let key = key.to_rustls().map_err(str::to_owned)?;
    let pair = Signing(KeyPair::try_from(&key).map_err(|error| error.to_string())?);
    Ok(Zeroizing::new(pair.0.serialize_pem()))
}

fn bare(not_before: Moment, not_after: Moment) -> Result<CertificateParams, AuthorityError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.serial_number = Some(serial()?);
    (params.not_before, params.not_after) = (date(not_before), date(not_after));
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

/// 127 random bits: a serial number is a positive integer.
fn serial() -> Result<SerialNumber, AuthorityError> {
    let mut bytes = [0; 16];
    random(&mut bytes)?;
    bytes[0] = bytes[0] & 0x7f | 0x40;
    Ok(SerialNumber::from_slice(&bytes))
}

/// Fills `bytes` from the cryptography's own source.
pub(crate) fn random(bytes: &mut [u8]) -> Result<(), AuthorityError> {
    let source: &dyn SecureRandom = rustls::crypto::aws_lc_rs::default_provider().secure_random;
    source.fill(bytes).map_err(|_| AuthorityError::Make(rcgen::Error::RingUnspecified))
}

fn short(serial: &SerialNumber) -> String {
    serial.as_ref().iter().take(4).map(|byte| format!("{byte:02x}")).collect()
}

/// `tag` tells an issuer from others of its name: revocation lists go by the subject.
fn subject(domain: &str, what: &str, tag: &str) -> DistinguishedName {
    // RFC 5280, upper bound of both.
    const LONGEST: usize = 64;
    let mut subject = DistinguishedName::new();
    subject.push(DnType::OrganizationName, cut(domain, LONGEST));
    subject.push(DnType::CommonName, cut(&format!("{what}, {tag}"), LONGEST));
    subject
}

fn cut(text: &str, longest: usize) -> String {
    text.chars().take(longest).collect()
}

fn uri(text: &str) -> Result<SanType, AuthorityError> {
    Ok(SanType::URI(Ia5String::try_from(text)?))
}

fn both_usages() -> Vec<ExtendedKeyUsagePurpose> {
    vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth]
}

fn date(moment: Moment) -> OffsetDateTime {
    // Beyond the year 9999 there are no dates in certificates either.
    OffsetDateTime::from_unix_timestamp(moment.0.clamp(0, 253_402_300_799))
        .unwrap_or(OffsetDateTime::UNIX_EPOCH)
}
