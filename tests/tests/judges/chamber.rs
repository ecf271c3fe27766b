//! The real kernel programs, run by hand on a thread in each cgroup.
//!
//! In a test run the packet's socket has the cgroup of the calling *thread*, so this process moves into
//! a cgroup of its own whose children are threaded ones, and keeps a thread in each of them.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, RwLock};
use std::thread::JoinHandle;

use bulkhead_abi::{Counter, CounterKey, Direction, Event};
use bulkhead_datapath::{Datapath, EventStream, Options, Reader, TrialFrame};
use bulkhead_policy::Image;
use bulkhead_sys::netns::NetNs;
use bulkhead_tests::harness::{Cgroup, Ns};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// A packet for the programs.
type Packet = (Direction, Vec<u8>);

/// What a thread does with the programs.
type Work = Box<dyn FnOnce(&Datapath) + Send>;

/// The bits of the mark that the guard has by default.
pub const GUARD_MARK: u32 = 0xffff_0000;

pub struct Chamber {
    pub reader: Reader,
    pub netns: u64,
    /// What the programs take for the namespace of a test run's socket: `netns`, and 0 before Linux 6.15,
    /// where they read it from the socket's storage, which no such socket has.
    pub seen_netns: u64,
    datapath: Arc<RwLock<Datapath>>,
    events: EventStream,
    seen: BTreeMap<CounterKey, Counter>,
    hands: HashMap<String, Hand>,
    tree: Tree,
    pins: PathBuf,
}

/// A thread in a cgroup.
struct Hand {
    cgroup: u64,
    work: Option<Sender<Work>>,
    thread: Option<JoinHandle<()>>,
}

impl Chamber {
    /// Loads the programs, attached to nothing, and puts a thread into each cgroup; paths are below the
    /// node's root, which is "". A path that begins with ".." is beside the root.
    pub fn new(paths: &[&str]) -> Chamber {
        Chamber::within(paths, GUARD_MARK, None)
    }

    /// The same with the threads in a network namespace, and the guard's bits of the mark.
    pub fn within(paths: &[&str], guard_mark: u32, ns: Option<&Ns>) -> Chamber {
        bulkhead_sys::mount::ensure_bpffs().unwrap();
        let tree = Tree::new(paths);
        let name = format!("bh-judges-{}", std::process::id());
        let pins = Path::new(bulkhead_sys::mount::BPFFS).join(name);
        // Another kernel object than the one built in, to hold it against this host build.
        let object = std::env::var_os("BULKHEAD_JUDGED_OBJECT").map(PathBuf::from);
        let options = Options {
            pins: &pins,
            cgroup_root: &tree.node(),
            audit: false,
            failsafe: &[],
            flow_capacity: 4096,
            guard_mark,
            object: object.as_deref(),
        };
        let (mut datapath, _) = Datapath::open(&options).unwrap();
        datapath.begin_enforcement().unwrap();
        let (reader, events) = (datapath.reader(), datapath.events().unwrap());
        let netns = NetNs::current().unwrap().cookie().unwrap();
        let seen_netns = if datapath.features().netns_cookie { netns } else { 0 };
        let datapath = Arc::new(RwLock::new(datapath));
        let ns = ns.map(Ns::path);
        let hand = |path: &str| Hand::new(&tree.path(path), ns.as_deref(), &datapath);
        let hands = paths.iter().map(|path| (path.to_string(), hand(path)));
        let hands = hands.collect();
        Chamber { reader, netns, seen_netns, datapath, events, seen: BTreeMap::new(), hands, tree, pins }
    }

    pub fn commit(&self, image: &Image) -> u64 {
        self.datapath.write().unwrap().commit(image).unwrap().generation
    }

    /// The kernel's number of a cgroup.
    pub fn cgroup(&self, path: &str) -> u64 {
        self.hands[path].cgroup
    }

    /// The cgroup above each cgroup.
    pub fn parents(&self) -> HashMap<u64, u64> {
        let parent = |path: &str| id(self.tree.path(path).parent().unwrap());
        self.hands.iter().map(|(path, hand)| (hand.cgroup, parent(path))).collect()
    }

    /// Lets the programs judge packets at sockets of a cgroup, in order; whether each passes.
    pub fn run(&self, path: &str, packets: Vec<Packet>) -> Vec<bool> {
        self.with(path, |datapath| {
            let judge = |(direction, bytes): Packet| datapath.test_run(direction, &bytes).unwrap();
            packets.into_iter().map(judge).collect()
        })
    }

