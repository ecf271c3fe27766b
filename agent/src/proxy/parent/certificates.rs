//! The certificates that the proxy shows: what the configured source gives, as orders for the proxy.
//!
//! Names are wanted as they are asked for; one that the policy no longer knows is forgotten. Keys pass
//! through this process' memory and a socket between two of ours, and are written nowhere.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use bulkhead_credentials::source::{Event, Place, Settings, Supply};
use bulkhead_credentials::{Bundle, Credentials, Facts, SpiffeId};

use crate::config::ProxyConfig;
use crate::config::proxy::Source;
use crate::proxy::view::Certificate;
use crate::proxy::wire::Order;

/// How long an answer may wait for the certificate that it names.
const PATIENCE: Duration = Duration::from_secs(2);

pub(super) struct Certificates {
    supply: Supply,
    source: &'static str,
    bundle: Option<Bundle>,
    held: BTreeMap<SpiffeId, Credentials>,
    /// Since when.
    wanted: BTreeMap<SpiffeId, Instant>,
    /// What was wrong last.
    trouble: Option<String>,
}

impl Certificates {
    pub(super) fn new(config: &ProxyConfig) -> Self {
        let (place, source) = match &config.source {
            Source::Authority(folder) => (Place::Authority(folder.clone()), "authority"),
            Source::Certificates(folder) => (Place::Certificates(folder.clone()), "files"),
            Source::WorkloadApi(socket) => (Place::WorkloadApi(socket.clone()), "workload-api"),
        };
        let settings =
            Settings { domain: config.trust_domain.clone(), place, lifetime: config.leaf_lifetime };
        Self {
            supply: Supply::new(settings),
            source,
            bundle: None,
            held: BTreeMap::new(),
            wanted: BTreeMap::new(),
            trouble: None,
        }
    }

    /// Everything, for a proxy that has nothing yet.
    pub(super) fn all(&self) -> Vec<Order> {
        let bundle = self.bundle.iter().map(|bundle| Order::Bundle(Box::new(bundle.clone())));
        let held = self.held.values().map(|held| Order::Credentials(Box::new(held.clone())));
        bundle.chain(held).collect()
    }

    /// What is new, as soon as something is. Dropping the future loses nothing.
    pub(super) async fn next(&mut self) -> Order {
        loop {
            let event = self.supply.next().await;
            if let Some(order) = self.take(event) {
                return order;
            }
        }
    }

    /// Sees to it that there is a certificate for `name`, if the source gives one; what is new.
    pub(super) async fn want(&mut self, name: &SpiffeId) -> Vec<Order> {
        self.expect(BTreeSet::from([name.clone()]));
        // One that the source does not give is waited for once, and not by everybody who asks.
        let since = self.wanted.get(name).copied();
        let left = since.map(|since| PATIENCE.saturating_sub(since.elapsed())).unwrap_or_default();
        let mut orders = Vec::new();
        let patience = tokio::time::sleep(left);
        tokio::pin!(patience);
        while !self.held.contains_key(name) {
            tokio::select! {
                biased;
                order = self.next() => orders.push(order),
                () = &mut patience => break,
            }
        }
        orders
    }

    /// Has certificates for these names made, and waits for none.
    pub(super) fn expect(&mut self, names: BTreeSet<SpiffeId>) {
        let (before, now) = (self.wanted.len(), Instant::now());
        for name in names {
            self.wanted.entry(name).or_insert(now);
        }
        if self.wanted.len() != before {
            self.tell_supply();
        }
    }

    fn tell_supply(&mut self) {
        self.supply.want(self.wanted.keys().cloned().collect());
    }

    /// Forgets names that are not among these.
    pub(super) fn keep(&mut self, known: impl Fn(&SpiffeId) -> bool) {
        let before = self.wanted.len();
        self.wanted.retain(|name, _| known(name));
        if self.wanted.len() != before {
            self.tell_supply();
        }
    }

    /// For people and metrics.
    pub(super) fn list(&self) -> Vec<Certificate> {
        let shown = self.supply.keeper().shown();
        let missing = self.wanted.keys().filter(|name| !self.held.contains_key(*name));
        let missing = missing.map(|name| Certificate { name: name.to_string(), ..self.blank() });
        shown.iter().map(|facts| self.certificate(facts)).chain(missing).collect()
    }

    fn certificate(&self, facts: &Facts) -> Certificate {
        Certificate {
            name: facts.name.to_string(),
            serial: facts.serial.to_string(),
            not_before: facts.not_before.0,
            not_after: facts.not_after.0,
            ..self.blank()
        }
    }

    fn blank(&self) -> Certificate {
        Certificate {
            name: String::new(),
            serial: String::new(),
            not_before: 0,
            not_after: 0,
            source: self.source.to_owned(),
            problem: self.trouble.clone(),
        }
    }

    fn take(&mut self, event: Event) -> Option<Order> {
        match event {
            Event::Bundle(bundle) => {
                self.trouble = None;
                tracing::info!(
                    roots = bundle.roots.len(),
                    lists = bundle.lists.len(),
                    "a bundle is believed"
                );
                self.bundle = Some(bundle.clone());
                Some(Order::Bundle(Box::new(bundle)))
            }
            Event::Credentials(credentials) => {
                tracing::info!(name = %credentials.name, "a certificate is shown from now on");
                self.held.insert(credentials.name.clone(), credentials.clone());
                Some(Order::Credentials(Box::new(credentials)))
            }
            Event::Gone(name) => {
                self.held.remove(&name);
                Some(Order::Forget { name })
            }
            Event::Trouble(trouble) => {
                tracing::warn!(trouble, "certificates are not as they should be; what was there stays");
                self.trouble = Some(trouble);
                None
            }
        }
    }
}
