//! `bulkhead-soak proxy`: connections over mutual TLS between two nodes while everything is done to them that
//! a network, a machine and its operators do, and every byte accounted for.
//!
//! There are two sites, each with two nodes, a client and a server. At the one that is beset, faults come one
//! after the other: a bad wire, proxies, agents and programs that are killed or stopped, too little memory,
//! rights that are taken away, new certificates. The other one is left in peace: nothing at all may go wrong
//! there, and a connection is held idle from the beginning to the end.
//!
//! Both ends of each connection tell what they sent and received, and compare each byte with what it must be.
//! What was cut needs a fault that may cut it; an orderly end that comes too early, a byte too many, and a
//! connection that hangs have no excuse. Before and after, with all connections gone, memory, descriptors,
//! sockets and tables are counted.

mod account;
pub(crate) mod ends;
mod faults;
mod figures;
mod notes;
mod pattern;
mod pressure;
mod site;
mod traces;
mod wire;

use std::time::{Duration, Instant};

use anyhow::Result;
use bulkhead_tests::harness::wait_until;

use self::account::Account;
use self::faults::Fault;
use self::figures::Figures;
use self::site::Site;
use self::traces::Traces;
use crate::interrupt::Interrupt;

/// Between two faults.
const PEACE: Duration = Duration::from_secs(5);
/// A fault's last connections notice it within this time after it has ended.
const GRACE: Duration = Duration::from_secs(3);
/// TIME_WAIT lasts a minute, and the kernel's flows as long after it.
const EXPIRY: Duration = Duration::from_secs(180);
/// Before the first figures: what is allocated once, is. The agents have looked for drift twice by then, which
/// takes the most memory of all that they do at rest.
const WARM_UP: Duration = Duration::from_secs(70);

/// One site and what is known of it.
struct Watched {
    site: Site,
    account: Account,
    traces: Traces,
    before: Figures,
}

impl Watched {
    fn new(name: &'static str) -> Result<Watched> {
        let (account, traces) = (Account::default(), Traces::default());
        Ok(Watched { site: Site::new(name)?, account, traces, before: Figures::default() })
    }

    /// Reads what is new; prints what must not be.
    fn look(&mut self) -> Result<()> {
        let known = self.account.wrong.len();
        self.account.hear(self.site.notes.next()?);
        for wrong in self.account.wrong.iter().skip(known) {
            println!("WRONG, {}: {wrong}", self.site.name);
        }
        self.traces.follow(&self.site);
        Ok(())
    }

    /// The figures once all connections have gone, and what the kernel keeps of them.
    fn at_rest(&self, interrupt: &Interrupt) -> Result<Figures> {
        let idle = || interrupt.came() || Figures::take(&self.site).is_ok_and(|now| now.is_idle());
        // What is left is in the figures.
        let _ = wait_until(EXPIRY, "all connections have gone", idle);
        interrupt.check()?;
        Figures::take(&self.site)
    }
}

/// The run; whether everything came out as it should.
pub(crate) fn run(minutes: u64) -> Result<bool> {
    let interrupt = Interrupt::catch()?;
    println!("soak proxy: {minutes} minutes on {}", crate::machine::Machine::here());
    let mut calm = Watched::new("calm")?;
    let mut beset = Watched::new("beset")?;
    warm_up(&mut calm, &mut beset, &interrupt)?;

    let (started, length) = (Instant::now(), Duration::from_secs(60 * minutes));
    calm.site.talk(true)?;
    beset.site.talk(false)?;
    let mut told = Instant::now();
    let mut happened = 0_u64;
    'run: loop {
        for fault in Fault::ALL {
            if started.elapsed() >= length {
                break 'run;
            }
            if started.elapsed() >= length * 3 / 4 && !fault.spares_proxies() {
                continue;
            }
            happened += 1;
            beset.account.begin(fault.name(), fault.cuts());
            fault.happen(&mut beset.site)?;
            wait(GRACE, &interrupt, &mut [&mut calm, &mut beset])?;
            beset.account.end();
            wait(PEACE, &interrupt, &mut [&mut calm, &mut beset])?;
            if told.elapsed() >= Duration::from_secs(60) {
                told = Instant::now();
                tell(started, happened, &[&calm, &beset])?;
            }
        }
    }
    finish(started, happened, &interrupt, &mut [&mut calm, &mut beset])
}

/// Once through some of what comes, in peace; then the figures that the run must come back to.
fn warm_up(calm: &mut Watched, beset: &mut Watched, interrupt: &Interrupt) -> Result<()> {
    calm.site.talk(true)?;
    beset.site.talk(false)?;
    wait(WARM_UP, interrupt, &mut [calm, beset])?;
    println!("the rehearsal has ended; its connections are left to go");
    for one in [&mut *calm, &mut *beset] {
        one.site.hush()?;
    }
    for one in [calm, beset] {
        one.look()?;
        one.before = one.at_rest(interrupt)?;
        println!("  {}, before:", one.site.name);
        one.before.tell();
    }
    Ok(())
}

fn wait(time: Duration, interrupt: &Interrupt, all: &mut [&mut Watched]) -> Result<()> {
    let until = Instant::now() + time;
    while Instant::now() < until {
        interrupt.check()?;
        for one in all.iter_mut() {
            one.look()?;
        }
        std::thread::sleep(Duration::from_millis(500));
    }
    Ok(())
}

fn tell(started: Instant, happened: u64, all: &[&Watched]) -> Result<()> {
    println!("[{:5} s] {happened} faults", started.elapsed().as_secs());
    for Watched { site, account, .. } in all {
        println!(
            "  {}: {} connections whole, {} MB each way, {} cut, {} wrong",
            site.name,
            account.clean.values().sum::<u64>(),
            (account.up.received + account.down.received) / 2_000_000,
            account.cut.values().sum::<u64>(),
            account.wrong.len()
        );
        Figures::take(site)?.tell();
    }
    Ok(())
}

fn finish(started: Instant, happened: u64, interrupt: &Interrupt, all: &mut [&mut Watched]) -> Result<bool> {
    println!("[{:5} s] {happened} faults; the last connections are left to go", started.elapsed().as_secs());
    let mut good = true;
    for one in all.iter_mut() {
        one.site.hush()?;
    }
    // The server's last words.
    wait(GRACE, interrupt, all)?;
    for one in all.iter_mut() {
        one.look()?;
        one.account.close();
        let after = one.at_rest(interrupt)?;
        println!("\n{}: {} packets lost on the wire", one.site.name, one.site.wire.dropped());
        good &= one.before.compare(&after);
        one.account.report();
        one.traces.report();
        good &= one.account.wrong.is_empty();
    }
    println!("{}", if good { "soak proxy: all as it should be" } else { "soak proxy: NOT as it should be" });
    Ok(good)
}
