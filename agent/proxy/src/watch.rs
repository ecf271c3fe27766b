//! Asking again while a connection lives: its right, its certificates, its age, and whether the proxy goes.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::Duration;

use bulkhead_credentials::{Keeper, Moment, Peer, SpiffeId};
use tokio::sync::watch;
use tokio::time::sleep;

use crate::end::{End, Outcome, Refusal};

/// Until a flag is set; for good if nobody can set it any more.
pub(crate) async fn raised(flag: &mut watch::Receiver<bool>) {
    if flag.wait_for(|raised| *raised).await.is_err() {
        std::future::pending().await
    }
}

/// What live connections must know of; counts, so that a look at them later misses nothing.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct News {
    /// How often rights may have changed.
    rights: u64,
    /// How often certificates or lists have changed.
    certificates: u64,
    /// Everything is to end at once.
    stopped: bool,
}

/// Hands on to `news` what the node and the keeper say, so that each connection waits in one place. Ends when
/// neither can say anything any more.
pub(crate) async fn herald(
    mut rights: watch::Receiver<u64>,
    mut certificates: watch::Receiver<u64>,
    news: watch::Sender<News>,
) {
    loop {
        tokio::select! {
            Ok(()) = rights.changed() => news.send_modify(|news| news.rights += 1),
            Ok(()) = certificates.changed() => news.send_modify(|news| news.certificates += 1),
            else => return,
        }
    }
}

/// Everything is to end at once.
pub(crate) fn stop(news: &watch::Sender<News>) {
    news.send_modify(|news| news.stopped = true);
}

/// One who waits for news, and what it had heard when it began to.
pub(crate) struct Ear {
    news: watch::Receiver<News>,
    heard: News,
}

impl Ear {
    pub(crate) fn new(news: &watch::Sender<News>) -> Self {
        let news = news.subscribe();
        let heard = *news.borrow();
        Self { news, heard }
    }
}

/// What a live connection is held against.
pub(crate) struct Watch<'a> {
    pub(crate) keeper: &'a Keeper,
    /// Who is at the other end of the tunnel.
    pub(crate) peer: &'a Peer,
    /// Open since before the first question.
    pub(crate) ear: &'a mut Ear,
    /// The last second of the first of the two certificates that it was made with.
    pub(crate) expires: Moment,
    /// How long it may outlive them.
    pub(crate) max_age: Option<Duration>,
}

impl Watch<'_> {
    /// Ends well if `relay` does; before that, when the connection has lost its right. `allowed` asks again.
    ///
    /// Whatever changed between the first question and this is asked about at once: the caller listened for
    /// news before it asked.
    pub(crate) async fn over<A>(
        &mut self,
        mut relay: Pin<&mut impl Future<Output = End>>,
        allowed: impl Fn() -> A,
    ) -> End
    where
        A: Future<Output = Result<(), Refusal>>,
    {
        // Few have a deadline.
        let mut deadline = self.max_age.map(|more| Box::pin(sleep(left(self.expires) + more)));
        let too_old = poll_fn(|context| match &mut deadline {
            Some(deadline) => deadline.as_mut().poll(context),
            None => Poll::Pending,
        });
        let mut too_old = pin!(too_old);
        loop {
            tokio::select! {
                biased;
                end = &mut relay => return self.named(end),
                Ok(()) = self.ear.news.changed() => {}
                () = &mut too_old => {
                    let text = "its certificates have expired, and its rule sets a max_age";
                    return End::new(Outcome::TooOld, text);
                }
            }
            let heard = std::mem::replace(&mut self.ear.heard, *self.ear.news.borrow_and_update());
            if self.ear.heard.stopped {
                return End::new(Outcome::Drained, "the proxy was stopped");
            }
            if self.ear.heard.rights != heard.rights
                && let Err(refusal) = Box::pin(allowed()).await
            {
                return End::new(Outcome::Withdrawn, refusal.text);
            }
            if self.ear.heard.certificates != heard.certificates
                && let Err(error) = self.keeper.recheck(self.peer)
            {
                return End::new(Outcome::Revoked, error.to_string());
            }
        }
    }

    /// A tunnel that is ended over its certificate is lost to its connections before they look themselves.
    fn named(&self, end: End) -> End {
        match self.keeper.recheck(self.peer) {
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

/// Whether the last second of a certificate is over.
pub(crate) fn is_past(expires: Moment) -> bool {
    expires < Moment::now()
}

/// Until then.
pub(crate) async fn past(expires: Moment) {
    tokio::time::sleep(left(expires) + Duration::from_secs(1)).await;
}

/// How long it is until `moment`.
fn left(moment: Moment) -> Duration {
    Duration::from_secs(u64::try_from(moment.0.saturating_sub(Moment::now().0)).unwrap_or(0))
}
