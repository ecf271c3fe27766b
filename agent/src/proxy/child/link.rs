//! The proxy's side of the conversation with the agent: questions, answers that are remembered until the
//! agent says that they may no longer hold, and what becomes of questions while no agent is there.
//!
//! Which way it fails: without an agent what was answered before still holds, since the kernel goes on with
//! the same policy; whatever is new is refused with the reason `no-agent`.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{oneshot, watch};

use crate::proxy::channel::Channel;
use crate::proxy::wire::{Answer, Question, Report, reason};

/// How long a connection waits for the answers of an agent that is there, all of them together: one that is busy
/// still answers.
const PATIENCE: Duration = Duration::from_secs(5);
/// What is asked later than that is waited for so long.
const LEAST: Duration = Duration::from_secs(1);
/// How long a connection waits for an agent that is being started again.
const COME_BACK: Duration = Duration::from_millis(700);
/// How long one waits for an agent that has not answered anything yet, too: the program hears within a second.
const ANSWERED: Duration = Duration::from_millis(850);
/// Answers that are remembered; beyond it all are forgotten at once, and asked for again.
const REMEMBERED: usize = 65_536;

type Waiting = HashMap<u64, oneshot::Sender<(Answer, Vec<OwnedFd>)>>;

/// The conversation. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Link(Arc<State>);

#[derive(Debug)]
struct State {
    agent: watch::Sender<Option<Agent>>,
    waiting: Mutex<Waiting>,
    answers: Mutex<HashMap<Question, Answer>>,
    next: AtomicU64,
    serial: watch::Sender<u64>,
}

/// An agent that is there.
#[derive(Clone, Debug)]
struct Agent {
    channel: Arc<Channel>,
    /// Whether it has answered anything yet: one that was just started has other things to do first.
    speaks: Arc<AtomicBool>,
}

impl Link {
    pub(super) fn new() -> Self {
        Self(Arc::new(State {
            agent: watch::Sender::new(None),
            waiting: Mutex::default(),
            answers: Mutex::default(),
            next: AtomicU64::new(1),
            serial: watch::Sender::new(0),
        }))
    }

    /// An agent is there, or is no longer.
    pub(super) fn set_agent(&self, agent: Option<Arc<Channel>>) {
        self.0.agent.send_replace(agent.map(|channel| Agent { channel, speaks: Arc::default() }));
        // Whoever waits for an answer of the old one waits in vain.
        self.waiting().clear();
    }

    /// Whether an agent is there to answer.
    pub(super) fn is_answered(&self) -> bool {
        self.0.agent.borrow().is_some()
    }

    /// Answers may no longer hold.
    pub(super) fn changed(&self) {
        self.answers().clear();
        self.0.serial.send_modify(|serial| *serial += 1);
    }

