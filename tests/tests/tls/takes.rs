//! Conversations, played between two machines many at a time, and what must become of each.

use std::fmt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::Result;
use bulkhead_tests::harness::threat::{Lab, at};
use bulkhead_tests::harness::{Errno, Kind, Played, Serve, Step};

use crate::record::{Conversation, Sender};

/// How many are under way at once.
const AT_ONCE: usize = 48;

/// How long one may take.
const LIMIT: Duration = Duration::from_secs(30);

/// Who opens the connection.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Opener {
    /// A workload of this node.
    Web,
    /// A machine without an agent.
    Outside,
}

/// Both.
pub(crate) const OPENERS: [Opener; 2] = [Opener::Web, Opener::Outside];

/// What must become of a conversation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fate {
    /// Everything arrives, unchanged.
    Arrives,
    /// Of what one of them says at most so many bytes arrive, and both are told that it is over.
    Stops(Sender, usize),
}

/// One conversation that is played.
#[derive(Clone)]
pub(crate) struct Take<'a> {
    pub(crate) name: &'a str,
    pub(crate) conversation: &'a Conversation,
    pub(crate) opener: Opener,
    /// Where to: an address of the receiver's.
    pub(crate) to: &'static str,
    /// Whose stream is cut in two, and where.
    pub(crate) cut: (Sender, usize),
    /// The first piece is in the SYN.
    pub(crate) fast_open: bool,
    pub(crate) fate: Fate,
}

/// Both ends of one.
#[derive(Debug)]
pub(crate) struct Outcome {
    opener: Played,
    receiver: Played,
}

/// Plays all of them, to ports from `first` on, and tells what did not go as it must.
pub(crate) fn play_all(lab: &Lab, first: u16, takes: &[Take<'_>]) -> Vec<String> {
    let (next, failures) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    let Some(take) = takes.get(number) else { break };
                    let port = first + u16::try_from(number).unwrap();
                    let wrong = match take.play(lab, port) {
                        Ok(outcome) => take.wrong(&outcome),
                        Err(error) => Some(format!("it could not be tried: {error:#}")),
                    };
                    failures.lock().unwrap().extend(wrong.map(|wrong| format!("{take}: {wrong}")));
                }
            });
        }
    });
    failures.into_inner().unwrap()
}

/// Fails with some of them.
pub(crate) fn none(failures: &[String], of: usize) {
    // Some of each kind, not the first of one.
    let step = failures.len().div_ceil(40).max(1);
    let shown: Vec<&str> = failures.iter().step_by(step).map(String::as_str).collect();
    assert!(failures.is_empty(), "{} of {of}:\n{}", failures.len(), shown.join("\n"));
}

impl fmt::Display for Take<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Take { name, opener, to, cut: (sender, at), fast_open, .. } = self;
        let early = if *fast_open { " in the SYN" } else { "" };
        write!(f, "{name} from {opener:?} to {to}, what the {sender:?} says cut at {at}{early}")
    }
}

impl Take<'_> {
    /// Plays it.
    pub(crate) fn play(&self, lab: &Lab, port: u16) -> Result<Outcome> {
        let opener = if self.opener == Opener::Web { &lab.web } else { &lab.outside };
        let listener = lab.db.listen(Kind::Tcp, at(self.to, port), Serve::Hold)?;
        let receives = lab.db.begin_play_accepted(&listener, self.script(Sender::Receiver), LIMIT);
        let mut script = self.script(Sender::Opener);
        let early = match script.first() {
            Some(Step::Send(bytes)) if self.fast_open => Some(bytes.clone()),
            _ => None,
        };
        if early.is_some() {
            script.remove(0);
        }
        let opens = opener.begin_play(at(self.to, port), early, script, LIMIT).wait()?;
        let refused = self.fast_open && opens.errno == Some(Errno::CONNABORTED.raw_os_error());
        let gone = !opens.connected || refused;
        if gone {
            // Nobody comes any more: what is refused with its SYN was never on its way.
            lab.db.close(&listener)?;
        }
        let outcome = Outcome { receiver: receives.wait()?, opener: opens };
        if !gone {
            lab.db.close(&listener)?;
        }
        Ok(outcome)
    }

    /// What an end does. Of what is to be stopped, both wait for more: for the reset.
    fn script(&self, own: Sender) -> Vec<Step> {
        let mut script = self.conversation.part(own, self.cut);
        if self.fate != Fate::Arrives {
            script.push(Step::Receive(1));
        }
        script
    }

    /// What did not go as it must.
    pub(crate) fn wrong(&self, outcome: &Outcome) -> Option<String> {
        let Outcome { opener, receiver } = outcome;
        for (sender, played) in [(Sender::Opener, receiver), (Sender::Receiver, opener)] {
            let said = self.conversation.stream(sender);
            let allowed = match self.fate {
                Fate::Stops(who, allowed) if who == sender => allowed,
                Fate::Stops(..) | Fate::Arrives => said.len(),
            };
            let got = &played.received;
            if !said.starts_with(got) || got.len() > allowed {
                let shown = String::from_utf8_lossy(got);
                return Some(format!(
                    "{} bytes of the {sender:?} arrived, not {allowed}: {shown:?}",
                    got.len()
                ));
            }
            if self.fate == Fate::Arrives && (got.len() < said.len() || !played.complete) {
                let errno = played.errno.map(Errno::from_raw_os_error);
                return Some(format!(
                    "{} of the {sender:?}'s {} bytes arrived, then {errno:?}",
                    got.len(),
                    said.len()
                ));
            }
        }
        // Who has no connection cannot be told that it is over; who opens one must be told even so.
        let told = |played: &Played| match played.errno {
            Some(errno) => errno != Errno::TIMEDOUT.raw_os_error(),
            None => !played.connected,
        };
        let untold = self.fate != Fate::Arrives && !(told(opener) && (told(receiver) || !receiver.connected));
        untold.then(|| format!("it was not reset at both ends: {opener:?} and {receiver:?}"))
    }
}
