//! The guard on interfaces: put on as they appear, kept through an agent's death, taken off without a
//! trace, and beside the programs of others.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, missing_docs)]

mod power;

use std::collections::BTreeSet;
use std::os::fd::{AsFd, OwnedFd};
use std::process::Command;
use std::time::{Duration, Instant};

use bulkhead::control::protocol::GuardedView;
use bulkhead_abi::tables::{Home, Interface};
use bulkhead_sys::link::tcx::{self, Place};
use bulkhead_sys::netns::NetNs;
use bulkhead_sys::program::{Kind, constant};
use bulkhead_sys::tc::{Hook, Tc};
use bulkhead_tests::harness::{Agent, Cgroup, Ns, Peer, Topology, wait_until};
use bulkhead_tests::require_agent;
use power::{LONG, kernel_numbers};

const POLICY: &str = "[zone.web]\ncidrs = [\"10.64.1.0/24\"]\n";
const HOOKS: [Hook; 2] = [Hook::Ingress, Hook::Egress];

/// A node with two workloads behind `port0` and `port1`, and a machine that is not its own behind `port2`.
/// Dropped from the top.
struct Lab {
    _peers: [Peer; 3],
    agent: Agent,
    _cgroups: Vec<Cgroup>,
    net: Topology,
}

impl Lab {
    fn new(flags: &[&str]) -> Lab {
        let net = Topology::routed(&[
            ("web", &["10.64.1.1/24", "fd00:64:1::1/64"]),
            ("db", &["10.64.2.1/24"]),
            ("outside", &["10.64.9.1/24"]),
        ])
        .unwrap();
        let [root, elsewhere] = ["guarded", "elsewhere"].map(|name| Cgroup::new(name).unwrap());
        let [web, db] = ["web", "db"].map(|name| root.child(name).unwrap());
        let peer = |name: &str, cgroup| Peer::spawn(Some(net.ns(name).unwrap()), Some(cgroup)).unwrap();
        let peers = [peer("web", &web), peer("db", &db), peer("outside", &elsewhere)];
        let node = net.ns("router").unwrap();
        let setup = Agent::prepare(&root, POLICY).in_ns(node).flag("--guard-interfaces=port*,veth*");
        let agent = flags.iter().fold(setup, |setup, flag| setup.flag(flag)).start().unwrap();
        Lab { _peers: peers, agent, _cgroups: vec![web, db, root, elsewhere], net }
    }

    fn node(&self) -> &Ns {
        self.net.ns("router").unwrap()
    }

    fn index(&self, name: &str) -> u32 {
        index(self.node(), name)
    }

    /// The programs and links of an interface of the node, in order, by hook.
    fn rows(&self, interface: u32) -> [Vec<tcx::Attached>; 2] {
        HOOKS.map(|hook| row(self.node(), interface, hook))
    }

    fn is_guarded(&self, interface: u32) -> bool {
        self.rows(interface).iter().all(|row| row.len() == 1)
    }

    /// What the kernel is told of an interface.
    fn told(&self, interface: u32) -> Option<Interface> {
        self.agent.reader().unwrap().maps().interfaces.get(&interface).unwrap()
    }

    fn view(&self, name: &str) -> Option<GuardedView> {
        let guard = self.agent.status().unwrap().guard;
        guard.interfaces.into_iter().find(|interface| interface.name == name)
    }

    fn pinned(&self, interface: u32) -> bool {
        self.agent.pins().join(format!("links/guard_ingress-{interface}")).exists()
    }

    fn cookie(&self, name: &str) -> u64 {
        self.net.ns(name).unwrap().enter(|| NetNs::current().unwrap().cookie().unwrap()).unwrap()
    }

    /// A program of somebody else on an interface of the node; off when dropped.
    fn other(&self, program: &OwnedFd, interface: u32, hook: Hook, place: Place) -> OwnedFd {
        let attach = || tcx::attach(program.as_fd(), interface, hook, place).unwrap();
        self.node().enter(attach).unwrap()
    }

    /// Runs `tc` on the node.
    fn tc(&self, arguments: &[&str]) {
        let status = self.node().command("tc").args(arguments).status().unwrap();
        assert!(status.success(), "tc {arguments:?}");
    }

