//! Whether a certificate may be believed: path to a root of the bundle, validity, usage, revocation of
//! every certificate of the path, and the one name.
//!
//! A value: it is replaced whole, never changed. It fails towards refusing; what it says is in words of
//! [`crate::Reason`].

use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms};
use rustls_pki_types::{CertificateDer, SubjectPublicKeyInfoDer, TrustAnchor};
use webpki::{
    Cert, EndEntityCert, Error as Pki, KeyUsage, VerifiedPath, anchor_from_trusted_cert, spki_for_anchor,
};

use crate::certificate::{Facts, Moment, parse, presented};
use crate::material::Bundle;
use crate::reason::{PeerError, Problem};
use crate::revocation::{List, Status, mentions, shown, status};
use crate::verified::{Key, Verified};

/// What a peer's certificate is put to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Usage {
    /// It dials.
    Client,
    /// It is dialled.
    Server,
}

/// A bundle that was read and found whole.
pub struct Trust {
    bundle: Bundle,
    roots: Vec<Root>,
    anchors: Vec<TrustAnchor<'static>>,
    lists: Vec<List>,
    algorithms: WebPkiSupportedAlgorithms,
    since: Instant,
    verified: Verified,
}

/// Longer than any handshake may take.
const NEW: Duration = Duration::from_secs(120);

struct Root {
    key: SubjectPublicKeyInfoDer<'static>,
    not_after: Moment,
}

/// Why a bundle cannot be used. The one before it stays.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BundleError {
    /// Nobody would be believed.
    #[error("the bundle has no root certificate: add the authority's to ca.crt")]
    Empty,
    /// Not a trust domain.
    #[error("`{0}` is no trust domain: 1 to 255 letters a-z, digits, dots, dashes, underscores")]
    Domain(String),
    /// A root that cannot be one.
    #[error("root certificate {number} of the bundle cannot be used: {why}")]
    Root {
        /// Counted from 1.
        number: usize,
        /// What is wrong.
        why: String,
    },
    /// A revocation list that cannot be read, or that its issuer did not sign.
    #[error("revocation list {number} cannot be used: {why}")]
    List {
        /// Counted from 1.
        number: usize,
        /// What is wrong.
        why: String,
    },
}

impl Trust {
    /// Reads `bundle`; all of it must be good.
    pub fn new(bundle: Bundle, provider: &CryptoProvider) -> Result<Self, BundleError> {
        let algorithms = provider.signature_verification_algorithms;
        if crate::SpiffeId::new(&bundle.domain, "a", "a").is_err() {
            return Err(BundleError::Domain(bundle.domain));
        }
        if bundle.roots.is_empty() {
            return Err(BundleError::Empty);
        }
        let mut roots = Vec::new();
        let mut anchors = Vec::new();
        for (index, der) in bundle.roots.iter().enumerate() {
            let refuse = |why| BundleError::Root { number: index + 1, why };
            let certificate = der.certificate();
            let parsed = parse(&certificate).map_err(|problem| refuse(problem.to_string()))?;
            if !parsed.is_ca() {
                return Err(refuse(
                    "it is no authority's: the CA flag of its basic constraints is missing".to_owned(),
                ));
            }
            let not_after = Moment(parsed.validity().not_after.timestamp());
            let anchor =
                anchor_from_trusted_cert(&certificate).map_err(|error| refuse(error.to_string()))?.to_owned();
            roots.push(Root { key: spki_for_anchor(&anchor), not_after });
            anchors.push(anchor);
        }
        let mut lists = Vec::new();
        for (index, der) in bundle.lists.iter().enumerate() {
            let refuse = |why| BundleError::List { number: index + 1, why };
            let list = List::read(der, algorithms.all).map_err(refuse)?;
            let mut namesakes =
                anchors.iter().filter(|anchor| anchor.subject.as_ref() == list.issuer()).peekable();
            if namesakes.peek().is_some()
                && !namesakes.any(|anchor| list.is_signed_by(&spki_for_anchor(anchor)))
            {
                return Err(refuse(
                    "it bears a root's name, and no root of that name signed it: replace it, or take it out"
                        .to_owned(),
                ));
            }
            lists.push(list);
        }
        Ok(Self {
            bundle,
            roots,
            anchors,
            lists,
            algorithms,
            since: Instant::now(),
            verified: Verified::default(),
        })
    }

