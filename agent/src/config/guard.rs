//! `[guard]`: on which interfaces the guard sits, and with what.

use std::ops::Range;

use clap::ValueEnum;
use serde::Deserialize;
use toml::Spanned;

/// Fewest bits of the mark that the guard can work with.
const MARK_BITS: u32 = 8;

/// What is configured of the guard.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GuardConfig {
    /// Whether there is one.
    pub enabled: bool,
    /// Interfaces that it sits on, by name.
    pub interfaces: Patterns,
    /// Those of them that lead to other machines, whose own nodes judge for them.
    pub wire: Patterns,
    /// Bits of the packet mark that it may use.
    pub mark: u32,
    /// How it hangs on an interface.
    pub attach: Attach,
}

impl Default for GuardConfig {
    fn default() -> Self {
        let patterns = |names: &[&str]| Patterns(names.iter().map(|name| (*name).to_owned()).collect());
        Self {
            enabled: true,
            // Containers' by the names that engines and network plugins give, machines', and the wire. What
            // is enslaved to a bond or a bridge is guarded itself, so those need not be named.
            interfaces: patterns(&[
                "veth*", "cali*", "lxc*", "eni*", "gke*", "azv*", "ve-*", "vb-*", "vnet*", "tap*", "tun*",
                "eth*", "en*", "wl*",
            ]),
            wire: patterns(&["eth*", "en*", "wl*"]),
            mark: 0xffff_0000,
            attach: Attach::Auto,
        }
    }
}

/// How the guard hangs on an interface.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Attach {
    /// By the best that the kernel has.
    #[default]
    Auto,
    /// By TCX links (Linux 6.6).
    Tcx,
    /// By filters of a clsact queueing discipline.
    Clsact,
}

/// `on` or `off`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Switch {
    /// There is a guard.
    On,
    /// There is none.
    Off,
}

/// Names of interfaces, in which `*` stands for any characters.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Patterns(Vec<String>);

impl Patterns {
    /// Whether one of them matches.
    pub fn matches(&self, name: &str) -> bool {
        self.0.iter().any(|pattern| matches(pattern, name))
    }

    /// From a comma-separated list.
    pub(super) fn from_list(list: &str) -> Result<Self, String> {
        let names: Vec<String> =
            list.split(',').map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned).collect();
        Self::new(names, "--guard off")
    }

    fn new(names: Vec<String>, off: &str) -> Result<Self, String> {
        if names.is_empty() {
            return Err(format!("no interface at all would be meant; for no guard, say {off}"));
        }
        match names.iter().find(|name| !is_pattern(name)) {
            Some(name) => Err(format!(
                "`{name}` cannot be an interface's name; use up to 15 characters, with * for any of them"
            )),
            None => Ok(Self(names)),
        }
    }
}

impl std::fmt::Display for Patterns {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0.join(", "))
    }
}

/// The table as it stands in the file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Table {
    enabled: Option<bool>,
    interfaces: Option<Spanned<Vec<Spanned<String>>>>,
    wire: Option<Spanned<Vec<Spanned<String>>>>,
    mark: Option<Spanned<u32>>,
    attach: Option<Attach>,
}

impl Table {
    /// Puts what is said into `config`. The error has its place in the file.
    pub(super) fn apply(self, config: &mut GuardConfig) -> Result<(), (Range<usize>, String)> {
        super::replace(&mut config.enabled, self.enabled);
        super::replace(&mut config.attach, self.attach);
        for (slot, list) in [(&mut config.interfaces, self.interfaces), (&mut config.wire, self.wire)] {
            let Some(list) = list else { continue };
            let span = list.span();
            let mut names = Vec::new();
            for name in list.into_inner() {
                let one = Patterns::new(vec![name.as_ref().clone()], "enabled = false");
                names.extend(one.map_err(|message| (name.span(), message))?.0);
            }
            *slot = Patterns::new(names, "enabled = false").map_err(|message| (span, message))?;
        }
        if let Some(mark) = self.mark {
            config.mark = check_mark(*mark.as_ref()).map_err(|message| (mark.span(), message))?;
        }
        Ok(())
    }
}

/// A mark as a flag gives it: hexadecimal behind `0x`, else decimal.
pub(super) fn parse_mark(text: &str) -> Result<u32, String> {
    let number = match text.strip_prefix("0x") {
        Some(digits) => u32::from_str_radix(digits, 16),
        None => text.parse(),
    };
    check_mark(number.map_err(|_| format!("`{text}` is no number of 32 bits; use 0xffff0000"))?)
}

fn check_mark(mark: u32) -> Result<u32, String> {
    let shifted = mark.checked_shr(mark.trailing_zeros()).unwrap_or(0);
    if mark.count_ones() < MARK_BITS || shifted & shifted.wrapping_add(1) != 0 {
        return Err(format!(
            "{mark:#010x} has not at least {MARK_BITS} bits without a gap; choose bits that nobody else uses, \
             as 0xffff0000"
        ));
    }
    Ok(mark)
}

/// Linux's own rules (`dev_valid_name`), with `*`.
fn is_pattern(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 15
        && !name.contains(|c: char| c == '/' || c == ':' || c.is_whitespace())
}

fn matches(pattern: &str, name: &str) -> bool {
    let Some((head, rest)) = pattern.split_once('*') else { return pattern == name };
    let Some(name) = name.strip_prefix(head) else { return false };
    (0..=name.len()).filter_map(|at| name.get(at..)).any(|tail| matches(rest, tail))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_anything() {
        let matching =
            [("veth*", "veth0"), ("veth*", "veth"), ("eth0", "eth0"), ("e*0*", "ens0f1"), ("*", "x")];
        assert!(matching.iter().all(|(pattern, name)| matches(pattern, name)));
        let other = [("veth*", "eth0"), ("eth0", "eth00"), ("e*0", "eth1"), ("", "x"), ("*a", "b")];
        assert!(!other.iter().any(|(pattern, name)| matches(pattern, name)));
    }

    #[test]
    fn the_mark_is_one_run_of_bits() {
        assert_eq!(parse_mark("0xffff0000").unwrap(), 0xffff_0000);
        assert_eq!(parse_mark("0xff").unwrap(), 0xff);
        assert_eq!(parse_mark("4294967295").unwrap(), u32::MAX);
        assert_eq!(parse_mark("0x0ff00000").unwrap(), 0x0ff0_0000);
        for bad in ["0", "0x7f", "0xf0f", "0xff00ff00", "0x1ffffffff", "many", ""] {
            assert!(parse_mark(bad).is_err(), "{bad}");
        }
        assert!(parse_mark("0xf0f").unwrap_err().contains("without a gap"));
    }

    #[test]
    fn lists_name_interfaces_and_are_not_empty() {
        assert!(Patterns::from_list("veth*, eth0").unwrap().matches("eth0"));
        assert!(Patterns::from_list("").unwrap_err().contains("--guard off"));
        assert!(Patterns::from_list("a/b").unwrap_err().contains("a/b"));
        assert!(Patterns::from_list("sixteen-letters-").is_err());
    }
}
