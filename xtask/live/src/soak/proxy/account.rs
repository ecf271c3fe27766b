//! Every byte accounted for: what both ends tell of a connection is held against each other, and against
//! what was done to it.

use std::collections::{BTreeMap, HashMap};

use super::ends::{Manner, Told, now};

/// What a fault may do to connections.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Cuts {
    /// Nothing.
    None,
    /// Those that are made meanwhile may fail; those that live go on.
    New,
    /// All of them.
    All,
    /// All of them, and an orderly end that comes too early is a program's own, which was killed.
    Programs,
}

/// A fault, and its time in seconds since 1970; it may go on.
#[derive(Clone, Debug)]
struct Window {
    name: &'static str,
    cuts: Cuts,
    began: f64,
    ended: f64,
}

/// Bytes in both directions, by who tells of them.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Bytes {
    pub(crate) sent: u64,
    pub(crate) received: u64,
}

/// The account of one site.
#[derive(Default)]
pub(crate) struct Account {
    windows: Vec<Window>,
    /// Told by one end so far.
    waiting: HashMap<u64, Told>,
    /// Connections that ended well at both ends.
    pub(crate) clean: BTreeMap<Manner, u64>,
    /// Their bytes: what was sent, and what was received, up and down.
    pub(crate) up: Bytes,
    pub(crate) down: Bytes,
    /// Those that were cut, by the fault (or the manner) and how it was seen at client and server.
    pub(crate) cut: BTreeMap<(String, String), u64>,
    /// Bytes of those.
    pub(crate) cut_bytes: Bytes,
    /// Connections of which the server never heard what they were to be.
    pub(crate) nameless: u64,
    /// What must not be.
    pub(crate) wrong: Vec<String>,
}

impl Account {
    /// A fault begins.
    pub(crate) fn begin(&mut self, name: &'static str, cuts: Cuts) {
        self.windows.push(Window { name, cuts, began: now(), ended: f64::INFINITY });
    }

    /// The last one has ended.
    pub(crate) fn end(&mut self) {
        if let Some(window) = self.windows.last_mut() {
            window.ended = now();
        }
    }

    /// What the ends told.
    pub(crate) fn hear(&mut self, told: Vec<Told>) {
        for told in told {
            if told.id == 0 {
                self.nameless += 1;
                continue;
            }
            match self.waiting.remove(&told.id) {
                Some(other) => {
                    let (client, server) = if told.client { (told, other) } else { (other, told) };
                    self.judge(Some(&client), Some(&server));
                }
                None => {
                    self.waiting.insert(told.id, told);
                }
            }
        }
    }

    /// Nothing more will be told: whoever is alone stays it.
    pub(crate) fn close(&mut self) {
        let waiting = std::mem::take(&mut self.waiting);
        for told in waiting.values() {
            if told.client { self.judge(Some(told), None) } else { self.judge(None, Some(told)) }
        }
    }

    /// Prints it.
    pub(crate) fn report(&self) {
        println!("  {:<44}{:>16}{:>16}", "connections that ended well at both ends", "", "");
        for (manner, count) in &self.clean {
            println!("    {:<42}{count:>16}", format!("{manner:?}"));
        }
        println!("    {:<42}{:>16}{:>16}", "their bytes", "sent", "received");
        for (name, bytes) in [("to the server", self.up), ("to the client", self.down)] {
            println!("    {name:<42}{:>16}{:>16}", bytes.sent, bytes.received);
        }
        println!("  cut, by what cut them and how it looked at client / server");
        for ((by, how), count) in &self.cut {
            println!("    {:<42}{count:>16}", format!("{by}: {how}"));
        }
        let Bytes { sent, received } = self.cut_bytes;
        println!("    {:<42}{sent:>16}{received:>16}", "their bytes");
        println!("    {:<42}{:>16}", "of which the server never heard", self.nameless);
        println!("  {:<44}{:>16}", "WRONG", self.wrong.len());
        for wrong in self.wrong.iter().take(20) {
            println!("    {wrong}");
        }
    }

