//! How much was tried, and how much must be.

use std::collections::BTreeMap;

/// How much was tried.
#[derive(Debug, Default)]
pub struct Tally {
    pub policies: usize,
    pub lanes: usize,
    pub frames: usize,
    pub passed: usize,
    pub handed_over: usize,
    pub by_why: BTreeMap<&'static str, usize>,
}

impl Tally {
    /// The sentences of the account that have not decided often enough.
    pub fn missing(&self) -> Vec<String> {
        let tried = |why: &str| self.by_why.get(why).copied().unwrap_or(0);
        AT_LEAST
            .iter()
            .filter(|(why, least)| tried(why) < *least)
            .map(|(why, least)| format!("{why}: tried {} times, not {least}", tried(why)))
            .collect()
    }
}

/// How often each sentence of the account must have decided, so that the cases cannot go stale.
const AT_LEAST: &[(&str, usize)] = &[
    ("of a socket", 1000),
    ("carried: zones", 200),
    ("carried: beyond the room", 10),
    ("carried: node", 20),
    ("carried: world", 100),
    ("routed", 1000),
    ("routed: zones", 500),
    ("routed: beyond the room", 100),
    ("routed, of nobody", 100),
    ("from a wire", 1000),
    ("forged", 200),
    ("forged, in audit", 50),
    ("forged, and nobody's business", 20),
    ("of a socket of this node", 100),
    ("judged, and judged again where it arrives", 500),
    ("left to the receiver's socket layer", 200),
    ("never judged", 100),
    ("between ends in no zone", 100),
    ("denied", 500),
    ("of nobody known", 50),
    ("allowed by both sides", 200),
    ("allowed by the opener's side", 100),
    ("allowed by the receiver's side", 100),
    ("allowed to a virtual address", 50),
    ("allowed to a virtual address elsewhere", 20),
    ("translated, and allowed", 50),
    ("translated, and allowed to go elsewhere", 20),
    ("translated, and denied", 200),
    ("translated, of nobody known", 100),
    ("translated, to where another's flow was", 20),
    ("allowed in audit", 50),
    ("as before", 500),
    ("judged again", 100),
    ("another opener", 20),
    ("it lost its right", 20),
    ("a stray", 200),
    ("it only ends", 50),
    ("an error about a live flow", 200),
    ("an error about nothing", 100),
    ("behind its first fragment", 50),
    ("without its first fragment", 100),
    ("options", 20),
    ("on its way back", 200),
    ("on its way back, in fragments", 50),
    ("on its way back, judged again", 20),
    ("on its way back, and denied", 50),
    ("on its way back, and judged", 500),
    ("an error on its way back", 200),
    ("behind a first fragment that went before", 20),
    ("a kernel's answer", 100),
    ("an answer that may not be given", 5),
    ("behind an answer's first fragment", 2),
];