    /// The filters and the clsacts of the node.
    fn filters(&self, interface: u32) -> (Vec<String>, bool) {
        let look = || {
            let mut tc = Tc::open(&NetNs::current().unwrap()).unwrap();
            let has = tc.clsacts().unwrap().contains(&interface);
            let names = HOOKS.map(|hook| {
                let (filters, others) = tc.filters(interface, hook).unwrap();
                assert_eq!(others, 0);
                filters.into_iter().map(move |filter| {
                    format!("{hook:?} {} {} {}", filter.priority, filter.handle, filter.program)
                })
            });
            (names.into_iter().flatten().collect(), has)
        };
        self.node().enter(look).unwrap()
    }
}

fn index(ns: &Ns, name: &str) -> u32 {
    let interfaces = ns.enter(|| NetNs::current().unwrap().interfaces().unwrap()).unwrap();
    interfaces.into_iter().find(|interface| interface.name == name).unwrap().index
}

fn row(ns: &Ns, interface: u32, hook: Hook) -> Vec<tcx::Attached> {
    ns.enter(|| tcx::query(interface, hook).unwrap_or_default()).unwrap()
}

/// A program of somebody else, which leaves every packet to the next.
fn classifier() -> OwnedFd {
    constant(Kind::Classifier, u32::MAX).unwrap()
}

/// Waits for something, and answers how long it took.
fn soon(what: &str, condition: impl FnMut() -> bool) -> Duration {
    let start = Instant::now();
    wait_until(LONG, what, condition).unwrap();
    start.elapsed()
}

#[test]
fn interfaces_are_guarded_as_they_appear_and_let_go_when_they_leave() {
    require_agent!();
    let lab = Lab::new(&[]);
    for name in ["port0", "port1", "port2"] {
        assert!(lab.is_guarded(lab.index(name)), "{name} is guarded before the agent says that it is ready");
        assert!(lab.view(name).unwrap().guarded);
    }
    let status = lab.agent.status().unwrap();
    assert_eq!((&*status.guard.attachment, &*status.guard.mark), ("tcx", "0xffff0000"));
    assert_eq!(status.guard.interfaces.len(), 3);

    // One that comes: the time is counted from when `ip` is done, which is later than the news.
    let mut times = Vec::new();
    for round in 0..10 {
        lab.node().ip(&format!("link add veth{round} type veth peer name far{round}")).unwrap();
        let start = Instant::now();
        let new = lab.index(&format!("veth{round}"));
        soon("the new interface is guarded", || lab.is_guarded(new));
        times.push(start.elapsed());
        assert!(lab.told(new).is_some());
    }
    times.sort();
    eprintln!("guarded within {:?} of the end of `ip link add` (median of {})", times[5], times.len());
    assert!(!lab.is_guarded(lab.index("far0")), "its name is not configured");

    // One that goes.
    let gone = lab.index("veth0");
    lab.node().ip("link delete veth0").unwrap();
    soon("it is forgotten", || !lab.pinned(gone) && lab.told(gone).is_none() && lab.view("veth0").is_none());

    // One that is renamed.
    let renamed = lab.index("veth1");
    lab.node().ip("link set veth1 name other").unwrap();
    soon("its name is not configured any more", || lab.rows(renamed).iter().all(Vec::is_empty));
    soon("it is forgotten", || !lab.pinned(renamed) && lab.told(renamed).is_none());
    lab.node().ip("link set other name veth1").unwrap();
    soon("its name is configured again", || lab.is_guarded(renamed));

    // One that moves into a workload: the guard does not go along.
    let web = lab.net.ns("web").unwrap();
    let moved = lab.index("veth2");
    lab.node().ip(&format!("link set veth2 netns {}", web.name())).unwrap();
    let there = index(web, "veth2");
    soon("nothing hangs there", || HOOKS.iter().all(|&hook| row(web, there, hook).is_empty()));
    soon("it is forgotten", || !lab.pinned(moved) && lab.told(moved).is_none());
}