    /// What this was made of.
    pub fn bundle(&self) -> &Bundle {
        &self.bundle
    }

    /// The last second of each root, in the bundle's order.
    pub fn roots_end(&self) -> impl Iterator<Item = Moment> + '_ {
        self.roots.iter().map(|root| root.not_after)
    }

    /// When the earliest of the revocation lists should have been replaced by a newer one.
    pub fn lists_due(&self) -> Option<Moment> {
        self.lists.iter().filter_map(|list| list.next_update).min()
    }

    /// Believes `chain` (the workload's certificate first) at `now` for `usage`, or says why not. A chain that
    /// this has believed before is looked at for its dates alone.
    pub fn verify(
        &self,
        chain: &[CertificateDer<'_>],
        usage: Usage,
        now: Moment,
    ) -> Result<Facts, PeerError> {
        let key = Key::of(chain, usage);
        if let Some(facts) = self.verified.get(&key, now) {
            return Ok(facts);
        }
        let facts = self.verify_anew(chain, usage, now)?;
        self.verified.put(key, chain, &facts);
        Ok(facts)
    }

    fn verify_anew(
        &self,
        chain: &[CertificateDer<'_>],
        usage: Usage,
        now: Moment,
    ) -> Result<Facts, PeerError> {
        let Some((leaf, intermediates)) = chain.split_first() else {
            return Err(PeerError { presented: Default::default(), problem: Problem::None });
        };
        let refuse = |problem| PeerError { presented: presented(leaf), problem };
        let end_entity = EndEntityCert::try_from(leaf).map_err(|error| refuse(problem(error, usage)))?;
        let path = end_entity
            .verify_for_usage(
                self.algorithms.all,
                &self.anchors,
                intermediates,
                now.unix(),
                usage.webpki(),
                None,
                None,
            )
            .map_err(|error| refuse(problem(error, usage)))?;
        self.check_revocation(&path).map_err(refuse)?;
        let facts = Facts::read(leaf)?;
        if facts.name.trust_domain() != self.bundle.domain {
            return Err(refuse(Problem::WrongTrustDomain { ours: self.bundle.domain.clone() }));
        }
        Ok(facts)
    }

    /// Whether a handshake that is over now may have begun under the value before this.
    pub(crate) fn is_new(&self) -> bool {
        self.since.elapsed() < NEW
    }

    /// Whether `chain`, which an earlier value of this believed, may no longer be: revoked since, or its
    /// root withdrawn. That it has expired since does not count.
    pub fn recheck(
        &self,
        chain: &[CertificateDer<'_>],
        usage: Usage,
        earlier: &Self,
    ) -> Result<(), PeerError> {
        let same_roots =
            self.bundle.roots == earlier.bundle.roots && self.bundle.domain == earlier.bundle.domain;
        if same_roots && !self.is_mentioned(chain) {
            return Ok(());
        }
        let mut now = Moment::now();
        for certificate in chain {
            if let Ok(parsed) = parse(certificate) {
                now = now.min(Moment(parsed.validity().not_after.timestamp()));
            }
        }
        self.verify(chain, usage, now).map(|_| ())
    }

    /// Whether a list names one of `chain`. Cheap: no signature is looked at.
    fn is_mentioned(&self, chain: &[CertificateDer<'_>]) -> bool {
        chain.iter().any(|certificate| match EndEntityCert::try_from(certificate) {
            // A certificate has its issuer's name without the sequence around it, as a list has it.
            Ok(certificate) => mentions(&self.lists, certificate.issuer(), certificate.serial()),
            Err(_) => true,
        })
    }

    fn check_revocation(&self, path: &VerifiedPath<'_>) -> Result<(), Problem> {
        if self.lists.is_empty() {
            return Ok(());
        }
        let certificates: Vec<&Cert<'_>> =
            std::iter::once(&**path.end_entity()).chain(path.intermediate_certificates()).collect();
        for (index, certificate) in certificates.iter().enumerate() {
            let (key, elders) = match certificates.get(index + 1) {
                Some(issuer) => (issuer.subject_public_key_info(), Vec::new()),
                None => (spki_for_anchor(path.anchor()), self.keys_under(certificate.issuer())),
            };
            match status(&self.lists, certificate.issuer(), certificate.serial(), &key, &elders) {
                Status::Good => {}
                Status::Revoked => return Err(Problem::Revoked(shown(certificate.serial()))),
                Status::Unknown => return Err(Problem::RevocationUnknown),
            }
        }
        Ok(())
    }

    /// The keys of all roots of this name.
    fn keys_under(&self, subject: &[u8]) -> Vec<SubjectPublicKeyInfoDer<'static>> {
        self.anchors
            .iter()
            .zip(&self.roots)
            .filter(|(anchor, _)| anchor.subject.as_ref() == subject)
            .map(|(_, root)| root.key.clone())
            .collect()
    }
}

impl std::fmt::Debug for Trust {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Trust").field("bundle", &self.bundle).finish_non_exhaustive()
    }
}

impl Usage {
    const fn webpki(self) -> KeyUsage {
        match self {
            Self::Client => KeyUsage::client_auth(),
            Self::Server => KeyUsage::server_auth(),
        }
    }

    const fn word(self) -> &'static str {
        match self {
            Self::Client => "a client (clientAuth)",
            Self::Server => "a server (serverAuth)",
        }
    }
}