    fn judge(&mut self, client: Option<&Told>, server: Option<&Told>) {
        let Some(any) = client.or(server) else { return };
        let how = |end: Option<&Told>| end.map_or("-", |told| told.how.as_str()).to_owned();
        let (at_client, at_server) = (how(client), how(server));
        let count = |end: Option<&Told>, part: fn(&Told) -> u64| end.map_or(0, part);
        let up =
            Bytes { sent: count(client, |told| told.sent), received: count(server, |told| told.received) };
        let down =
            Bytes { sent: count(server, |told| told.sent), received: count(client, |told| told.received) };
        let tell = |problem: &str| {
            format!(
                "{problem}: {:?} {}, {:.1} s, client {at_client}, server {at_server}, \
                 up {}/{} of {}, down {}/{} of {}",
                any.manner,
                any.id,
                any.ended - any.began,
                up.received,
                up.sent,
                any.up,
                down.received,
                down.sent,
                any.down
            )
        };
        if at_client == "clean" && at_server == "clean" {
            let whole = [(up, any.up), (down, any.down)];
            if whole.iter().any(|(bytes, all)| bytes.sent != *all || bytes.received != *all) {
                self.wrong.push(tell("clean, and not whole"));
            }
            *self.clean.entry(any.manner).or_default() += 1;
            add(&mut self.up, up);
            add(&mut self.down, down);
            return;
        }
        // An end whose program was killed tells nothing; what it sent is not known then.
        let more = |bytes: Bytes, sender: Option<&Told>| sender.is_some() && bytes.received > bytes.sent;
        if more(up, client) || more(down, server) {
            self.wrong.push(tell("more came than was sent"));
        }
        add(&mut self.cut_bytes, up);
        add(&mut self.cut_bytes, down);
        let began = client.into_iter().chain(server).map(|told| told.began).fold(f64::INFINITY, f64::min);
        let ended = client.into_iter().chain(server).map(|told| told.ended).fold(0.0, f64::max);
        let early = [&at_client, &at_server].iter().any(|how| *how == "early");
        let never = ["wrong", "hung", "nobody-told"];
        let by = if never.iter().any(|word| at_client == *word || at_server == *word) && !any.manner.is_cut()
        {
            None
        } else if let Some(window) = self.explains(began, ended, early, client.is_none() || server.is_none())
        {
            Some(window.name.to_owned())
        } else if any.manner.is_cut() && !early && at_client != "nobody-told" && at_server != "nobody-told" {
            Some(format!("{:?}", any.manner))
        } else {
            None
        };
        if by.is_none() {
            self.wrong.push(tell("cut by nothing, or not as it must be"));
        }
        let by = by.unwrap_or_else(|| "NOTHING".to_owned());
        *self.cut.entry((by, format!("{at_client} / {at_server}"))).or_default() += 1;
    }

    /// The fault that may have cut a connection that lived from `began` to `ended`, for all that is told of it.
    fn explains(&self, began: f64, ended: f64, early: bool, untold: bool) -> Option<&Window> {
        self.windows.iter().rev().find(|window| {
            // A program that is killed after its connection has ended may not have told of it yet.
            let telling = if untold && window.cuts == Cuts::Programs { MAKING } else { 0.0 };
            let lived = began <= window.ended && ended + telling >= window.began;
            let cuts = match window.cuts {
                Cuts::None => false,
                // A connection is made in several steps.
                Cuts::New => !early && began >= window.began - MAKING,
                Cuts::All => !early,
                Cuts::Programs => true,
            };
            lived && cuts
        })
    }
}

/// How long a connection may be in the making, or its end be told, in seconds, on a busy machine.
const MAKING: f64 = 2.0;

fn add(sum: &mut Bytes, bytes: Bytes) {
    sum.sent += bytes.sent;
    sum.received += bytes.received;
}

#[cfg(test)]
mod tests {
    use super::{Account, Cuts};
    use crate::proxy::ends::{Manner, Told, now};

    fn told(id: u64, client: bool, how: &str, sent: u64, received: u64) -> Told {
        let (manner, began) = (Manner::Duplex, now());
        let how = how.to_owned();
        Told { id, manner, up: 10, down: 20, client, began, ended: began, sent, received, how }
    }

    #[test]
    fn what_is_whole_is_counted_and_what_is_not_needs_a_reason() {
        let mut account = Account::default();
        account.hear(vec![told(1, true, "clean", 10, 20), told(1, false, "clean", 20, 10)]);
        assert_eq!((account.up.received, account.down.received, account.wrong.len()), (10, 20, 0));
        // Cut, and nothing was done.
        account.hear(vec![told(2, true, "reset", 10, 5), told(2, false, "reset", 9, 3)]);
        assert_eq!(account.wrong.len(), 1);
        account.begin("fault", Cuts::All);
        account.hear(vec![told(3, true, "reset", 10, 5), told(3, false, "reset", 9, 3)]);
        assert_eq!(account.wrong.len(), 1);
        // What looks like an orderly end and is none, what nobody sent, and what hangs.
        for (client, server) in [(("early", 5), 9), (("reset", 12), 9), (("hung", 5), 9)] {
            let before = account.wrong.len();
            let id = 10 + before as u64;
            account.hear(vec![told(id, true, client.0, 10, client.1), told(id, false, "reset", server, 3)]);
            assert_eq!(account.wrong.len(), before + 1, "{client:?}");
        }
        // Ended well, and killed before it could say so: no other fault excuses that one end tells nothing.
        for (cuts, wrong) in [(Cuts::All, 1), (Cuts::Programs, 0)] {
            let mut account = Account::default();
            account.hear(vec![told(60, true, "clean", 10, 20)]);
            std::thread::sleep(std::time::Duration::from_millis(20));
            account.begin("fault", cuts);
            account.close();
            assert_eq!(account.wrong.len(), wrong, "{cuts:?}");
        }
        // One end only: its other end was never reached, which needs a reason once the fault is over.
        account.end();
        std::thread::sleep(std::time::Duration::from_millis(20));
        let before = account.wrong.len();
        account.hear(vec![told(50, true, "refused", 0, 0)]);
        account.close();
        assert_eq!(account.wrong.len(), before + 1);
    }
}