    /// Lets the guard judge a frame that a thread of the cgroup sends; what its program returned, and the
    /// mark that came out.
    pub fn run_guard(&self, path: &str, frame: &TrialFrame) -> (i32, u32) {
        let frame = frame.clone();
        self.with(path, move |datapath| datapath.test_guard(&frame).unwrap())
    }

    /// Lets the thread in a cgroup do something.
    fn with<T: Send + 'static>(&self, path: &str, work: impl FnOnce(&Datapath) -> T + Send + 'static) -> T {
        let (done, result) = mpsc::channel();
        let work = Box::new(move |datapath: &Datapath| {
            let _ = done.send(work(datapath));
        });
        self.hands[path].work.as_ref().unwrap().send(work).unwrap();
        result.recv().expect("the thread's own message says what went wrong")
    }

    /// What was counted since the last call; keys that did not move are left out.
    pub fn take_counters(&mut self) -> BTreeMap<CounterKey, Counter> {
        let now: BTreeMap<CounterKey, Counter> = self.reader.counters().unwrap().into_iter().collect();
        let mut moved = BTreeMap::new();
        for (key, counter) in &now {
            let before = self.seen.get(key).copied().unwrap_or_default();
            let by = Counter {
                flows: counter.flows - before.flows,
                packets: counter.packets - before.packets,
                bytes: counter.bytes - before.bytes,
            };
            if by != Counter::default() {
                moved.insert(*key, by);
            }
        }
        self.seen = now;
        moved
    }

    /// What was told since the last call.
    pub fn take_events(&mut self) -> Vec<Event> {
        self.events.drain(usize::MAX)
    }
}

impl Drop for Chamber {
    fn drop(&mut self) {
        self.hands.clear();
        // With the last reference to the programs; nothing was attached.
        bulkhead_datapath::detach(&self.pins).unwrap();
    }
}

impl Hand {
    fn new(cgroup: &Path, ns: Option<&Path>, datapath: &Arc<RwLock<Datapath>>) -> Hand {
        let (work, todo) = mpsc::channel::<Work>();
        let (datapath, threads) = (Arc::clone(datapath), cgroup.join("cgroup.threads"));
        let ns = ns.map(|ns| fs::File::open(ns).unwrap());
        let thread = std::thread::spawn(move || {
            fs::write(&threads, "0").unwrap();
            if let Some(ns) = ns {
                move_into_link_name_space(ns.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
            }
            for work in todo {
                work(&datapath.read().unwrap());
            }
        });
        Hand { cgroup: id(cgroup), work: Some(work), thread: Some(thread) }
    }
}

impl Drop for Hand {
    fn drop(&mut self) {
        self.work = None;
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// The cgroups, with this process in them. It goes home, and they go, when this is dropped.
struct Tree {
    root: Option<Cgroup>,
    home: PathBuf,
}

impl Tree {
    fn new(paths: &[&str]) -> Tree {
        let root = Cgroup::new("judges").unwrap();
        let home = home(root.path());
        let tree = Tree { root: Some(root), home };
        for path in paths {
            let folder = tree.path(path);
            fs::create_dir_all(&folder).unwrap();
            let levels = folder.ancestors().take_while(|level| *level != tree.root_path());
            for level in levels.collect::<Vec<_>>().into_iter().rev() {
                fs::write(level.join("cgroup.type"), "threaded").unwrap();
            }
        }
        fs::write(tree.root_path().join("cgroup.procs"), std::process::id().to_string()).unwrap();
        tree
    }

    fn root_path(&self) -> &Path {
        self.root.as_ref().unwrap().path()
    }

    fn node(&self) -> PathBuf {
        self.root_path().join("node")
    }

    fn path(&self, path: &str) -> PathBuf {
        match path.strip_prefix("../") {
            Some(beside) => self.root_path().join(beside),
            None if path.is_empty() => self.node(),
            None => self.node().join(path),
        }
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        let own = std::process::id().to_string();
        if fs::write(self.home.join("cgroup.procs"), own).is_err() {
            // The harness ends what is in a cgroup that it removes, which would be this process.
            std::mem::forget(self.root.take());
        }
    }
}

/// This process's cgroup in the hierarchy that `root` lies in.
fn home(root: &Path) -> PathBuf {
    let table = fs::read_to_string("/proc/self/cgroup").unwrap();
    let own = table.lines().find_map(|line| line.strip_prefix("0::/")).unwrap();
    root.parent().unwrap().join(own)
}

fn id(path: &Path) -> u64 {
    fs::metadata(path).unwrap().ino()
}
