//! Calls to a peer that are under way, and what they come to.

use std::collections::HashMap;
use std::io::{BufRead, BufReader};
use std::marker::PhantomData;
use std::net::SocketAddr;
use std::process::ChildStdout;
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rustix::io::Errno;

use super::peer::Socket;
use super::protocol::{
    Answer, Cause, Ended, Exchanged, Failure, LoopCount, Played, Response, Served, Streamed,
};

/// Result of a call.
pub type Called<T> = std::result::Result<T, CallError>;

/// Why a call failed.
#[derive(thiserror::Error, Clone, Debug)]
pub enum CallError {
    /// The kernel said no.
    #[error("{errno} after {elapsed:?}, {done} done")]
    Os {
        /// What it said.
        errno: Errno,
        /// When.
        elapsed: Duration,
        /// Exchanges, pings or bytes that had been right until then.
        done: u64,
    },
    /// Nothing happened in the time given.
    #[error("nothing for {elapsed:?}, {done} done")]
    Timeout {
        /// How long it was waited for.
        elapsed: Duration,
        /// As above.
        done: u64,
    },
    /// The other end closed in order where more was due.
    #[error("closed after {elapsed:?}, {done} done")]
    Closed {
        /// When.
        elapsed: Duration,
        /// As above.
        done: u64,
    },
    /// Wrong bytes came back, or the test asked for what cannot be.
    #[error("{0}")]
    Wrong(String),
    /// The peer is no more, or does not answer.
    #[error("the peer is gone")]
    Gone,
}

impl CallError {
    /// The kernel's error, if that is what it was.
    #[must_use]
    pub fn errno(&self) -> Option<Errno> {
        match self {
            CallError::Os { errno, .. } => Some(*errno),
            _ => None,
        }
    }

    /// Whether nothing came in the time given.
    #[must_use]
    pub fn is_timeout(&self) -> bool {
        matches!(self, CallError::Timeout { .. })
    }

    /// When it failed, after the work began.
    #[must_use]
    pub fn elapsed(&self) -> Option<Duration> {
        match self {
            CallError::Os { elapsed, .. }
            | CallError::Timeout { elapsed, .. }
            | CallError::Closed { elapsed, .. } => Some(*elapsed),
            CallError::Wrong(_) | CallError::Gone => None,
        }
    }
}

/// A call under way. Dropping it leaves the peer to it.
#[derive(Debug)]
pub struct Pending<T> {
    response: Receiver<Response>,
    limit: Duration,
    answer: PhantomData<fn() -> T>,
}

impl<T: FromAnswer> Pending<T> {
    pub(super) fn new(response: Receiver<Response>, limit: Duration) -> Pending<T> {
        Pending { response, limit, answer: PhantomData }
    }

    /// Waits for the answer.
    pub fn wait(self) -> Called<T> {
        let response = self.response.recv_timeout(self.limit).map_err(|_| CallError::Gone)?;
        let answer = response.result?;
        T::from_answer(answer).ok_or_else(|| CallError::Wrong("the peer answered another question".into()))
    }
}

/// Responses that are waited for, by request; nothing once the peer has ended.
#[derive(Debug)]
pub(super) struct Waiting(Mutex<Option<HashMap<u64, Sender<Response>>>>);

impl Waiting {
    pub(super) fn new() -> Waiting {
        Waiting(Mutex::new(Some(HashMap::new())))
    }

    /// Where the response will come; at once the news that none will, when the peer has ended.
    pub(super) fn expect(&self, id: u64) -> Receiver<Response> {
        let (sender, receiver) = mpsc::channel();
        if let Some(senders) = self.0.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
            senders.insert(id, sender);
        }
        receiver
    }

    /// Hands out responses until the peer ends.
    pub(super) fn listen(&self, output: BufReader<ChildStdout>) {
        for line in output.lines().map_while(std::io::Result::ok) {
            let Ok(response) = serde_json::from_str::<Response>(&line) else {
                eprintln!("a peer said what nobody understands: {line}");
                continue;
            };
            let mut senders = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(sender) = senders.as_mut().and_then(|senders| senders.remove(&response.id)) {
                let _ = sender.send(response);
            }
        }
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

impl From<Failure> for CallError {
    fn from(failure: Failure) -> CallError {
        let Failure { cause, elapsed_us, done } = failure;
        let elapsed = Duration::from_micros(elapsed_us);
        match cause {
            Cause::Os(number) => CallError::Os { errno: Errno::from_raw_os_error(number), elapsed, done },
            Cause::Timeout => CallError::Timeout { elapsed, done },
            Cause::Closed => CallError::Closed { elapsed, done },
            Cause::Wrong(why) => CallError::Wrong(why),
        }
    }
}

/// What a call can answer.
pub trait FromAnswer: Sized {
    /// `None` when it is the answer to another kind of call.
    fn from_answer(answer: Answer) -> Option<Self>;
}

macro_rules! answers {
    ($($type:ty: $pattern:pat => $value:expr;)*) => {
        $(impl FromAnswer for $type {
            fn from_answer(answer: Answer) -> Option<Self> {
                match answer {
                    $pattern => Some($value),
                    _ => None,
                }
            }
        })*
    };
}

answers! {
    Socket: Answer::Socket(info) => Socket::from(info);
    u64: Answer::Sent(count) => count;
    (Vec<u8>, Option<SocketAddr>): Answer::Data { data, from } => (data, from);
    Exchanged: Answer::Exchanged(counts) => counts;
    Streamed: Answer::Streamed(counts) => counts;
    Ended: Answer::Ended(how) => how;
    Vec<LoopCount>: Answer::Loop(counts) => counts;
    Served: Answer::Served(counts) => counts;
    Played: Answer::Played(played) => played;
    (): Answer::Done => ();
}

impl Ended {
    /// The error, `None` when the other end closed in order.
    #[must_use]
    pub fn error(&self) -> Option<Errno> {
        self.errno.map(Errno::from_raw_os_error)
    }

    /// How long it took from the call.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        Duration::from_micros(self.elapsed_us)
    }
}
