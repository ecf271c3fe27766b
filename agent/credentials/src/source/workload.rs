//! Certificates from a SPIFFE Workload API, such as SPIRE's agent serves.
//!
//! A task of its own holds the stream and comes back when it breaks; what it hears is looked at by the
//! others' clock. The server says which names this process may show, so [`super::Supply::want`] changes
//! nothing. Revocation lists of the Workload API are not read: the client ignores them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures_util::StreamExt;
use spiffe::{TrustDomain, WorkloadApiClient, WorkloadApiError, X509Context, X509Svid};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::Look;
use crate::material::{Bundle, Credentials, Der, Key};
use crate::name::SpiffeId;

/// How long until a broken stream is tried again, at first and at last.
const FIRST: Duration = Duration::from_millis(500);
const LAST: Duration = Duration::from_secs(15);

/// See the module.
#[derive(Debug)]
pub(super) struct Source {
    socket: PathBuf,
    domain: String,
    stream: Option<Stream>,
    /// What each name was shown with last.
    told: BTreeMap<SpiffeId, Vec<Der>>,
}

#[derive(Debug)]
struct Stream {
    updates: mpsc::Receiver<Result<X509Context, String>>,
    task: JoinHandle<()>,
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Source {
    pub(super) const fn new(socket: PathBuf, domain: String) -> Self {
        Self { socket, domain, stream: None, told: BTreeMap::new() }
    }

    /// Has what was refused for `name` told again, when the server says it again.
    pub(super) fn retry(&mut self, name: &SpiffeId) {
        self.told.remove(name);
    }

    /// What has come since the last look. Must be called inside a tokio runtime.
    pub(super) fn look(&mut self) -> Option<Look> {
        let stream = self.stream.get_or_insert_with(|| {
            let (sender, updates) = mpsc::channel(1);
            Stream { updates, task: tokio::spawn(follow(self.socket.clone(), sender)) }
        });
        match stream.updates.try_recv() {
            Ok(Ok(context)) => Some(self.read(&context)),
            Ok(Err(trouble)) => Some(Look { troubles: Some(vec![trouble]), ..Look::default() }),
            Err(_) => None,
        }
    }

    fn read(&mut self, context: &X509Context) -> Look {
        let mut look = Look::default();
        let mut troubles = Vec::new();
        let roots = TrustDomain::new(&self.domain)
            .ok()
            .and_then(|domain| context.bundle_set().get(&domain))
            .map(|bundle| bundle.authorities().iter().map(|root| der(root.as_bytes())).collect::<Vec<_>>());
        match roots {
            Some(roots) if !roots.is_empty() => {
                look.bundle = Some(Bundle { domain: self.domain.clone(), roots, lists: Vec::new() });
            }
            _ => troubles.push(format!(
                "{}: the Workload API gives no bundle for {}: is trust_domain what the server's is?",
                self.socket.display(),
                self.domain
            )),
        }
        let mut told = BTreeMap::new();
        for svid in context.svids() {
            match credentials(svid, &self.domain) {
                Ok(credentials) => {
                    // Several entries may give one name: the first is the server's choice.
                    if told.contains_key(&credentials.name) {
                        continue;
                    }
                    told.insert(credentials.name.clone(), credentials.chain.clone());
                    if self.told.get(&credentials.name) != Some(&credentials.chain) {
                        look.credentials.push(credentials);
                    }
                }
                Err(trouble) => troubles.push(trouble),
            }
        }
        look.gone = self.told.keys().filter(|name| !told.contains_key(*name)).cloned().collect();
        self.told = told;
        look.troubles = Some(troubles);
        look
    }
}

fn credentials(svid: &X509Svid, domain: &str) -> Result<Credentials, String> {
    let text = svid.spiffe_id().to_string();
    let name: SpiffeId =
        text.parse().map_err(|error| format!("a name of the Workload API is left out: {error}"))?;
    if name.trust_domain() != domain {
        return Err(format!("{name} of the Workload API is left out: our trust domain is {domain}"));
    }
    let chain = svid.cert_chain().iter().map(|certificate| der(certificate.as_bytes())).collect();
    Ok(Credentials { name, chain, key: Key::new(svid.private_key().as_bytes().to_vec()) })
}

fn der(bytes: &[u8]) -> Der {
    Der::from(bytes.to_vec())
}

/// Follows the stream until nobody listens any more.
async fn follow(socket: PathBuf, updates: mpsc::Sender<Result<X509Context, String>>) {
    let mut pause = FIRST;
    loop {
        let trouble = match once(&socket, &updates, &mut pause).await {
            Ok(()) => return,
            Err(trouble) => trouble,
        };
        if updates.send(Err(trouble)).await.is_err() {
            return;
        }
        tokio::time::sleep(pause).await;
        pause = pause.saturating_mul(2).min(LAST);
    }
}

/// One stream, until it breaks; `Ok` if nobody listens any more.
async fn once(
    socket: &Path,
    updates: &mpsc::Sender<Result<X509Context, String>>,
    pause: &mut Duration,
) -> Result<(), String> {
    let said = |error: WorkloadApiError| trouble(socket, &error);
    let client = WorkloadApiClient::connect_to(format!("unix://{}", socket.display())).await.map_err(said)?;
    let mut contexts = client.stream_x509_contexts().await.map_err(said)?;
    while let Some(context) = contexts.next().await {
        let context = context.map_err(said)?;
        *pause = FIRST;
        if updates.send(Ok(context)).await.is_err() {
            return Ok(());
        }
    }
    Err(format!("{}: the Workload API ended the stream", socket.display()))
}

fn trouble(socket: &Path, error: &WorkloadApiError) -> String {
    let hint = match error {
        WorkloadApiError::NoIdentityIssued | WorkloadApiError::PermissionDenied(_) => {
            "; register an entry for each workload's name whose selectors match this agent's process"
        }
        WorkloadApiError::Transport(_) => "; does the server run, and is this its socket?",
        _ => "",
    };
    format!("{}: {error}{hint}", socket.display())
}
