//! A wire that changes the order of packets, loses some, or changes what is in them.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{Read, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bulkhead_tests::harness::Ns;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// What becomes of a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fate {
    /// It goes on.
    Now,
    /// It goes on after so long.
    After(Duration),
    /// It goes on when so many others have.
    Behind(usize),
    /// It is lost.
    Lost,
}

/// Decides about a packet, and may change it.
pub(crate) type Decide = Box<dyn FnMut(&mut Vec<u8>) -> Fate + Send>;

/// A wire between two namespaces, with an interface `wire0` in each; it goes with this.
pub(crate) struct Wire {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
    decide: Arc<Mutex<Decide>>,
}

impl Wire {
    /// Between `near` and `far`, whose addresses on it these are. What `near` sends is decided about, what `far`
    /// sends goes on.
    pub(crate) fn new((near, near_at): (&Ns, &str), (far, far_at): (&Ns, &str)) -> Wire {
        let open = |ns: &Ns, own: &str, other: &str| {
            let tun = ns.enter(|| bulkhead_sys::tun::open("wire0").unwrap()).unwrap();
            ns.ip(&format!("addr add {own}/32 peer {other} dev wire0\nlink set wire0 up")).unwrap();
            Arc::new(tun)
        };
        let (near_end, far_end) = (open(near, near_at, far_at), open(far, far_at, near_at));
        let stop = Arc::new(AtomicBool::new(false));
        let decide: Arc<Mutex<Decide>> = Arc::new(Mutex::new(Box::new(|_| Fate::Now)));
        let (later, late) = channel();
        let mut threads = Vec::new();
        {
            let (stop, decide, far_end) = (stop.clone(), decide.clone(), far_end.clone());
            let near_end = near_end.clone();
            threads.push(std::thread::spawn(move || forward(&near_end, &far_end, &stop, &decide, &later)));
        }
        {
            let far_end = far_end.clone();
            threads.push(std::thread::spawn(move || delay(&far_end, &late)));
        }
        {
            let (stop, back) = (stop.clone(), channel().0);
            let decide: Arc<Mutex<Decide>> = Arc::new(Mutex::new(Box::new(|_| Fate::Now)));
            threads.push(std::thread::spawn(move || forward(&far_end, &near_end, &stop, &decide, &back)));
        }
        Wire { stop, threads, decide }
    }

    /// What becomes of packets from now on.
    pub(crate) fn decide(&self, decide: impl FnMut(&mut Vec<u8>) -> Fate + Send + 'static) {
        *self.decide.lock().unwrap() = Box::new(decide);
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn forward(
    from: &File,
    mut to: &File,
    stop: &AtomicBool,
    decide: &Mutex<Decide>,
    later: &Sender<(Instant, Vec<u8>)>,
) {
    let mut buffer = vec![0; 65_536];
    let mut behind: VecDeque<(usize, Vec<u8>)> = VecDeque::new();
    let often = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };
    let mut from_ = from;
    while !stop.load(Ordering::SeqCst) {
        let mut fds = [PollFd::new(from, PollFlags::IN)];
        if poll(&mut fds, Some(&often)).unwrap_or(0) == 0 {
            continue;
        }
        let Ok(got) = from_.read(&mut buffer) else { continue };
        let mut packet = buffer[..got].to_vec();
        let fate = decide.lock().unwrap()(&mut packet);
        match fate {
            Fate::Now => {
                let _ = to.write(&packet);
            }
            Fate::After(delay) => {
                let _ = later.send((Instant::now() + delay, packet));
                continue;
            }
            Fate::Behind(others) => {
                behind.push_back((others, packet));
                continue;
            }
            Fate::Lost => continue,
        }
        for (left, _) in &mut behind {
            *left -= 1;
        }
        while behind.front().is_some_and(|(left, _)| *left == 0) {
            let _ = behind.pop_front().map(|(_, packet)| to.write(&packet));
        }
    }
}

fn delay(mut to: &File, late: &Receiver<(Instant, Vec<u8>)>) {
    while let Ok((due, packet)) = late.recv() {
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        let _ = to.write(&packet);
    }
}