#[test]
fn the_guard_outlives_the_agent_and_is_taken_up_again() {
    require_agent!();
    let mut lab = Lab::new(&[]);
    let ports = ["port0", "port1"].map(|name| lab.index(name));
    let before = ports.map(|port| lab.rows(port));
    let numbers = kernel_numbers(&lab.agent.pins());

    lab.agent.kill9().unwrap();
    assert_eq!(ports.map(|port| lab.rows(port)), before, "killed, and still guarded");
    lab.agent.restart().unwrap();
    assert_eq!(ports.map(|port| lab.rows(port)), before, "the same links and programs");
    assert_eq!(kernel_numbers(&lab.agent.pins()), numbers);

    // What happened while no agent was there.
    lab.agent.terminate().unwrap();
    assert_eq!(ports.map(|port| lab.rows(port)), before, "stopped, and still guarded");
    let gone = lab.index("port2");
    lab.node().ip("link delete port2\nlink add veth0 type veth peer name far0").unwrap();
    lab.agent.restart().unwrap();
    assert!(lab.is_guarded(lab.index("veth0")));
    assert!(!lab.pinned(gone) && lab.told(gone).is_none());

    // Other programs, in the same links: the mark is in their read-only data.
    lab.agent.kill9().unwrap();
    lab.agent.set_flag("--guard-mark=0xff00");
    lab.agent.restart().unwrap();
    let after = ports.map(|port| lab.rows(port));
    let links = |rows: &[[Vec<tcx::Attached>; 2]; 2]| -> Vec<u32> {
        rows.iter().flatten().flatten().map(|attached| attached.link).collect()
    };
    assert_eq!(links(&after), links(&before), "the same links");
    assert_ne!(after, before, "with other programs");
    assert_eq!(lab.agent.status().unwrap().guard.mark, "0x0000ff00");

    // Fewer interfaces, then none.
    lab.agent.kill9().unwrap();
    lab.agent.set_flag("--guard-interfaces=port0");
    lab.agent.restart().unwrap();
    assert!(lab.is_guarded(ports[0]) && !lab.is_guarded(ports[1]));
    lab.agent.kill9().unwrap();
    lab.agent.set_flag("--guard=off");
    lab.agent.restart().unwrap();
    assert!(lab.rows(ports[0]).iter().all(Vec::is_empty));
    assert!(lab.told(ports[0]).is_none());
    assert_eq!(lab.agent.status().unwrap().guard.attachment, "off");
}

#[test]
fn detach_leaves_no_trace() {
    require_agent!();
    let mut lab = Lab::new(&[]);
    let port = lab.index("port0");
    let numbers = kernel_numbers(&lab.agent.pins());
    // Programs and maps that only the guard holds have no pin of their own.
    let programs: BTreeSet<u32> = lab.rows(port).iter().flatten().map(|attached| attached.program).collect();
    assert_eq!(programs.len(), 2);
    lab.agent.detach().unwrap();
    assert!(!lab.agent.pins().exists());
    for name in ["port0", "port1", "port2"] {
        assert!(lab.rows(lab.index(name)).iter().all(Vec::is_empty), "{name}");
        assert_eq!(lab.filters(lab.index(name)), (vec![], false), "{name}");
    }
    let is_there = |kind: &str, id: &str| {
        Command::new("bpftool").args([kind, "show", "id", id]).output().unwrap().status.success()
    };
    assert!(Command::new("bpftool").arg("version").output().unwrap().status.success());
    let mut all: BTreeSet<(&str, String)> =
        programs.iter().map(|program| ("prog", program.to_string())).collect();
    for number in &numbers {
        for (word, kind) in [("link_id:", "link"), ("prog_id:", "prog"), ("map_id:", "map")] {
            all.extend(number.split_once(word).map(|(_, id)| (kind, id.to_owned())));
        }
    }
    assert!(all.len() > 30, "{all:?}");
    for (kind, id) in &all {
        soon(&format!("{kind} {id} is gone"), || !is_there(kind, id));
    }
}

#[test]
fn programs_of_others_are_left_in_peace() {
    require_agent!();
    let mut lab = Lab::new(&[]);
    let port = lab.index("port0");
    let [first, second, third] = [classifier(), classifier(), classifier()];
    let ours = lab.rows(port).map(|row| row[0].link);
    // One behind ours at ingress, one before ours at egress: they stand well there.
    let _behind = lab.other(&first, port, Hook::Ingress, Place::Last);
    let before = lab.other(&second, port, Hook::Egress, Place::First);
    let links = |row: &[tcx::Attached]| row.iter().map(|attached| attached.link).collect::<Vec<_>>();
    let [ingress, egress] = lab.rows(port);
    assert_eq!((links(&ingress)[0], links(&egress)[1]), (ours[0], ours[1]));
    lab.agent.kill9().unwrap();
    lab.agent.restart().unwrap();
    assert_eq!(lab.rows(port), [ingress.clone(), egress.clone()]);

    // The guard is put on, and others are there already.
    let other = lab.index("port1");
    lab.agent.kill9().unwrap();
    lab.agent.set_flag("--guard-interfaces=port0");
    lab.agent.restart().unwrap();
    assert!(lab.rows(other).iter().all(Vec::is_empty));
    let [early, late] = HOOKS
        .map(|hook| lab.other(if hook == Hook::Ingress { &first } else { &third }, other, hook, Place::Last));
    lab.agent.set_flag("--guard-interfaces=port*");
    lab.agent.restart().unwrap();
    let [row_in, row_out] = lab.rows(other);
    assert_eq!((row_in.len(), row_out.len()), (2, 2));
    let id = |link: &OwnedFd| tcx::info(link.as_fd()).unwrap().id;
    assert_eq!(links(&row_in)[1], id(&early), "ours is first where packets come in");
    assert_eq!(links(&row_out)[0], id(&late), "and last where they leave");

    // Detached, the others are still there.
    lab.agent.detach().unwrap();
    assert_eq!(lab.rows(other).map(|row| links(&row)), [vec![id(&early)], vec![id(&late)]]);
    assert_eq!(links(&lab.rows(port)[1]), [id(&before)]);
}

