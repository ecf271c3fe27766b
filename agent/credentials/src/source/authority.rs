//! Certificates that this node issues to itself, for the names that are wanted, renewed at half of their
//! life.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::folder::Folder;
use super::{AGAIN, Look};
use crate::authority::{NodeFolder, random};
use crate::certificate::Moment;
use crate::name::SpiffeId;

/// How long before its end the node's own certificate is told of, in seconds: it is issued by hand.
const SOON: i64 = 14 * 86_400;

/// See the module.
#[derive(Debug)]
pub(super) struct Source {
    folder: Folder,
    domain: String,
    lifetime: Duration,
    node: Option<NodeFolder>,
    /// The names that are wanted, and when each is due to be issued anew.
    due: BTreeMap<SpiffeId, Instant>,
    gone: Vec<SpiffeId>,
    trouble: Option<String>,
    /// Whether that is about issuing, and not about the folder.
    is_issuing_trouble: bool,
    /// That the node's own certificate ends soon.
    ending: Option<String>,
}

impl Source {
    pub(super) const fn new(dir: PathBuf, domain: String, lifetime: Duration) -> Self {
        let folder = Folder::new(dir);
        Self {
            folder,
            domain,
            lifetime,
            node: None,
            due: BTreeMap::new(),
            gone: Vec::new(),
            trouble: None,
            is_issuing_trouble: false,
            ending: None,
        }
    }

    pub(super) fn want(&mut self, names: BTreeSet<SpiffeId>) {
        self.gone.retain(|name| !names.contains(name));
        self.due.retain(|name, _| {
            let stays = names.contains(name);
            if !stays {
                self.gone.push(name.clone());
            }
            stays
        });
        let now = Instant::now();
        for name in names {
            self.due.entry(name).or_insert(now);
        }
    }

    pub(super) fn retry(&mut self, name: &SpiffeId) {
        if let Some(due) = self.due.get_mut(name) {
            *due = Instant::now() + AGAIN;
        }
    }

    /// What has changed, and what is due.
    pub(super) fn look(&mut self) -> Option<Look> {
        let mut look = Look { gone: std::mem::take(&mut self.gone), ..Look::default() };
        let now = Instant::now();
        let before = (self.trouble.clone(), self.ending.clone());
        if self.folder.is_due() {
            match NodeFolder::open(&self.folder.dir) {
                Ok(node) => {
                    look.bundle = Some(node.bundle(&self.domain));
                    if self.node.as_ref().is_none_or(|old| old.chain() != node.chain()) {
                        self.due.values_mut().for_each(|due| *due = now);
                    }
                    self.node = Some(node);
                    self.trouble = None;
                }
                Err(error) => (self.trouble, self.is_issuing_trouble) = (Some(error.to_string()), false),
            }
        }
        self.issue(now, &mut look);
        self.ending = self.node.as_ref().and_then(|node| ending(node.issuing().not_after(), Moment::now()));
        let troubles = (self.trouble.clone(), self.ending.clone());
        if troubles != before {
            look.troubles = Some(troubles.0.into_iter().chain(troubles.1).collect());
        }
        let nothing = look.bundle.is_none()
            && look.credentials.is_empty()
            && look.gone.is_empty()
            && look.troubles.is_none();
        if nothing { None } else { Some(look) }
    }

    fn issue(&mut self, now: Instant, look: &mut Look) {
        let Some(node) = &self.node else { return };
        let seconds = i64::try_from(self.lifetime.as_secs()).unwrap_or(i64::MAX);
        let mut issued = false;
        let mut failed = None;
        for (name, due) in self.due.iter_mut().filter(|(_, due)| **due <= now) {
            match node.issuing().workload(name, seconds) {
                Ok(credentials) => {
                    let rest = node.issuing().not_after().since(Moment::now());
                    let life = self.lifetime.min(Duration::from_secs(u64::try_from(rest).unwrap_or(0)));
                    *due = now + renewal(life);
                    look.credentials.push(credentials);
                    issued = true;
                }
                Err(error) => {
                    *due = now + AGAIN;
                    failed = Some(format!("cannot issue for {name}: {error}"));
                }
            }
        }
        // Trouble with the folder stays until the folder has changed.
        if failed.is_some() || (issued && self.is_issuing_trouble) {
            self.is_issuing_trouble = failed.is_some();
            self.trouble = failed;
        }
    }
}

/// What there is to say of the node's own certificate, which ends at `end`.
fn ending(end: Moment, now: Moment) -> Option<String> {
    let text = || {
        format!(
            "this node's issuing certificate ends at {end}, and nothing is issued after that: make the next one with \
             `bulkhead ca issue node`"
        )
    };
    (end.since(now) < SOON).then(text)
}

/// When a certificate with this much of its life before it is issued anew: at half of it, give or take a
/// tenth, so that many names are not due at once; near the end of the issuer's own, not without pause.
fn renewal(life: Duration) -> Duration {
    let mut bytes = [0; 2];
    let _ = random(&mut bytes);
    let share = 0.45 + 0.1 * f64::from(u16::from_le_bytes(bytes)) / f64::from(u16::MAX);
    life.mul_f64(share).max(Duration::from_secs(1))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_what_is_issued_by_hand_is_told_two_weeks_before() {
        let now = Moment(1_000_000_000);
        assert_eq!(ending(now.plus(15 * 86_400), now), None);
        let text = ending(now.plus(13 * 86_400), now).unwrap();
        assert!(text.contains("2001-09-22") && text.contains("bulkhead ca issue node"), "{text}");
        assert!(ending(now.plus(-1), now).is_some());
    }

    #[test]
    fn renewal_is_at_half_of_life_and_not_always_at_the_same_moment() {
        let hour = Duration::from_secs(3600);
        let times: BTreeSet<Duration> = (0..50).map(|_| renewal(hour)).collect();
        assert!(times.iter().all(|time| (hour.mul_f64(0.45)..=hour.mul_f64(0.551)).contains(time)));
        assert!(times.len() > 10, "{times:?}");
        assert_eq!(renewal(Duration::ZERO), Duration::from_secs(1));
    }
}
