//! A small network on one machine, with real sockets in it, for tests and the demo.
//!
//! * [`Ns`] and [`Topology`]: network namespaces, wired together.
//! * [`Cgroup`]: a cgroup of our own, with what is in it removed at the end.
//! * [`Peer`]: a process *in* a cgroup and a namespace that opens sockets on request. A socket takes
//!   the cgroup of the process that makes it, so a thread of the test would not do.
//! * [`Launch`] and [`Program`]: programs that are not ours, in a cgroup and a namespace.
//! * [`Agent`]: a real agent over a cgroup subtree, with its policy, its log and its [`Counters`].
//! * [`Authority`]: the certificates of several nodes.
//! * [`threat`]: attacks in three runs, so that "it does not arrive" proves something.
//! * [`wait_until`], [`require_root!`](crate::require_root),
//!   [`require_agent!`](crate::require_agent).
//!
//! Everything that is made has a name of its own (`bh-<pid>-…`), is visible to `ip netns` and in the
//! cgroup tree while it lives, and is removed when its value is dropped, also by a panic. What a
//! killed run left behind is removed by the next one ([`sweep`]).

mod agent;
mod authority;
mod call;
mod cgroup;
mod counters;
mod dial;
mod names;
mod ns;
pub mod packet;
mod peer;
mod program;
pub mod protocol;
pub mod threat;
mod topology;
mod wait;

pub use agent::{Agent, Books, Setup, program as agent_program, sweep_pins};
pub use authority::Authority;
pub use call::{CallError, Called, FromAnswer, Pending};
pub use cgroup::Cgroup;
pub use counters::{Counters, Pair};
pub use dial::Dial;
pub use names::sweep;
pub use ns::Ns;
pub use peer::{Peer, Socket};
pub use program::{Launch, Program, Said};
pub use protocol::{
    Ended, Exchanged, Failed, Kind, LoopCount, Opening, Played, Serve, Served, Step, Streamed,
};
pub use rustix::io::Errno;
pub use topology::{Host, Topology};
pub use wait::{is_root, must_run, wait_until};