#[test]
fn row_26_taken_off_or_pushed_aside_it_comes_back_and_gives_way_in_the_end() {
    require_agent!();
    let lab = Lab::new(&[]);
    let port = lab.index("port0");
    // Its link is detached by somebody.
    let link = lab.agent.pins().join(format!("links/guard_ingress-{port}"));
    let ours = || -> Option<u32> {
        let pinned = bulkhead_sys::pin::open(&link).ok()?;
        Some(tcx::info(pinned.as_fd()).ok()?.id)
    };
    let is_first = || lab.rows(port)[0].first().map(|attached| attached.link) == ours();
    let old = lab.rows(port)[0][0].link;
    bulkhead_sys::link::detach(bulkhead_sys::pin::open(&link).unwrap().as_fd()).unwrap();
    let took = soon("it is put back, and pinned", || {
        let [ingress, _] = lab.rows(port);
        ingress.first().is_some_and(|attached| attached.link != old) && is_first()
    });
    eprintln!("put back after {took:?}");

    // Its pin is removed, which takes nothing off: the agent holds the link.
    let before = lab.rows(port)[0][0].link;
    std::fs::remove_file(&link).unwrap();
    assert_eq!(lab.rows(port)[0].first().map(|attached| attached.link), Some(before));
    soon("it is put back", || lab.pinned(port) && lab.is_guarded(port));
    assert_eq!(lab.rows(port)[0][0].link, before);

    // Another program is put into it.
    let program = lab.rows(port)[0][0].program;
    let lax = classifier();
    bulkhead_sys::link::update(bulkhead_sys::pin::open(&link).unwrap().as_fd(), lax.as_fd(), None).unwrap();
    soon("ours is put back", || {
        lab.rows(port)[0][0].program == program && lab.rows(port)[0][0].link == before
    });
    let told = |object: &str, how: &str| {
        lab.agent.status().unwrap().tamper.iter().any(|finding| {
            (&*finding.object, &*finding.how, &*finding.action) == (object, how, "restored")
                && finding.name == "guard of port0"
        })
    };
    for (object, how) in [("link", "missing"), ("link-pin", "missing"), ("link", "replaced")] {
        soon(&format!("{object} {how} is told"), || told(object, how));
    }

    // Somebody comes in before it, again and again.
    let pushy = classifier();
    for _ in 0..3 {
        let held = lab.other(&pushy, port, Hook::Ingress, Place::First);
        soon("it takes its place back", || is_first() && lab.rows(port)[0].len() == 2);
        drop(held);
        soon("the other is gone", || lab.rows(port)[0].len() == 1);
    }
    let _held = lab.other(&pushy, port, Hook::Ingress, Place::First);
    soon("it says that it has given way", || {
        let view = lab.view("port0").unwrap();
        view.guarded && view.problem.is_some_and(|problem| problem.contains("before ours at ingress"))
    });
    assert!(!is_first());
    let text = String::from_utf8(lab.agent.run("status", &[]).unwrap().stdout).unwrap();
    assert!(text.contains("others stand between it and the wire"), "{text}");
}

