//! The proxy's side of the conversation with the agent: questions, answers that are remembered until the
//! agent says that they may no longer hold, and what becomes of questions while no agent is there.
//!
//! Which way it fails: without an agent what was answered before still holds, since the kernel goes on with
//! the same policy; whatever is new is refused with the reason `no-agent`.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{oneshot, watch};

use crate::proxy::channel::Channel;
use crate::proxy::wire::{Answer, Question, Report, reason};

/// How long an answer is waited for: an agent that is busy compiling a large policy still answers.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a question waits for an agent that is being started again.
const COME_BACK: Duration = Duration::from_millis(700);
/// Answers that are remembered; beyond it all are forgotten at once, and asked for again.
const REMEMBERED: usize = 65_536;

type Waiting = HashMap<u64, oneshot::Sender<(Answer, Vec<OwnedFd>)>>;

/// The conversation. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Link(Arc<State>);

#[derive(Debug)]
struct State {
    agent: watch::Sender<Option<Arc<Channel>>>,
    waiting: Mutex<Waiting>,
    answers: Mutex<HashMap<Question, Answer>>,
    next: AtomicU64,
    serial: watch::Sender<u64>,
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
        // Whoever waits for an answer of the old one waits in vain.
        self.waiting().clear();
        self.0.agent.send_replace(agent);
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
            Some(agent) => agent.send(report, &[]).await,
            None => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    /// Asks what can be remembered.
    pub(super) async fn ask(&self, question: Question) -> Answer {
        let anywhere = question.anywhere();
        {
            let answers = self.answers();
            let known = anywhere.as_ref().and_then(|anywhere| answers.get(anywhere));
            if let Some(answer) = known.or_else(|| answers.get(&question)) {
                return answer.clone();
            }
        }
        let before = *self.0.serial.borrow();
        let Some((answer, _)) = self.ask_now(question.clone()).await else {
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

    /// Asks for sockets.
    pub(super) async fn sockets(&self, question: Question) -> io::Result<Vec<OwnedFd>> {
        match self.ask_now(question).await {
            Some((Answer::Sockets, sockets)) if !sockets.is_empty() => Ok(sockets),
            Some((Answer::Denied { text, .. }, _)) => Err(io::Error::other(text)),
            Some(_) => Err(io::Error::other("the agent sent no socket")),
            None => Err(io::Error::new(io::ErrorKind::NotConnected, "no agent is there to make a socket")),
        }
    }

    async fn ask_now(&self, question: Question) -> Option<(Answer, Vec<OwnedFd>)> {
        let agent = self.agent().await?;
        let id = self.0.next.fetch_add(1, Ordering::Relaxed);
        let (asker, answer) = oneshot::channel();
        self.waiting().insert(id, asker);
        let asked = agent.send(&Report::Ask { id, question }, &[]).await;
        let answer = match asked {
            Ok(()) => tokio::time::timeout(PATIENCE, answer).await.ok()?.ok(),
            Err(_) => None,
        };
        self.waiting().remove(&id);
        answer
    }

    async fn agent(&self) -> Option<Arc<Channel>> {
        let mut agent = self.0.agent.subscribe();
        let present = tokio::time::timeout(COME_BACK, agent.wait_for(Option::is_some)).await;
        present.ok()?.ok()?.clone()
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn answers(&self) -> MutexGuard<'_, HashMap<Question, Answer>> {
        self.0.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