fn problem(error: Pki, usage: Usage) -> Problem {
    let moment = |time: rustls_pki_types::UnixTime| Moment(i64::try_from(time.as_secs()).unwrap_or(i64::MAX));
    match error {
        Pki::CertExpired { not_after, .. } => Problem::Expired(moment(not_after)),
        Pki::CertNotValidYet { not_before, .. } => Problem::NotYetValid(moment(not_before)),
        Pki::UnknownIssuer => Problem::UnknownIssuer,
        Pki::CertRevoked => Problem::Revoked("it".to_owned()),
        Pki::InvalidSignatureForPublicKey | Pki::SignatureAlgorithmMismatch => Problem::BadSignature,
        Pki::CaUsedAsEndEntity => Problem::AuthorityAsLeaf,
        Pki::RequiredEkuNotFoundContext(_) | Pki::EmptyEkuExtension => Problem::WrongUsage(usage.word()),
        Pki::EndEntityUsedAsCa => Problem::Constraint("a workload's certificate issued it".to_owned()),
        Pki::NameConstraintViolation | Pki::PathLenConstraintViolated => {
            Problem::Constraint(error.to_string())
        }
        Pki::UnsupportedSignatureAlgorithmContext(_)
        | Pki::UnsupportedSignatureAlgorithmForPublicKeyContext(_)
        | Pki::UnsupportedCriticalExtension => Problem::Unsupported(error.to_string()),
        Pki::MaximumPathDepthExceeded
        | Pki::MaximumPathBuildCallsExceeded
        | Pki::MaximumSignatureChecksExceeded
        | Pki::MaximumNameConstraintComparisonsExceeded => Problem::Constraint(
            "its chain is longer or more tangled than any that is looked through".to_owned(),
        ),
        other => Problem::Unreadable(other.to_string()),
    }
}

/// Shared, since every handshake holds it.
pub(crate) type SharedTrust = Arc<Trust>;
