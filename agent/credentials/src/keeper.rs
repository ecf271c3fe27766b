//! Holds what is shown and what is believed at the moment, and replaces either without a gap.
//!
//! New credentials are checked as a peer would check them, before they are shown; what fails is refused
//! and what was there stays. Configurations are built when credentials change, never per handshake; those
//! that were handed out before go on to work, and ask the newest bundle whom to believe.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::CertificateDer;
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, ServerConfig};
use tokio::sync::watch;

use crate::certificate::{Facts, Moment, presented};
use crate::material::{Bundle, Credentials, Der};
use crate::name::SpiffeId;
use crate::reason::{PeerError, Presented, Problem, Reason};
use crate::tls::{self, Verifier};
use crate::trust::{BundleError, SharedTrust, Trust, Usage};

/// What a node shows and believes. Cheap to clone: all clones are one.
#[derive(Clone)]
pub struct Keeper {
    inner: Arc<Inner>,
}

struct Inner {
    trust: Arc<ArcSwap<Option<SharedTrust>>>,
    held: ArcSwap<HashMap<SpiffeId, Arc<Held>>>,
    verifier: Arc<Verifier>,
    provider: Arc<CryptoProvider>,
    /// One change at a time.
    changing: Mutex<()>,
    changes: watch::Sender<u64>,
}

struct Held {
    facts: Facts,
    chain: Vec<Der>,
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
}

/// A peer whose certificate was believed, to be asked about again.
#[derive(Clone)]
pub struct Peer {
    /// What its certificate says.
    pub facts: Facts,
    chain: Arc<[CertificateDer<'static>]>,
    usage: Usage,
    under: SharedTrust,
}

/// Why credentials are not used. Those before them stay.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the new certificate for {name} is not used, the one before stays: {why}")]
pub struct CredentialsError {
    /// Whose they were meant to be.
    pub name: SpiffeId,
    /// What is wrong.
    pub why: Unfit,
}

/// What is wrong with credentials of our own.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Unfit {
    /// There is no bundle yet to check against.
    #[error("there is no bundle yet: set it before")]
    NoBundle,
    /// A key that cannot be read, or of a kind that cannot be used.
    #[error("its key cannot be used ({0}): ECDSA on P-256 is right")]
    Key(String),
    /// Certificate and key are of two pairs.
    #[error("the key is not this certificate's: were the two files replaced one after the other?")]
    KeyOfAnother,
    /// A certificate of another name.
    #[error("it is of {0}")]
    NameOfAnother(SpiffeId),
    /// A peer would refuse it.
    #[error("peers would refuse it: {0}")]
    Refused(PeerError),
}

impl Unfit {
    /// What it is counted under.
    pub fn reason(&self) -> Reason {
        match self {
            Self::NoBundle => Reason::UnknownIssuer,
            Self::Key(_) => Reason::Unsupported,
            Self::KeyOfAnother => Reason::BadSignature,
            Self::NameOfAnother(_) => Reason::WrongName,
            Self::Refused(error) => error.reason(),
        }
    }
}

/// Why there is nothing to show under a name.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Unavailable {
    /// None was ever installed.
    #[error("there is no certificate for {0}: `bulkhead proxy certs` says what was tried")]
    Missing(SpiffeId),
    /// It has run out.
    #[error(
        "our own certificate for {name} expired at {since}: its source gave no newer one; `bulkhead proxy certs` says why"
    )]
    Expired {
        /// Whose it is.
        name: SpiffeId,
        /// Its last second.
        since: Moment,
    },
}

impl Unavailable {
    /// What it is counted under.
    pub const fn reason(&self) -> Reason {
        match self {
            Self::Missing(_) => Reason::NoOwnCertificate,
            Self::Expired { .. } => Reason::OwnExpired,
        }
    }
}

impl Default for Keeper {
    fn default() -> Self {
        Self::new()
    }
}