    /// Moves with [`Link::changed`].
    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.0.serial.subscribe()
    }

    /// The answer to question `id` came.
    pub(super) fn answered(&self, id: u64, answer: Answer, descriptors: Vec<OwnedFd>) {
        if let Some(asker) = self.waiting().remove(&id) {
            // Who no longer waits does not hear.
            let _ = asker.send((answer, descriptors));
        }
    }

    /// Tells the agent something, if there is one.
    pub(super) async fn tell(&self, report: &Report) -> io::Result<()> {
        let agent = self.0.agent.borrow().clone();
        match agent {
            Some(agent) => agent.channel.send(report, &[]).await,
            None => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    /// Asks what can be remembered, for a connection that began at `since`.
    pub(super) async fn ask(&self, question: Question, since: Instant) -> Answer {
        let anywhere = question.anywhere();
        {
            let answers = self.answers();
            let known = anywhere.as_ref().and_then(|anywhere| answers.get(anywhere));
            if let Some(answer) = known.or_else(|| answers.get(&question)) {
                return answer.clone();
            }
        }
        let before = *self.0.serial.borrow();
        let Some((answer, _)) = self.ask_now(&question, since).await else {
            return Answer::Denied {
                reason: reason::NO_AGENT.to_owned(),
                text:
                    "the agent that knows the policy does not answer; connections that were allowed before \
                       still are: see `bulkhead status`"
                        .to_owned(),
                edge: None,
            };
        };
        let mut answers = self.answers();
        // An answer that was under way when things changed is for the asker alone.
        if *self.0.serial.borrow() == before {
            if answers.len() >= REMEMBERED {
                answers.clear();
            }
            let asked = match anywhere {
                // What is denied is told with its address.
                Some(anywhere) if matches!(answer, Answer::Outbound { .. }) => anywhere,
                _ => question,
            };
            answers.insert(asked, answer.clone());
        }
        drop(answers);
        answer
    }

    /// Asks for sockets, for a connection that began at `since`.
    pub(super) async fn sockets(&self, question: &Question, since: Instant) -> io::Result<Vec<OwnedFd>> {
        match self.ask_now(question, since).await {
            Some((Answer::Sockets, sockets)) if !sockets.is_empty() => Ok(sockets),
            Some((Answer::Denied { text, .. }, _)) => Err(io::Error::other(text)),
            Some(_) => Err(io::Error::other("the agent sent no socket")),
            None => Err(io::Error::new(io::ErrorKind::NotConnected, "no agent is there to make a socket")),
        }
    }

    /// Asks whatever agent is there; the next one, if it goes before it has answered. `None` when the connection
    /// has waited long enough.
    async fn ask_now(&self, question: &Question, since: Instant) -> Option<(Answer, Vec<OwnedFd>)> {
        let mut gone = None;
        loop {
            let agent = self.agent(gone.as_ref(), left(COME_BACK, since)).await?;
            let speaks = agent.speaks.load(Ordering::Relaxed);
            let patience = if speaks { left(PATIENCE, since).max(LEAST) } else { left(ANSWERED, since) };
            match tokio::time::timeout(patience, self.put(&agent, question)).await.ok()? {
                Some(answer) => {
                    agent.speaks.store(true, Ordering::Relaxed);
                    return Some(answer);
                }
                None => gone = Some(agent),
            }
        }
    }

    /// One question to one agent; `None` if that is no longer there.
    async fn put(&self, agent: &Agent, question: &Question) -> Option<(Answer, Vec<OwnedFd>)> {
        let id = self.0.next.fetch_add(1, Ordering::Relaxed);
        let (asker, answer) = oneshot::channel();
        self.waiting().insert(id, asker);
        let _asked = Asked { link: self, id };
        agent.channel.send(&Report::Ask { id, question: question.clone() }, &[]).await.ok()?;
        answer.await.ok()
    }

    /// An agent, and not the one that has `gone`.
    async fn agent(&self, gone: Option<&Agent>, patience: Duration) -> Option<Agent> {
        let mut agent = self.0.agent.subscribe();
        let another = |agent: &Option<Agent>| {
            let is_new = |agent: &Agent| gone.is_none_or(|gone| !Arc::ptr_eq(&agent.channel, &gone.channel));
            agent.as_ref().is_some_and(is_new)
        };
        let present = tokio::time::timeout(patience, agent.wait_for(another)).await;
        present.ok()?.ok()?.clone()
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn answers(&self) -> MutexGuard<'_, HashMap<Question, Answer>> {
        self.0.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A question whose answer is waited for, until this is dropped.
struct Asked<'a> {
    link: &'a Link,
    id: u64,
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        self.link.waiting().remove(&self.id);
    }
}

/// What is left of `time` for a connection that began at `since`.
fn left(time: Duration, since: Instant) -> Duration {
    time.saturating_sub(since.elapsed())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use rustix::net::{AddressFamily, SocketFlags, SocketType};

    use super::*;
    use crate::proxy::wire::Order;

    const SECOND: Duration = Duration::from_secs(1);

    /// An agent that answers each question after so long, or never; it is there until the task is aborted.
    fn agent(link: &Link, after: Option<Duration>) -> tokio::task::AbortHandle {
        let flags = SocketFlags::CLOEXEC;
        let pair = rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
        let (ours, its) = (Arc::new(Channel::new(pair.0).unwrap()), Channel::new(pair.1).unwrap());
        link.set_agent(Some(Arc::clone(&ours)));
        let hearing = link.clone();
        tokio::spawn(async move {
            while let Ok(Some((Order::Answer { id, answer }, sockets))) = ours.receive().await {
                hearing.answered(id, answer, sockets);
            }
            hearing.set_agent(None);
        });
        let answering = tokio::spawn(async move {
            while let Ok(Some((Report::Ask { id, .. }, _))) = its.receive().await {
                let Some(after) = after else { continue };
                tokio::time::sleep(after).await;
                its.send(&Order::Answer { id, answer: Answer::Name { name: None } }, &[]).await.unwrap();
            }
        });
        answering.abort_handle()
    }

    fn question(last: u8) -> Question {
        Question::NameOf { place: 1, address: IpAddr::V4(Ipv4Addr::new(10, 0, 0, last)) }
    }

    fn is_no_agent(answer: &Answer) -> bool {
        matches!(answer, Answer::Denied { reason, .. } if reason == reason::NO_AGENT)
    }

    #[tokio::test]
    async fn nobody_is_waited_for_longer_because_more_is_asked() {
        let link = Link::new();
        let since = Instant::now();
        for last in 0..4 {
            assert!(is_no_agent(&link.ask(question(last), since).await));
        }
        assert!((COME_BACK..SECOND).contains(&since.elapsed()), "{:?}", since.elapsed());
    }

    /// It is there again in time, and is not done in time.
    #[tokio::test]
    async fn who_has_waited_for_an_agent_does_not_wait_as_long_for_its_answer() {
        let link = Link::new();
        let since = Instant::now();
        let comes = async {
            tokio::time::sleep(COME_BACK / 2).await;
            agent(&link, None)
        };
        let (_agent, answer) = tokio::join!(comes, link.ask(question(1), since));
        assert!(is_no_agent(&answer), "{answer:?}");
        assert!((COME_BACK..SECOND).contains(&since.elapsed()), "{:?}", since.elapsed());
    }

    #[tokio::test]
    async fn the_next_agent_is_asked_what_the_one_before_did_not_answer() {
        let link = Link::new();
        let first = agent(&link, None);
        let next = async {
            tokio::time::sleep(Duration::from_millis(50)).await;
            first.abort();
            tokio::time::sleep(Duration::from_millis(50)).await;
            agent(&link, Some(Duration::ZERO))
        };
        let (_next, answer) = tokio::join!(next, link.ask(question(1), Instant::now()));
        assert_eq!(answer, Answer::Name { name: None });
    }

    /// An agent that has answered before may take its time.
    #[tokio::test]
    async fn an_agent_that_is_slow_is_waited_for() {
        let link = Link::new();
        let _agent = agent(&link, Some(SECOND / 2));
        for last in 0..4 {
            assert_eq!(
                link.ask(question(last), Instant::now() - SECOND * u32::from(last)).await,
                Answer::Name { name: None }
            );
        }
    }
}
