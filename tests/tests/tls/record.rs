//! Conversations of real programs, as they went over the wire, to be played again piece by piece.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, bail};
use bulkhead_tests::harness::Step;
use bulkhead_tests::harness::threat::DB;

use crate::speakers::Speaker;
use crate::stage::Stage;

/// Who says something.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Sender {
    /// Whoever opened the connection.
    Opener,
    /// Whoever was opened to.
    Receiver,
}

/// What one of them says, until the other one does.
#[derive(Clone, Debug)]
pub(crate) struct Turn {
    pub(crate) sender: Sender,
    pub(crate) bytes: Vec<u8>,
}

/// All that was said.
#[derive(Clone, Debug, Default)]
pub(crate) struct Conversation {
    pub(crate) turns: Vec<Turn>,
}

impl Stage {
    /// Lets two programs speak, through a relay beside the client that notes down what they say. There
    /// must be no agent yet.
    pub(crate) fn record(&self, speaker: &Speaker) -> Result<Conversation> {
        let web = self.lab.ns("web")?;
        let listener = web.enter(|| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))??;
        let (at, to) = (listener.local_addr()?, SocketAddr::new(DB.parse::<IpAddr>()?, speaker.port));
        let cgroup = self.lab.root.path().join("web");
        std::thread::scope(|scope| {
            let relay = scope.spawn(|| web.enter(|| relay(&listener, to)));
            let client = speaker.client(&self.kit, at);
            let said = client.run(web, &cgroup, crate::speakers::PATIENCE)?;
            if !speaker.is_answered(&self.kit, &said) {
                // The relay would wait for a client for ever.
                let _ = web.enter(|| TcpStream::connect(at));
                bail!("{} did not come to an end: {}", speaker.name, said.errors);
            }
            let conversation = relay.join().ok().context("the relay panicked")???;
            Ok(conversation)
        })
    }
}

/// Hands on one connection, both ways, until both have ended.
fn relay(listener: &TcpListener, to: SocketAddr) -> Result<Conversation> {
    let (client, _) = listener.accept()?;
    let server = TcpStream::connect(to)?;
    for stream in [&client, &server] {
        stream.set_nodelay(true)?;
    }
    let turns = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        scope.spawn(|| hand_on(&client, &server, Sender::Opener, &turns));
        hand_on(&server, &client, Sender::Receiver, &turns);
    });
    let mut conversation = Conversation::default();
    for Turn { sender, bytes } in turns.into_inner().unwrap_or_else(PoisonError::into_inner) {
        conversation.say(sender, &bytes);
    }
    Ok(conversation)
}

fn hand_on(mut from: &TcpStream, mut to: &TcpStream, sender: Sender, turns: &Mutex<Vec<Turn>>) {
    let mut buffer = [0; 16384];
    while let Ok(got @ 1..) = from.read(&mut buffer) {
        // Noted before it is handed on: an answer to it must stand behind it.
        let bytes = buffer[..got].to_vec();
        turns.lock().unwrap_or_else(PoisonError::into_inner).push(Turn { sender, bytes });
        if to.write_all(&buffer[..got]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}

impl Conversation {
    /// Adds what somebody says.
    pub(crate) fn say(&mut self, sender: Sender, bytes: &[u8]) {
        match self.turns.last_mut() {
            Some(turn) if turn.sender == sender => turn.bytes.extend(bytes),
            _ => self.turns.push(Turn { sender, bytes: bytes.to_vec() }),
        }
    }

    /// All that one of them says.
    pub(crate) fn stream(&self, sender: Sender) -> Vec<u8> {
        let own = self.turns.iter().filter(|turn| turn.sender == sender);
        own.flat_map(|turn| turn.bytes.iter().copied()).collect()
    }

    /// Only the first words of one of them.
    pub(crate) fn first_words(&self, sender: Sender) -> Conversation {
        let turns = self.turns.iter().find(|turn| turn.sender == sender).cloned().into_iter().collect();
        Conversation { turns }
    }

    /// Everything in the order in which it was said, with `cut` as in [`part`](Conversation::part).
    pub(crate) fn segments(&self, cut: (Sender, usize)) -> Vec<(Sender, &[u8])> {
        let mut segments = Vec::new();
        let mut said = [0, 0];
        for Turn { sender, bytes } in &self.turns {
            let before = said[*sender as usize];
            said[*sender as usize] += bytes.len();
            let at = if *sender == cut.0 { cut.1.checked_sub(before) } else { None };
            let (first, second) = bytes.split_at(at.filter(|at| *at < bytes.len()).unwrap_or(0));
            segments.extend(
                [first, second].into_iter().filter(|piece| !piece.is_empty()).map(|piece| (*sender, piece)),
            );
        }
        segments
    }

    /// Somebody's part. What one of them says is cut in two at an offset in its stream; at none if that is 0.
    pub(crate) fn part(&self, own: Sender, cut: (Sender, usize)) -> Vec<Step> {
        let mut steps: Vec<Step> = Vec::new();
        for (sender, piece) in self.segments(cut) {
            match steps.last_mut() {
                _ if sender == own => steps.push(Step::Send(piece.to_vec())),
                Some(Step::Receive(count)) => *count += piece.len(),
                _ => steps.push(Step::Receive(piece.len())),
            }
        }
        steps
    }
}