#[test]
fn the_kernel_is_told_what_is_behind_each_interface() {
    require_agent!();
    let lab = Lab::new(&["--guard-wire=port2"]);
    let [web, db, outside] = ["port0", "port1", "port2"].map(|name| lab.index(name));
    let known = |netns| Interface { netns, flags: Interface::FLAG_ETHERNET };
    soon("web is known behind its interface", || lab.told(web) == Some(known(lab.cookie("web"))));
    soon("db is known behind its interface", || lab.told(db) == Some(known(lab.cookie("db"))));
    let wire = Interface { netns: 0, flags: Interface::FLAG_ETHERNET | Interface::FLAG_WIRE };
    assert_eq!(lab.told(outside), Some(wire));
    let view = lab.view("port0").unwrap();
    assert_eq!((view.netns, view.wire), (Some(lab.cookie("web")), false));
    assert!(lab.view("port2").unwrap().wire);

    let maps = || lab.agent.reader().unwrap();
    let guarded = |name: &str| {
        let home = maps().maps().homes.get(&lab.cookie(name)).unwrap();
        home.is_some_and(|home| home.flags & Home::FLAG_GUARDED != 0)
    };
    soon("web can be left only through the guard", || guarded("web"));
    soon("db can be left only through the guard", || guarded("db"));
    assert!(!guarded("router"), "the node itself has other ways");

    // A second way out, past the guard.
    let ns = lab.net.ns("web").unwrap();
    lab.node().ip(&format!("link add back type veth peer name door netns {}", ns.name())).unwrap();
    ns.ip("link set door up").unwrap();
    let took = soon("web has a way past the guard", || !guarded("web"));
    eprintln!("a way past the guard is known after {took:?}");
    assert!(guarded("db"));
    ns.ip("link set door down").unwrap();
    soon("it cannot be used", || guarded("web"));
    lab.node().ip("link set back name veth0").unwrap();
    ns.ip("link set door up").unwrap();
    soon("it is guarded, too", || lab.told(lab.index("veth0")) == Some(known(lab.cookie("web"))));
    soon("both ways lead through the guard", || guarded("web"));

    // A new address is known soon.
    ns.ip("addr add 10.64.1.77/32 dev eth0").unwrap();
    let addr = bulkhead_abi::Addr::v4([10, 64, 1, 77]);
    let took = soon("a new address is known", || maps().maps().locals.get(&addr).unwrap().is_some());
    eprintln!("a new address is known after {took:?}");
}

#[test]
fn filters_of_a_clsact_do_it_where_there_are_no_links() {
    require_agent!();
    let mut lab = Lab::new(&["--guard-attach=clsact"]);
    let [port, second] = ["port0", "port1"].map(|name| lab.index(name));
    let before = lab.filters(port);
    assert_eq!((before.0.len(), before.1), (2, true), "{before:?}");
    assert!(before.0[0].starts_with("Ingress 1 ") && before.0[1].starts_with("Egress 65535 "), "{before:?}");
    assert!(lab.rows(port).iter().all(Vec::is_empty));
    assert_eq!(lab.agent.status().unwrap().guard.attachment, "clsact");

    // Somebody else's filter, where the clsact is ours.
    let bytecode = "1,6 0 0 4294967295,";
    lab.tc(&["filter", "add", "dev", "port1", "ingress", "prio", "7", "bpf", "bytecode", bytecode]);
    assert_eq!(lab.filters(second).0.len(), 3);

    lab.agent.kill9().unwrap();
    assert_eq!(lab.filters(port), before, "killed, and still guarded");
    lab.agent.restart().unwrap();
    assert_eq!(lab.filters(port), before, "the same filters with the same programs");
    lab.node().ip("link add veth0 type veth peer name far0").unwrap();
    let new = lab.index("veth0");
    soon("a new interface is guarded", || lab.filters(new).0.len() == 2);
    lab.tc(&["filter", "delete", "dev", "port0", "ingress", "prio", "1"]);
    soon("what was taken off is put back", || lab.filters(port).0.len() == 2);

    // Detached, nothing of ours is left, and all of theirs.
    lab.agent.detach().unwrap();
    assert_eq!(lab.filters(port), (vec![], false));
    assert_eq!(lab.filters(new), (vec![], false));
    let (left, clsact) = lab.filters(second);
    assert!(clsact && left.len() == 1 && left[0].starts_with("Ingress 7 "), "{left:?}");

    // Where somebody made the clsact before us, it stays.
    lab.agent.restart().unwrap();
    assert_eq!(lab.filters(second).0.len(), 3);
    lab.tc(&["filter", "delete", "dev", "port1", "ingress", "prio", "7"]);

    // Links take over, where the kernel has them, without a moment without the guard.
    if !lab.node().enter(tcx::is_supported).unwrap() {
        return;
    }
    lab.agent.kill9().unwrap();
    lab.agent.set_flag("--guard-attach=tcx");
    lab.agent.restart().unwrap();
    assert!(lab.is_guarded(port) && lab.is_guarded(second));
    assert_eq!(lab.filters(port), (vec![], false));
    assert_eq!(lab.filters(second), (vec![], true), "it was there before the agent");
}
