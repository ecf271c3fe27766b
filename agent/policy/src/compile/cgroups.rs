//! Which zones name a cgroup.

use std::collections::HashMap;
use std::sync::Arc;

use super::sets::ZoneIndex;
use crate::model::Zone;

/// The patterns of all zones, those without wildcards by path.
pub(super) struct Matcher<'a> {
    plain: HashMap<&'a str, Vec<ZoneIndex>>,
    wild: Vec<(Vec<&'a str>, ZoneIndex)>,
}

impl<'a> Matcher<'a> {
    pub(super) fn new(zones: &'a [Arc<Zone>]) -> Self {
        let mut matcher = Self { plain: HashMap::new(), wild: Vec::new() };
        for (index, zone) in (0..).zip(zones) {
            for pattern in zone.cgroups.iter().map(|pattern| pattern.as_str()) {
                if pattern.contains('*') {
                    matcher.wild.push((pattern.split('/').collect(), index));
                } else {
                    matcher.plain.entry(pattern).or_default().push(index);
                }
            }
        }
        matcher
    }

    /// The zones that name this cgroup or one above it, sorted.
    pub(super) fn zones(&self, path: &str) -> Vec<ZoneIndex> {
        let levels: Vec<&str> = path.split('/').filter(|level| !level.is_empty()).collect();
        let mut found: Vec<ZoneIndex> = self
            .wild
            .iter()
            .filter(|(pattern, _)| begins_with(pattern, &levels))
            .map(|(_, zone)| *zone)
            .collect();
        let mut above = Some(path);
        while let Some(path) = above {
            found.extend(self.plain.get(path).into_iter().flatten());
            above = path.rsplit_once('/').map(|(parent, _)| parent);
        }
        found.sort_unstable();
        found.dedup();
        found
    }
}

/// Whether some number of leading levels, none included, matches the whole pattern. Keeps the set of
/// places in the pattern that the levels so far can have come to, so that the time is bounded by the
/// product of both lengths.
fn begins_with(pattern: &[&str], levels: &[&str]) -> bool {
    let mut at: Vec<bool> = vec![false; pattern.len() + 1];
    set(&mut at, 0);
    skip_stars(pattern, &mut at);
    for level in levels {
        if at.last() == Some(&true) {
            return true;
        }
        let mut next = vec![false; pattern.len() + 1];
        for ((place, wanted), _) in pattern.iter().enumerate().zip(&at).filter(|(_, reached)| **reached) {
            if *wanted == "**" {
                set(&mut next, place);
            } else if level_matches(wanted, level) {
                set(&mut next, place + 1);
            }
        }
        at = next;
        skip_stars(pattern, &mut at);
    }
    at.last() == Some(&true)
}

/// `**` may stand for no level at all.
fn skip_stars(pattern: &[&str], at: &mut [bool]) {
    for (place, wanted) in pattern.iter().enumerate() {
        if *wanted == "**" && at.get(place) == Some(&true) {
            set(at, place + 1);
        }
    }
}

fn set(at: &mut [bool], place: usize) {
    if let Some(reached) = at.get_mut(place) {
        *reached = true;
    }
}

/// Whether a level of a pattern matches a name: its pieces between the stars occur in order, the first
/// at the beginning, the last at the end.
fn level_matches(wanted: &str, name: &str) -> bool {
    let Some((head, tail)) = wanted.split_once('*') else { return wanted == name };
    let Some(mut rest) = name.strip_prefix(head) else { return false };
    let mut pieces: Vec<&str> = tail.split('*').collect();
    let last = pieces.pop().unwrap_or_default();
    for piece in pieces {
        match rest.split_once(piece) {
            Some((_, after)) => rest = after,
            None => return false,
        }
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_covers_what_is_below() {
        let test = |pattern: &str, path: &str| {
            let (pattern, path): (Vec<_>, Vec<_>) = (pattern.split('/').collect(), path.split('/').collect());
            begins_with(&pattern, &path)
        };
        assert!(test("a/*/c", "a/b/c/d"));
        assert!(!test("a/*/c", "a/c"));
        assert!(test("**/c", "c") && test("**/c", "a/b/c/d") && !test("**/c", "a/b"));
        assert!(test("a/**", "a") && test("a/**/**/b", "a/b") && !test("a/**", "b"));
        assert!(begins_with(&["**"], &[]) && !begins_with(&["*"], &[]));
    }

    #[test]
    fn pieces_are_found_in_order() {
        assert!(level_matches("a*b*c", "a-b-b-c") && level_matches("*", "x") && level_matches("a*", "a"));
        assert!(!level_matches("a*a", "a") && !level_matches("*b*", "ac") && !level_matches("a", "ab"));
    }
}