impl Keeper {
    /// One that shows nothing and believes nobody.
    pub fn new() -> Self {
        let provider = tls::provider();
        let trust = Arc::new(ArcSwap::from_pointee(None));
        let verifier = Arc::new(Verifier::new(trust.clone(), provider.clone()));
        let inner = Inner {
            trust,
            held: ArcSwap::default(),
            verifier,
            provider,
            changing: Mutex::new(()),
            changes: watch::Sender::new(0),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Believes `bundle` from now on, also for handshakes with configurations that were handed out before.
    /// Gives the names whose own certificates peers with this bundle would refuse.
    pub fn believe(&self, bundle: Bundle) -> Result<Vec<CredentialsError>, BundleError> {
        let trust = Arc::new(Trust::new(bundle, &self.inner.provider)?);
        let _one = self.inner.changing.lock().unwrap_or_else(PoisonError::into_inner);
        if self.inner.trust.load().as_ref().as_ref().is_some_and(|old| old.bundle() == trust.bundle()) {
            return Ok(Vec::new());
        }
        let refused = self
            .inner
            .held
            .load()
            .iter()
            .filter_map(|(name, held)| {
                let chain: Vec<_> = held.chain.iter().map(Der::certificate).collect();
                let refused = as_a_peer(&trust, &chain).err()?;
                Some(CredentialsError { name: name.clone(), why: Unfit::Refused(refused) })
            })
            .collect();
        self.inner.trust.store(Arc::new(Some(trust)));
        self.inner.changes.send_modify(|count| *count += 1);
        Ok(refused)
    }

    /// Shows `credentials` from now on, if they pass as a peer would check them.
    pub fn install(&self, credentials: &Credentials) -> Result<Facts, CredentialsError> {
        let name = &credentials.name;
        let _one = self.inner.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let held = self.check(credentials).map_err(|why| CredentialsError { name: name.clone(), why })?;
        let facts = held.facts.clone();
        let mut all = HashMap::clone(&self.inner.held.load());
        all.insert(name.clone(), Arc::new(held));
        self.inner.held.store(Arc::new(all));
        self.inner.changes.send_modify(|count| *count += 1);
        Ok(facts)
    }

    /// Shows nothing for `name` any more.
    pub fn forget(&self, name: &SpiffeId) {
        let _one = self.inner.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all = HashMap::clone(&self.inner.held.load());
        if all.remove(name).is_some() {
            self.inner.held.store(Arc::new(all));
            self.inner.changes.send_modify(|count| *count += 1);
        }
    }

    /// How to dial as `own`.
    pub fn client(&self, own: &SpiffeId) -> Result<Arc<ClientConfig>, Unavailable> {
        self.held(own).map(|held| held.client.clone())
    }

    /// How to answer as `own`.
    pub fn server(&self, own: &SpiffeId) -> Result<Arc<ServerConfig>, Unavailable> {
        self.held(own).map(|held| held.server.clone())
    }

    /// The last second of what is shown as `own`.
    pub fn shown_until(&self, own: &SpiffeId) -> Option<Moment> {
        Some(self.inner.held.load().get(own)?.facts.not_after)
    }

    /// What is shown at the moment, by name.
    pub fn shown(&self) -> Vec<Facts> {
        let mut all: Vec<Facts> = self.inner.held.load().values().map(|held| held.facts.clone()).collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }

    /// What is believed at the moment.
    pub fn trust(&self) -> Option<Arc<Trust>> {
        self.inner.trust.load().as_ref().clone()
    }

    /// Moves whenever something is shown, believed or withdrawn: then every live peer is asked about
    /// again ([`Keeper::recheck`]).
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.inner.changes.subscribe()
    }

    /// The peer behind a finished handshake, whose certificates are `chain`, if it has one of the names
    /// `expected`; `None` expects any name of our trust domain. `usage` is what the peer is.
    pub fn peer(
        &self,
        chain: Option<&[CertificateDer<'static>]>,
        usage: Usage,
        expected: Option<&[SpiffeId]>,
    ) -> Result<Peer, PeerError> {
        let chain = chain.unwrap_or_default();
        let Some(leaf) = chain.first() else {
            return Err(PeerError { presented: Presented::default(), problem: Problem::None });
        };
        let refuse = |problem| PeerError { presented: presented(leaf), problem };
        let trust = self.trust().ok_or_else(|| refuse(Problem::UnknownIssuer))?;
        // The handshake has verified the chain; while the bundle is new, perhaps under the one before.
        let facts =
            if trust.is_new() { trust.verify(chain, usage, Moment::now())? } else { Facts::read(leaf)? };
        if let Some(expected) = expected
            && !expected.contains(&facts.name)
        {
            return Err(refuse(Problem::WrongName(expected.to_vec())));
        }
        Ok(Peer { facts, chain: chain.into(), usage, under: trust })
    }

    /// Whether `peer` may still be believed: an error if it, or who issued it, was revoked since, or its
    /// root was withdrawn. That it has expired is not looked at ([`Facts::not_after`] says when).
    pub fn recheck(&self, peer: &Peer) -> Result<(), PeerError> {
        match self.trust() {
            Some(trust) if Arc::ptr_eq(&trust, &peer.under) => Ok(()),
            Some(trust) => trust.recheck(&peer.chain, peer.usage, &peer.under),
            None => Err(PeerError { presented: Presented::default(), problem: Problem::UnknownIssuer }),
        }
    }

    fn held(&self, own: &SpiffeId) -> Result<Arc<Held>, Unavailable> {
        let held = self.inner.held.load();
        let held = held.get(own).ok_or_else(|| Unavailable::Missing(own.clone()))?;
        if held.facts.not_after < Moment::now() {
            return Err(Unavailable::Expired { name: own.clone(), since: held.facts.not_after });
        }
        Ok(held.clone())
    }

    fn check(&self, credentials: &Credentials) -> Result<Held, Unfit> {
        let trust = self.trust().ok_or(Unfit::NoBundle)?;
        let chain: Vec<CertificateDer<'static>> =
            credentials.chain.iter().map(|der| der.certificate().into_owned()).collect();
        let facts = as_a_peer(&trust, &chain).map_err(Unfit::Refused)?;
        if facts.name != credentials.name {
            return Err(Unfit::NameOfAnother(facts.name));
        }
        let key = credentials.key.to_rustls().map_err(|why| Unfit::Key(why.to_owned()))?;
        let key = self
            .inner
            .provider
            .key_provider
            .load_private_key(key)
            .map_err(|error| Unfit::Key(error.to_string()))?;
        let pair = CertifiedKey::new(chain, key);
        // Unlike rustls, a key of which it cannot be told whether it fits is refused too.
        pair.keys_match().map_err(|_| Unfit::KeyOfAnother)?;
        let pair = Arc::new(pair);
        let built = |error: rustls::Error| Unfit::Key(error.to_string());
        Ok(Held {
            facts,
            chain: credentials.chain.clone(),
            client: tls::client(self.inner.verifier.clone(), pair.clone()).map_err(built)?,
            server: tls::server(self.inner.verifier.clone(), pair).map_err(built)?,
        })
    }
}

/// Checks our own chain for both of its uses.
fn as_a_peer(trust: &Trust, chain: &[CertificateDer<'_>]) -> Result<Facts, PeerError> {
    let now = Moment::now();
    trust.verify(chain, Usage::Server, now)?;
    trust.verify(chain, Usage::Client, now)
}

impl std::fmt::Debug for Keeper {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keeper").field("shown", &self.shown()).field("trust", &self.trust()).finish()
    }
}

impl std::fmt::Debug for Peer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Peer").field("facts", &self.facts).finish_non_exhaustive()
    }
}
