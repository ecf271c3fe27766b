//! Asking again while a connection lives: its right, its certificates, its age, and whether the proxy goes.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bulkhead_credentials::{Keeper, Moment, Peer, SpiffeId};
use tokio::sync::watch;

use crate::end::{End, Outcome, Refusal};

/// Until a flag is set; for good if nobody can set it any more.
pub(crate) async fn raised(flag: &mut watch::Receiver<bool>) {
    if flag.wait_for(|raised| *raised).await.is_err() {
        std::future::pending().await
    }
}

/// What a live connection is held against.
pub(crate) struct Watch {
    pub(crate) keeper: Keeper,
    /// Who is at the other end of the tunnel.
    pub(crate) peer: Arc<Peer>,
    /// Moves when rights may have changed.
    pub(crate) changes: watch::Receiver<u64>,
    /// Moves when certificates or lists have changed.
    pub(crate) certificates: watch::Receiver<u64>,
    /// The last second of the first of the two certificates that it was made with.
    pub(crate) expires: Moment,
    /// How long it may outlive them.
    pub(crate) max_age: Option<Duration>,
    /// Set when everything is to end at once.
    pub(crate) stop: watch::Receiver<bool>,
}

impl Watch {
    /// Ends well if `relay` does; before that, when the connection has lost its right. `allowed` asks again.
    ///
    /// Whatever changed between the first question and this is asked about at once: the caller subscribed to
    /// changes before it asked.
    pub(crate) async fn over<A>(mut self, relay: impl Future<Output = End>, allowed: impl Fn() -> A) -> End
    where
        A: Future<Output = Result<(), Refusal>>,
    {
        let deadline = self.max_age.map(|more| left(self.expires) + more);
        let too_old = async {
            match deadline {
                Some(left) => tokio::time::sleep(left).await,
                None => std::future::pending().await,
            }
        };
        tokio::pin!(relay, too_old);
        loop {
            tokio::select! {
                biased;
                end = &mut relay => return self.named(end),
                () = raised(&mut self.stop) => {
                    return End::new(Outcome::Drained, "the proxy was stopped");
                }
                Ok(()) = self.changes.changed() => {
                    if let Err(refusal) = Box::pin(allowed()).await {
                        return End::new(Outcome::Withdrawn, refusal.text);
                    }
                }
                Ok(()) = self.certificates.changed() => {
                    if let Err(error) = self.keeper.recheck(&self.peer) {
                        return End::new(Outcome::Revoked, error.to_string());
                    }
                }
                () = &mut too_old => {
                    let text = "its certificates have expired, and its rule sets a max_age";
                    return End::new(Outcome::TooOld, text);
                }
            }
        }
    }

    /// A tunnel that is ended over its certificate is lost to its connections before they look themselves.
    fn named(&self, end: End) -> End {
        match self.keeper.recheck(&self.peer) {
            Err(error) if end.outcome == Outcome::TunnelLost => End::new(Outcome::Revoked, error.to_string()),
            _ => end,
        }
    }
}

/// The first of the ends of our certificate, shown as `own` at this moment, and of the peer's.
pub(crate) fn expiry(keeper: &Keeper, own: &SpiffeId, peer: &Peer) -> Moment {
    let theirs = peer.facts.not_after;
    keeper.shown_until(own).map_or(theirs, |ours| ours.min(theirs))
}

/// How long it is until `moment`.
fn left(moment: Moment) -> Duration {
    Duration::from_secs(u64::try_from(moment.0.saturating_sub(Moment::now().0)).unwrap_or(0))
}
