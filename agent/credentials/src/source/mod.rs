//! Where certificates come from: [`Supply`] turns a source into events, whatever it is.
//!
//! What a source gives is checked here before anybody hears of it; what is bad is told as
//! [`Event::Trouble`] and changes nothing. A source that is away for a while costs nothing either, until
//! what it gave runs out.

mod authority;
mod folder;
mod folders;
#[cfg(feature = "workload-api")]
mod workload;
#[cfg(not(feature = "workload-api"))]
#[path = "without_workload.rs"]
mod workload;

use std::collections::{BTreeSet, VecDeque};
use std::path::PathBuf;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use crate::keeper::Keeper;
use crate::material::{Bundle, Credentials};
use crate::name::SpiffeId;

/// How long until what failed is tried again.
const AGAIN: Duration = Duration::from_secs(5);
/// How often folders are looked at.
const TICK: Duration = Duration::from_millis(200);

/// Which source, and what it needs to know.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Settings {
    /// The trust domain.
    pub domain: String,
    /// Which source.
    pub place: Place,
    /// How long a certificate that is issued here is good.
    pub lifetime: Duration,
}

/// A source.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Place {
    /// A node's folder of the built-in authority: certificates are issued here, for the names that are
    /// wanted.
    Authority(PathBuf),
    /// A folder of certificates, or one of folders, with the files that cert-manager makes.
    Certificates(PathBuf),
    /// The socket of a SPIFFE Workload API. Needs the feature `workload-api`.
    WorkloadApi(PathBuf),
}

/// What came of a source.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// Believe this from now on.
    Bundle(Bundle),
    /// Show this from now on.
    Credentials(Credentials),
    /// Show nothing under this name any more.
    Gone(SpiffeId),
    /// Something is wrong, for a log and a metric; what was there stays. Told once, until it changes.
    Trouble(String),
}

/// A source at work. Errors are events, so it starts also while its source is away.
#[derive(Debug)]
pub struct Supply {
    source: Source,
    /// Holds what was told, and refuses what is bad.
    keeper: Keeper,
    told: VecDeque<Event>,
    /// What was told last, so that it is told once.
    troubles: BTreeSet<String>,
    /// The next look, after one that found nothing new. Kept here and not in [`Supply::next`]: whoever waits for
    /// other things beside it begins it anew with each of them, and no look is due for that.
    due: Option<Instant>,
}

#[derive(Debug)]
enum Source {
    Authority(Box<authority::Source>),
    Certificates(folders::Source),
    WorkloadApi(workload::Source),
}

/// What a look at a source gave.
#[derive(Debug, Default)]
struct Look {
    bundle: Option<Bundle>,
    credentials: Vec<Credentials>,
    gone: Vec<SpiffeId>,
    /// All that is wrong at the moment; `None` if this look says nothing about that.
    troubles: Option<Vec<String>>,
}

impl Source {
    fn look(&mut self) -> Option<Look> {
        match self {
            Self::Authority(source) => source.look(),
            Self::Certificates(source) => source.look(),
            Self::WorkloadApi(source) => source.look(),
        }
    }

    /// Has what was refused for `name` tried again after a while: what it lacked may come later.
    fn retry(&mut self, name: &SpiffeId) {
        match self {
            Self::Authority(source) => source.retry(name),
            Self::Certificates(source) => source.retry(name),
            Self::WorkloadApi(source) => source.retry(name),
        }
    }
}

impl Supply {
    /// Begins with `settings`. Nothing is read before [`Supply::next`] is waited for.
    pub fn new(settings: Settings) -> Self {
        let Settings { domain, place, lifetime } = settings;
        let source = match place {
            Place::Authority(dir) => {
                Source::Authority(Box::new(authority::Source::new(dir, domain, lifetime)))
            }
            Place::Certificates(dir) => Source::Certificates(folders::Source::new(dir, domain)),
            Place::WorkloadApi(socket) => Source::WorkloadApi(workload::Source::new(socket, domain)),
        };
        Self { source, keeper: Keeper::new(), told: VecDeque::new(), troubles: BTreeSet::new(), due: None }
    }

    /// The names that this node's workloads have at the moment. Sources that issue, issue these; others
    /// give what they have.
    pub fn want(&mut self, names: BTreeSet<SpiffeId>) {
        self.due = None;
        match &mut self.source {
            Source::Authority(source) => source.want(names),
            Source::Certificates(_) | Source::WorkloadApi(_) => {}
        }
    }

    /// What has been told so far, at work: the same that whoever follows the events has.
    pub const fn keeper(&self) -> &Keeper {
        &self.keeper
    }

    /// Waits for what happens next, inside a tokio runtime. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Event {
        loop {
            if let Some(event) = self.told.pop_front() {
                return event;
            }
            if let Some(due) = self.due {
                sleep_until(due).await;
            }
            self.due = None;
            match self.source.look() {
                Some(look) => self.take(look),
                None => self.due = Some(Instant::now() + TICK),
            }
        }
    }

    /// Checks what a look gave, and turns it into events.
    fn take(&mut self, look: Look) {
        let Look { bundle, credentials, gone, troubles } = look;
        let said_troubles = troubles.is_some();
        let mut troubles = troubles.unwrap_or_default();
        let is_new = |bundle: &Bundle| self.keeper.trust().is_none_or(|trust| trust.bundle() != bundle);
        if let Some(bundle) = bundle.filter(is_new) {
            match self.keeper.believe(bundle.clone()) {
                Ok(refused) => {
                    self.told.push_back(Event::Bundle(bundle));
                    troubles.extend(refused.iter().map(|error| {
                        format!("with the new bundle, peers would refuse what is shown: {}", error.why)
                    }));
                }
                Err(error) => {
                    troubles.push(format!("the new bundle is not used, the one before stays: {error}"))
                }
            }
        }
        for credentials in credentials {
            match self.keeper.install(&credentials) {
                Ok(_) => self.told.push_back(Event::Credentials(credentials)),
                Err(error) => {
                    self.source.retry(&credentials.name);
                    troubles.push(error.to_string());
                }
            }
        }
        for name in gone {
            self.keeper.forget(&name);
            self.told.push_back(Event::Gone(name));
        }
        for trouble in &troubles {
            if !self.troubles.contains(trouble) {
                self.told.push_back(Event::Trouble(trouble.clone()));
            }
        }
        if said_troubles {
            self.troubles = troubles.into_iter().collect();
        } else {
            self.troubles.extend(troubles);
        }
    }
}
